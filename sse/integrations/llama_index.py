"""LlamaIndex: its `HuggingFaceEmbedding` wants a finite text length, which no static model has.

from sse.integrations.llama_index import SSEEmbedding
Settings.embed_model = SSEEmbedding("runs/mine/model")
"""

from __future__ import annotations

from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from pydantic import PrivateAttr

from sse.serving.encoder import Encoder


class SSEEmbedding(BaseEmbedding):
    """An `Encoder` as LlamaIndex's embedding model; vectors have length 1, and need no torch.

    Args:
        model_name: a folder, or a model's name on the hub.
        encoder: further arguments of `Encoder`, such as `dim`.
        kwargs: fields of LlamaIndex's BaseEmbedding, such as `embed_batch_size`.

    The prompts "query" and "document" are used where the model has them.
    """

    _encoder: Encoder = PrivateAttr()

    def __init__(
        self, model_name: str, encoder: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(model_name=model_name, **kwargs)
        self._encoder = Encoder(model_name, **(encoder or {}))

    def _encode(self, texts: list[str], role: str) -> list[list[float]]:
        prompt = role if role in self._encoder.prompts else None
        vectors: list[list[float]] = self._encoder.encode(texts, prompt_name=prompt).tolist()
        return vectors

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._encode([query], "query")[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._encode([text], "document")[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._encode(texts, "document")
