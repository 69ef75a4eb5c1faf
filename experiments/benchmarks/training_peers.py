"""The systems of the training benchmark: ours, eager Lightning, and two other libraries' trainers.

Each takes (kind, size, paths, tokenizer) and returns seconds and pairs.
"""

from __future__ import annotations

import tempfile
import time
from typing import TYPE_CHECKING, Any

import lightning.pytorch as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from sse.data.batches import PairBatches
from sse.data.datamodule import SSEDataModule
from sse.data.pair_set import load_sets
from sse.loss.matryoshka import matryoshka_loss
from sse.model.norms import SeparableDyT
from sse.text.tokenizer import load_tokenizer
from sse.training.callbacks import Progress, Throughput
from sse.training.host.allocator import keep_freed_memory
from sse.training.host.neighbours import Neighbours, take_cores
from sse.training.module import PUBLISHED_DIMS, SSEModule

if TYPE_CHECKING:
    from experiments.benchmarks.training import Size

ADAM: dict[str, Any] = {"lr": 0.1, "betas": (0.9, 0.9999), "eps": 1e-10}
Timed = tuple[float, int]


def ours(kind: str, size: Size, paths: list[str], tokenizer: str) -> Timed:
    """Our Lightning trainer."""
    keep_freed_memory()
    take_cores()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        data = build(kind, size, paths, tokenizer, folder)
        module = SSEModule(norm="dyt", norm_lr=None)
        module.build(data.tokenizer)
        clock = Clock(size.warmup)
        throughput = Throughput()
        fit(module, data, clock, Neighbours(), throughput, Progress(throughput))
        plan = data.plan(0)
        if kind == "raw":
            return time.perf_counter() - start, sum(len(batch.rows) for batch in plan)
        return clock.seconds, sum(len(batch.rows) for batch in plan[size.warmup :])


def bare_loop(kind: str, size: Size, paths: list[str], tokenizer: str) -> Timed:
    """The training step without a trainer: gather, pool, loss, backward, fused Adam."""
    keep_freed_memory()
    data = build(kind, size, paths, tokenizer, None)
    module = SSEModule(norm="dyt", norm_lr=None)
    module.build(data.tokenizer)
    batches = PairBatches(data.sets, data.plan(0))
    optimizer = torch.optim.AdamW(module.parameters(), **ADAM, weight_decay=0, fused=True)
    start, pairs = time.perf_counter(), 0
    for step in range(len(batches)):
        if step == size.warmup:
            start = time.perf_counter()
        batch = batches[step]
        b = batch["pairs"]
        vectors = module.model.pool(batch["ids"], batch["offsets"])
        matryoshka_loss(vectors[:b], vectors[b:], module.dims, module.weights).backward()
        optimizer.step()
        optimizer.zero_grad()
        pairs += b if step >= size.warmup else 0
    return time.perf_counter() - start, pairs


def eager(kind: str, size: Size, paths: list[str], tokenizer: str) -> Timed:
    """What one writes first: nn.EmbeddingBag, an eager DyT, dense logits, Adam, a DataLoader."""
    start = time.perf_counter()
    if kind == "raw":
        texts = load_tokenizer(tokenizer)
        cap = size.epoch // len(paths)
        pairs = [
            pair
            for pair_set in load_sets(paths, cap=cap, say=lambda line: None)
            for pair in zip(pair_set.texts("anchor"), pair_set.texts("positive"), strict=True)
        ]

        def collate(rows: list[tuple[str, str]]) -> dict[str, Any]:
            bag = texts.encode([row[0] for row in rows] + [row[1] for row in rows])
            ids = torch.from_numpy(bag.ids.astype("int64"))
            return {"ids": ids, "offsets": torch.from_numpy(bag.offsets), "pairs": len(rows)}

        loader: DataLoader[Any] = DataLoader(
            pairs, size.batch, shuffle=True, drop_last=True, collate_fn=collate
        )
        vocab, count = texts.vocab_size, len(loader) * size.batch
    else:
        data = build(kind, size, paths, tokenizer, None)
        plan = data.plan(0)
        loader = DataLoader(PairBatches(data.sets, plan), batch_size=None)
        vocab = data.tokenizer.vocab_size
        count = sum(len(batch.rows) for batch in plan[size.warmup :])
    clock = Clock(size.warmup)
    fit(Eager(vocab), loader, clock)
    return (time.perf_counter() - start if kind == "raw" else clock.seconds), count


