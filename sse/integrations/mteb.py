"""mteb: it calls every local folder `no_model_name/available`, so a cache mixes their results."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer

from sse.common.digests import digest_file


def named_model(folder: str, name: str | None = None, **kwargs: Any) -> SentenceTransformer:
    """The model in a folder, with a name and a revision by which mteb tells models apart.

    Args:
        folder: the folder of an export.
        name: OWNER/NAME; by default "local/" and the folder's name.
        kwargs: arguments of SentenceTransformer. A `truncate_dim` is part of the revision.
    """
    model = SentenceTransformer(folder, **kwargs)
    files = sorted(Path(folder).rglob("*.*"))
    content = "".join(digest_file(f) for f in files if f.suffix in (".json", ".safetensors"))
    content += str(kwargs.get("truncate_dim"))
    model.model_card_data.model_name = name or f"local/{Path(folder).resolve().name}"
    model.model_card_data.base_model_revision = hashlib.sha256(content.encode()).hexdigest()[:40]
    return model
