"""Run an ablation sweep: python experiments/sweep.py --config SWEEP.yaml --out DIR.

See --help; a sweep's file is described in sse/sweep.py, its tables in sse/results.py.
"""

import sys

from sse.sweeping import run

if __name__ == "__main__":
    sys.exit(run())
