"""Run the notebooks over a sweep into one self-contained HTML file.

python experiments/report.py [--results OUT] [--out runs/report.html]
"""

import sys

from sse.common.errors import script_imports

with script_imports():
    from sse.analysis.notebooks import run

if __name__ == "__main__":
    sys.exit(run())
