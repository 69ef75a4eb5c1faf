"""The small JSON files in which other libraries look for facts, beside the table.

| file                    | read by                                       |
|-------------------------|-----------------------------------------------|
| config.json             | transformers.js, fastembed, txtai, model2vec  |
| tokenizer_config.json   | transformers.js, fastembed, transformers      |
| special_tokens_map.json | fastembed                                     |

- config.json has a `model_type` of our own. With a known one, such as "bert", `AutoModel` would
  make a transformer of random weights without an error.
- model2vec takes a folder with config.json for one of its own. It then misses the tensor
  `embeddings` and refuses. Without config.json it would load the table and leave out the norm.
- tokenizer.json has no post-processor: nobody may add [CLS] and [SEP] to a text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from sse.common.files import write_json

MODEL_TYPE = "stable_static_embedding"
ROLES = {"pad_token": ("[PAD]", "<pad>"), "unk_token": ("[UNK]", "<unk>")}
NO_LIMIT = 10**9  # tokens; a reader must be able to truncate to it


def write_library_files(
    folder: Path, tokenizer: Tokenizer, dim: int, max_tokens: int | None
) -> None:
    """Write the three files.

    Args:
        folder: the model folder.
        tokenizer: as in its tokenizer.json.
        dim: D.
        max_tokens: the most tokens of a text, None for no limit.
    """
    special = {
        role: token
        for role, names in ROLES.items()
        for token in names
        if tokenizer.token_to_id(token) is not None
    }
    config: dict[str, Any] = {
        "model_type": MODEL_TYPE,
        "architectures": ["StableStaticEmbedding"],
        "hidden_size": dim,
        "vocab_size": tokenizer.get_vocab_size(),
    }
    if "pad_token" in special:
        config["pad_token_id"] = tokenizer.token_to_id(special["pad_token"])
    write_json(folder / "config.json", config)
    limits = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_tokens or NO_LIMIT,
    }
    write_json(folder / "tokenizer_config.json", limits | special)
    write_json(folder / "special_tokens_map.json", special)
