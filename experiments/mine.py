"""Mine hard negatives for files of pairs: python experiments/mine.py --help."""

import sys

from sse.common.errors import script_imports

with script_imports():
    from sse.cli.teacher.mine import run

if __name__ == "__main__":
    sys.exit(run())