def sentence_transformers(kind: str, size: Size, paths: list[str], tokenizer: str) -> Timed:
    """Its StaticEmbedding, an eager DyT, its Matryoshka loss, its sampler without duplicates."""
    import datasets
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer.losses import (
        MatryoshkaLoss,
        MultipleNegativesRankingLoss,
    )
    from sentence_transformers.sentence_transformer.modules import Module, StaticEmbedding
    from transformers import TrainerCallback

    class DyT(Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = SeparableDyT(PUBLISHED_DIMS[0])

        def forward(self, features: dict[str, Any], **rest: Any) -> dict[str, Any]:
            features["sentence_embedding"] = self.norm(features["sentence_embedding"])
            return features

        def save(self, *args: Any, **rest: Any) -> None:
            raise NotImplementedError

    class Clock(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            if state.global_step == size.warmup:
                self.start = time.perf_counter()
            self.end = time.perf_counter()

    start = time.perf_counter()
    raw = kind == "raw"
    cap = (size.epoch if raw else size.batch * (size.steps + size.warmup + 1)) // len(paths)
    sets = load_sets(paths, cap=max(cap, size.batch + 1), say=lambda line: None)
    train = {
        s.name: datasets.Dataset.from_dict({c: s.texts(c) for c in ("anchor", "positive")})
        for s in sets
    }
    table = StaticEmbedding(load_tokenizer(tokenizer).tokenizer, embedding_dim=PUBLISHED_DIMS[0])
    model = SentenceTransformer(modules=[table, DyT()], device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            folder,
            per_device_train_batch_size=size.batch,
            num_train_epochs=1,
            max_steps=-1 if raw else size.steps + size.warmup,
            learning_rate=0.1,
            adam_beta2=0.9999,
            adam_epsilon=1e-10,
            warmup_steps=0.1,
            lr_scheduler_type="cosine",
            batch_sampler="no_duplicates",
            use_cpu=True,
            save_strategy="no",
            report_to="none",
        )
        inner = MultipleNegativesRankingLoss(model)
        loss = MatryoshkaLoss(model, inner, list(PUBLISHED_DIMS))
        trainer = SentenceTransformerTrainer(model, arguments, train, loss=loss)
        trainer.add_callback(clock := Clock())
        trainer.train()
    if raw:
        return time.perf_counter() - start, sum(map(len, sets))
    return clock.end - clock.start, size.steps * size.batch


def model2vec(kind: str, size: Size, paths: list[str], tokenizer: str) -> Timed:
    """StaticModelForPairSimilarity without a head: the table, a mean, InfoNCE, one dimension.

    Its validation cannot be left out: two pairs.
    """
    from model2vec import StaticModel
    from model2vec.train import StaticModelForPairSimilarity

    start = time.perf_counter()
    cap = size.epoch // len(paths)
    sets = load_sets(paths, cap=cap, say=lambda line: None)
    a, b = ([t for s in sets for t in s.texts(c)] for c in ("anchor", "positive"))
    words = load_tokenizer(tokenizer)
    table = np.random.default_rng(0).standard_normal((words.vocab_size, PUBLISHED_DIMS[0]))
    static = StaticModel(table.astype(np.float32), words.tokenizer, normalize=False)
    model = StaticModelForPairSimilarity.from_static_model(
        model=static, n_layers=0, out_dim=PUBLISHED_DIMS[0], normalize=False, max_length=None
    )
    model.fit(
        a, b, learning_rate=0.1, batch_size=size.batch, max_epochs=1, device="cpu",
        early_stopping_patience=None, text_a_val=a[:2], text_b_val=b[:2],
    )  # fmt: skip
    return time.perf_counter() - start, len(a)


class Eager(L.LightningModule):
    """The same model and loss in torch's own terms."""

    def __init__(self, vocab: int) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(vocab, PUBLISHED_DIMS[0], include_last_offset=True)
        self.norm = SeparableDyT(PUBLISHED_DIMS[0])

    def training_step(self, batch: dict[str, Any], step: int) -> Tensor:
        """Dense logits, one matrix per Matryoshka dim."""
        vectors = self.norm(self.table(batch["ids"], batch["offsets"]))
        a, p = vectors.chunk(2)
        target = torch.arange(len(a), device=a.device)
        losses = [
            F.cross_entropy(20 * F.normalize(a[:, :d]) @ F.normalize(p[:, :d]).T, target)
            for d in PUBLISHED_DIMS
        ]
        return torch.stack(losses).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam as torch gives it."""
        return torch.optim.Adam(self.parameters(), **ADAM)


class Clock(Callback):
    """Seconds from the end of step `warmup` (the start, for 0) to the end of training."""

    def __init__(self, warmup: int) -> None:
        self.warmup, self.seconds = warmup, 0.0

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Start, unless some steps are to come first."""
        self.start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, batch: Any, step: int
    ) -> None:
        """Start over until it is warm."""
        if trainer.global_step == self.warmup:
            self.start = time.perf_counter()
        self.seconds = time.perf_counter() - self.start


def build(
    kind: str, size: Size, paths: list[str], tokenizer: str, folder: str | None
) -> SSEDataModule:
    """The data, their first epoch cut to the steps wanted; of `raw`, into an empty cache."""
    raw = kind == "raw"
    data = SSEDataModule(
        list(paths),
        tokenizer=tokenizer,
        batch_size=size.batch,
        holdout=0,
        cap=size.epoch // len(paths) if raw else None,
        cache=folder if raw else None,
    )
    data.build(lambda line: None)
    if not raw:
        data._plans[0, 1] = data.plan(0)[: size.steps + size.warmup]
    return data


def fit(module: L.LightningModule, data: Any, *own: Callback) -> None:
    """One epoch on the CPU, with nothing written."""
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        callbacks=list(own),
        enable_model_summary=False,
        enable_checkpointing=False,
        enable_progress_bar=isinstance(data, SSEDataModule),
        use_distributed_sampler=False,
        limit_val_batches=0,
    )
    trainer.fit(module, data)


SYSTEMS = {
    "sse": ours,
    "sse, one thread": ours,
    "bare loop": bare_loop,
    "eager Lightning": eager,
    "sentence-transformers": sentence_transformers,
    "model2vec": model2vec,
}
