"""Train, evaluate and export a static embedding: python experiments/train.py --help."""

import sys

from sse.cli.main import script

if __name__ == "__main__":
    sys.exit(script("sse.training.run"))
