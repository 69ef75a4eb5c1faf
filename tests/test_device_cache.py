"""Claims about where batches come from: the device's gather and the thread give PairBatches'."""

import json
import threading

import numpy as np
import pytest
import torch
from conftest import sentences
from torch.utils.data import DataLoader

from sse.cache import TokenizedSet
from sse.data import EpochSteps, PairBatches, SSEDataModule
from sse.device_cache import Ahead, DeviceCache
from sse.errors import UserError
from sse.ragged import Ragged
from sse.sampler import Batch
from sse.training import main

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def tokenized(name, rows, columns, dtype, top, seed):
    """A set with texts of 0 to 8 tokens, the largest id among them."""
    generator = np.random.default_rng(seed)
    tokens = []
    for _ in range(columns):
        offsets = np.concatenate([[0], generator.integers(0, 9, rows).cumsum()]).astype(np.int64)
        ids = generator.integers(0, top + 1, offsets[-1]).astype(dtype)
        ids[:1] = top
        tokens.append(Ragged(ids, offsets))
    texts = generator.integers(0, 2**64, (rows, columns), dtype=np.uint64)
    return TokenizedSet(name, tuple("abc"[:columns]), tuple(tokens), texts)


@pytest.fixture
def sets():
    return [
        tokenized("narrow", 50, 2, np.uint16, 2**16 - 1, 0),  # ids past int16's largest
        tokenized("wide", 40, 3, np.int32, 10**6, 1),  # a column of negatives
    ]


@pytest.fixture
def plan():
    generator = np.random.default_rng(2)
    batches = [Batch(n % 2, generator.permutation(40)[: 7 + n]) for n in range(8)]
    return [*batches, Batch(1, np.array([3, 3, 3]))]


def equal(a, b):
    assert a.keys() == b.keys()
    for key, value in a.items():
        if key == "pairs":
            assert b[key] == value
        else:
            assert b[key].dtype == value.dtype, key
            assert torch.equal(b[key].cpu(), value), key


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("columns", [None, 2])
def test_a_batch_gathered_on_the_device_is_the_batch(sets, plan, device, mask, columns):
    usual = PairBatches(sets, plan, mask=mask, columns=columns)
    theirs = PairBatches(sets, plan, mask=mask, columns=columns)
    theirs.on_device = DeviceCache.fitting("on", sets, torch.device(device))
    for step in range(len(plan)):
        batch = theirs[step]
        assert batch["ids"].device.type == device
        equal(usual[step], batch)


def test_auto_leaves_the_cpu_alone_and_on_does_not(sets):
    cpu = torch.device("cpu")
    assert DeviceCache.fitting("auto", sets, cpu) is None
    assert DeviceCache.fitting("off", sets, cpu) is None
    assert isinstance(DeviceCache.fitting("on", sets, cpu), DeviceCache)


class Memory:
    """A device that says it is a GPU; what is asked of it is its free memory alone."""

    type = "cuda"

    def __str__(self):
        return "cuda:0"


def test_it_takes_a_quarter_of_the_free_memory_at_most(sets, monkeypatch):
    size = DeviceCache.bytes_of(sets)
    free = {"bytes": 4 * size - 1}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free["bytes"], 2**40))
    assert DeviceCache.fitting("auto", sets, Memory()) is None
    free["bytes"] = size - 1
    with pytest.raises(UserError, match="use auto"):
        DeviceCache.fitting("on", sets, Memory())


def test_a_thread_ahead_gives_the_same_batches_in_order(sets, plan):
    loader = DataLoader(PairBatches(sets, plan), batch_size=None, sampler=EpochSteps(2, len(plan)))
    ahead = Ahead(loader)
    assert len(ahead) == len(loader) == len(plan)
    found = list(ahead)
    assert len(found) == len(plan) - 2
    for batch, expected in zip(found, loader, strict=True):
        equal(expected, batch)


def test_a_thread_ahead_hands_on_errors_and_ends_with_its_reader(sets, plan):
    before = threading.active_count()
    broken = [*plan[:3], Batch(0, np.array([10**6]))]
    loader = DataLoader(PairBatches(sets, broken), batch_size=None)
    seen = []
    with pytest.raises(IndexError):
        for batch in Ahead(loader):
            seen.append(batch)
    assert len(seen) == 3
    for _ in Ahead(DataLoader(PairBatches(sets, plan), batch_size=None)):
        break
    assert threading.active_count() == before


def test_a_run_with_the_cache_is_bitwise_the_run_without(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"anchor": text, "positive": text[::-1]} for text in sentences(200, seed=5)]
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    states = []
    for mode in ("off", "on"):
        options = [
            f"--data.paths={path}", f"--data.cache={tmp_path / 'cache'}", "--data.vocab_size=300",
            "--data.batch_size=16", f"--data.device_cache={mode}", "--data.unique_texts=false",
            "--model.dim=16", "--eval.baselines=false", "--trainer.max_epochs=1",
            "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false",
            f"--out={tmp_path / mode}",
        ]  # fmt: skip
        main(options)
        saved = torch.load(tmp_path / mode / "checkpoints" / "last.ckpt", weights_only=True)
        states.append(saved["state_dict"])
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_options_that_cannot_go_together_are_refused():
    with pytest.raises(UserError, match="'yes'"):
        SSEDataModule(device_cache="yes")
    with pytest.raises(UserError, match="num_workers 2"):
        SSEDataModule(device_cache="on", num_workers=2)
