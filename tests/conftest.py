"""What several test files share: a tiny tokenizer and model, no network, no noise."""

import functools
import importlib.util
import os
import subprocess
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
import torch

from tests.helpers.samples import sentences


def pytest_collection_modifyitems(items):
    """Skip what this machine cannot run, and say why."""
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device")
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(skip)
    if importlib.util.find_spec("ray") is None:
        skip = pytest.mark.skip(reason="Ray is not installed: the extra `cluster`")
        for item in items:
            if "cluster" in item.keywords:
                item.add_marker(skip)


def pytest_runtest_setup(item):
    """Leave out what needs Ray where no process can start it."""
    if "cluster" in item.keywords and (reason := why_no_ray()):
        pytest.skip(f"Ray does not start here: {reason}")


@functools.cache
def why_no_ray():
    """Empty where Ray starts."""
    start = "import ray; ray.init('local', num_cpus=1, include_dashboard=False); ray.shutdown()"
    try:
        done = subprocess.run(
            [sys.executable, "-c", start], capture_output=True, text=True, timeout=120
        )
    except subprocess.TimeoutExpired:
        return "no answer in two minutes"
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return lines[-1] if done.returncode else ""


@pytest.fixture(scope="session")
def tokenizer():
    """WordPiece trained on a few hundred pseudo-sentences."""
    from sse.text.tokenizer import train_tokenizer  # not above: the kernels' tests need no sse

    return train_tokenizer(sentences(300), 400, progress=False)


@pytest.fixture
def make_model(tokenizer):
    """Make an SSE module whose norm has left its start."""
    from sse.model.model import SSE

    def make(norm="dyt", dim=32, **kwargs):
        model = SSE(tokenizer, dim, norm, seed=0, **kwargs)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.norm.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        return model

    return make


@pytest.fixture(params=["compiled", "torch"])
def way(request, monkeypatch):
    """Both ways through the tiles of float32 on a CPU."""
    from sse.loss import compiled as loss_compiled

    if request.param == "torch":
        monkeypatch.setattr(loss_compiled, "_residuals", None)
    elif loss_compiled._residuals is None:
        pytest.skip("sse.loss._tiled is not compiled here")
    return request.param
