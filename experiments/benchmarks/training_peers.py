"""The training benchmark's peers: sentence-transformers' trainer and model2vec's pair trainer.

Each takes (kind, size, paths, tokenizer) and returns seconds and pairs.
"""

from __future__ import annotations

import tempfile
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.benchmarks.training_systems import Timed
from sse.data.pair_set import load_sets
from sse.model.norms import SeparableDyT
from sse.text.tokenizer import load_tokenizer
from sse.training.module import PUBLISHED_DIMS

if TYPE_CHECKING:
    from experiments.benchmarks.training import Size


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
