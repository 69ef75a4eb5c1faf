"""Every reader of a stranger's file: what it reads, and small valid files to begin with."""

import contextlib
import gzip
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

Read = Callable[[bytes], object]
ROWS = [{"text": "red circle", "id": n} for n in range(3)]
BEIR = b'{"_id": "a", "title": "t", "text": "red"}\n'
QRELS = b"query-id\tcorpus-id\tscore\na\ta\t1\n"
DOCUMENTS = {
    ".txt": b"RED\n\nA red circle.\n\n1. Blue\n\nA blue one.\n",
    ".md": b"---\ntitle: T\n---\n# Red\n\n```py\nx = 1\n```\n\n| a | b |\n|---|---|\n| 1 | 2 |\n",
    ".rst": b"Red\n===\n\n.. note:: x\n\n   y\n\n::\n\n  code\n",
    ".adoc": b"= Red\n\n== Circle\n\n----\nx\n----\n",
    ".org": b"* Red\n#+BEGIN_SRC\nx\n#+END_SRC\n",
    ".tex": b"\\section{Red} a $x$ % no\n\\begin{a}b\\end{a}",
    ".html": b"<title>Red</title><h1>A</h1><p>b &amp; c<pre>d</pre><script>x</script>",
    ".ipynb": b'{"cells": [{"cell_type": "markdown", "source": ["# Red\\n", "a"]}]}',
    ".py": b'"""Red."""\n\ndef f():\n    """Blue."""\n',
    ".docx": None,
}
WORDS = {"[PAD]": 0, "[UNK]": 1, "red": 2, "##s": 3}
WORDPIECE = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
             "max_input_chars_per_word": 100, "vocab": WORDS}  # fmt: skip
TOKENIZER = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
             "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"},
             "post_processor": None, "decoder": None, "model": WORDPIECE}  # fmt: skip


def seeds() -> dict[str, list[bytes]]:
    """Valid inputs of each reader."""
    import numpy as np
    import pyarrow as pa
    from safetensors.numpy import save

    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    pairs = b'{"anchor": "red", "positive": "circle", "negative": ["a", "b"]}\n' * 2
    table = {"embedding.weight": np.ones((4, 8), np.float32)}
    dyt = {f"dyt.{name}": np.ones(8, np.float32) for name in ("alpha", "beta", "bias")}
    steps = {"step": [0], "side": ["all"], "length": ["all"], "quantity": ["loss"],
             "value": [1.0], "per_dim": pa.array([[1.0]], pa.list_(pa.float32()))}  # fmt: skip
    found = {
        "lines": [b"red\nblue\n", "é漢🎉\r\n".encode()],
        "jsonl": [lines, b'[{"text": "red"}]'],
        "jsonl.gz": [gzip.compress(lines)],
        "csv": [b'id,text\n1,"a ""b"", c"\n'],
        "tsv": [b"id\ttext\n1\ta\n"],
        "parquet": [_parquet(pa.table({"text": ["red", "blue"], "id": [1, 2]}))],
        "kept": [_parquet(pa.table({"text": ["red"], "id": [{"a": [1, 2]}]}))],
        "pairs jsonl": [pairs],
        "pairs csv": [b"query,document\nred,circle\nblue,square\n"],
        "corpus": [BEIR],
        "qrels": [QRELS, b"a\ta\t0\n"],
        "tokenizer": [json.dumps(TOKENIZER).encode()],
        "table": [save(table | dyt)],
        "int4": [bytes(4 * 4) + np.ones(4, "<f4").tobytes()],
        "config": [b'{"format": 1, "norm": "none", "dim": 8, "vocab_size": 4, "rows": "float32"}'],
        "modules": [b'[{"idx": 0, "path": "", "type": "x.StaticEmbedding"}]'],
        "prompts": [b'{"prompts": {"query": "red: "}, "default_prompt_name": "query"}'],
        "model2vec": [b'{"model_type": "model2vec", "normalize": true, "max_length": 9}'],
        "run config": [b"model: {dim: 8}\ntrainer:\n  callbacks: [{class_path: os.system}]\n"],
        "checkpoint": [_checkpoint()],
        "diagnostics": [_parquet(pa.table(steps))],
        "results": [_parquet(pa.table({"trial": ["a"]}).replace_schema_metadata({"x": "1"}))],
        "trial": [b'{"trial": "a", "order": 1, "times": {}, "versions": {}, "metrics": {}}'],
        "sweep": [b"options: {model.dim: 8}\ngrid:\n  model.norm: [none, dyt]\n"],
        "index digests": [b'{"models/x": "0"}'],
        "index data": [],
        "where": [b"year > 2020", b"path LIKE 'a%' AND text = 'b'"],
    }
    return found | {f"document {kind[1:]}": [data or _docx()] for kind, data in DOCUMENTS.items()}


