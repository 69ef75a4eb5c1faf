"""Training runs of several processes, started as torchrun starts them but quicker."""

import multiprocessing
import multiprocessing.connection
import os
import socket
import sys
import time

import sse.training.run

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.helpers.preload"])


def _one(rank, world, port, arguments, log, before):
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  it lives as long as the process
    sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
    if before:
        before(rank)
    sys.exit(sse.training.run.run(arguments))


class Run:
    """`world` processes of one run, each with `before(rank)` called first.

    `each` has further options of each process.
    """

    def __init__(self, arguments, logs, world=2, before=None, each=None):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        logs.mkdir(parents=True, exist_ok=True)
        self.logs = [logs / f"{rank}.txt" for rank in range(world)]
        arguments = [*arguments, f"--trainer.devices={world}", "--trainer.strategy=ddp"]
        self.processes = [
            CONTEXT.Process(target=_one, args=(rank, world, port, [*arguments, *own], log, before))
            for rank, (own, log) in enumerate(zip(each or [()] * world, self.logs, strict=True))
        ]
        for process in self.processes:
            process.start()

    def wait(self, seconds=120):
        """Exit codes; whoever is still there after `seconds` is killed and has None."""
        deadline = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(0, deadline - time.monotonic()))
        codes = [process.exitcode for process in self.processes]
        for process in self.processes:
            process.kill()
        return codes

    def first_end(self, seconds=60):
        """Wait until any process has ended."""
        multiprocessing.connection.wait([p.sentinel for p in self.processes], seconds)

    def text(self):
        """What each process wrote."""
        return [log.read_text() for log in self.logs]


def at_step(step, action, ranks=(0, 1)):
    """Have `action()` called after batch `step` on `ranks`; for `before`."""
    import sse.training.callbacks

    old = sse.training.callbacks.Throughput.on_train_batch_end

    def hook(self, trainer, *rest):
        old(self, trainer, *rest)
        if trainer.fit_loop.epoch_loop.total_batch_idx == step and trainer.global_rank in ranks:
            action()

    sse.training.callbacks.Throughput.on_train_batch_end = hook
