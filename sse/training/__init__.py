from sse.training.host.lean_imports import lean

lean()  # before any module here imports Lightning