def readers(root: Path) -> dict[str, Read]:
    """What takes each kind of bytes; files go into `root`."""
    forms = ("txt", "jsonl", "jsonl.gz", "csv", "tsv", "parquet")
    names = {"lines" if form == "txt" else form: form for form in forms}
    return {
        **{name: _rows(root / f"t.{form}") for name, form in names.items()},
        "kept": _kept(root / "kept"),
        "pairs jsonl": _pairs(root / "pairs.jsonl"),
        "pairs csv": _pairs(root / "pairs.csv"),
        "corpus": _beir(root / "beir", "corpus.jsonl"),
        "qrels": _beir(root / "beir", "qrels/test.tsv"),
        **_models(root),
        **_runs(root),
        "index digests": _index(root, "digests"),
        "index data": _index(root, "data"),
        "where": _where(root),
        **{f"document {kind[1:]}": _document(root / f"d{kind}") for kind in DOCUMENTS},
    }


def _rows(path: Path) -> Read:
    def read(data: bytes) -> object:
        from sse.text.records import read_records

        return [row.text for row in read_records(str(_write(path, data)))]

    return read


def _kept(folder: Path) -> Read:
    """The command with a kept column, whose types follow the file's."""

    def read(data: bytes) -> object:
        from sse.cli.encode import encode
        from sse.common.arguments import Parser

        model_folder(folder / "model")
        parser = Parser()
        run = encode(parser)
        given = [_write(folder / "t.parquet", data), folder / "o.parquet"]
        options = ["-m", folder / "model", "--keep", "id", "--force", "--quiet", "--no-fast"]
        return run(parser.parse_args(list(map(str, [*given, *options]))))

    return read


def _pairs(path: Path) -> Read:
    def read(data: bytes) -> object:
        import datasets

        from sse.data.pair_set import load_sets

        datasets.disable_progress_bars()
        datasets.config.HF_DATASETS_CACHE = str(path.parent / "cache")
        try:
            return len(load_sets([str(_write(path, data))], say=str)[0])
        finally:
            shutil.rmtree(path.parent / "cache", ignore_errors=True)

    return read


def _beir(folder: Path, name: str) -> Read:
    def read(data: bytes) -> object:
        from sse.evaluation.collection import load_beir

        for file in ("corpus.jsonl", "queries.jsonl"):
            _write(folder / file, BEIR)
        _write(folder / "qrels" / "test.tsv", QRELS)
        _write(folder / name, data)
        return load_beir(folder)

    return read


def model_folder(folder: Path, **files: bytes) -> Path:
    """A whole model folder, with some files of its own; `__` in a name stands for a dot."""
    given = seeds()
    known = {"tokenizer.json": given["tokenizer"][0], "model.safetensors": given["table"][0]}
    known |= {key.replace("__", "."): value for key, value in files.items()}
    for name, content in known.items():
        _write(folder / name, content)
    return folder


def _models(root: Path) -> dict[str, Read]:
    """The files of a model folder, each beside whole others."""
    import numpy as np
    from safetensors.numpy import save

    given = seeds()
    rows = np.ones((4, 8), np.float32)
    norm = {f"dyt.{name}": rows[0] for name in ("alpha", "beta", "bias")}
    alone, named = save({"embedding.weight": rows}), save({"embeddings": rows})

    def of(name: str, **others: bytes) -> Read:
        folder = root / "model"

        def read(data: bytes) -> object:
            from sse.serving.encoder import Encoder

            _write(model_folder(folder, **others) / name, data)
            return Encoder(folder, fast=False).encode(["red reds 漢 " * 3, ""])

        return read

    return {
        "tokenizer": of("tokenizer.json"),
        "table": of("model.safetensors"),
        "int4": of("embedding.q4_k_m.bin", model_rest__safetensors=save(norm)),
        "config": of("sse_config.json"),
        "modules": of("modules.json", model__safetensors=alone),
        "prompts": of("config_sentence_transformers.json", modules__json=given["modules"][0]),
        "model2vec": of("config.json", model__safetensors=named),
    }


