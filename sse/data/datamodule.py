"""From sets of pairs to device batches: one LightningDataModule.

- Sets are read and tokenised once into memory-mapped ragged arrays; a batch is a vectorised gather.
- A batch is one concatenated bag: anchors, then positives, then each negative column.
- Held-out pairs are chosen by a hash of their text: the same on every machine, whatever the order.
- Batches come from `sse.data.batch_plan`: f(seed, epoch, step), so a resumed run continues exactly.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from sse_kernels.plan import plan_bags
from torch.utils.data import DataLoader, Dataset, Sampler

from sse.common.digests import is_whole, write_digest
from sse.common.errors import UserError
from sse.data.batch_plan import ORDERS, Batch, plan_epoch
from sse.data.device_cache import MODES, Ahead, DeviceCache
from sse.data.pair_set import load_sets
from sse.data.set_spec import SetSpec
from sse.data.split import choose, hold_out, train_rows
from sse.data.token_cache import TokenizedSet, tokenize_set
from sse.text.token_batch import concatenate
from sse.text.tokenizer import TextTokenizer, load_tokenizer, train_tokenizer

Features = dict[str, Any]

# The options that say what `build` reads, and what it makes.
READING = ("paths", "sets", "tokenizer", "vocab_size", "max_tokens", "cap", "pairs", "holdout",
           "cache")  # fmt: skip
READ = ("pairs", "tokenizer", "sets", "heldout_rows", "train_rows")


def default_cache() -> Path:
    """$SSE_CACHE, or `sse` in the user's cache folder."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("SSE_CACHE") or Path(root) / "sse").expanduser()


