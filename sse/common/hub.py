"""The Hugging Face hub with a deadline: an unreachable hub is an error within five seconds.

The hub's own client retries for much longer. So one small request with a deadline goes first, and
larger ones follow only where the hub answers. A cached file needs no request.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from sse.common.errors import UserError, first_line
from sse.common.files import expanded

DEADLINE = 3.0  # seconds, name look-up included
MODEL_FILES = ["*.json", "*.safetensors", "embedding.q4_k_m.bin"]
OTHER_FORMS = ["onnx/*", "openvino/*"]


class HubUnreachable(UserError):
    """The hub does not answer, or the user forbids the network."""


def hub_file(name: str, file: str) -> Path:
    """The local path of one file of a tokenizer on the hub, from the cache or downloaded.

    A hub name that is wrong, a missing file or an unreachable hub raises UserError.
    """
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    way_out = "give the path of a local tokenizer.json, or train one"
    try:
        cached = huggingface_hub.try_to_load_from_cache(name, file)
    except HFValidationError:
        raise UserError(f"{name}: neither a file nor a hub name; {way_out}") from None
    if isinstance(cached, str):
        return Path(cached)
    ask_hub(f"tokenizer {name}", lambda api: api.model_info(name, timeout=DEADLINE), way_out)
    try:
        return Path(huggingface_hub.hf_hub_download(name, file, etag_timeout=DEADLINE))
    except Exception as error:
        raise UserError(
            f"{name}: {file} does not download ({first_line(error)}); {way_out}"
        ) from error


def model_folder(name: str | os.PathLike[str]) -> Path:
    """The folder at this path; without one, `hub_folder` of the name OWNER/NAME.

    Raises:
        UserError: neither a folder nor a name, and all that `hub_folder` raises.
    """
    root = expanded(name)
    if root.is_dir():
        return root
    if not is_hub_name(str(name)) or root.exists():
        raise UserError(f"{root} is no folder: give the folder of an exported model")
    return hub_folder(str(name))


def hub_folder(name: str) -> Path:
    """The local folder of a model on the hub, from the cache or downloaded: tables and JSON alone.

    A model in the cache needs no request, so a newer one on the hub goes unnoticed.

    Raises:
        HubUnreachable: no answer within the deadline, or the user forbids the network.
        UserError: no such name, no access to it, or a download that fails.
    """
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        cached = Path(huggingface_hub.snapshot_download(name, local_files_only=True))
        if all(any(cached.rglob(part)) for part in ("tokenizer.json", "*.safetensors")):
            return cached
    except LocalEntryNotFoundError:
        pass
    what, way_out = f"{name} is no folder, and as a name on the hub", "give a model's folder"
    ask_hub(what, lambda api: api.model_info(name, timeout=DEADLINE), way_out)
    try:
        folder = huggingface_hub.snapshot_download(
            name, allow_patterns=MODEL_FILES, ignore_patterns=OTHER_FORMS, etag_timeout=DEADLINE
        )
    except Exception as error:
        raise UserError(f"{name} does not download ({first_line(error)}); {way_out}") from error
    return Path(folder)


def is_hub_name(name: str) -> bool:
    """Whether the name has the form OWNER/NAME."""
    return re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name, re.ASCII) is not None


def ask_hub(what: str, question: Callable[[Any], Any], way_out: str) -> Any:
    """The result of `question(HfApi)` within the deadline.

    An error's message names the request's object, `what`, and what the user can do instead.

    Raises:
        HubUnreachable: no answer, or the user forbids the network.
        UserError: no such name, or no access to it.
    """
    import huggingface_hub
    from huggingface_hub import constants, errors

    if offline():
        raise HubUnreachable(
            f"{what}: not in the local cache, and HF_HUB_OFFLINE forbids asking the hub; "
            f"unset it, or {way_out}"
        )
    endpoint = constants.ENDPOINT
    try:
        return _within(DEADLINE, lambda: question(huggingface_hub.HfApi()))
    except errors.GatedRepoError as error:
        raise UserError(
            f"{what}: gated on {endpoint}; accept its terms there and log in with 'hf auth login', "
            f"or {way_out}"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(
            f"{what}: no such name on {endpoint} (or private); check it, or {way_out}"
        ) from error
    except Exception as error:
        raise HubUnreachable(
            f"{what}: the hub {endpoint} cannot be reached ({first_line(error)}); "
            f"check the network, or {way_out}"
        ) from error


def offline() -> bool:
    """Whether the user forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def _within(seconds: float, call: Callable[[], Any]) -> Any:
    """The result of `call`, or TimeoutError; no other way bounds a name look-up."""
    answer: Future[Any] = Future()

    def work() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:  # the caller's `answer.result` raises it
            answer.set_exception(error)

    threading.Thread(target=work, daemon=True).start()  # an executor's would delay the exit
    return answer.result(seconds)