def _runs(root: Path) -> dict[str, Read]:
    """The files of a run and of a sweep."""

    def run_config(data: bytes) -> object:
        from sse.common.trusted_config import check_config
        from sse.training.options import check, parse

        path = _write(root / "run" / "config.yaml", data)
        check_config(path)
        return check(parse(["--config", str(path)]))

    def checkpoint(data: bytes) -> object:
        from sse.training.resume import find_checkpoint

        _write(root / "run" / "checkpoints" / "last.ckpt", data)
        return find_checkpoint(str(root / "run"))

    def diagnostics(data: bytes) -> object:
        from sse.training.diagnostics.callback import read_rows

        return read_rows(_write(root / "run" / "diagnostics.parquet", data))

    def results(data: bytes) -> object:
        from sse.sweeps.results import read_results

        _write(root / "results" / "results.parquet", data)
        return read_results(root / "results")

    def trial(data: bytes) -> object:
        from sse.sweeps.results import collect

        _write(root / "swept" / "trials" / "a" / "trial.json", data)
        return collect(root / "swept")

    def sweep(data: bytes) -> object:
        from sse.sweeps.grid import read_sweep

        return read_sweep(str(_write(root / "sweep.yaml", data)))

    return {"run config": run_config, "checkpoint": checkpoint, "diagnostics": diagnostics,
            "results": results, "trial": trial, "sweep": sweep}  # fmt: skip


def made_index(root: Path) -> Path:
    """A small index, made once."""
    from sse.cli.main import main

    place = root / "notes.sse"
    if not place.exists():
        rows = _write(root / "rows.jsonl", b'{"text": "red reds"}\n{"text": "reds"}\n')
        model = model_folder(root / "indexed")
        assert main(["index", str(rows), str(place), "-m", str(model), "--quiet"]) == 0
    return place


def _index(root: Path, part: str) -> Read:
    """An index with one file replaced; whoever sends it has made the digests fit."""

    def read(data: bytes) -> object:
        from sse.search.index import Index

        whole, broken = made_index(root), root / "broken.sse"
        if not broken.exists():
            shutil.copytree(whole, broken)
        inner = "passages.lance/data/*" if part == "data" else f"{part}/*"
        for file in broken.glob(inner):
            _write(file, data)
        return Index(broken, fast=False, verify=part == "digests").search(["red"])

    return read


def _where(root: Path) -> Read:
    """The condition of a search, which the server takes from anybody."""

    def read(data: bytes) -> object:
        from sse.search.index import Index

        text = data.decode("utf-8", "replace")
        opened = Index(made_index(root), fast=False)
        return opened.search([text], mode="keyword"), opened.search(["red"], where=text)

    return read


def _document(path: Path) -> Read:
    def read(data: bytes) -> object:
        from sse.documents.left_out import LeftOut
        from sse.documents.read import read_documents

        return list(read_documents(_write(path, data), LeftOut()))

    return read


def _parquet(table: object) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def _checkpoint() -> bytes:
    import torch

    place = io.BytesIO()
    torch.save({"state_dict": {"x": torch.ones(2)}, "optimizer_states": []}, place)
    return place.getvalue()


def _docx() -> bytes:
    """The least of a Word document."""
    place, word = io.BytesIO(), "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    with zipfile.ZipFile(place, "w") as archive:
        types = '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>'
        archive.writestr("[Content_Types].xml", types)
        body = "<w:body><w:p><w:r><w:t>red</w:t></w:r></w:p></w:body>"
        archive.writestr("word/document.xml", f'<w:document xmlns:w="{word}">{body}</w:document>')
    return place.getvalue()


def _write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        path.unlink()  # a new file: another may be mapped
    path.write_bytes(data)
    return path
