"""Evaluate any sentence-transformers folder: the command `sse evaluate`.

python experiments/evaluate.py MODEL_DIR --beir FOLDER [FOLDER ...] [--dims 512 256 128]
"""

import sys

from sse.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
