"""Stable Static Embedding: train, evaluate and serve static text embeddings.

The names below are loaded on first use, so `import sse` costs nothing and brings no torch.
"""

from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from sse.common.errors import import_extra as _import_extra
from sse.common.version import __version__

if _TYPE_CHECKING:
    from sse.common.errors import UserError
    from sse.model.convert.average import average
    from sse.model.convert.fit import fit
    from sse.model.export import export
    from sse.model.load import SSEModel, load
    from sse.model.model import SSE
    from sse.search.index import Index
    from sse.search.update import update_index
    from sse.serving.encoder import Encoder
    from sse.training.train import train

_HOMES = {
    "Encoder": "sse.serving.encoder",
    "Index": "sse.search.index",
    "SSE": "sse.model.model",
    "SSEModel": "sse.model.load",
    "UserError": "sse.common.errors",
    "average": "sse.model.convert.average",
    "export": "sse.model.export",
    "fit": "sse.model.convert.fit",
    "load": "sse.model.load",
    "train": "sse.training.train",
    "update_index": "sse.search.update",
}
__all__ = [
    "SSE",
    "Encoder",
    "Index",
    "SSEModel",
    "UserError",
    "__version__",
    "average",
    "export",
    "fit",
    "load",
    "train",
    "update_index",
]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> _Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sse' has no attribute '{name}'")
    return getattr(_import_extra(_HOMES[name]), name)
