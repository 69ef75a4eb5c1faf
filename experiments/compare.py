"""Compare a sweep's trials: a table for a paper and every number behind it.

python experiments/compare.py OUT --by model.norm --reference none [--within data.pairs --dim 512]
"""

import sys

from sse.common.errors import script_imports

with script_imports():
    from sse.cli.compare import run

if __name__ == "__main__":
    sys.exit(run())
