"""The model: the mean of token rows, then a norm.

- One table E (V, D), one row per WordPiece id; no attention, no positions, no special tokens.
- x = mean(E[ids]); an empty text has x = 0, so with DyT its vector is beta * tanh(bias).
- y = norm(x), without L2 normalisation: similarity is the cosine.
- `sse.model.model.SSE` is the same as a sentence-transformers module; training needs none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sse_kernels import bag_dyt, bag_mean
from sse_kernels.plan import BagPlan
from sse_kernels.table_grad import TableGrad
from torch import Tensor, nn

from sse.common.errors import UserError
from sse.model.norms import make_norm
from sse.text.frequencies import Frequencies
from sse.text.tokenizer import TextTokenizer

ENCODE_BATCH = 1024  # texts


class StaticModel(nn.Module):
    """Stable Static Embedding: y = norm(mean(E[ids])), with norm = DyT as published.

    Args:
        tokenizer: text -> WordPiece ids; its vocabulary gives the table's V rows.
        dim: D, the dimension of the table and of the vectors.
        norm: a name of `sse.model.norms.NORMS`.
        alpha_init: initial value of a gate's alpha (`dyt`, `hardtanh`, ...).
        table_std: the table's initial values are N(0, table_std^2); 1 is EmbeddingBag's default.
        seed: seed of those values; None draws from torch's global generator.
        table: (V, D) to use instead of random values.

    Raises:
        UserError: a dim below 1, or an unknown norm.

    Source: https://huggingface.co/RikkaBotan/stable-static-embedding-fast-retrieval-mrl-en
    """

    def __init__(
        self,
        tokenizer: TextTokenizer,
        dim: int = 512,
        norm: str = "dyt",
        alpha_init: float = 0.5,
        table_std: float = 1.0,
        seed: int | None = None,
        table: Tensor | None = None,
    ) -> None:
        super().__init__()
        if dim < 1:
            raise UserError(f"dim is {dim}: give at least 1")
        self.dim = dim
        self.norm_name = norm
        self.text_tokenizer = tokenizer
        if table is None:
            generator = None if seed is None else torch.Generator().manual_seed(seed)
            table = torch.empty(tokenizer.vocab_size, dim)
            table.normal_(std=table_std, generator=generator)
        self.embedding = nn.EmbeddingBag.from_pretrained(table, freeze=False, mode="mean")
        self.norm = make_norm(norm, dim, alpha_init)
        # The trainer sets it: one buffer then holds the table's gradient in every step.
        self.table_grad: TableGrad | None = None
        # How often each token occurs in the training texts, for `sse.fit`; where it is known.
        self.frequencies: Frequencies | None = None

    @property
    def tokenizer(self) -> Any:
        """The `tokenizers.Tokenizer`, as sentence-transformers expects it."""
        return self.text_tokenizer.tokenizer

    def pool(self, ids: Tensor, offsets: Tensor, plan: BagPlan | None = None) -> Tensor:
        """The texts' vectors norm(mean(E[ids])).

        Args:
            ids: token ids of all texts, (N,).
            offsets: text b has the ids from offsets[b] to offsets[b + 1]; (B + 1,).
            plan: of the same ids and offsets; with it the backward pass needs no sort.

        Returns:
            (B, D).
        """
        weight = self.embedding.weight
        if (gate := self.norm.fused()) is not None:
            return bag_dyt(weight, ids, offsets, *gate, plan=plan, table_grad=self.table_grad)
        pooled: Tensor = self.norm(self.mean(ids, offsets, plan))
        return pooled

    def mean(self, ids: Tensor, offsets: Tensor, plan: BagPlan | None = None) -> Tensor:
        """The texts' mean rows (B, D), before the norm; arguments as in `pool`."""
        return bag_mean(self.embedding.weight, ids, offsets, plan=plan, table_grad=self.table_grad)

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The texts' vectors (n, D), without a prompt."""
        vectors = np.empty((len(texts), self.dim), np.float32)
        for start in range(0, len(texts), ENCODE_BATCH):
            rows = slice(start, start + ENCODE_BATCH)
            features = self.preprocess(texts[rows])
            pooled = self.pool(features["input_ids"], features["offsets"])
            vectors[rows] = pooled.float().cpu().numpy()
        return vectors

    def preprocess(self, inputs: Sequence[str]) -> dict[str, Tensor]:
        """The texts' token ids: {"input_ids": (N,), "offsets": (B + 1,)}, on the model's device."""
        batch = self.text_tokenizer.encode(list(inputs))
        device = self.embedding.weight.device
        return {
            "input_ids": torch.from_numpy(batch.ids.astype("int64")).to(device),
            "offsets": torch.from_numpy(batch.offsets).to(device),
        }
