"""What is disturbed: the real commands on tiny data, and what must come out of them."""

import hashlib
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import datasets
import torch

import sse.cli.sweep
import sse.data.token_cache
from sse.cli.encode_corpus import main as sharded
from sse.cli.main import main as command
from sse.common.errors import one_line
from sse.data.datamodule import SSEDataModule
from sse.model.export import export
from sse.model.model import SSE
from sse.search.index import Index
from sse.sweeps.results import read_results
from sse.text.tokenizer import train_tokenizer
from sse.training.run import run as train
from tests.helpers import preload  # noqa: F401  the forked runs have it

WORDS = [a + b for a in "bcdfgklmnprstvz" for b in ("a", "en", "or", "ist", "ule", "amp")]
sse.data.token_cache.RECORD_ROWS = 100  # several records in a small cache


def texts(count: int, seed: int, words: int = 8) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=words)) + f" {n}" for n in range(count)]


class Inputs:
    """Pairs, lines and a model under `root`; nothing may change them."""

    def __init__(self, root: Path) -> None:
        self.root, self.model = root, root / "model"
        self.pairs, self.lines = root / "pairs.jsonl", root / "lines.jsonl"
        self.corpus = root / "corpus"

    def make(self) -> None:
        self.root.mkdir(parents=True)
        anchors = texts(400, 1)
        rows = ({"anchor": a, "positive": " ".join(reversed(a.split()))} for a in anchors)
        self.pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
        lines = [json.dumps({"text": text}) + "\n" for text in texts(6000, 2, 20)]
        self.lines.write_text("".join(lines))
        self.corpus.mkdir()
        for first in range(0, len(lines), 100):
            (self.corpus / f"{first:04d}.jsonl").write_text("".join(lines[first : first + 100]))
        sweep = {
            "options": {"data.paths": str(self.pairs), "data.vocab_size": 400, "model.dim": 16,
                        "data.batch_size": 32, "trainer.max_epochs": 3,
                        "trainer.accelerator": "cpu"},
            "grid": {"seed_everything": [0, 1]},
        }  # fmt: skip
        (self.root / "sweep.yaml").write_text(json.dumps(sweep))
        tokenizer = train_tokenizer(texts(300, 3), 400, progress=False)
        export(SSE(tokenizer, 32, "dyt", seed=0), self.model)


class Subject:
    """One thing that can be disturbed.

    Attributes:
        name: what it is.
        run: does it in a folder; the exit code. Called again, it goes on or starts anew.
        files: the files that must be equal to the undisturbed run's, by name.
        content: what of a file must be equal.
    """

    def __init__(self, name: str, run: Callable[[Path], int], files: list[str]) -> None:
        self.name, self._run, self.files = name, run, files

    def run(self, folder: Path) -> int:
        folder.mkdir(parents=True, exist_ok=True)
        datasets.config.HF_DATASETS_CACHE = str(folder / "datasets")
        return self._run(folder)

    def result(self, folder: Path) -> str:
        """A hash of what came out."""
        whole = hashlib.blake2b()
        for pattern in self.files:
            found = sorted(p for p in folder.glob(pattern) if p.is_file() and p.suffix != ".tmp")
            assert found, f"{self.name}: no {pattern} in {folder}"
            for path in found:
                whole.update(path.relative_to(folder).as_posix().encode() + b"\0")
                whole.update(_content(path))
        return whole.hexdigest()


def _content(path: Path) -> bytes:
    if path.suffix == ".ckpt":
        state = torch.load(path, weights_only=True)
        tensors = {**state["state_dict"]}
        for optimizer in state.get("optimizer_states", ()):  # best.ckpt has weights alone
            for number, values in optimizer["state"].items():
                tensors |= {f"{number}.{k}": v for k, v in values.items()}
        parts = (name.encode() + tensors[name].numpy().tobytes() for name in sorted(tensors))
        return b"".join(parts) + str(state["global_step"]).encode()
    if path.name == "metrics.json":
        facts = json.loads(path.read_text("utf-8"))
        return json.dumps([facts["metrics"], facts["steps"]]).encode()
    if path.name == "results.parquet":
        table = read_results(path.parent)
        return table[["trial", "ndcg@10", "order", "steps"]].to_json(double_precision=15).encode()
    return path.read_bytes()


