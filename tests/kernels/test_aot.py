"""Claims about the compiled kernels, made without a GPU, and the interpreter's suite."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed", allow_module_level=True)
HERE = Path(__file__).parent
COMPILES = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="the compiler is replaced"
)
STACK = {"plain": 64, "masked": 128, "all": 256}  # bytes that the lower half may spill
GATHERS = ("pool_gate", "chunk_sum", "row_sum")
BAGS = [
    *((dtype, "sm_90") for dtype in ("float32", "bfloat16", "float16", "float64")),
    *(("float32", target) for target in ("sm_80", "sm_100", "gfx942")),
    *(("bfloat16", target) for target in ("sm_80", "gfx942")),
]


@pytest.mark.parametrize("suite", ["bag", "contrastive"])
def test_the_interpreter_suite(suite):
    """Runs test_SUITE_interpreter.py with TRITON_INTERPRET=1, set before Triton is imported."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--noconftest"]
    done = subprocess.run(
        [*command, str(HERE / f"test_{suite}_interpreter.py")],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr


@COMPILES
@pytest.mark.parametrize(("dtype", "target"), BAGS)
@pytest.mark.parametrize("gated", [True, False], ids=["dyt", "mean"])
def test_a_bag_step_spills_nothing_and_reads_wide(dtype, target, gated):
    from tests.kernels.fake_gpu import compiled
    from tests.kernels.launches import bag_step

    reports = compiled(target, lambda: bag_step(getattr(torch, dtype), gated, atomic=gated))
    assert {r.kernel for r in reports} >= {"pool_gate", "gate_grad"}
    for report in reports:
        assert report.stack == 0, report
        # 80 registers a thread let 768 threads share an SM's 65,536; AMD's 512 a lane leave 3 waves
        assert report.registers <= (168 if target == "gfx942" or dtype == "float64" else 80), report
        if report.kernel in GATHERS:
            assert report.wide >= (4 if target == "gfx942" or dtype == "float64" else 8), report


@COMPILES
@pytest.mark.parametrize("variant", ["plain", "masked", "all"])
def test_the_bfloat16_loss_uses_tensor_cores_and_keeps_to_its_registers(variant):
    from tests.kernels.fake_gpu import compiled
    from tests.kernels.launches import bf16_loss

    reports = compiled("sm_90", bf16_loss(variant))
    forward = [r for r in reports if r.kernel == "prefix_mass"]
    top, low = ([r for r in reports if r.kernel == "half_gradient"][i::2] for i in (0, 1))
    assert len(forward) == (4 if variant == "all" else 1) and len(top) == len(low) == 2
    for report in forward:
        assert report.products["HGMMA"] and report.copies["LDGSTS"], report
    for report in forward[:: 2 if variant == "all" else 1]:  # the others sum for smoothing
        assert report.stack == 0, report
    for report in (*top, *low):
        assert report.products["HGMMA"] and report.copies["UTMALDG"], report
        assert report.stack <= (0 if report in top else STACK[variant]), report
