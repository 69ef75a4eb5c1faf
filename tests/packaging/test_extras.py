"""What needs an extra that is not installed says which one, in one line."""

import functools
import subprocess
import sys
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import sse
from sse.common.errors import EXTRAS, one_line

ROOT = Path(__file__).parents[2]
# As in an installation of the core, whose huggingface_hub brings the two that are left out.
BLOCK = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in {sorted(EXTRAS.keys() - {"fsspec", "yaml"})}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""


def core(code, *arguments, cwd=ROOT):
    """A process in which no library of an extra can be imported."""
    return subprocess.run(
        [sys.executable, "-c", f"{BLOCK}\n{code}", *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd,
    )  # fmt: skip


def command(*arguments):
    return core("from sse.cli.main import main; sys.exit(main(sys.argv[1:]))", *arguments)


def assert_names(done, extra, code=2):
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert f"pip install 'stable-static-embedding[{extra}]'" in lines[0]
    assert done.returncode == code


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    return sse.export(sse.SSE(tokenizer, 32, seed=0), tmp_path_factory.mktemp("model") / "model")


distributions_of = functools.cache(packages_distributions)  # it reads every package's files


@pytest.mark.parametrize("name", EXTRAS)
def test_the_extra_of_a_library_installs_it(name):
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = project["optional-dependencies"][EXTRAS[name]]
    distributions = distributions_of().get(name, [name])
    assert any(
        requirement.lower().startswith(distribution.lower())
        for requirement in requirements
        for distribution in distributions
    )


def test_training_names_its_extra():
    assert_names(command("train", "--help"), "train")


def test_evaluating_names_its_extra(folder):
    assert_names(command("evaluate", folder, "--nanobeir"), "train")


@pytest.mark.parametrize("target, extra", [("portable", "train"), ("model.onnx", "onnx")])
def test_exporting_names_its_extra(folder, tmp_path, target, extra):
    assert_names(command("export", folder, tmp_path / target), extra)
    assert not list(tmp_path.iterdir())


def test_smaller_rows_need_no_extra(folder, tmp_path):
    done = command("export", folder, tmp_path / "small", "--rows", "int8", "--dim", 16)
    assert done.returncode == 0, done.stderr
    assert sse.Encoder(tmp_path / "small").dim == 16


def test_indexing_and_searching_name_their_extra(folder, tmp_path):
    (tmp_path / "notes.txt").write_text("one note")
    index = tmp_path / "notes.sse"
    assert_names(command("index", tmp_path / "notes.txt", index, "-m", folder), "search")
    assert not index.exists()
    assert_names(command("search", index, "a note"), "search")


@pytest.mark.parametrize("name", ["train", "evaluate", "sweep", "compare", "encode_corpus"])
def test_the_scripts_name_their_extra(name, folder, tmp_path):
    arguments = {
        "train": [],
        "evaluate": [folder, "--nanobeir"],
        "sweep": ["--config", ROOT / "experiments/configs/sweeps/quick.yaml", "--out", tmp_path],
        "compare": [tmp_path, "--by", "model.norm", "--reference", "none"],
        "encode_corpus": [tmp_path, tmp_path / "out", "--model", folder],
    }[name]
    run = f"import runpy; runpy.run_path('experiments/{name}.py', run_name='__main__')"
    assert_names(core(run, *arguments), "cluster" if name == "encode_corpus" else "train")


@pytest.mark.parametrize("name", ["SSE", "SSEModel", "export", "load"])
def test_a_name_of_the_package_names_its_extra(name):
    done = core(f"\ntry:\n  from sse import {name}\nexcept ImportError as e:\n  sys.exit(str(e))")
    assert_names(done, "train", 1)


def test_another_missing_module_keeps_its_traceback():
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        one_line(import_module)("no_such_module")