def subjects(inputs: Inputs) -> dict[str, Subject]:
    """All of them, by name."""
    options = [
        f"--data.paths={inputs.pairs}", "--data.vocab_size=400", "--data.batch_size=32",
        "--model.dim=16", "--model.norm=dyt", "--trainer.max_epochs=4",
        "--trainer.enable_progress_bar=false",
        "--trainer.accelerator=cpu", "--eval.times=4", "--data.holdout=20",
        "--checkpoint_minutes=0",
    ]  # fmt: skip

    def training(folder: Path) -> int:
        out = folder / "run"
        if (out / "config.yaml").exists():
            return train([f"--resume={out}"])
        return train([*options, f"--data.cache={folder / 'cache'}", f"--out={out}"])

    @one_line
    def build(folder: Path) -> None:
        data = SSEDataModule(
            paths=str(inputs.lines), sets=None, vocab_size=400, cache=str(folder / "cache")
        )
        data.hparams.paths = [f"{inputs.lines}?anchor=text&positive=text"]
        data.build(lambda line: None)

    def encoding(name: str) -> Callable[[Path], int]:
        def run(folder: Path) -> int:
            target = str(folder / name)
            given = ["encode", str(inputs.lines), target, "-m", str(inputs.model)]
            return command([*given, "--quiet", "--force", "--batch-size", "64"])

        return run

    def indexing(folder: Path) -> int:
        target = str(folder / "i.sse")
        code = command(["index", str(inputs.lines), target, "-m", str(inputs.model), "--quiet"])
        if code == 0:  # what a search finds is compared; Lance's files have random names
            hits = Index(target).search(texts(20, 11, 5), k=100)
            (folder / "hits.json").write_text(repr(hits))
        return code

    @one_line
    def exporting(folder: Path) -> None:
        sse.export(sse.load(inputs.model), folder / "out")

    def onnx(folder: Path) -> int:
        return command(["export", str(inputs.model), str(folder / "m.onnx"), "--force"])

    def sharding(folder: Path) -> int:
        given = [str(inputs.corpus), str(folder / "shards"), "--model", str(inputs.model)]
        return sharded([*given, "--quiet", "--workers=2"])

    sweep = inputs.root / "sweep.yaml"

    def sweeping(folder: Path) -> int:
        os.environ["SSE_CACHE"] = str(folder / "cache")  # an option would name the trials
        out = f"--out={folder / 'out'}"
        return sse.cli.sweep.run([f"--config={sweep}", out, "--jobs=2", "--threads=1"])

    found = [
        Subject(
            "train", training, ["run/checkpoints/last.ckpt", "run/checkpoints/best.ckpt",
            "run/metrics.json", "run/model/*.safetensors", "run/model/tokenizer.json",
            "run/model/*/*.safetensors"],
        ),
        Subject("cache", build, ["cache/*-*/*", "cache/tokenizers/*", "cache/sets/*"]),
        Subject("encode", encoding("o.parquet"), ["o.parquet"]),
        Subject("encode npy", encoding("o.npy"), ["o.npy"]),
        Subject("encode jsonl", encoding("o.jsonl"), ["o.jsonl"]),
        Subject("shards", sharding, ["shards/*"]),
        Subject("index", indexing, ["hits.json"]),
        Subject("export", exporting, ["out/*", "out/*/*"]),
        Subject("onnx", onnx, ["m.onnx"]),
        Subject("sweep", sweeping, ["out/results.parquet"]),
    ]  # fmt: skip
    return {subject.name: subject for subject in found}


def litter(folder: Path) -> list[str]:
    """Temporary files that were left behind."""
    return [str(p.relative_to(folder)) for p in folder.rglob("*.tmp") if "datasets" not in p.parts]
