"""A gradient buffer for the table that outlives the training step."""

from __future__ import annotations

import weakref
from types import ModuleType

import torch
from torch import Tensor

from sse_kernels import bag_aten as host
from sse_kernels.plan import BagPlan

FEW = 8  # up to V / FEW rows with tokens, clearing and adding them beats writing all V


class TableGrad:
    """Lets the backward pass write d loss / d weight straight into `weight.grad`, step after step.

    Plain autograd allocates V x D for every call and, when gradients accumulate, reads and writes
    V x D more to add it. With a `TableGrad` no second buffer of that size ever stands beside it:

        self.table_grad = TableGrad()                        # once, beside the weight
        y = bag_dyt(weight, ids, offsets, alpha, beta, bias, table_grad=self.table_grad)
        loss.backward(); optimizer.step(); optimizer.zero_grad()    # as ever; None or zeros both do

    - `weight.grad is None` (after `zero_grad()`): the buffer of the last step is cleared where it
      was hit, filled with this step's rows, and is `weight.grad` again; a batch that hits much of
      the table writes all of it once, into the memory the old buffer held.
    - `weight.grad` is a tensor (accumulation, a second call in one graph, `set_to_none=False`):
      this call's rows are added to it, whichever tensor it is.

    The conditions:

    - One `TableGrad` serves one weight. A second one is refused while the first has its gradient.
    - `weight` is a leaf, and its gradient is read from `weight.grad`: `torch.autograd.grad` gets
      none from the op, and hooks on weight would not run (where there are any, an error says so).
    - Clone `weight.grad` to keep it past the next backward pass. Changing the whole of it in place
      (clipping, unscaling, noise) is fine; writing to single rows that had no token is not.
    - Under DistributedDataParallel the op ignores it and returns its gradient as ever, since the
      all-reduce hangs on autograd's own accumulation; torch.compile cannot trace it and says so.
    """

    def __init__(self) -> None:
        self._buffer: Tensor | None = None
        self._hit: Tensor | None = None  # (V,) bool, rows of the buffer that may not be 0
        self._weight: weakref.ref[Tensor] | None = None  # whose gradient the buffer is

    def usable(self, weight: Tensor) -> bool:
        """Whether the op may write for this weight; ValueError where a gradient would be wrong."""
        if not weight.is_leaf:
            raise ValueError("table_grad= needs a leaf weight; it is the result of an operation")
        if weight._backward_hooks or weight._post_accumulate_grad_hooks:
            raise ValueError("table_grad= would skip the hooks on weight; remove one of the two")
        ddp = torch.nn.parallel.DistributedDataParallel
        return getattr(ddp, "_active_ddp_module", None) is None

    def write(self, weight: Tensor, shares: Tensor, plan: BagPlan, path: ModuleType) -> None:
        """Bring the gradient of one call into `weight.grad`, with the kernels of `path`.

        `shares` (B, D) is what each token of a bag receives, from path's `backward` or `share`.
        """
        grad = weight.grad
        if grad is None:
            self._replace(weight, shares, plan, path)
            return
        if grad.layout != torch.strided:
            raise ValueError(f"table_grad= cannot add to a gradient of layout {grad.layout}")
        path.add_table(grad, shares, plan)
        own = self._buffer is not None and grad.data_ptr() == self._buffer.data_ptr()
        if own and self._hit is not None:
            self._hit |= plan.starts.diff() > 0

    def _replace(self, weight: Tensor, shares: Tensor, plan: BagPlan, path: ModuleType) -> None:
        first = self._weight() if self._weight is not None else None
        if first is not None and first is not weight and first.grad is self._buffer is not None:
            raise ValueError("table_grad= holds another weight's gradient: make one for each")
        self._weight = weakref.ref(weight)
        hit = plan.starts.diff() > 0  # (V,)
        if path is not host:
            if not self._fits(weight):
                self._buffer = torch.empty_like(weight.detach())
            path.add_table(self._buffer, shares, plan, overwrite=True)
        elif int(hit.sum()) > hit.numel() // FEW:
            # One pass that writes every row once beats clearing and adding. The old buffer goes
            # first, so that an allocator that keeps its pages gives the same memory back.
            self._buffer = weight.grad = None
            self._buffer = host.sum_table(shares, plan, weight.dtype)
        else:
            self._clear(weight, hit)
            host.add_table(self._buffer, shares, plan, replace=True)
        self._hit = hit
        weight.grad = self._buffer

    def _clear(self, weight: Tensor, hit: Tensor) -> None:
        """Make the buffer 0 wherever no row is about to be written."""
        if self._buffer is None or self._hit is None or not self._fits(weight):
            self._buffer = torch.zeros_like(weight.detach())
            return
        idle = int((~self._hit).to(torch.uint8).argmax())
        # A row that no step has hit is 0 unless the whole gradient was changed in place (noise, a
        # clip by a norm that is not finite). Then nothing in the buffer can be kept.
        if not self._hit[idle] and bool(self._buffer[idle].any()):
            self._buffer.zero_()
        else:
            self._buffer.index_fill_(0, (self._hit & ~hit).nonzero().squeeze(1), 0)

    def _fits(self, weight: Tensor) -> bool:
        b = self._buffer
        like = (weight.shape, weight.dtype, weight.device, weight.stride())
        return b is not None and (b.shape, b.dtype, b.device, b.stride()) == like

    def __reduce__(self) -> tuple[type[TableGrad], tuple[()]]:
        """Copied and pickled without its buffer: a copy of a model starts with one of its own."""
        return TableGrad, ()
