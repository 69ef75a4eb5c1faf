"""Files made to exhaust memory or time: python -m tests.faults.hostile.

Each case runs the real command in a forked child with 1 GB of address space beyond the start and
20 s of a core. It must end with the right result or in one line. It may hold 200 MB, and ten times
the file's own size.
"""

import argparse
import base64
import gzip
import json
import os
import resource
import struct
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["RUST_BACKTRACE"] = "0"

from .forked import Outcome, forked

ADDRESSES, SECONDS = 1 << 30, 20.0  # of a child, beyond its start
TIMES, SPARE = 10, 200_000_000  # what it may hold: times the size of the files, and bytes
VOCAB = {"[PAD]": 0, "[UNK]": 1, "red": 2, "##s": 3}
WORDPIECE = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
             "max_input_chars_per_word": 100, "vocab": VOCAB}  # fmt: skip
PARTS = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
         "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                        "strip_accents": None, "lowercase": True},
         "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": None, "decoder": None,
         "model": WORDPIECE}  # fmt: skip
Make = Callable[[Path], None]


def model(folder: Path, **files: bytes) -> None:
    """A whole model folder, with some files of its own."""
    table = tensors({"embedding.weight": ("F32", [4, 8], 0)}, struct.pack("<32f", *[1.0] * 32))
    given = {
        "tokenizer.json": json.dumps(PARTS).encode(),
        "modules.json": b'[{"idx": 0, "path": "", "type": "x.StaticEmbedding"}]',
        "model.safetensors": table,
    }
    for name, content in {**given, **files}.items():
        (folder / name).write_bytes(content)


def tensors(places: dict[str, tuple[str, list[int], int]], data: bytes) -> bytes:
    """A safetensors file: {name: (type, shape, first byte)}, all of four or two bytes a number."""
    header = {}
    for name, (kind, shape, start) in places.items():
        size = (2 if kind == "BF16" else 4) * (shape[0] * shape[1] if len(shape) == 2 else 1)
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, start + size]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def tokenizer(**parts: object) -> dict[str, bytes]:
    return {"tokenizer.json": json.dumps({**PARTS, **parts}).encode()}


def added(count: int) -> list[dict[str, object]]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return [{"id": 4 + i, "content": f"a{i}", **flags} for i in range(count)]


def model_cases() -> dict[str, Callable[[], dict[str, bytes]]]:
    """What stands in a hostile model folder, made when it is wanted."""
    replace = [{"type": "Replace", "pattern": {"String": "r"}, "content": "r" * 100}] * 5
    charsmap = struct.pack("<I", 4) + b"\0" * 4 + b"x" * 5000 + b"\0"
    views = {f"t{i}": ("BF16", [50_000, 50], 0) for i in range(8_000)}
    many = {f"t{i}": ("F32", [], 4 * i) for i in range(12_000)}
    axes = {"embedding.weight": {"dtype": "F32", "shape": [999_999_999] * 80_000,
                                 "data_offsets": [0, 4]}}  # fmt: skip
    gap = {**VOCAB, "far": 2**30}
    return {
        "tensors over the same bytes": lambda: {
            "model.safetensors": tensors(views, bytes(5_000_000))
        },
        "many tensors": lambda: {"model.safetensors": tensors(many, bytes(48_000))},
        "a shape of many axes": lambda: {
            "model.safetensors": struct.pack("<Q", len(json.dumps(axes)))
            + json.dumps(axes).encode()
            + bytes(4)
        },
        "a long prompt": lambda: {
            "config_sentence_transformers.json": json.dumps(
                {"prompts": {"q": "r" * 900_000}, "default_prompt_name": "q"}
            ).encode()
        },
        "small JSON of many values": lambda: {"modules.json": b"[" + b"{}," * 300_000 + b"{}]"},
        "large JSON of many values": lambda: {"modules.json": b"[" + b"{}," * 9_000_000 + b"{}]"},
        "tokenizer of many values": lambda: tokenizer(model={"x": [0] * 8_000_000}),
        "many added tokens": lambda: tokenizer(added_tokens=added(30_000)),
        "too many added tokens": lambda: tokenizer(added_tokens=added(200_000)),
        "a far token id": lambda: tokenizer(model=WORDPIECE | {"vocab": gap}),
        "a token id beyond 31 bits": lambda: tokenizer(
            model=WORDPIECE | {"vocab": VOCAB | {"red": 2**31 + 5}}
        ),
        "letters replaced again and again": lambda: tokenizer(
            normalizer={"type": "Sequence", "normalizers": replace}
        ),
        "long replacements": lambda: tokenizer(
            normalizer={
                "type": "Precompiled",
                "precompiled_charsmap": base64.b64encode(charsmap).decode(),
            }
        ),
        "a broken charsmap": lambda: tokenizer(
            normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}
        ),
        "a pre-tokenizer that panics": lambda: tokenizer(
            pre_tokenizer={"type": "FixedLength", "length": 0}
        ),
        "a regular expression without end": lambda: tokenizer(
            normalizer={"type": "Replace", "pattern": {"Regex": "(r|r|e|ed)*$x"}, "content": ""}
        ),
        "dropout": lambda: tokenizer(
            model={"type": "BPE", "dropout": 0.5, "vocab": VOCAB, "merges": []}
        ),
        "digests of one file by many names": lambda: {
            "sse_config.json": json.dumps(
                {"digests": {"./" * n + "modules.json": "0" for n in range(1, 900)}}
            ).encode()
        },
    }


