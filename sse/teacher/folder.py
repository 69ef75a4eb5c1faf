"""A teacher's folder: where it is, and what kind of model is in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sse.common.digests import CONFIG_NAME
from sse.common.errors import UserError, first_line
from sse.common.files import expanded
from sse.common.hub import DEADLINE, ask_hub
from sse.model.folder import Q4_TABLE

WAY_OUT = "give a folder of sentence-transformers, of model2vec or of this project"
STATIC = {"StaticEmbedding", "Normalize"}
# What decides a teacher's vectors; copies of its weights for other programs do not.
READ = (".json", ".txt", ".model", ".safetensors", ".bin", ".py")
OTHERS = ("onnx", "openvino", ".git", ".cache")


def teacher_folder(teacher: str) -> Path:
    """The folder of `teacher`, from the hub where it is no folder here."""
    path = expanded(teacher)
    if path.is_dir():
        return path
    if path.exists() or teacher.startswith((".", "/", "~")) or teacher.count("/") > 1:
        raise UserError(f"`start` {teacher} is no folder: {WAY_OUT}")
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(teacher, local_files_only=True))
    except Exception:  # not in the hub's cache, or no hub name at all: asking says which
        ask_hub(
            f"`start` {teacher}: no folder here",
            lambda api: api.model_info(teacher, timeout=DEADLINE),
            WAY_OUT,
        )
    try:
        return Path(huggingface_hub.snapshot_download(teacher, etag_timeout=DEADLINE))
    except Exception as error:
        raise UserError(
            f"`start` {teacher} does not download ({first_line(error)}): {WAY_OUT}"
        ) from error


def kind_of(folder: Path) -> str:
    """`own` (of this project, or the published SSE), `static` or `transformer`."""
    if (folder / CONFIG_NAME).exists() or (folder / Q4_TABLE).exists():
        return "own"
    kinds = module_kinds(folder)
    if "SSE" in kinds:
        return "own"
    if kinds and set(kinds) <= STATIC:
        return "static"
    config = _json(folder / "config.json")
    if not kinds and isinstance(config, dict) and config.get("model_type") == "model2vec":
        return "static"
    if not kinds and config is None:
        raise UserError(f"`start` {folder} holds no model: {WAY_OUT}")
    return "transformer"


def module_kinds(folder: Path) -> list[str]:
    """The class names of the modules in `modules.json`; [] without one."""
    modules = _json(folder / "modules.json") or []
    return [str(m.get("type")).rsplit(".", 1)[-1] for m in modules if isinstance(m, dict)]


def static_path(folder: Path) -> Path:
    """Where the table of a static model is."""
    modules = _json(folder / "modules.json") or [{}]
    return folder / str(modules[0].get("path", ""))


def files_of(folder: Path) -> list[Path]:
    """The files that decide what a teacher gives, sorted."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in READ
        and path.is_file()
        and not any(part in OTHERS for part in path.relative_to(folder).parts)
    )


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"`start`: {path} cannot be read ({first_line(error)})") from error