class SSEDataModule(L.LightningDataModule):
    """Pairs to train on; with neither `paths` nor `sets`, docstrings of the installed packages.

    Args:
        paths: jsonl, jsonl.gz, csv and parquet files, folders, globs, or hf:NAME.
        sets: the same in long form, with columns and a cap for each.
        tokenizer: `train` (WordPiece on these pairs), a hub name, or the path of a tokenizer.json.
        vocab_size: largest vocabulary to train; null for 30,522, or for 12,000 on the docstrings,
            where that is better at every dimension.
        max_tokens: cut texts to this many tokens; null for no limit.
        cap: at most this many pairs of each set.
        pairs: train on this many of all pairs, chosen by a hash of their text, so that a smaller
            choice is part of a larger one; null for all.
        batch_size: pairs per batch and process; in-batch negatives grow with it.
        batches: `proportional` or `round_robin` turns of the sets.
        unique_texts: no text twice in a batch; false allows it and masks equal texts in the loss.
        holdout: pairs kept from training to evaluate on (at most a tenth of the data).
        num_workers: loader processes; a gather is so cheap that 0 is fastest.
        device_cache: `auto` keeps all tokens on the GPU where they fit in a quarter of its free
            memory, and gathers batches there; `on` does so on any device, `off` never.
        cache: folder of the token cache; null for $SSE_CACHE or ~/.cache/sse.
        seed: seed of the batches.
    """

    def __init__(
        self,
        paths: list[str] | str | None = None,
        sets: list[SetSpec] | None = None,
        tokenizer: str = "train",
        vocab_size: int | None = None,
        max_tokens: int | None = None,
        cap: int | None = None,
        pairs: int | None = None,
        batch_size: int = 512,
        batches: str = "proportional",
        unique_texts: bool = True,
        holdout: int = 1000,
        num_workers: int = 0,
        device_cache: str = "auto",
        cache: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if batch_size < 2:
            raise UserError(
                f"data.batch_size is {batch_size}: give at least 2, since a batch's other pairs "
                "are its negatives"
            )
        if cap is not None and cap < 2:
            raise UserError(f"data.cap is {cap}: give at least 2 pairs a set")
        if pairs is not None and pairs < 2:
            raise UserError(f"data.pairs is {pairs}: give at least 2")
        if batches not in ORDERS:
            raise UserError(f"unknown order '{batches}' (--data.batches): choose one of {ORDERS}")
        if device_cache not in MODES:
            raise UserError(
                f"unknown --data.device_cache '{device_cache}': choose one of {', '.join(MODES)}"
            )
        if device_cache == "on" and num_workers:
            raise UserError(
                f"--data.device_cache on with --data.num_workers {num_workers}: batches gathered "
                "on the device need no workers, give 0"
            )
        self.sets: list[TokenizedSet] = []
        self._on_device: DeviceCache | None = None
        self._plans: dict[tuple[int, int], list[Batch]] = {}

    def build(
        self, say: Callable[[str], None] = print, shared: dict[str, Any] | None = None
    ) -> None:
        """Read, tokenise and hold out; everything slow happens here, once.

        Args:
            say: takes the lines that tell of it.
            shared: what earlier runs of this process read; with it the same data are read once.
        """
        if self.sets:
            return
        own = {k: v for k, v in self.hparams.items() if k in READING}
        key = f"data: {own!r}"
        if shared is None or key not in shared:
            self._read(say)
            if shared is not None:
                for old in [k for k in shared if k.startswith("data: ")]:
                    del shared[old]  # one data set at a time: they are large
                shared[key] = [getattr(self, name) for name in READ]
        else:
            for name, value in zip(READ, shared[key], strict=True):
                setattr(self, name, value)
        tokens = sum(int(column.offsets[-1]) for s in self.sets for column in s.tokens)
        say(
            f"data: {sum(map(len, self.train_rows)):,} pairs to train on, "
            f"{sum(map(len, self.heldout_rows)):,} held out, {len(self.sets)} "
            f"{'set' if len(self.sets) == 1 else 'sets'}, {tokens:,} tokens, "
            f"vocabulary {self.tokenizer.vocab_size:,}"
        )

    def _read(self, say: Callable[[str], None]) -> None:
        options = self.hparams
        folder = Path(options.cache).expanduser() if options.cache else default_cache()
        paths = [options.paths] if isinstance(options.paths, str) else options.paths or []
        specs: list[str | SetSpec] = [*paths, *(options.sets or [])]
        if specs:
            self.pairs = load_sets(specs, cap=options.cap, say=say)
        else:
            from sse.data.docstring_pairs import embedded_pairs

            self.pairs = [embedded_pairs(folder, say)]
        self.tokenizer = self._make_tokenizer(folder, say)
        self.sets = [tokenize_set(pairs, self.tokenizer, folder) for pairs in self.pairs]
        self.heldout_rows = hold_out([s.text_ids for s in self.sets], options.holdout)
        self.train_rows = [
            train_rows(s.text_ids, rows)
            for s, rows in zip(self.sets, self.heldout_rows, strict=True)
        ]
        if options.pairs is not None:
            self.train_rows = choose(
                [s.text_ids for s in self.sets], self.train_rows, options.pairs
            )

    def _make_tokenizer(self, folder: Path, say: Callable[[str], None]) -> TextTokenizer:
        """The tokenizer asked for; one trained here is kept in the cache by its pairs' content."""
        options = self.hparams
        if options.tokenizer != "train":
            return load_tokenizer(options.tokenizer, max_tokens=options.max_tokens)
        size = options.vocab_size or (30_522 if options.paths or options.sets else 12_000)
        content = [size, *(pairs.fingerprint for pairs in self.pairs)]
        key = hashlib.sha256(repr(content).encode()).hexdigest()[:32]
        path = folder / "tokenizers" / f"{key}.json"
        if not is_whole(path):
            say(f"tokenizer: training WordPiece on the pairs, at most {size:,}")
            texts = (
                text
                for pairs in self.pairs
                for column in pairs.columns
                for text in pairs.texts(column)
            )
            trained = train_tokenizer(texts, size)
            trained.save(path)
            write_digest(path)
        return load_tokenizer(str(path), max_tokens=options.max_tokens)

    def state_dict(self) -> dict[str, Any]:
        """What the data are, for a checkpoint: a resumed run must find the same."""
        return {
            "sets": {pairs.name: pairs.fingerprint for pairs in self.pairs},
            "tokenizer": self.tokenizer.fingerprint,
            "training pairs": sum(map(len, self.train_rows)),
            "held-out pairs": sum(map(len, self.heldout_rows)),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to load: `sse.training.resume` compares."""

    def heldout_pairs(self) -> tuple[list[str], list[str]]:
        """Anchors and positives of the held-out pairs, as text."""
        anchors, positives = [], []
        for pairs, rows in zip(self.pairs, self.heldout_rows, strict=True):
            anchors += pairs.texts("anchor", rows)
            positives += pairs.texts("positive", rows)
        return anchors, positives

    def plan(self, epoch: int, world: int = 1) -> list[Batch]:
        """The batches of an epoch over all `world` processes."""
        if (epoch, world) not in self._plans:
            options = self.hparams
            self._plans[epoch, world] = plan_epoch(
                [s.text_ids for s in self.sets],
                self.train_rows,
                options.batch_size * world,
                options.seed,
                epoch,
                options.batches,
                options.unique_texts,
                [s.name for s in self.sets],
            )
        return self._plans[epoch, world]

    def optimizer_steps(self, trainer: L.Trainer) -> int:
        """Optimiser steps of the whole run, for the schedule.

        Not Lightning's `estimated_stepping_batches`: that makes the loader before a checkpoint is
        read, so a resumed epoch would start from its first batch; and it takes all epochs to be as
        long as the first.
        """
        if trainer.max_epochs in (None, -1):
            return trainer.max_steps
        limit, steps = trainer.limit_train_batches, 0
        for epoch in range(trainer.max_epochs):
            batches = len(self.plan(epoch, trainer.world_size))
            batches = min(batches, limit) if isinstance(limit, int) else int(batches * (limit or 1))
            steps += math.ceil(batches / trainer.accumulate_grad_batches)
        return steps if trainer.max_steps == -1 else min(steps, trainer.max_steps)

    def train_dataloader(self) -> Iterable[Features]:
        """The current epoch's batches, from the step at which a resumed run stands."""
        trainer = self.trainer
        assert trainer is not None
        plan = self.plan(trainer.current_epoch, trainer.world_size)
        # Elsewhere than in a resumed epoch the counter still holds the last epoch's end; so it does
        # after a checkpoint at an epoch's last batch, which Lightning follows with the next epoch.
        loop = trainer.fit_loop.epoch_loop
        progress = loop.batch_progress
        start = progress.current.ready if loop.restarting and not progress.is_last_batch else 0
        batches = PairBatches(self.sets, plan, mask=not self.hparams.unique_texts)
        device, workers = trainer.strategy.root_device, self.hparams.num_workers
        if self._on_device is None and not workers:
            self._on_device = DeviceCache.fitting(self.hparams.device_cache, self.sets, device)
        batches.on_device = self._on_device
        waits = device.type == "cuda" and self._on_device is None
        if waits or workers:
            batches.vocab = self.tokenizer.vocab_size
        loader = DataLoader(
            batches,
            batch_size=None,
            sampler=EpochSteps(start, len(plan)),
            num_workers=workers,
            pin_memory=waits,
        )
        return Ahead(loader) if waits and not workers else loader

    def transfer_batch_to_device(self, batch: Any, device: torch.device, number: int) -> Any:
        """The batch on `device`; on the CPU it is there, and need not be looked through."""
        if device.type == "cpu":
            return batch
        return super().transfer_batch_to_device(batch, device, number)

    def val_dataloader(self) -> DataLoader[Features]:
        """The held-out pairs in slices, columns anchor and positive only."""
        slices = [
            Batch(number, rows[i : i + 1024])
            for number, rows in enumerate(self.heldout_rows)
            for i in range(0, len(rows), 1024)
        ]
        batches = PairBatches(self.sets, slices, columns=2)
        return DataLoader(batches, batch_size=None, sampler=EpochSteps(0, len(slices)))


class PairBatches(Dataset[Features]):
    """Item t is batch t of the plan, gathered into one bag of token ids.

    Of several processes each gets all of it: it pools every pair, over its share of the columns.
    Where `vocab` is set, a batch brings the order of its backward pass (`sse_kernels.plan`) along:
    worth it where a worker or a thread makes it while another batch is trained on.
    """

    def __init__(
        self,
        sets: list[TokenizedSet],
        plan: list[Batch],
        mask: bool = False,
        columns: int | None = None,
    ) -> None:
        self.sets, self.plan, self.mask, self.columns = sets, plan, mask, columns
        self.on_device: DeviceCache | None = None  # where it is set, batches are gathered there
        self.vocab: int | None = None

    def __getitem__(self, step: int) -> Features:
        """`ids` (N,) and `offsets` (columns * B + 1,) of anchors, positives, negatives in turn."""
        number, rows = self.plan[step]
        if self.on_device is not None:
            return self.on_device.take(number, rows, self.columns, self.mask)
        tokens = self.sets[number].tokens[: self.columns]
        bag = concatenate([column.take(rows) for column in tokens])
        features: Features = {
            "ids": torch.from_numpy(bag.ids.astype(np.int32)),
            "offsets": torch.from_numpy(bag.offsets),
            "pairs": len(rows),
        }
        if self.vocab is not None:
            features["plan"] = plan_bags(features["ids"], features["offsets"], self.vocab)
        if self.mask:
            ids = np.ascontiguousarray(self.sets[number].text_ids[rows].T)
            features["text_ids"] = torch.from_numpy(ids.view(np.int64))  # (columns, B)
        return features

    def __len__(self) -> int:
        return len(self.plan)


class EpochSteps(Sampler[int]):
    """Steps start .. total - 1; its length is the whole epoch's, as Lightning counts batches."""

    def __init__(self, start: int, total: int) -> None:
        self.start, self.total = start, total

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.total))

    def __len__(self) -> int:
        return self.total
