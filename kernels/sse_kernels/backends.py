"""Which implementation runs: ATen's kernels (`bag_aten`) or Triton's (`bag_triton`)."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from types import ModuleType
from typing import Literal

import torch

from sse_kernels import bag_aten as host

Backend = Literal["auto", "torch", "triton"]


def path_of(device: torch.device, backend: Backend | str = "auto") -> ModuleType:
    """The module for a device; `auto` takes Triton on CUDA where it is installed, else ATen.

    Raises:
        ValueError: an unknown backend, or `triton` on a CPU outside of its interpreter.
        ImportError: `triton`, which is not installed.
    """
    if backend == "auto":
        return _triton() if device.type == "cuda" and has_triton() else host
    if backend == "torch":
        return host
    if backend != "triton":
        raise ValueError(f"backend={backend!r}: choose auto, torch or triton")
    if not has_triton():
        raise ImportError("backend='triton' needs Triton: pip install triton (Linux, CUDA or ROCm)")
    module = _triton()
    if device.type == "cpu" and not module.INTERPRETED:
        raise ValueError("backend='triton' on CPU tensors: set TRITON_INTERPRET=1 before the start")
    return module


@functools.cache
def has_triton() -> bool:
    """Whether Triton can be imported (looked up once, and without importing it)."""
    try:
        return importlib.util.find_spec("triton") is not None
    except (ImportError, ValueError):
        return False


@functools.cache
def _triton() -> ModuleType:
    # Triton is imported on first use: it costs a second, and machines without a GPU may lack it.
    return importlib.import_module("sse_kernels.bag_triton")
