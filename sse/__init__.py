"""Stable Static Embedding: train, evaluate and serve static text embeddings.

The names below are loaded on first use, so `import sse` costs nothing and brings no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sse.encoder import Encoder
    from sse.errors import UserError
    from sse.loader import load
    from sse.model import SSE, SSEModel
    from sse.portable import export

__version__ = "0.1.0"

_HOMES = {
    "Encoder": "sse.encoder",
    "SSE": "sse.model",
    "SSEModel": "sse.model",
    "UserError": "sse.errors",
    "export": "sse.portable",
    "load": "sse.loader",
}
__all__ = ["SSE", "Encoder", "SSEModel", "UserError", "__version__", "export", "load"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sse' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
