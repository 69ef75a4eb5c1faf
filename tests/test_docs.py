"""Every link of the documentation leads somewhere, and every option in it exists."""

import functools
import io
import re
import runpy
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [ROOT / "README.md", ROOT / "kernels/README.md", ROOT / "examples/README.md"]
    + list((ROOT / "docs").rglob("*.md"))
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```|^(?: {4}.*\n?)+", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"\bsse ([a-z]+)\b([^|;&\n]*)|experiments/(\w+\.py)([^|;&\n]*)")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w.-]*")


def names(path):
    """The address of each heading, as mkdocs and GitHub make it, and of each mkdocstrings entry."""
    text = path.read_text("utf-8")
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    slugs = [re.sub(r"[^\w\s-]", "", title.lower()).strip() for title in titles]
    return [re.sub(r"\s+", "-", slug) for slug in slugs] + re.findall(r"^::: (\S+)", text, re.M)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for target in LINK.findall(CODE.sub("", page.read_text("utf-8"))):
        if re.match(r"https?://", target):
            continue
        name, _, place = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{target}: no such file"
        assert not place or place in names(path), f"{target}: no such heading"


@functools.cache
def help_of(script, *arguments):
    """What SCRIPT ... --help prints; of the trainer every option."""
    text, before = io.StringIO(), sys.argv
    sys.argv = [script, *arguments, "--help-all" if script.endswith("/train.py") else "--help"]
    try:
        with redirect_stdout(text), redirect_stderr(text), pytest.raises(SystemExit):
            runpy.run_path(str(ROOT / script), run_name="__main__")
    finally:
        sys.argv = before
    return text.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_option_in_a_command_is_in_its_help(page):
    for block in CODE.findall(page.read_text("utf-8")):
        for name, options, script, more in COMMAND.findall(block.replace("\\\n", " ")):
            if script:
                text = help_of(f"experiments/{script}")
            elif name == "train":
                text = help_of("experiments/train.py")
            else:
                text = help_of("sse/cli/main.py", name)
            for option in OPTION.findall(options + more):
                known = option in OPTION.findall(text) or option.startswith("--grid.")
                assert known, f"{name or script} has no {option}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_option_of_the_trainer_in_a_sentence_exists(page):
    text = help_of("experiments/train.py")
    for option in OPTION.findall(page.read_text("utf-8")):
        if re.match(r"--(data|model|trainer|eval)\.", option):
            assert option in OPTION.findall(text), f"the trainer has no {option}"


@pytest.mark.parametrize("page", ["README.md", "docs/architecture.md"])
def test_the_map_names_every_package_and_no_other(page):
    there = {path.parent.name for path in (ROOT / "sse").glob("*/__init__.py")}
    row = re.compile(r"^(?:      (\w+)/ {2,}|\| `(\w+)` \| )", re.MULTILINE)
    assert {a or b for a, b in row.findall((ROOT / page).read_text("utf-8"))} == there
