"""The numeric tests under other BLAS kernels, thread counts and ATen's vector widths.

    python -m tests.numeric                     # a table: worst error/tolerance of each family
    python -m tests.numeric --only Haswell Zen

Each setting is a process of its own, since a library chooses its kernels when it is loaded. A ratio
above 1 is a failed test; one below 0.001 everywhere would be a tolerance that cannot fail.
"""

# ruff: noqa: T201 -- it prints its table
import argparse
import collections
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

TESTS = ["kernels/test_bag_aten.py", "kernels/test_table_grad.py", "kernels/test_tolerances.py",
         "loss/test_tiled.py", "loss/test_matryoshka.py", "model/test_norms.py",
         "model/test_model.py", "model/test_onnx.py", "model/test_quantise.py",
         "serving/test_encoder.py", "evaluation/test_metrics.py", "evaluation/test_evaluate.py",
         "training/test_diagnostics.py"]  # fmt: skip
SLOW = "not process and not snippet and not run and not rate"  # these train, or start Python again
INTERPRETED = ["kernels/test_bag_interpreter.py", "kernels/test_contrastive_interpreter.py"]
ROOT = Path(__file__).parent
SETTINGS = {
    kernel: {"OPENBLAS_CORETYPE": kernel}
    for kernel in ("Prescott", "Nehalem", "Sandybridge", "Haswell", "Zen", "SkylakeX")
}
SETTINGS |= {
    "2 threads": {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"},
    "ATen default": {"ATEN_CPU_CAPABILITY": "default"},
    "ATen avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "MKL SSE4.2": {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
}


def measure(setting):
    """{family: worst ratio} under a setting, and the names of failed tests."""
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    worst, failed = collections.defaultdict(float), []
    with tempfile.TemporaryDirectory() as folder:
        ratios = Path(folder) / "ratios"
        environment = {**os.environ, **threads, **setting, "SSE_RATIOS": str(ratios)}
        for files, more in ((TESTS, {}), (INTERPRETED, {"TRITON_INTERPRET": "1"})):
            command = [
                sys.executable,
                *["-m", "pytest", "-q", "-p", "no:cacheprovider", "-k"],
                SLOW,
            ]
            command += ["--noconftest"] if more else []
            done = subprocess.run(
                [*command, *(str(ROOT / file) for file in files)],
                env=environment | more, cwd=ROOT.parent, capture_output=True, text=True,
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
        columns[name], failed = measure(SETTINGS[name])
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
