"""Compile the kernels ahead of time, for targets that need not be here, and read what came out.

    python -m tests.kernels.aot            # every kernel, dtype and target: registers, spills,
        loads

A CI machine without a GPU thus sees a kernel that spills, whose row loads fall apart into scalars,
or that no longer compiles. Not under TRITON_INTERPRET=1.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from sse_kernels import bag_kernels as kernels
from sse_kernels import bag_triton as gpu
from sse_kernels.plan import CHUNK
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
KERNELS = (
    "pool_gate",
    "pool",
    "gate_grad",
    "share",
    "chunk_sum",
    "row_sum",
    "row_add",
    "scatter_add",
)
NAMES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.float64: "fp64",
}


@dataclass(frozen=True)
class Report:
    """What one kernel became on one target. `wide` counts 128-bit global loads."""

    kernel: str
    dtype: str
    target: str
    registers: int
    spills: int
    wide: int


def compile_kernel(kernel: str, dtype: torch.dtype, target: str, dim: int = 512) -> Report:
    """Compile one of `KERNELS` for a table of `dtype` and `dim`, int64 ids; see `Report`."""
    fn, pointers, integers, constants, options = _launch(kernel, dtype, dim)
    signature: dict[str, str] = {}
    for name in fn.arg_names:
        signature[name] = pointers.get(name) or ("i32" if name in integers else "constexpr")
    # what a launch finds out from its arguments: addresses, dim and stride are multiples of 16
    attrs = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(fn.arg_names)
        if name in pointers or name in ("dim", "stride")
    }
    source = ASTSource(fn, signature, constexprs=constants, attrs=attrs)
    compiled = triton.compile(source, target=TARGETS[target], options=options)
    read = _read_hip if TARGETS[target].backend == "hip" else _read_cuda
    return Report(kernel, NAMES[dtype], target, *read(compiled.asm))


def _launch(kernel: str, dtype: torch.dtype, dim: int) -> tuple[Any, ...]:
    """A kernel with its pointers' types, integers, constants and options, as `gpu` launches it."""
    table, acc = NAMES[dtype], NAMES[gpu.accumulator(dtype)]
    value = {n: f"*{table}" for n in ("weight", "alpha", "beta", "bias", "y", "dy", "grad")}
    value |= {n: f"*{acc}" for n in ("mean", "shares", "partial", "chunks")}
    value |= {"ids": "*i64", "offsets": "*i64", "rows": "*i32", "starts": "*i32", "whole": "*i1"}
    wide = gpu._tl(gpu.accumulator(dtype))
    gather = gpu.config(dim, torch.empty(0, dtype=dtype).element_size())
    reduce = gpu.config(dim, torch.empty(0, dtype=gpu.accumulator(dtype)).element_size())
    line = {"BLOCK_D": gpu.block(dim), "num_warps": gpu.line_warps(dim)}
    launches: dict[str, tuple[Any, dict[str, int], dict[str, int]]] = {
        "pool_gate": (kernels.pool_gate, gather, {"GATE": True, "KEEP": True}),
        "pool": (kernels.pool_gate, gather, {"GATE": False, "KEEP": False}),
        "gate_grad": (kernels.gate_grad, line, {"GATE": True, "ROWS": gpu.ROWS}),
        "share": (kernels.gate_grad, line, {"GATE": False, "ROWS": gpu.ROWS}),
        "chunk_sum": (kernels.chunk_sum, reduce, {"CHUNK": CHUNK}),
        "row_sum": (kernels.row_sum, reduce, {"CHUNK": CHUNK, "ADD": False}),
        "row_add": (kernels.row_sum, reduce, {"CHUNK": CHUNK, "ADD": True}),
        "scatter_add": (kernels.scatter_add, line, {}),
    }
    fn, sizes, flags = launches[kernel]
    if kernel == "scatter_add":
        value["grad"] = f"*{acc}"
    constants = {**sizes, **flags, "ACC": wide}
    options = {"num_warps": constants.pop("num_warps")}
    pointers = {n: value[n] for n in fn.arg_names if n in value}
    return fn, pointers, {"vocab", "dim", "stride", "bags"}, constants, options


def _read_cuda(asm: dict[str, Any]) -> tuple[int, int, int]:
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(asm["cubin"])
        file.flush()
        usage = _run(str(tools / "cuobjdump"), "-res-usage", file.name)
        code = _run(str(tools / "nvdisasm"), "-c", file.name)
    registers = int(_found(r"REG:(\d+)", usage))
    # local memory: STACK is a frame that spilled registers live in, STL and LDL move them
    spills = int(_found(r"STACK:(\d+)", usage)) + len(re.findall(r"\b(?:STL|LDL)\b", code))
    return registers, spills, len(re.findall(r"LDG\.E(?:\.\w+)*?\.128", code))


def _read_hip(asm: dict[str, Any]) -> tuple[int, int, int]:
    code = asm["amdgcn"]
    spills = int(_found(r"\.vgpr_spill_count:\s+(\d+)", code))
    spills += int(_found(r"\.sgpr_spill_count:\s+(\d+)", code))
    wide = len(re.findall(r"(?:global|buffer|flat)_load_dwordx4", code))
    return int(_found(r"\.vgpr_count:\s+(\d+)", code)), spills, wide


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"no {pattern!r} in the compiler's output")
    return match.group(1)


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Print the reports as a table."""
    head = f"{'kernel':12} {'dtype':5} {'target':7} {'registers':>9} {'spills':>6} {'128-bit':>7}"
    sys.stdout.write(f"triton {triton.__version__}, D 512, int64 ids, 128-bit loads\n{head}\n")
    for target in TARGETS:
        for kernel in KERNELS:
            for dtype in NAMES:
                r = compile_kernel(kernel, dtype, target)
                sys.stdout.write(
                    f"{r.kernel:12} {r.dtype:5} {r.target:7} "
                    f"{r.registers:9} {r.spills:6} {r.wide:7}\n"
                )


if __name__ == "__main__":
    main()
