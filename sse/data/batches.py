"""The batches of a plan: gathered into one bag of token ids, where wanted while another trains."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from sse_kernels.plan import plan_bags
from torch.utils.data import DataLoader, Dataset, Sampler

from sse.data.batch_plan import Batch
from sse.data.device_cache import DeviceCache, Features
from sse.data.token_cache import TokenizedSet
from sse.text.token_batch import concatenate

DEPTH = 2  # batches ready and waiting


class PairBatches(Dataset[Features]):
    """Item t is batch t of the plan, gathered into one bag of token ids.

    Each of several processes gets the whole batch: it pools every pair, over its own columns.

    Args:
        sets: the tokens.
        plan: the batches' rows.
        mask: give the texts' hashes too, by which the loss finds equal texts.
        columns: the number of columns to gather; None for all.
        vocab: where it is set, a batch brings the order of its backward pass (`sse_kernels.plan`).
            That pays where a worker or a thread makes it during another batch's step.
        on_device: where it is set, batches are gathered there.
        scores: of each set, (rows, columns - 1) scores of a teacher.
    """

    def __init__(
        self,
        sets: list[TokenizedSet],
        plan: list[Batch],
        mask: bool = False,
        columns: int | None = None,
        vocab: int | None = None,
        on_device: DeviceCache | None = None,
        scores: Sequence[np.ndarray] | None = None,
    ) -> None:
        self.sets, self.plan, self.mask, self.columns = sets, plan, mask, columns
        self.vocab, self.on_device, self.scores = vocab, on_device, scores

    def __getitem__(self, step: int) -> Features:
        """`ids` (N,) and `offsets` (columns * B + 1,) of anchors, positives, negatives in turn."""
        number, rows = self.plan[step]
        features = self._gather(number, rows)
        if self.scores is not None:
            features["scores"] = torch.from_numpy(self.scores[number][rows])
        return features

    def _gather(self, number: int, rows: np.ndarray) -> Features:
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


class Ahead(Iterable[Features]):
    """A loader's batches, up to `DEPTH` of them prepared by a thread while the caller works.

    Page-locked batches are then copied to a GPU during the step before theirs. On a CPU the thread
    would take the step's own cores: not used there.

    An error in the loader is raised to the caller, in its place. A caller that stops early leaves
    no thread behind.
    """

    def __init__(self, loader: DataLoader[Features]) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Features]:
        ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(DEPTH)
        stopped = threading.Event()

        def put(batch: Any, error: BaseException | None = None) -> None:
            while not stopped.is_set():
                try:
                    return ready.put((batch, error), timeout=0.1)
                except queue.Full:
                    continue

        def work() -> None:
            try:
                for batch in self.loader:
                    put(batch)
                    if stopped.is_set():
                        return
                put(None)
            except BaseException as error:  # to be raised where the batches are read
                put(None, error)

        thread = threading.Thread(target=work, name="batches ahead", daemon=True)
        thread.start()
        try:
            while True:
                batch, error = ready.get()
                if error is not None:
                    raise error
                if batch is None:
                    return
                yield batch
        finally:
            stopped.set()
            thread.join()
