"""The processes of a run: who started them, how they wait for, agree with and speak for each other.

- torchrun and SLURM's srun start the processes; `join` connects them before any data are read.
- `in_turn` lets the first process fill the caches while the others wait, for as long as it takes.
- `agree` makes one process's failure everybody's: one of them says why, all end.
- Small matters go through a gloo group of their own (`_control`), which never waits for a GPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from sse.common.errors import LostProcess, Stopped, UserError

T = TypeVar("T")

# Reading and tokenising what others wait for may take hours; one that dies is noticed at once.
PATIENCE = timedelta(days=7)
# How gloo and NCCL say that another process is gone.
LOST = ("Connection closed by peer", "Connection reset", "Broken pipe", "gloo", "NCCL")
_control: list[dist.ProcessGroup] = []  # the group for small matters, once joined


class Processes(DDPStrategy):
    """Lightning's DDP without its wrapper: `column_parallel` has no gradient to average."""

    def configure_ddp(self) -> None:
        """Leave the module as it is."""


def environment() -> ClusterEnvironment | None:
    """Who started this process together with others; None for a process of its own."""
    launcher: ClusterEnvironment | None = None
    if TorchElasticEnvironment.detect():
        launcher = TorchElasticEnvironment()
    elif SLURMEnvironment.detect():
        launcher = SLURMEnvironment(auto_requeue=False)
    return launcher if launcher and launcher.world_size() > 1 else None


def join(cuda: bool) -> None:
    """Connect this process with the others of the run, if any: by NCCL with `cuda`, else gloo."""
    launcher = environment()
    if launcher is None or dist.is_initialized():
        return
    dist.init_process_group(
        "nccl" if cuda else "gloo",
        init_method=f"tcp://{launcher.main_address}:{launcher.main_port}"
        if isinstance(launcher, SLURMEnvironment)
        else "env://",
        rank=launcher.global_rank(),
        world_size=launcher.world_size(),
    )
    _control.append(dist.new_group(backend="gloo", timeout=PATIENCE))


def leave() -> None:
    """Part from the others; nothing of theirs is needed any more."""
    _control.clear()
    if dist.is_initialized():
        dist.destroy_process_group()


def world() -> int:
    """Processes of this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process; also before it has joined."""
    if dist.is_initialized():
        return int(dist.get_rank())
    launcher = environment()
    return launcher.global_rank() if launcher else 0


def from_first(make: Callable[[], T]) -> T:
    """What `make` returns on the first process, on every process."""
    if world() == 1:
        return make()
    box = [agree(lambda: make() if rank() == 0 else None)]
    dist.broadcast_object_list(box, 0, group=_control[0])
    return box[0]  # type: ignore[return-value]


def alike(options: dict[str, str]) -> None:
    """Raise UserError, on all processes, where they were started with different options."""
    if world() == 1:
        return
    everyone: list[dict[str, str]] = [{}] * world()
    dist.all_gather_object(everyone, options, group=_control[0])
    for number, theirs in enumerate(everyone):
        for name, value in everyone[0].items():
            if theirs.get(name) != value:
                raise everywhere(
                    UserError(
                        f"--{name} is {value} in process 0 and {theirs.get(name)} in process "
                        f"{number}: give all processes the same options"
                    )
                )


def highest(values: list[int]) -> list[int]:
    """The largest of each value over all processes."""
    if world() == 1:
        return values
    box = torch.tensor(values)
    dist.all_reduce(box, dist.ReduceOp.MAX, group=_control[0])
    numbers: list[int] = box.tolist()
    return numbers


def total(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes."""
    if world() > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value


def agree(action: Callable[[], T]) -> T:
    """Run `action` everywhere; where it fails on any process, all end and the first one says why.

    Raises:
        SystemExit: it failed on another process, which says so.
    """
    if world() == 1:
        return action()
    failure: Exception | None = None
    try:
        result = action()
    except Exception as error:
        failure = error
    failed: list[bool] = [False] * world()
    dist.all_gather_object(failed, failure is not None, group=_control[0])
    if any(failed):
        if failed.index(True) != rank():
            raise SystemExit(2) from failure
        assert failure is not None
        raise failure
    return result


def in_turn(action: Callable[[], None]) -> None:
    """Run `action` on the first process, then one process of every node, then the others.

    What the first leaves in a shared cache the others find; nodes without a shared one fill
    theirs at the same time.
    """
    launcher = environment()
    turn = 0 if rank() == 0 else 1 if launcher and launcher.local_rank() == 0 else 2
    for now in range(3):
        agree(action if now == turn else lambda: None)


E = TypeVar("E", bound=Exception)


def everywhere(error: E) -> E:
    """Mark an error that all processes raise alike, so that the first alone says it."""
    error.everywhere = True  # type: ignore[attr-defined]
    return error


def say(line: str) -> None:
    """Print a line of the run's account, at once; the first process does."""
    if rank() == 0:
        print(line, flush=True)  # noqa: T201, the account is the program's output


def one_voice(main: Callable[..., T]) -> Callable[..., T]:
    """Have a failure that all processes share said by the first alone.

    Before the processes have joined they read the same command line, so all fail alike. Later an
    error is its process's own, unless it went through `everywhere`.
    """

    @functools.wraps(main)
    def wrapper(*args: Any, **kwargs: Any) -> T:
        try:
            return main(*args, **kwargs)
        except (UserError, Stopped) as error:
            if rank() and (getattr(error, "everywhere", False) or not dist.is_initialized()):
                raise SystemExit(getattr(error, "exit_code", 2)) from None
            raise
        except RuntimeError as error:
            if world() > 1 and any(word in str(error) for word in LOST):
                raise LostProcess(rank()) from error
            raise

    return wrapper
