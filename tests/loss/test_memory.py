"""Memory grows with the batch alone, and is known before training starts."""

import re
from pathlib import Path

import pytest
import torch

from sse.common.errors import UserError
from sse.loss.memory import check_memory, free_bytes, loss_bytes
from tests.helpers.loss_cases import ours, vectors


def peak(function):
    """Bytes that it holds at most, of what torch allocates."""
    with torch.profiler.profile(profile_memory=True) as profile:
        function()
    live = most = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            most = max(most, live)
    return most


def test_memory_grows_with_the_batch_and_not_with_its_square(way):
    """Peak of what the loss allocates at 8 times the batch: about 8 times, where B x B has 64."""
    peaks = []
    for b in (512, 4096):
        columns = vectors(b, 2, 64)
        peaks.append(peak(lambda columns=columns: ours(columns, [64, 32])))
    assert peaks[0] > 0
    assert peaks[1] < 12 * peaks[0]


def test_the_estimate_covers_the_peak_and_not_much_more(way):
    b, dims = 1024, [64, 32, 8]
    columns = vectors(b, 2, 64)
    most = peak(lambda: ours(columns, dims))
    # the estimate is torch's: the compiled one has a tile a dim, and none beside
    assert (0.4 if way == "torch" else 0.3) < most / loss_bytes(b, 2, dims) < 1.1


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_the_benchmark_measures_a_peak_below_the_dense_losses():
    """In processes of their own: B x B five times over is far above what the tiles need."""
    from experiments.benchmarks.loss import memory

    found = memory(2048, "tiled", "cpu")
    assert found["dense"]["ratio"] > 2
    assert found["sentence-transformers"]["ratio"] > 2


def test_a_batch_that_does_not_fit_is_one_clear_line_with_one_that_does():
    check_memory(512, 2, [512], False, free=10**9)
    with pytest.raises(UserError, match="--data.batch_size to ([0-9,]+)") as error:
        check_memory(10**6, 3, [512, 256], False, free=10**9)
    assert "\n" not in str(error.value)
    fits = int(re.search("to ([0-9,]+) or less", str(error.value))[1].replace(",", ""))
    check_memory(fits, 3, [512, 256], False, free=10**9)
    assert free_bytes(False) is None or free_bytes(False) > 0
