"""Triton's own launches compiled for a GPU that is not there: nothing runs, the code is read.

    python -m tests.kernels.fake_gpu          # every kernel, dtype and target

`compiled(target, call)` runs the package's launch code on CPU tensors, so a kernel is compiled with
the very arguments, constants and options of a run. Not under TRITON_INTERPRET=1.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}


class Driver:
    """What Triton asks of a device's driver before a launch."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def is_active(self) -> bool:
        return True


@dataclass(frozen=True)
class Report:
    """What one kernel became.

    `stack` counts bytes of spilled registers, `wide` 128-bit global loads, `in_flight` the most of
    them before one is used, `products` the instructions of tensor cores by name, `copies` the
    asynchronous ones to shared memory.
    """

    kernel: str
    registers: int
    stack: int
    wide: int
    in_flight: int
    products: dict[str, int]
    copies: dict[str, int]


@contextmanager
def _target(name: str) -> Iterator[list[Any]]:
    """Within it, launches are compiled for the target instead; what was compiled is yielded."""
    made: list[Any] = []
    run, before = triton.JITFunction.run, driver._active

    def compile_only(self: Any, *args: Any, grid: Any = None, warmup: bool = False, **rest: Any):  # noqa: ANN202
        made.append(run(self, *args, grid=grid, warmup=True, **rest))
        return made[-1]

    driver.set_active(Driver(TARGETS[name]))
    triton.JITFunction.run = compile_only
    for kernel in _kernels():  # compiled for another target in the same process
        kernel.device_caches.clear()
    try:
        yield made
    finally:
        triton.JITFunction.run = run
        driver._active = before


def _kernels() -> list[Any]:
    from sse_kernels import bag_kernels
    from sse_kernels.contrastive import bf16_kernels, tiles_kernels

    modules = (bag_kernels, bf16_kernels, tiles_kernels)
    return [v for m in modules for v in vars(m).values() if isinstance(v, triton.JITFunction)]


def compiled(target: str, call: Callable[[], Any]) -> list[Report]:
    """Reports of the kernels that `call` would launch on the target, in order."""
    with _target(target) as made:
        call()
    read = _read_hip if TARGETS[target].backend == "hip" else _read_cuda
    return [read(kernel) for kernel in made]


def _read_cuda(kernel: Any) -> Report:
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = _run(str(tools / "cuobjdump"), "-res-usage", file.name)
        code = _run(str(tools / "nvdisasm"), "-c", file.name)
    wide = in_flight = row = 0
    for line in code.splitlines():
        if re.search(r"LDG\.E(?:\.\w+)*?\.128", line):
            wide, row = wide + 1, row + 1
            in_flight = max(in_flight, row)
        elif re.search(r"\b(FADD|FFMA|DADD)\b", line):
            row = 0
    return Report(
        kernel.metadata.name,
        int(_found(r"REG:(\d+)", usage)),
        int(_found(r"STACK:(\d+)", usage)),
        wide,
        in_flight,
        _counts(code, "HGMMA", "HMMA", "UTCHMMA", "DMMA"),
        _counts(code, "LDGSTS", "UTMALDG"),
    )


def _read_hip(kernel: Any) -> Report:
    code = kernel.asm["amdgcn"]
    spills = int(_found(r"\.vgpr_spill_count:\s+(\d+)", code))
    spills += int(_found(r"\.sgpr_spill_count:\s+(\d+)", code))
    wide = len(re.findall(r"(?:global|buffer|flat)_load_dwordx4", code))
    registers = int(_found(r"\.vgpr_count:\s+(\d+)", code))
    return Report(kernel.metadata.name, registers, spills, wide, 0, _counts(code, "v_mfma"), {})


def _counts(code: str, *names: str) -> dict[str, int]:
    found = {name: len(re.findall(rf"\b{name}", code)) for name in names}
    return {name: number for name, number in found.items() if number}


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"no {pattern!r} in the compiler's output")
    return match.group(1)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
