"""Stable Static Embedding: train, evaluate and serve static text embeddings.

The names below are loaded on first use, so `import sse` costs nothing and brings no torch.
"""

from typing import TYPE_CHECKING, Any

from sse.common.errors import import_extra
from sse.common.version import __version__

if TYPE_CHECKING:
    from sse.common.errors import UserError
    from sse.model.average import average
    from sse.model.export import export
    from sse.model.fit import fit
    from sse.model.load import SSEModel, load
    from sse.model.model import SSE
    from sse.serving.encoder import Encoder

_HOMES = {
    "Encoder": "sse.serving.encoder",
    "SSE": "sse.model.model",
    "SSEModel": "sse.model.load",
    "UserError": "sse.common.errors",
    "average": "sse.model.average",
    "export": "sse.model.export",
    "fit": "sse.model.fit",
    "load": "sse.model.load",
}
__all__ = [
    "SSE",
    "Encoder",
    "SSEModel",
    "UserError",
    "__version__",
    "average",
    "export",
    "fit",
    "load",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sse' has no attribute '{name}'")
    return getattr(import_extra(_HOMES[name]), name)
