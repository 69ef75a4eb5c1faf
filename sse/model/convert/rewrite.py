"""Write a model again with another table and other norm vectors; the layout stays.

- An export keeps its native modules, so SentenceTransformer(path) loads it as before.
- Any other layout becomes a compact folder with rows of the same kind, for `sse.Encoder` and
  `sse.load`; `sse.export` makes an export of that.
- The tokenizer, the prompts and the card are those of the source.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from sse.common.digests import write_config
from sse.common.files import atomic_folder
from sse.common.hub import model_folder
from sse.common.version import __version__
from sse.model.checked_files import ModelFiles
from sse.model.folder import FORMAT, ModelFolder, check_target, save_frequencies
from sse.model.norm_forms import NORM_FORMS
from sse.model.quantise import quantise_rows, save_compact

# Of a native folder, besides the files of its modules.
_NATIVE = (
    *("modules.json", "config.json", "config_sentence_transformers.json", "tokenizer.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "vocab.txt"),
)
_DIGESTS = ("digests", "config_digest", "files", "check")  # of the source's files


def rewrite(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    model: ModelFolder,
    facts: dict[str, Any],
    note: str,
    kind: str,
) -> Path:
    """Write `model` in the layout of `source`, whole or not at all.

    Args:
        source: the folder that `model` was read from.
        target: a new or empty folder, or one that holds a model, which is replaced.
        model: the source's content with other rows, norm vectors or frequencies.
        facts: entries for `sse_config.json`.
        note: a section for the end of the model card.
        kind: how the rows are stored: a kind of `sse.model.quantise.quantise_rows`.

    Raises:
        UserError: a target that holds anything else, rows that are not finite.
    """
    files, target = ModelFiles(model_folder(source), verify=False), Path(target)
    check_target(target)
    kept = {key: value for key, value in files.config.items() if key not in _DIGESTS}
    with atomic_folder(target) as folder:
        (folder / "README.md").write_text(_card(files, note), "utf-8")
        if _is_native(files):
            _save_native(files, model, kind, folder)
            sizes = {"dim": model.rows.shape[1], "vocab_size": model.rows.shape[0]}
            config = {"format": FORMAT, "norm": model.norm, **sizes} | kept | facts
            write_config(folder, config | {"version": __version__})
        else:
            save_compact(model, kind, folder, facts)
    return target


def _is_native(files: ModelFiles) -> bool:
    """Whether the folder is an export with sentence-transformers' own modules."""
    return "norm" in files.config and "rows" not in files.config


def _save_native(files: ModelFiles, model: ModelFolder, kind: str, folder: Path) -> None:
    """Copy the modules, then replace the table and the norm's vectors."""
    paths = {str(m["idx"]): m["path"] for m in files.json("modules.json", list)}
    names = [name for name in _NATIVE if files.has(name)]
    for path in (path for number, path in paths.items() if number != "0"):
        found = (file.relative_to(files.root) for file in (files.root / path).iterdir())
        names += [name.as_posix() for name in found]
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(files.path(name), folder / name)
    table, _ = quantise_rows(model.table, kind)
    save_file({"embedding.weight": np.ascontiguousarray(table)}, folder / "model.safetensors")
    for name, where in NORM_FORMS[model.norm].stored.items():
        number, tensor = where.split("/")
        place = f"{paths[number]}/model.safetensors"
        tensors = {key: np.array(value) for key, value in ModelFiles(folder).tensors(place).items()}
        vector = model.vectors[name]
        tensors[tensor] = np.diag(vector) if tensors[tensor].ndim == 2 else vector
        save_file(tensors, folder / place)
    save_frequencies(model.frequencies, folder)


def _card(files: ModelFiles, note: str) -> str:
    """The source's model card with a section more."""
    card = files.path("README.md").read_text("utf-8") if files.has("README.md") else ""
    return f"{card.rstrip() or '# A static text embedding'}\n\n{note.rstrip()}\n"
