"""AdamW that touches only the rows in hand: the same weights, later.

A row without tokens still moves under AdamW, since its moments decay and keep pushing. With t0 the
last step that a row took and j = t - t0 steps without a gradient (m, v as they stood at t0):

    u_t = lr_t sqrt(1 - b2^t) / (1 - b1^t) * r^j * m / (sqrt(v) + e_t),    r = b1 / sqrt(b2)
    e_t = eps sqrt(1 - b2^t) / b2^(j / 2)

All but e_t is a number of the step times m / sqrt(v), so the sum over the skipped steps is closed
once 1 / (sqrt(v) + e) is expanded around the weighted mean of e_t, to the third central moment.
Where that is not exact to 1e-8 (elements with sqrt(v) near eps, in a run's first steps) the steps
are replayed, for those elements alone. Weight decay multiplies everything before it and is folded
into the sums. r^j vanishes: past `WINDOW` steps a row only decays.

So a step costs rows touched x D instead of V x D; a `flush` brings every row up to date.
Source: AdamW, Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import AdamW
from torch.optim.adamw import adamw

FORGOTTEN = 1e-10  # what is left of r^j where a row's own push is taken to have ended
EXACT = 1e-8  # largest neglected term of the expansion, relative to a row's update
STRIP = 1024  # rows in hand at a time: 2 MB a tensor at D = 512, which a cache holds
Numbers = NDArray[np.float64]


class LazyAdam(AdamW):
    """AdamW with one table whose rows are brought up to date when they are read.

    Call `touch(ids)` before a forward pass reads these rows, and `flush()` before anything else
    reads the table; `state_dict` flushes by itself, and is AdamW's, so either goes on from the
    other's checkpoint.

    Args:
        params: all parameters, or groups of them; those but `table` take fused AdamW's own step.
        table: (V, D) float32 or float64, a leaf whose gradient is 0 but for the rows touched.
        lr: learning rate; a schedule may change it between steps.
        betas: decay of the moments; b1^2 < b2, or a row would never come to rest.
        eps: Adam's epsilon, above 0.
        weight_decay: decoupled decay.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        table: Tensor,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float = 0.0,
    ) -> None:
        if table.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"a lazy optimiser needs a float32 table: this is {table.dtype}")
        super().__init__(params, lr, betas, eps, weight_decay, fused=True)
        # A GradScaler then unscales before the step, as it does for other than fused optimisers.
        self._step_supports_amp_scaling = False
        self.table = table
        self.skipped = Skipped(betas, eps, 0)
        rows = len(table)
        self._last = torch.zeros(rows, dtype=torch.int32, device=table.device)
        self._touched = torch.zeros(rows, dtype=torch.bool, device=table.device)

    @torch.no_grad()
    def touch(self, ids: Tensor) -> None:
        """Bring the rows `ids` (any shape) up to date; the next step moves them."""
        seen = torch.zeros_like(self._touched)
        seen[ids.long()] = True
        self._touched |= seen
        self._catch_up(seen)

    @torch.no_grad()
    def flush(self) -> None:
        """Bring every row up to date."""
        self._catch_up(torch.ones_like(self._touched))
        self.skipped.forget()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step of AdamW; returns what `closure` does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        grad, self.table.grad = self.table.grad, None
        try:
            super().step()
        finally:
            self.table.grad = grad
        if grad is not None:
            self._step_rows(grad)
        return loss

    def _step_rows(self, grad: Tensor) -> None:
        group = next(g for g in self.param_groups if any(p is self.table for p in g["params"]))
        state = self._moments()
        done = self.skipped.done
        for rows in self._touched.nonzero()[:, 0].split(STRIP):
            p, m, v = self._take(rows)
            g, steps = grad.index_select(0, rows), torch.full_like(state["step"], done)
            adamw(
                [p], [g], [m], [v], [], [steps],
                fused=True, amsgrad=False, beta1=group["betas"][0], beta2=group["betas"][1],
                lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"],
                maximize=False,
            )  # fmt: skip
            self._put(rows, p, m, v)
        self.skipped.advance(float(group["lr"]), group["weight_decay"])
        self._last[self._touched] = self.skipped.done
        self._touched.zero_()
        state["step"].fill_(self.skipped.done)

    def _moments(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[self.table]
        if not state:  # as fused AdamW makes it
            state["step"] = torch.zeros((), dtype=torch.float32, device=self.table.device)
            state["exp_avg"] = torch.zeros_like(self.table)
            state["exp_avg_sq"] = torch.zeros_like(self.table)
        return state

    def _catch_up(self, wanted: Tensor) -> None:
        done = self.skipped.done
        late = (wanted & (self._last < done)).nonzero()[:, 0]
        if not len(late):
            return
        for rows in late.split(STRIP):
            last = self._last[rows].cpu().numpy()
            p, m, v = self._take(rows)
            update = self.skipped.update(m, v, last)
            decay, of_m, of_v = (_column(c, p) for c in self.skipped.decays(last))
            self._put(rows, p.mul_(decay).sub_(update), m.mul_(of_m), v.mul_(of_v))
        self._last[late] = done

    def _take(self, rows: Tensor) -> list[Tensor]:
        state = self._moments()
        parts = (self.table, state["exp_avg"], state["exp_avg_sq"])
        return [part.index_select(0, rows) for part in parts]

    def _put(self, rows: Tensor, *values: Tensor) -> None:
        state = self._moments()
        parts = (self.table, state["exp_avg"], state["exp_avg_sq"])
        for part, value in zip(parts, values, strict=True):
            part.index_copy_(0, rows, value)

    def state_dict(self) -> dict[str, Any]:
        """AdamW's, of a table brought up to date."""
        self.flush()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state of this class or of AdamW."""
        super().load_state_dict(state_dict)
        done = int(self._moments()["step"])
        self.skipped = Skipped(self.skipped.betas, self.skipped.eps, done)
        self._last.fill_(done)
        self._touched.zero_()


class Skipped:
    """Sums over the steps that a row did not take, for every step t0 it may have taken last.

    Args:
        betas: Adam's.
        eps: Adam's.
        done: steps taken so far; rows from before it must be up to date.
    """

    def __init__(self, betas: tuple[float, float], eps: float, done: int) -> None:
        b1, b2 = betas
        if not (0 < b1 * b1 < b2 < 1 and eps > 0):
            raise ValueError(
                f"a lazy optimiser needs 0 < b1^2 < b2 < 1 and eps > 0: b1 is {b1}, b2 {b2}, "
                f"eps {eps}"
            )
        self.betas, self.eps, self.done = (b1, b2), eps, done
        self.r = b1 / math.sqrt(b2)
        self.window = math.ceil(math.log(FORGOTTEN) / math.log(self.r))
        self._room(0)
        self.forget()

    def forget(self) -> None:
        """Start the sums anew: every row is up to date."""
        self.base = self.done
        for array in (self.sums, self.log_decay, self.size):
            array.fill(0)

    def _room(self, steps: int) -> None:
        """Arrays for `steps` more steps; index i is step base + i."""
        length = max(1024, 2 * steps)
        grown = {"sums": (length, 4), "log_decay": (length,), "size": (length,)}
        for name, shape in grown.items():
            array = np.zeros(shape)
            if (old := getattr(self, name, None)) is not None:
                array[: len(old)] = old
            setattr(self, name, array)

    sums: Numbers  # (steps, 4): sum of a_t e_t^n, n = 0 .. 3, over the steps after it
    log_decay: Numbers  # (steps,): sum of log(1 - lr wd) up to it
    size: Numbers  # (steps,): lr sqrt(1 - b2^t) / (1 - b1^t)

    def advance(self, lr: float, weight_decay: float) -> None:
        """Note a step: every row that it does not touch has skipped one more."""
        decay = 1 - lr * weight_decay
        if decay <= 0:
            raise ValueError(f"lr {lr} x weight decay {weight_decay} is no decay: keep it below 1")
        self.done += 1
        i = self.done - self.base
        if i >= len(self.size):
            self._room(i)
        b1, b2 = self.betas
        self.size[i] = lr * math.sqrt(1 - b2**self.done) / (1 - b1**self.done)
        self.log_decay[i] = self.log_decay[i - 1] + math.log(decay)
        first = max(0, i - self.window)
        j = np.arange(i - first, 0, -1)
        a, e = self.size[i] * self.r**j, self._floor(self.done, j)
        self.sums[first:i] *= decay
        self.sums[first:i] += a[:, None] * e[:, None] ** np.arange(4)

    def _floor(self, step: int | NDArray[np.int64], j: NDArray[np.int64]) -> Numbers:
        """e_t, j steps after the last one taken."""
        b2 = self.betas[1]
        return self.eps * np.sqrt(1 - b2**step) * b2 ** (-0.5 * j)

    def decays(self, last: NDArray[np.integer]) -> tuple[Numbers, Numbers, Numbers]:
        """What weights, first and second moments shrink by since the steps `last` (n,)."""
        i, now = last - self.base, self.done - self.base
        k = (now - i).astype(np.float64)
        b1, b2 = self.betas
        return np.exp(self.log_decay[now] - self.log_decay[i]), b1**k, b2**k

    def update(self, m: Tensor, v: Tensor, last: NDArray[np.integer]) -> Tensor:
        """The sum of the skipped updates (n, D), from moments as they stood at `last` (n,)."""
        i, now = last - self.base, self.done - self.base
        ends = np.minimum(i + self.window, now)  # the sums stand still after it, but for the decay
        sums = self.sums[i] * np.exp(self.log_decay[now] - self.log_decay[ends])[:, None]
        total = np.maximum(sums[:, 0], np.finfo(np.float64).tiny)
        mean, e2, e3 = (sums[:, n] / total for n in (1, 2, 3))
        mean = np.maximum(mean, np.finfo(np.float32).tiny)
        var = np.maximum(e2 - mean**2, 0) / mean**2  # in units of the mean, as the third
        third = (e3 - 3 * mean * e2 + 2 * mean**3) / mean**3
        root = v.sqrt()
        x = _column(mean, m) / (root + _column(mean, m))  # 1 where only eps is left, else near 0
        bend = 1 + x * x * (_column(var, m) - _column(third, m) * x)
        out = m * x * bend * _column(sums[:, 0] / mean, m)
        spread = np.sqrt(var)
        if spread.max(initial=0) > EXACT**0.25:
            self._replay(out, m, root, last, x * _column(spread, m) > EXACT**0.25)
        return out

    def _replay(
        self, out: Tensor, m: Tensor, root: Tensor, last: NDArray[np.integer], where: Tensor
    ) -> None:
        """Write the elements `where` of `out` step by step."""
        row, column = (where & (m != 0)).nonzero(as_tuple=True)
        if not len(row):
            return
        own_m, own_root, total = m[row, column], root[row, column], 0
        now = self.done - self.base
        longest = min(self.window, int(self.done - last.min()))
        for j in range(1, longest + 1):
            step = np.minimum(last + j, self.done)
            a = self.size[step - self.base] * self.r**j * (last + j <= self.done)
            a = a * np.exp(self.log_decay[now] - self.log_decay[step - self.base])
            e = self._floor(step, np.full(len(last), j))
            total = total + _column(a, m)[row, 0] / (own_root + _column(e, m)[row, 0])
        out[row, column] = total * own_m


def _column(values: Numbers, like: Tensor) -> Tensor:
    """(n,) numbers as (n, 1), of a tensor's dtype and device."""
    return torch.from_numpy(values).to(like.device, like.dtype)[:, None]
