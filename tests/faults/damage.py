"""Truncated files and flipped bits: the right result or one clear line, never another result.

| target      | read by                       | right is                                     |
|-------------|-------------------------------|----------------------------------------------|
| tables      | Encoder, sse.load             | the undamaged model's vectors                |
| index       | Index.search                  | the undamaged index's hits, for all queries  |
| token cache | the data module               | the undamaged cache, built again             |
| checkpoint  | --resume                      | the undisturbed run's weights                |
"""

import hashlib
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import sse
from sse.common.errors import one_line
from sse.model.quantise import write_compact
from sse.search.index import Index
from sse.serving.encoder import Encoder

from .forked import forked
from .kills import Tally
from .subjects import Inputs, Subject, texts

UNREAD = {"README.md", "config.json", "modules.json", ".lock"}


@dataclass
class Target:
    """Something that can be damaged: its files, and what is read out of it."""

    name: str
    folder: Path
    files: list[Path]
    read: Callable[[], bytes]
    prepare: Callable[[], None] = lambda: None


def targets(inputs: Inputs, found: dict[str, Subject], root: Path) -> list[Target]:
    """All of them, made once and undamaged."""
    sample = texts(60, 7, 12)

    def vectors(folder: Path) -> bytes:
        model = Encoder(folder)
        again = sse.load(folder, device="cpu").encode(sample[:5])
        return model.encode(sample).tobytes() + again.tobytes()

    made = [_model(inputs.model, root / "portable", vectors)]
    for rows in ("int8", "int4"):
        outcome = forked(partial(_compact, inputs.model, root / rows, rows))
        assert outcome.code == 0, outcome.errors
        made.append(_model(root / rows, root / rows, vectors))
    made.append(_index(inputs, root / "index"))
    cache = found["cache"]
    made.append(_subject(cache, root / "cache", cache.files))
    made.append(_subject(found["train"], root / "train", ["run/checkpoints/last.ckpt"], _unfinish))
    return made


def _compact(source: Path, target: Path, rows: str) -> None:
    write_compact(source, target, rows)


def damage(target: Target, times: int, seed: int) -> list[Tally]:
    """`times` flips and a quarter as many truncations."""
    generator = random.Random(f"{seed} {target.name}")
    flips, cuts = Tally("flipped bit", target.name), Tally("truncated", target.name)
    safe = target.folder.with_name(target.folder.name + ".safe")
    shutil.copytree(target.folder, safe, symlinks=True)
    expected = _digest(target)
    for number in range(times + max(1, times // 4)):
        tally = flips if number < times else cuts
        shutil.rmtree(target.folder)
        shutil.copytree(safe, target.folder, symlinks=True)
        path = generator.choice(target.files)
        content = bytearray(path.read_bytes())
        at = generator.randrange(len(content))
        if tally is flips:
            content[at] ^= 1 << generator.randrange(8)
        else:
            del content[at:]
        path.write_bytes(content)
        place = path.relative_to(target.folder)
        told = f"seed {seed}, {tally.fault} at {at} of {place}"
        _judge(target, expected, tally, told)
    return [flips, cuts]


def _digest(target: Target) -> str:
    place = target.folder.with_name(target.folder.name + ".digest")
    place.unlink(missing_ok=True)
    outcome = forked(lambda: _write_digest(target, place))
    assert outcome.code == 0, f"{target.name}, undamaged: {outcome.errors}"
    return place.read_text()


def _judge(target: Target, expected: str, tally: Tally, told: str) -> None:
    tally.times += 1
    place = target.folder.with_name(target.folder.name + ".digest")
    place.unlink(missing_ok=True)
    outcome = forked(lambda: _write_digest(target, place))
    if outcome.code == 0:
        if place.read_text() != expected:
            tally.fail("wrong", f"{told}: another result")
        return
    tally.hit += 1
    if outcome.one_line:
        tally.refused += 1
    else:
        tally.fail("unclear", f"{told}: {outcome.code} {outcome.errors[-280:]}")


def _write_digest(target: Target, place: Path) -> int:
    @one_line
    def work() -> None:
        target.prepare()
        place.write_text(hashlib.blake2b(target.read()).hexdigest())

    return work()


def _model(source: Path, folder: Path, read: Callable[[Path], bytes]) -> Target:
    if source != folder:
        shutil.copytree(source, folder)
    files = [p for p in folder.rglob("*") if p.is_file() and p.name not in UNREAD]
    name = f"model, {folder.name}"
    return Target(name, folder, files, lambda: read(folder))


def _index(inputs: Inputs, folder: Path) -> Target:
    from sse.cli.main import main as command

    folder.mkdir(parents=True)
    path = folder / "i.sse"
    lines = folder.with_name("some.jsonl")
    lines.write_text("".join(inputs.lines.read_text().splitlines(True)[:400]))
    given = ["index", str(lines), str(path), "-m", str(inputs.model), "--quiet"]
    assert forked(lambda: command(given)).code == 0

    def read() -> bytes:
        opened = Index(path, model=inputs.model)
        return repr(opened.search(texts(30, 11, 5), k=400)).encode()

    files = [p for p in path.rglob("*") if p.is_file() and p.name not in UNREAD]
    return Target("index", folder, files, read)


def _subject(
    subject: Subject,
    folder: Path,
    damaged: list[str],
    prepare: Callable[[Path], None] = lambda folder: None,
) -> Target:
    assert forked(lambda: subject.run(folder)).code == 0
    prepare(folder)
    files = [p for pattern in damaged for p in sorted(folder.glob(pattern)) if p.is_file()]
    files = [p for p in files if p.stat().st_size]

    def read() -> bytes:
        code = subject.run(folder)
        if code:
            raise SystemExit(code)
        return subject.result(folder).encode()

    return Target(subject.name, folder, files, read)


def _unfinish(folder: Path) -> None:
    """Leave of a finished run only what one that was killed has."""
    for path in (folder / "run" / "model", folder / "run" / "metrics.json"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
