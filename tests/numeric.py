"""The numeric tests under other BLAS kernels, thread counts and ATen's vector widths.

    python -m tests.numeric                     # a table: worst error/tolerance of each family
    python -m tests.numeric --only Haswell

Each setting is a process of its own, since a library chooses its kernels when it is loaded. A ratio
above 1 is a failed test; one below 0.001 everywhere would be a tolerance that cannot fail.
"""

import argparse
import collections
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

# ruff: noqa: T201 -- it prints its table

TESTS = ["kernels/test_bag_aten.py", "kernels/test_table_grad.py", "kernels/test_tolerances.py",
         "loss/test_tiled.py", "loss/test_matryoshka.py", "model/test_norms.py",
         "model/test_model.py", "model/test_onnx.py", "model/test_quantise.py",
         "serving/test_encoder.py", "evaluation/test_metrics.py", "evaluation/test_evaluate.py",
         "training/test_diagnostics.py"]  # fmt: skip
SLOW = "not process and not snippet and not run and not rate"  # these train, or start Python again
INTERPRETED = ["kernels/test_contrastive_interpreter.py"]  # whose products are numpy's
ROOT = Path(__file__).parent
ATEN, MKL = "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS"
SETTINGS = {  # of numpy's BLAS; of torch's kernels; of torch's BLAS; threads
    "Prescott, ATen default": ("Prescott", {ATEN: "default"}, 1),
    "Nehalem, ATen avx2": ("Nehalem", {ATEN: "avx2"}, 1),
    "Sandybridge, 2 threads": ("Sandybridge", {}, 2),
    "Haswell": ("Haswell", {}, 1),
    "Zen, MKL SSE4.2": ("Zen", {MKL: "SSE4_2"}, 1),
    "SkylakeX, 2 threads": ("SkylakeX", {}, 2),
}


def measure(kernel, more, count):
    """{family: worst ratio} under a setting, and the names of failed tests."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(count))
    setting = {"OPENBLAS_CORETYPE": kernel, **more, **threads}
    worst, failed = collections.defaultdict(float), []
    with tempfile.TemporaryDirectory() as folder:
        ratios = Path(folder) / "ratios"
        environment = {**os.environ, **setting, "SSE_RATIOS": str(ratios)}
        for files, own in ((TESTS, {}), (INTERPRETED, {"TRITON_INTERPRET": "1"})):
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", SLOW]
            command += ["--noconftest"] if own else []
            done = subprocess.run(
                [*command, *(str(ROOT / file) for file in files)],
                env=environment | own, cwd=ROOT.parent, capture_output=True, text=True,
            )  # fmt: skip
            lines = done.stdout.splitlines()
            failed += [line for line in lines if line.startswith(("FAILED", "ERROR"))]
            if done.returncode and not failed:
                failed.append(done.stdout[-500:] + done.stderr[-500:])
        for line in ratios.read_text("utf-8").splitlines():
            family, ratio = json.loads(line)
            family = family.split(",")[0]
            worst[family] = max(worst[family], ratio)
    return worst, failed


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.numeric", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    columns, failures = {}, []
    for name in parser.parse_args().only:
        columns[name], failed = measure(*SETTINGS[name])
        failures += [f"{name}: {line}" for line in failed]
        print(f"{name}: {failed or 'passed'}", file=sys.stderr, flush=True)
    families = sorted({family for worst in columns.values() for family in worst})
    print("\n".join([f"| family | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]))
    for family in families:
        print(f"| {family} | {' | '.join(f'{w[family]:.2g}' for w in columns.values())} |")
    print("\n".join(failures))
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
