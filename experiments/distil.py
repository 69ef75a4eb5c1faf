"""Teach a table a teacher's vectors of plain texts: python experiments/distil.py --help."""

import sys

from sse.common.errors import script_imports

with script_imports():
    from sse.cli.teacher.distil import run

if __name__ == "__main__":
    sys.exit(run())
