"""What the event files of a run hold, read as TensorBoard reads them."""

import math

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from sse.loss.objective import Objective
from sse.training.run import main
from tests.helpers.training_runs import make_options


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small run with everything on: its folder, and what metrics.json holds."""
    root = tmp_path_factory.mktemp("board")
    options = [*make_options(root), "--eval.baselines=true", "--projector=5"]
    return root / "run", main([*options, f"--out={root / 'run'}"])


@pytest.fixture(scope="module")
def events(run):
    return EventAccumulator(str(run[0] / "tensorboard"), size_guidance={"tensors": 0}).Reload()


def values(events, tag):
    return [event.value for event in events.Scalars(tag)]


def test_loss_and_quality_stand_first_and_diagnostics_last(events):
    groups = list(dict.fromkeys(tag.split("/")[0] for tag in sorted(events.Tags()["scalars"])))
    assert groups == ["1 loss", "2 quality", "3 speed", "4 learning rate", "5 diagnostics"]
    assert "hp_metric" not in events.Tags()["scalars"]


def test_the_learning_rate_falls(events):
    rates = values(events, "4 learning rate/table")
    assert rates[0] > rates[-1] >= 0


def test_nats_per_dimension_are_the_sum_divided_by_the_weights(events):
    whole = values(events, "1 loss/training, sum over dims")
    each = values(events, "1 loss/training, nats per dimension")
    dims = [t for t in events.Tags()["scalars"] if t.startswith("1 loss/held out, nats, ")]
    assert each == pytest.approx([loss / len(dims) for loss in whole])
    held = values(events, "1 loss/held out, sum over dims")
    parts = zip(*(values(events, tag) for tag in dims), strict=True)
    assert held == pytest.approx([sum(part) for part in parts])


def test_final_scores_are_those_of_the_metrics(run, events):
    for system in ("trained", "untrained", "BM25", "hybrid"):
        by_dim = run[1]["metrics"][system]["held-out pairs"]
        dim = max(by_dim, key=int)
        tag = f"2 quality/{system}, nDCG@10, held-out pairs, {dim if int(dim) else 'no'} dims"
        assert values(events, tag)[-1] == pytest.approx(by_dim[dim]["ndcg@10"])


def test_hyper_parameters_have_a_real_metric(events):
    content = events.summary_metadata["_hparams_/experiment"].plugin_data.content
    names = [m.name.tag for m in HParamsPluginData.FromString(content).experiment.metric_infos]
    assert names and all(name.startswith("2 quality/trained, nDCG@10") for name in names)
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    options = HParamsPluginData.FromString(content).session_start_info.hparams
    assert options["norm"].string_value == "dyt" and options["dim"].number_value == 32


def test_one_text_tells_data_loss_and_options(events):
    (event,) = events.Tensors("about/text_summary")
    text = event.tensor_proto.string_val[0].decode()
    assert "## Data" in text and "| model.dim | 32 |" in text and "0 is perfect" in text


def test_the_projector_has_as_many_documents_as_asked_for(run):
    (labels,) = (run[0] / "tensorboard").rglob("metadata.tsv")
    assert len(labels.read_text().splitlines()) == 5


def test_a_prefix_alone_starts_at_chance():
    vectors = torch.zeros(12, 8)
    losses = Objective([8, 4], [1.0, 1.0], [20.0, 20.0]).by_dim(vectors, vectors, 6)
    assert losses == pytest.approx({8: math.log(6), 4: math.log(6)})