def parquet(path: Path, nested: bool) -> None:
    """A kilobyte that unpacks to 200 GB, or to 400 million numbers in lists."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    text = pa.DictionaryArray.from_arrays(pa.array([0] * 400_000, pa.int32()), ["r" * 500_000])
    table = pa.table({"text": text})
    if nested:
        lists = pa.ListArray.from_arrays(
            pa.array(range(0, 11_000_001, 11_000), pa.int32()), pa.array([0] * 11_000_000)
        )
        table = pa.table({"text": ["red"] * 1_000, "id": lists})
    pq.write_table(table, path, compression="zstd")


def file_cases() -> dict[str, tuple[str, Callable[[Path], object]]]:
    """Files of texts: {case: (name, how it is made)}."""
    bomb = b'{"text":"a","x":[' + b"{}," * 60_000_000 + b"{}]}\n"
    small = b'{"text":"a","x":[' + b"{}," * 4_000_000 + b"{}]}\n"
    cells = b"text,x\n" + b",".join([b"r"] * 20_000_000)
    return {
        "gzipped JSON of many values": ("t.jsonl.gz", packed(bomb)),
        "JSON of many values": ("t.jsonl", lambda path: path.write_bytes(small)),
        "a gzipped line": ("t.txt.gz", packed(b"red " * 50_000_000)),
        "a gzipped word": ("t.txt.gz", packed(b"r" * 200_000_000)),
        "gzipped cells": ("t.csv.gz", packed(cells)),
        "a long text": ("t.txt", lambda path: path.write_bytes(b"red " * 5_000_000)),
        "a long word": ("t.txt", lambda path: path.write_bytes(b"r" * 20_000_000)),
        "an open quote": ("t.csv", lambda path: path.write_bytes(b'text\n"' + b"red\n" * 9**7)),
        "a parquet dictionary": ("t.parquet", partial(parquet, nested=False)),
        "parquet lists": ("lists.parquet", partial(parquet, nested=True)),
    }  # fmt: skip


def packed(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(gzip.compress(data, 6))


def command(source: Path, folder: Path, keep: bool) -> int:
    """Encode, and say on stderr how much memory that took."""
    from sse.cli.main import main

    before = _memory("VmRSS")
    resource.setrlimit(resource.RLIMIT_CPU, (int(SECONDS), int(SECONDS) + 1))
    more = ["--keep", "id"] if keep else []
    code = main(["encode", str(source), str(source.parent / "out.jsonl"), "-m", str(folder),
                 "--force", "--quiet", *more])  # fmt: skip
    spent = resource.getrusage(resource.RUSAGE_SELF)
    seconds = spent.ru_utime + spent.ru_stime
    sys.stderr.write(f"\nheld {_memory('VmHWM') - before} {seconds:.1f}\n")
    return code


def _memory(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def judge(outcome: Outcome, size: int) -> str:
    """What is wrong with an outcome; empty where nothing is."""
    held = [int(line.split()[1]) for line in outcome.errors.splitlines() if line[:5] == "held "]
    if outcome.code not in (0, 1, 2) or "Traceback" in outcome.errors or not held:
        return f"exit {outcome.code}: {outcome.errors[-600:]}"
    if outcome.code and sum(line[:7] == "error: " for line in outcome.errors.splitlines()) != 1:
        return f"no single line: {outcome.errors[-600:]}"
    if len(outcome.errors) > 20_000:
        return f"{len(outcome.errors):,} characters of messages"
    if held[0] > TIMES * size + SPARE:
        return f"held {held[0] / 1e6:,.0f} MB for {size / 1e6:,.2f} MB"
    return ""


def run(only: str = "") -> list[tuple[str, Outcome, str]]:
    """(case, its outcome, what is wrong) of each case whose name holds `only`."""
    import numpy  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    import sse.cli.encode  # noqa: F401  imported before the fork, so that it costs no case memory

    found = []
    with tempfile.TemporaryDirectory(prefix="sse-hostile-") as name:
        root = Path(name)
        good = root / "good"
        good.mkdir()
        model(good)
        lines = root / "lines.txt"
        lines.write_text("red reds in the red\n" * 1_500)
        for case, files in model_cases().items():
            if only in case:
                folder = root / "model"
                folder.mkdir(exist_ok=True)
                given = files()
                model(folder, **given)
                for rest in set(p.name for p in folder.iterdir()) - {
                    "tokenizer.json", "modules.json", "model.safetensors", *given
                }:  # fmt: skip
                    (folder / rest).unlink()
                size = sum(map(len, given.values()))
                found.append((case, *_tried(lines, folder, size)))
        for case, (file, make) in file_cases().items():
            if only in case:
                source = root / file
                make(source)
                found.append((case, *_tried(source, good, source.stat().st_size)))
    return found


def _tried(source: Path, folder: Path, size: int) -> tuple[Outcome, str]:
    keep = source.name == "lists.parquet"
    outcome = forked(lambda: command(source, folder, keep), memory=ADDRESSES, deadline=10 * SECONDS)
    return outcome, judge(outcome, size)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    options = parser.parse_args()
    results = run(options.only)
    for case, outcome, wrong in results:
        line = next((e for e in outcome.errors.splitlines() if e[:7] == "error: "), "encoded")
        held, _, seconds = outcome.errors.rpartition("held ")[2].strip().partition(" ")
        print(f"{case:<36} {seconds:>5} s {held:>12} B  {line[:110]}")
        if wrong:
            print(f"    WRONG: {wrong}")
    return 1 if any(wrong for *_, wrong in results) else 0


if __name__ == "__main__":
    sys.exit(main())
