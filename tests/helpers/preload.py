"""What a training run imports and builds on its way: processes forked after this have it.

Each of them would need more than a second of a core for it.
"""

import attrs  # noqa: F401  jsonargparse asks for it
import bm25s  # noqa: F401
import datasets  # noqa: F401
import scipy.io  # noqa: F401
import torch.utils.tensorboard  # noqa: F401

import sse.training.run  # noqa: F401
from sse.training.options import _parser

_parser()
