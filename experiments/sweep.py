"""Run an ablation sweep: python experiments/sweep.py --config SWEEP.yaml --out DIR.

See --help; a sweep's file is described in sse/sweeps/grid.py, its tables in sse/sweeps/results.py.
"""

import sys

from sse.common.errors import script_imports

with script_imports():
    from sse.cli.sweep import run

if __name__ == "__main__":
    sys.exit(run())
