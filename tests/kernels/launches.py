"""Calls of every kernel of the package, at the sizes of a training step, for `fake_gpu`.

python -m tests.kernels.launches          # every kernel, dtype and target: registers, spills
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType

import torch
import triton
from sse_kernels import bag_triton
from sse_kernels.contrastive import bf16, op, tiles
from sse_kernels.plan import build_plan

from tests.kernels.fake_gpu import TARGETS, compiled

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
LOSSES = {
    "plain": {},
    "masked": {"mask": True},
    "symmetric": {"symmetric": True},
    "all": {"mask": True, "symmetric": True, "smoothing": 0.1},
}


def bag_step(dtype: torch.dtype, gated: bool = True, atomic: bool = False) -> None:
    """Forward and backward of a batch of 64 bags: a table of 512 columns, int64 ids."""
    weight = torch.zeros(1024, 512, dtype=dtype)
    ids, offsets = torch.zeros(64 * 64, dtype=torch.int64), torch.arange(0, 65 * 64, 64)
    gate = [torch.zeros(512, dtype=dtype) for _ in range(3)]
    if gated:
        y, x, t = bag_triton.forward(weight, ids, offsets, *gate, keep=True)
        shares, *_ = bag_triton.backward(y, x, t, offsets, *gate, dtype)
    else:
        y = bag_triton.pool(weight, ids, offsets)
        shares = bag_triton.share(y, offsets, dtype)
    plan = build_plan(ids, offsets, 1024)
    if atomic:
        bag_triton.table_gradient(shares, ids, offsets, None, 1024, dtype, atomic=True)
    else:
        bag_triton.add_table(torch.zeros_like(weight), shares, plan, overwrite=gated)


def loss_step(
    module: ModuleType,
    precision: str,
    mask: bool = False,
    symmetric: bool = False,
    smoothing: float = 0.0,
) -> None:
    """Forward and backward of 1,024 pairs of 512 columns with the published dims."""
    query, documents = (torch.zeros(1024, 512, requires_grad=True) for _ in range(2))
    weights = (1.0,) * 5
    spec = op._Spec(bf16.BOUNDS, weights, 20.0, symmetric, 0, smoothing, precision)
    texts = torch.arange(1024)
    ids = op._id_lines(texts, texts, 0, 1024) if mask else (None, None)
    op._Contrastive.apply(query, documents, *ids, spec, module).backward()


def bf16_loss(variant: str) -> Callable[[], None]:
    """The loss's bfloat16 kernels in a variant of `LOSSES`."""
    return partial(loss_step, bf16, "bf16", **LOSSES[variant])


def main() -> None:
    """Print the reports as a table."""
    sys.stdout.write(f"triton {triton.__version__}, D 512\n")
    calls = {f"bag {str(d)[6:]}": partial(bag_step, d) for d in DTYPES}
    calls |= {f"loss {p}": partial(loss_step, tiles, p) for p in ("ieee", "tf32")}
    calls |= {f"loss bf16 {v}": bf16_loss(v) for v in LOSSES}
    for target in TARGETS:
        for name, call in calls.items():
            if "bf16 " in name and target in ("sm_80", "gfx942"):  # no tensor descriptors
                continue
            for r in compiled(target, call):
                sys.stdout.write(
                    f"{target:7} {name:20} {r.kernel:17} {r.registers:4} registers, "
                    f"{r.stack:4} bytes of stack, {r.wide:3} wide loads ({r.in_flight} in flight) "
                    f"{r.products} {r.copies}\n"
                )


if __name__ == "__main__":
    main()
