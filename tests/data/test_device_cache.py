"""Claims about where batches come from: the device's gather and the thread give PairBatches'."""

import json
import threading

import numpy as np
import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from sse_kernels.plan import plan_bags
from torch.utils.data import DataLoader

from sse.common.errors import UserError
from sse.data.batch_plan import Batch
from sse.data.batches import Ahead, EpochSteps, PairBatches
from sse.data.datamodule import SSEDataModule
from sse.data.device_cache import DeviceCache
from sse.data.token_cache import TokenizedSet
from sse.model.static_model import StaticModel
from sse.text.token_batch import TokenBatch
from sse.training.run import main
from tests.helpers.samples import sentences

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def tokenized(name, rows, columns, dtype, top, seed):
    """A set with texts of 0 to 8 tokens, the largest id among them."""
    generator = np.random.default_rng(seed)
    tokens = []
    for _ in range(columns):
        offsets = np.concatenate([[0], generator.integers(0, 9, rows).cumsum()]).astype(np.int64)
        ids = generator.integers(0, top + 1, offsets[-1]).astype(dtype)
        ids[:1] = top
        tokens.append(TokenBatch(ids, offsets))
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


def test_a_batch_brings_the_order_of_its_backward_pass_where_asked(sets, plan):
    vocab = 10**6 + 1
    batches = PairBatches(sets, plan)
    batches.vocab = vocab
    brought = [batch["plan"] for batch in DataLoader(batches, batch_size=None, num_workers=1)]
    batches.vocab = None
    for step, given in enumerate(brought):
        batch = batches[step]
        made = plan_bags(batch["ids"], batch["offsets"], vocab)
        assert torch.equal(given.rows, made.rows) and torch.equal(given.starts, made.starts)
        moved = move_data_to_device({"plan": given}, torch.device("meta"))["plan"]
        assert {t.device.type for t in (moved.rows, moved.starts, moved.whole)} == {"meta"}


def test_workers_bring_it_and_it_is_used(tmp_path, monkeypatch):
    seen = []
    real = StaticModel.pool

    def pool(self, ids, offsets, plan=None):
        seen.append(plan is not None)
        return real(self, ids, offsets, plan)

    monkeypatch.setattr(StaticModel, "pool", pool)
    run_of(tmp_path, "worker", "--data.num_workers=1", "--eval.times=0", "--data.holdout=0")
    assert set(seen) == {True}
    seen.clear()
    run_of(tmp_path, "none", "--eval.times=0", "--data.holdout=0")
    assert set(seen) == {False}  # on a CPU it would only be made sooner


def test_a_run_with_the_cache_or_a_worker_is_bitwise_the_run_without(tmp_path):
    states = [
        run_of(tmp_path, "off", "--data.device_cache=off"),
        run_of(tmp_path, "on", "--data.device_cache=on"),
        run_of(tmp_path, "worker", "--data.num_workers=1"),
    ]
    for other in states[1:]:
        assert all(torch.equal(states[0][name], other[name]) for name in states[0])


def run_of(tmp_path, name, *options):
    """The weights after an epoch over 200 pairs."""
    path = tmp_path / "pairs.jsonl"
    rows = [{"anchor": text, "positive": text[::-1]} for text in sentences(200, seed=5)]
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    main([
        f"--data.paths={path}", f"--data.cache={tmp_path / 'cache'}", "--data.vocab_size=300",
        "--data.batch_size=16", "--data.unique_texts=false", "--model.dim=16",
        "--eval.baselines=false", "--trainer.max_epochs=1", "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false", f"--out={tmp_path / name}", *options,
    ])  # fmt: skip
    saved = torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)
    return saved["state_dict"]


def test_options_that_cannot_go_together_are_refused():
    with pytest.raises(UserError, match="'yes'"):
        SSEDataModule(device_cache="yes")
    with pytest.raises(UserError, match="num_workers is 2"):
        SSEDataModule(device_cache="on", num_workers=2)
