"""Write a model folder that sentence-transformers 3.4 or newer loads without this package.

The folder holds native modules (`sse.model.exported.native_files`): no pickle and no
`trust_remote_code`. Its `sse_config.json` names the norm, for `sse.load` and `sse.Encoder`.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sse.common.digests import write_config
from sse.common.files import atomic_folder
from sse.common.version import __version__
from sse.model.exported.card import write_card
from sse.model.exported.library_files import write_library_files
from sse.model.exported.native_files import write_native
from sse.model.folder import FORMAT, check_target, save_frequencies
from sse.model.static_model import StaticModel
from sse.model.table import check_finite

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

SETTINGS = ("prompts", "default_prompt_name", "similarity_fn_name")


def export(
    model: StaticModel | SentenceTransformer,
    folder: str | os.PathLike[str],
    card: dict[str, Any] | None = None,
) -> Path:
    """Write `model` to `folder`, whole or not at all.

    Args:
        model: the module, or what `sse.load` returns, with its prompts and similarity.
        folder: a new or empty folder, or one that holds a model, which is replaced.
        card: the `facts` of `sse.model.exported.card.write_card`.

    Returns:
        The folder.

    Raises:
        UserError: a folder that holds anything else, or a file of that name.
    """
    target = Path(folder)
    check_target(target)
    if isinstance(model, StaticModel):
        module, settings = model, {}
    else:
        module, settings = model[0], {name: getattr(model, name) for name in SETTINGS}
    table = module.embedding.weight.detach().float().cpu().contiguous().numpy()
    check_finite(table)
    vectors = {name: v.float().cpu().numpy() for name, v in module.norm.vectors().items()}
    with atomic_folder(target) as temporary:
        write_native(temporary, table, module.norm_name, vectors, settings)
        _tokenizer(module).save(str(temporary / "tokenizer.json"))
        tokens = module.text_tokenizer
        write_library_files(temporary, tokens.tokenizer, module.dim, tokens.max_tokens)
        save_frequencies(module.frequencies, temporary)
        write_config(
            temporary,
            {
                "format": FORMAT,
                "norm": module.norm_name,
                "dim": module.dim,
                "vocab_size": module.embedding.num_embeddings,
                "tokens": tokens.vocab_size,
                "max_tokens": tokens.max_tokens,
                "version": __version__,
            },
        )
        write_card(temporary / "README.md", module, card or {})
    return target


def _tokenizer(module: StaticModel) -> Any:
    """The `tokenizers.Tokenizer`, which cuts texts at `max_tokens` and adds no [CLS] or [SEP]."""
    tokenizer = copy.deepcopy(module.tokenizer)
    tokenizer.post_processor = None
    if module.text_tokenizer.max_tokens:
        tokenizer.enable_truncation(module.text_tokenizer.max_tokens)
    return tokenizer
