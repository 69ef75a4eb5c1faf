"""Threads of a training on a CPU: how many, and what changes with them."""

import hashlib
import os
import threading
import time

import pytest
import torch
from sse_kernels.table_grad import TableGrad

from sse.loss.matryoshka import matryoshka_loss
from sse.model.model import SSE
from sse.model.norms import NORMS
from sse.text.tokenizer import train_tokenizer
from sse.training.host import neighbours
from sse.training.host.neighbours import LIMIT, PAUSES, WINDOW, Neighbours, take_cores, waited
from sse.training.optimizer import make_optimizer
from tests.helpers.samples import sentences


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


class Options:
    lr, norm_lr, adam_beta2, adam_eps, weight_decay = 0.1, None, 0.9999, 1e-10, 0.0


def trained(norm, counts, symmetric):
    """The parameters after one step with each number of threads."""
    model = SSE(train_tokenizer(sentences(60), 300, progress=False), 151, norm, seed=1)
    model.table_grad = TableGrad()
    optimizer = make_optimizer(model, Options)
    generator = torch.Generator().manual_seed(0)
    for count in counts:
        torch.set_num_threads(count)
        lengths = torch.randint(1, 9, (602,), generator=generator)
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        ids = torch.randint(
            0, len(model.embedding.weight), (int(offsets[-1]),), generator=generator
        )
        vectors = model.pool(ids.int(), offsets)
        queries, documents = vectors.chunk(2)
        dims = [151, 64, 24]
        matryoshka_loss(queries, documents, dims, symmetric=symmetric).backward()
        optimizer.step()
        optimizer.zero_grad()
    return [p.detach().clone() for p in model.parameters()]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_the_number_of_threads_changes_no_bit(norm, symmetric, threads):
    one = trained(norm, [1, 1, 1, 1], symmetric)
    for counts in ([2, 2, 2, 2], [3, 1, 5, 2]):
        assert all(map(torch.equal, one, trained(norm, counts, symmetric)))


def decide(watch, now, waiting):
    watch._decide(now, WINDOW, waiting)
    return torch.get_num_threads()


def test_threads_leave_while_others_want_their_cores_and_come_back(threads):
    threads(4)
    watch = Neighbours()
    assert decide(watch, 100, LIMIT / 2) == 4
    assert decide(watch, 100.5, 1.9) == 4, "once is no neighbour"
    assert decide(watch, 101, 1.9) == 2
    assert decide(watch, 101.5, 0.6) == 1
    assert decide(watch, 102, 5.0) == 1
    assert decide(watch, 101.5 + PAUSES[0], 0.0) == 4
    assert watch.fewest == 1
    assert watch.seconds == 3 * WINDOW
    assert "fewer than 4 threads (at least 1)" in watch.account()


def test_all_threads_are_tried_more_seldom_after_each_failure(threads):
    threads(2)
    watch, now, tries = Neighbours(), 100.0, []
    watch._decide(now, WINDOW, 1.0)
    watch._decide(now, WINDOW, 1.0)
    while now < 300:
        now += WINDOW
        if torch.get_num_threads() == 2:
            tries.append(now)
            watch._decide(now, WINDOW, 1.0)
        else:
            watch._decide(now, WINDOW, 0.0)
    gaps = [b - a for a, b in zip(tries, tries[1:], strict=False)]
    assert gaps == sorted(gaps)
    assert gaps[0] >= 2 * PAUSES[0]
    assert PAUSES[1] <= gaps[-1] < PAUSES[1] + 1


def test_an_undisturbed_run_says_nothing(threads):
    threads(2)
    watch = Neighbours()
    watch._decide(100, WINDOW, 0.1)
    assert watch.account() == ""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity masks here")
def test_threads_that_share_a_core_wait_for_it():
    def work(until):
        while time.monotonic() < until:
            hashlib.sha256(block).digest()  # without the GIL

    block, mask = bytes(1 << 22), os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(mask)})
    try:
        before, until = waited(), time.monotonic() + 0.4
        helper = threading.Thread(target=work, args=(until,))
        helper.start()
        work(until)
        spent = waited() - before
        helper.join()
    finally:
        os.sched_setaffinity(0, mask)
    assert spent > 0.05


def test_torch_takes_no_more_threads_than_the_process_may_use(threads, monkeypatch):
    threads(4)
    monkeypatch.setattr(neighbours, "cores", lambda: 2)
    assert take_cores() == "threads: 2, since affinity mask and CPU quota allow no more"
    assert torch.get_num_threads() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert take_cores() == "threads: 2 (OMP_NUM_THREADS)"
