"""Train, evaluate and export a static embedding: python experiments/train.py --help."""

import sys

from sse.training.run import run

if __name__ == "__main__":
    sys.exit(run())
