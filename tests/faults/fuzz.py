"""Coverage-guided fuzzing of every reader: python -m tests.faults.fuzz --seconds 60.

Only UserError may come out: no other exception, no crash, no hang, no memory beyond a limit. Each
reader runs in a process of its own under atheris (libFuzzer), started from small valid files.
"""

import argparse
import contextlib
import gzip
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

MEMORY = 3 << 30  # bytes of address space
SLOWEST = 20  # seconds for one input
ROWS = [{"text": "red circle", "id": n} for n in range(3)]


def seeds() -> dict[str, list[bytes]]:
    """Valid inputs of each reader."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from safetensors.numpy import save

    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["red", "blue"], "id": [1, 2]}), sink)
    beir = b'{"_id": "a", "title": "t", "text": "red"}\n'
    vocab = {"[PAD]": 0, "[UNK]": 1, "red": 2, "##s": 3}
    model = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
             "max_input_chars_per_word": 100, "vocab": vocab}  # fmt: skip
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
                 "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"},
                 "post_processor": None, "decoder": None, "model": model}  # fmt: skip
    table = {"embedding.weight": np.ones((4, 8), np.float32)}
    dyt = {f"dyt.{name}": np.ones(8, np.float32) for name in ("alpha", "beta", "bias")}
    config = {"format": 1, "norm": "none", "dim": 8, "vocab_size": 4, "rows": "float32"}
    return {
        "lines": [b"red\nblue\n", "é漢🎉\r\n".encode()],
        "jsonl": [lines],
        "jsonl.gz": [gzip.compress(lines)],
        "csv": [b'id,text\n1,"a ""b"", c"\n'],
        "parquet": [sink.getvalue().to_pybytes()],
        "corpus": [beir],
        "qrels": [b"query-id\tcorpus-id\tscore\na\ta\t1\n", b"a\ta\t0\n"],
        "tokenizer": [json.dumps(tokenizer).encode()],
        "table": [save(table | dyt)],
        "int4": [bytes(4 * 4) + np.ones(4, "<f4").tobytes()],
        "config": [json.dumps(config).encode()],
        "modules": [b'[{"idx": 0, "path": "", "type": "x.StaticEmbedding"}]'],
    }


def readers(root: Path) -> dict[str, Callable[[bytes], object]]:
    """What takes each kind of bytes."""
    from sse.evaluation.collection import load_beir
    from sse.serving.encoder import Encoder
    from sse.text.records import read_records

    given = seeds()

    def rows(name: str) -> Callable[[bytes], object]:
        def read(data: bytes) -> object:
            path = _write(root / name, data)
            return [row.text for row in read_records(str(path))]

        return read

    def beir(name: str) -> Callable[[bytes], object]:
        def read(data: bytes) -> object:
            for file in ("corpus.jsonl", "queries.jsonl"):
                _write(root / "beir" / file, given["corpus"][0])
            _write(root / "beir" / "qrels" / "test.tsv", given["qrels"][0])
            _write(root / "beir" / name, data)
            return load_beir(root / "beir")

        return read

    def model(name: str, **more: bytes) -> Callable[[bytes], object]:
        files = {"tokenizer.json": given["tokenizer"][0], "model.safetensors": given["table"][0]}
        files |= {key.replace("__", "."): value for key, value in more.items()}

        def read(data: bytes) -> object:
            for file, content in files.items():
                _write(root / "model" / file, content)
            _write(root / "model" / name, data)
            return Encoder(root / "model", fast=False).encode(["red reds 漢 " * 3, ""])

        return read

    from safetensors.numpy import load, save

    whole = load(given["table"][0])
    rest = save({name: value for name, value in whole.items() if name.startswith("dyt")})
    alone = save({"embedding.weight": whole["embedding.weight"]})
    return {
        "lines": rows("t.txt"), "jsonl": rows("t.jsonl"), "jsonl.gz": rows("t.jsonl.gz"),
        "csv": rows("t.csv"), "parquet": rows("t.parquet"),
        "corpus": beir("corpus.jsonl"), "qrels": beir("qrels/test.tsv"),
        "tokenizer": model("tokenizer.json"), "table": model("model.safetensors"),
        "int4": model("embedding.q4_k_m.bin", model_rest__safetensors=rest),
        "config": model("sse_config.json"),
        "modules": model("modules.json", model__safetensors=alone),
    }  # fmt: skip


def _write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def fuzz_one(name: str, root: Path, arguments: list[str]) -> None:
    """Fuzz one reader in this process, for ever."""
    import atheris

    with atheris.instrument_imports(include=["sse"]):
        import sse.evaluation.collection
        import sse.serving.encoder
        import sse.text.records  # noqa: F401
    from sse.common.errors import UserError

    read = readers(root)[name]
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    def test(data: bytes) -> None:
        with contextlib.suppress(UserError):
            read(data)

    atheris.Setup([sys.argv[0], *arguments], test)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for all readers together")
    parser.add_argument("--only", nargs="+", help="names of readers")
    parser.add_argument("--keep", metavar="DIR", help="where inputs that break a reader go")
    parser.add_argument("--one", nargs=2, metavar=("READER", "DIR"), help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args()
    if options.one:
        fuzz_one(options.one[0], Path(options.one[1]), rest)
        return 0
    try:
        import atheris  # noqa: F401
    except ImportError:
        print("atheris is not installed: pip install atheris")
        return 0
    names = options.only or list(seeds())
    root = Path(tempfile.mkdtemp(prefix="sse-fuzz-"))
    kept = Path(options.keep or root / "broken")
    kept.mkdir(parents=True, exist_ok=True)
    bad = 0
    for name in names:
        corpus = root / name / "corpus"
        for number, content in enumerate(seeds()[name]):
            _write(corpus / str(number), content)
        most = max(5, options.seconds // len(names))
        command = [
            sys.executable, "-m", "tests.faults.fuzz", "--one", name, str(root / name), str(corpus),
            f"-max_total_time={most}", f"-timeout={SLOWEST}", "-max_len=4096", "-rss_limit_mb=2048",
            f"-artifact_prefix={kept}/{name}-", "-print_final_stats=1", "-close_fd_mask=1",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        stats = [line.split()[-1] for line in done.stderr.splitlines() if "executed_units" in line]
        print(f"{name:<10} {stats[0] if stats else '?':>9} inputs, exit {done.returncode}")
        if done.returncode:
            bad += 1
            print("\n".join(done.stderr.splitlines()[-30:]))
    if not bad:
        shutil.rmtree(root)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
