import subprocess
import sys

import pytest

HEAVY = "transformers sentence_transformers scipy sklearn pandas datasets torchmetrics.functional"


def loaded(code, *names):
    """Which of the modules a fresh interpreter has after running the code."""
    code += f"\nimport sys; print(*[m for m in {names} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert not done.returncode, done.stderr
    return done.stdout.split()


def test_a_run_imports_no_library_that_it_does_not_use():
    assert not loaded("import sse.training.run", *HEAVY.split())


def test_the_whole_of_torchmetrics_is_there_once_it_is_asked_for():
    code = """import sse.training.module, torchmetrics, torch
from lightning.pytorch.core.module import Metric
mean = torchmetrics.MeanMetric()
mean.update(torch.tensor([1.0, 2.0]))
assert mean.compute() == 1.5 and torchmetrics.functional.accuracy
assert torchmetrics.Metric is Metric and isinstance(mean, Metric)"""
    assert loaded(code, "torchmetrics.functional") == ["torchmetrics.functional"]


@pytest.mark.parametrize("broken", ["torchmetrics.metric", "torchmetrics.__about__"])
def test_a_torchmetrics_of_another_build_is_imported_as_a_whole(broken):
    code = f"""import importlib, sys
real = importlib.import_module
def refuse(name, *rest):
    if name == "{broken}":
        raise ImportError(name)
    return real(name, *rest)
importlib.import_module = refuse
import sse.training
importlib.import_module = real
import sse.training.module"""
    assert loaded(code, "torchmetrics.functional") == ["torchmetrics.functional"]
