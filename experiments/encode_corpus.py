"""Encode a corpus to sharded parquet with Ray, on one machine or a cluster.

python experiments/encode_corpus.py IN OUT --model FOLDER [--cluster ADDRESS] [--help]
"""

import sys

from sse.cli.encode_corpus import main

if __name__ == "__main__":
    sys.exit(main())
