"""Run the notebooks over a sweep into one self-contained HTML file.

python experiments/report.py [--results OUT] [--out runs/report.html]
"""

import sys

from sse.cli.main import script

if __name__ == "__main__":
    sys.exit(script("sse.analysis.notebooks"))
