"""Coverage-guided fuzzing of every reader: python -m tests.faults.fuzz --seconds 60.

Only UserError may come out: no other exception, no crash, no hang, no memory beyond a limit. Each
reader runs in a process of its own under atheris (libFuzzer), started from small valid files.
"""

import argparse
import contextlib
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from .readers import made_index, readers, seeds

ADDRESSES = 3 << 30  # bytes of address space beyond the start, where threads take much of it
MEMORY = 2048  # MB that may be held
SLOWEST = 20  # seconds for one input
MODULES = ("cli.encode", "data.pair_set", "documents.read", "evaluation.collection",
           "search.index", "serving.encoder", "sweeps.grid", "sweeps.results",
           "training.diagnostics.callback", "training.resume")  # fmt: skip


def fuzz_one(name: str, root: Path, arguments: list[str]) -> None:
    """Fuzz one reader in this process, for ever."""
    import importlib

    import atheris

    with atheris.instrument_imports(include=["sse"]):
        for module in MODULES:
            importlib.import_module(f"sse.{module}")
    from sse.common.errors import UserError

    read = readers(root)[name]
    if name.startswith(("index", "where")):
        made = made_index(root)
        for file in made.glob("passages.lance/data/*" if name == "index data" else "digests/*"):
            shutil.copy(file, arguments[0])
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = ADDRESSES + pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (most, most))

    def test(data: bytes) -> None:
        with contextlib.suppress(UserError):
            read(data)

    atheris.Setup([sys.argv[0], *arguments], test)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for all readers together")
    parser.add_argument("--only", nargs="+", choices=[*seeds()], help="names of readers")
    parser.add_argument("--folder", help="go on with its inputs, and keep what breaks a reader")
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
    root = Path(options.folder or tempfile.mkdtemp(prefix="sse-fuzz-"))
    seconds = max(5, options.seconds // len(names))
    broken = [name for name in names if not fuzz(name, root, seconds)]
    if not broken and not options.folder:
        shutil.rmtree(root)
    return 1 if broken else 0


def fuzz(name: str, root: Path, seconds: int) -> bool:
    """Fuzz one reader in a process of its own; whether nothing broke it."""
    corpus, kept = root / name / "corpus", root / "broken"
    corpus.mkdir(parents=True, exist_ok=True)
    kept.mkdir(exist_ok=True)
    for number, content in enumerate(seeds()[name]):
        (corpus / str(number)).write_bytes(content)
    command = [
        sys.executable, "-m", "tests.faults.fuzz", "--one", name, str(root / name), str(corpus),
        f"-max_total_time={seconds}", f"-timeout={SLOWEST}", "-max_len=4096",
        f"-rss_limit_mb={MEMORY}", f"-artifact_prefix={kept}/{name.replace(' ', '-')}-",
        "-print_final_stats=1", "-close_fd_mask=1",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    stats = [line.split()[-1] for line in done.stderr.splitlines() if "executed_units" in line]
    print(f"{name:<16} {stats[0] if stats else '?':>9} inputs, exit {done.returncode}", flush=True)
    if done.returncode:
        print("\n".join(done.stderr.splitlines()[-30:]), flush=True)
    return not done.returncode


if __name__ == "__main__":
    sys.exit(main())
