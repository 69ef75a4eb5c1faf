"""`sse evaluate`: the contract JSON, one line for bad input, any model folder."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from sentence_transformers import SentenceTransformer

from sse.cli import main as cli
from sse.common.errors import UserError
from sse.evaluation.metrics import METRICS
from sse.evaluation.systems import evaluate_model, load_model
from tests.evaluation.test_evaluate import random_collection, static_model


@pytest.fixture
def main():
    return lambda arguments: cli.main(["evaluate", *arguments])


def test_the_script_is_the_command(model_dir, folders, tmp_path):
    script = Path(__file__).parents[2] / "experiments" / "evaluate.py"
    target = tmp_path / "scores.json"
    arguments = [model_dir, "--beir", folders[0], "--dims", "8", "--json", str(target)]
    subprocess.run([sys.executable, str(script), *arguments], check=True, capture_output=True)
    assert json.loads(target.read_text())["first"]["8"]["ndcg@10"] > 0


@pytest.fixture
def model_dir(tmp_path):
    static_model(dim=40, prompts={"query": "query "}).save(str(tmp_path / "model"))
    return str(tmp_path / "model")


@pytest.fixture
def folders(tmp_path):
    made = []
    for seed, name in enumerate(("first", "second")):
        collection = random_collection(seed, 30, 10, name)
        root = tmp_path / "beir" / name
        (root / "qrels").mkdir(parents=True)
        for file, ids, texts in (
            ("corpus", collection.corpus_ids, collection.corpus),
            ("queries", collection.query_ids, collection.queries),
        ):
            rows = [{"_id": i, "text": t} for i, t in zip(ids, texts, strict=True)]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (root / f"{file}.jsonl").write_text(text)
        lines = ["query-id\tcorpus-id\tscore"] + [
            f"{q}\t{d}\t{s}"
            for q, judged in collection.qrels.items()
            for d, s in judged.items()
            if d != "missing"
        ]
        (root / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
        made.append(str(root))
    return made


def test_the_json_is_folder_dim_metric(main, model_dir, folders, tmp_path, capsys):
    target = tmp_path / "out" / "scores.json"
    arguments = ["--beir", *folders, "--dims", "40", "8", "--json", str(target)]
    assert main([model_dir, *arguments]) == 0
    scores = json.loads(target.read_text())
    assert list(scores) == ["first", "second"]
    assert list(scores["first"]) == ["40", "8"]
    assert list(scores["first"]["8"]) == METRICS
    assert f"{scores['first']['40']['ndcg@10']:.4f}" in capsys.readouterr().out


def test_baselines_and_report_leave_the_json_as_it_is(main, model_dir, folders, tmp_path, capsys):
    plain, full = tmp_path / "plain.json", tmp_path / "full.json"
    assert main([model_dir, "--beir", *folders, "--json", str(plain)]) == 0
    assert "BM25" not in capsys.readouterr().out
    more = ["--baselines", "--hybrid", "--report", str(tmp_path / "report"), "--json", str(full)]
    assert main([model_dir, "--beir", *folders, *more]) == 0
    assert plain.read_text() == full.read_text()
    assert {"untrained", "BM25", "hybrid"} <= set(capsys.readouterr().out.split())
    assert (tmp_path / "report" / "quality.png").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a["--dims"].append("41"), "dimension 41 is no prefix of the model's 40"),
        (lambda a: a["--dims"].append("0"), "--dims: 0: give at least 1"),
        (lambda a: a["--dims"].append("x"), "--dims: 'x' is no whole number"),
        (lambda a: a["--beir"].append("/nowhere"), "/nowhere: no such folder"),
        (lambda a: a["--beir"].append(a["--beir"][0]), "two collections are named 'first'"),
        (lambda a: a.pop("--beir"), "nothing to evaluate on"),
        (lambda a: a["model"].append("extra"), "unrecognized arguments"),
        (lambda a: a.update(model=["/nowhere"]), "/nowhere"),
        (lambda a: a.update({"--batch-size": ["0"]}), "--batch-size: 0: give"),
        (lambda a: a.update({"--json": a["model"]}), "is the other"),
        (lambda a: a.update({"--split": ["dev"]}), "there is test"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    main, model_dir, folders, tmp_path, capsys, change, message
):
    target, report = tmp_path / "scores.json", tmp_path / "report"
    options = {
        "model": [model_dir], "--beir": folders, "--dims": ["40"], "--json": [str(target)],
        "--report": [str(report)],
    }  # fmt: skip
    change(options)
    arguments = options.pop("model") + [x for k, v in options.items() for x in (k, *v)]
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1
    assert not target.exists() and not report.exists()


@pytest.mark.parametrize("file", ["model.safetensors", "modules.json", "tokenizer.json"])
def test_a_damaged_model_folder_is_one_line(model_dir, file):
    path = Path(model_dir) / file
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError) as error:
        load_model(model_dir)
    assert model_dir in str(error.value) and "\n" not in str(error.value)


def test_our_own_class_is_evaluated_as_its_export(make_model, tmp_path):
    import sse

    model = sse.SSEModel(modules=[make_model()], device="cpu")
    sse.export(model, tmp_path / "model")
    collection = random_collection(7, 50, 20)
    native = load_model(tmp_path / "model")
    assert type(native) is SentenceTransformer
    ours, exported = (evaluate_model(m, [collection]).values() for m in (model, native))
    assert ours["tiny"]["32"] == pytest.approx(exported["tiny"]["32"], abs=1e-9)
