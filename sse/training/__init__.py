from sse.training.lean_imports import lean

lean()  # before any module here imports Lightning
