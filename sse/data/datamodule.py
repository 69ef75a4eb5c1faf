"""The LightningDataModule: it serves the batches of the data that `sse.data.prepare` makes.

- A batch is one concatenated bag: anchors, then positives, then each negative column.
- Batches come from `sse.data.batch_plan`: f(seed, epoch, step), so a resumed run continues exactly.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import lightning.pytorch as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from sse.common.errors import UserError, one_of
from sse.common.ranges import check_ranges, whole
from sse.data.batch_plan import ORDERS, Batch, plan_epoch
from sse.data.batches import Ahead, EpochSteps, PairBatches
from sse.data.device_cache import MODES, DeviceCache, Features
from sse.data.prepare import prepare
from sse.data.set_spec import SetSpec
from sse.data.token_cache import TokenizedSet
from sse.text.frequencies import CHUNK, Frequencies, count_tokens

VALIDATION_BATCH = 1_024  # pairs
BATCH_SIZES = whole(2, why="since a batch's other pairs are its negatives")


class SSEDataModule(L.LightningDataModule):
    """Pairs to train on; without any, docstrings of the installed packages.

    Args:
        paths: jsonl, json, csv, tsv (each also .gz) and parquet files, folders, globs, or hf:NAME.
        sets: the same in long form, with columns and a cap for each.
        anchor: the column of the anchors, in all sets whose own spec names none; null to find it.
        positive: the column of the positives, in the same way.
        skip_bad_rows: leave out rows of local files that cannot be read or lack a text; they are
            counted and written to bad_rows.jsonl in the run's folder. False refuses the file.
        documents: folders, files or tables of documents without labels; pairs are made of them.
        document_pairs: which kinds of such pairs: question, heading, title, first, neighbour; null
            for all.
        strict: refuse a folder of documents of which something cannot be read.
        tokenizer: `train` (WordPiece on these pairs), a hub name, or the path of a tokenizer.json.
        vocab_size: largest vocabulary to train; null for 30,522, or for 12,000 on the docstrings,
            where that is better at every dimension.
        grow_vocab: give this many whole words of the texts tokens of their own, beside the
            tokenizer's: the most frequent ones that occur three times; null for none.
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
        anchor: str | None = None,
        positive: str | None = None,
        skip_bad_rows: bool = False,
        documents: list[str] | str | None = None,
        document_pairs: list[str] | None = None,
        strict: bool = False,
        tokenizer: str = "train",
        vocab_size: Annotated[int, whole(2, 10_000_000)] | None = None,
        grow_vocab: Annotated[int, whole(1, 10_000_000)] | None = None,
        max_tokens: Annotated[int, whole(1)] | None = None,
        cap: Annotated[int, whole(2)] | None = None,
        pairs: Annotated[int, whole(2)] | None = None,
        batch_size: Annotated[int, BATCH_SIZES] = 512,
        batches: str = "proportional",
        unique_texts: bool = True,
        holdout: Annotated[int, whole(0)] = 1000,
        num_workers: Annotated[int, whole(0, 1_024)] = 0,
        device_cache: str = "auto",
        cache: str | None = None,
        seed: Annotated[int, whole(0, 2**32 - 1)] = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_ranges(SSEDataModule, self.hparams)
        if batches not in ORDERS:
            raise UserError(f"batches is '{batches}': {one_of(batches, ORDERS)}")
        if device_cache not in MODES:
            raise UserError(f"device_cache is '{device_cache}': {one_of(device_cache, MODES)}")
        if device_cache == "on" and num_workers:
            raise UserError(
                f"num_workers is {num_workers} with `device_cache` on: batches gathered on the "
                "device need no workers, give 0"
            )
        self.sets: list[TokenizedSet] = []
        self.scores: list[NDArray[np.float32]] | None = None  # of each set, a teacher's
        self.empty_texts = 0  # texts without a token
        self._on_device: DeviceCache | None = None
        self._plans: dict[tuple[int, int], list[Batch]] = {}

    def build(
        self,
        say: Callable[[str], None] = print,
        scores: bool = False,
        bad_rows: Path | None = None,
    ) -> None:
        """Read, tokenise and hold out: see `prepare`. A second call does nothing.

        Args:
            say: takes lines of progress.
            scores: also read the columns of a teacher's scores; UserError where a set has none.
            bad_rows: the file for the rows that `skip_bad_rows` leaves out.
        """
        if self.sets:
            return
        data = prepare(self.hparams, say, bad_rows)
        self.pieces = data.pieces
        self.scores = [pairs.scores() for pairs in data.pairs] if scores else None
        self.pairs, self.sets, self.tokenizer = data.pairs, data.sets, data.tokenizer
        self.heldout_rows, self.train_rows = data.heldout_rows, data.train_rows
        trained, heldout = sum(map(len, self.train_rows)), sum(map(len, self.heldout_rows))
        rest = sum(map(len, self.sets)) - trained - heldout
        tokens = sum(int(column.offsets[-1]) for s in self.sets for column in s.tokens)
        say(
            f"data: {trained:,} pairs to train on, {heldout:,} held out, "
            + (f"{rest:,} not used (beyond `pairs`, or a text is held out), " if rest else "")
            + f"{len(self.sets)} "
            f"{'set' if len(self.sets) == 1 else 'sets'}, {tokens:,} tokens, "
            f"vocabulary {self.tokenizer.vocab_size:,}"
        )
        self.empty_texts = sum(int((c.lengths == 0).sum()) for s in self.sets for c in s.tokens)
        if self.empty_texts:
            say(f"{self.empty_texts:,} texts have no token: they are kept, and teach nothing")

    def state_dict(self) -> dict[str, Any]:
        """What the data are, for a checkpoint: a resumed run must find the same."""
        state: dict[str, Any] = {
            "sets": {pairs.name: pairs.fingerprint for pairs in self.pairs},
            "tokenizer": self.tokenizer.fingerprint,
            "training pairs": sum(map(len, self.train_rows)),
            "held-out pairs": sum(map(len, self.heldout_rows)),
        }
        if self.scores is not None:
            state["scores"] = [hashlib.sha256(each.tobytes()).hexdigest() for each in self.scores]
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to load: `sse.training.resume` compares."""

    def heldout_pairs(self) -> tuple[list[str], list[str]]:
        """Anchors and positives of the held-out pairs, as text."""
        anchors, positives = [], []
        for pairs, rows in zip(self.pairs, self.heldout_rows, strict=True):
            anchors += pairs.texts("anchor", rows)
            positives += pairs.texts("positive", rows)
        return anchors, positives

    @cached_property
    def frequencies(self) -> Frequencies:
        """In how many texts of the training pairs each token occurs."""
        chunks = (
            column.take(rows[start : start + CHUNK])
            for trained, rows in zip(self.sets, self.train_rows, strict=True)
            for column in trained.tokens
            for start in range(0, len(rows), CHUNK)
        )
        return count_tokens(chunks, self.tokenizer.vocab_size)

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
            return int(trainer.max_steps)
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
        device, workers = trainer.strategy.root_device, self.hparams.num_workers
        if self._on_device is None and not workers:
            self._on_device = DeviceCache.fitting(self.hparams.device_cache, self.sets, device)
        waits = device.type == "cuda" and self._on_device is None
        loader = DataLoader(
            PairBatches(
                self.sets,
                plan,
                mask=not self.hparams.unique_texts,
                vocab=self.tokenizer.vocab_size if waits or workers else None,
                on_device=self._on_device,
                scores=self.scores,
            ),
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
            Batch(number, rows[i : i + VALIDATION_BATCH])
            for number, rows in enumerate(self.heldout_rows)
            for i in range(0, len(rows), VALIDATION_BATCH)
        ]
        batches = PairBatches(self.sets, slices, columns=2)
        return DataLoader(batches, batch_size=None, sampler=EpochSteps(0, len(slices)))
