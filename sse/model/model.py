"""The model as a sentence-transformers input module; `sse.export` writes it as a folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from sentence_transformers.sentence_transformer.modules import InputModule
from torch import Tensor

from sse.common.errors import UserError
from sse.model.static_model import StaticModel


class SSE(StaticModel, InputModule):
    """`StaticModel`, with the same arguments, for `SentenceTransformer(modules=[...])`."""

    @property
    def max_seq_length(self) -> float:
        """The tokenizer's `max_tokens`, else infinity, as the model has no positions."""
        return self.text_tokenizer.max_tokens or math.inf

    def get_embedding_dimension(self) -> int:
        """D, the dimension of the vectors."""
        return self.dim

    def get_config_dict(self) -> dict[str, Any]:
        """The settings that `repr` shows."""
        return {"norm": self.norm_name, "dim": self.dim, "vocab": self.embedding.num_embeddings}

    def preprocess(
        self, inputs: Sequence[str], prompt: str | None = None, **kwargs: Any
    ) -> dict[str, Tensor]:
        """The token ids of the texts behind their prompt, as `StaticModel.preprocess`."""
        return super().preprocess([f"{prompt or ''}{text}" for text in inputs])

    def forward(self, features: dict[str, Tensor], **kwargs: Any) -> dict[str, Tensor]:
        """Add `sentence_embedding` (B, D) to the features."""
        features["sentence_embedding"] = self.pool(features["input_ids"], features["offsets"])
        return features

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Raise UserError: `sse.export` writes the folder, of which a module is only a part."""
        raise UserError(
            f"cannot save an SSE module alone to {output_path}: "
            "use sse.export(model, folder) or the save() of the model that sse.load returns"
        )
