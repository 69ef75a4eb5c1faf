"""The trainer's command line: what it reads, what it refuses, and how it names it."""

import importlib.util
import re
from dataclasses import is_dataclass
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
from lightning.pytorch.callbacks import Callback

from sse.common.errors import UserError
from sse.training import options as training_options
from sse.training.options import check, option_names, option_ranges, parse
from sse.training.run import main
from tests.helpers.training_runs import make_options, same, weights

ROOT = Path(__file__).parents[2]


def test_a_config_file_of_an_older_run_is_read_and_a_new_one_forgets_what_has_left(tmp_path):
    old = tmp_path / "config.yaml"
    old.write_text("# lightning.pytorch==2.6.6\nmodel: {optimizer: adam}\nprofile: false\nema: 0.5")
    options = parse(["--config", str(old), "--model.dim=64"])
    check(options)
    assert (options.config.ema, options.config.model.dim) == (0.5, 64)
    assert "profile:" not in options.recipe()
    assert "optimizer: adam" in options.recipe()


def test_one_command_line_leaves_nothing_behind_for_the_next():
    parse(["--model.dim=64", "--data.paths=[a.jsonl]", "--trainer.max_steps=3"])
    config = parse([]).config
    assert (config.model.dim, config.data.paths, config.trainer.max_steps) == (512, None, -1)


def test_the_seed_is_one_for_everything():
    config = parse(["--seed_everything=7"]).config
    assert (config.model.seed, config.data.seed) == (7, 7)
    assert "seed: 7" not in parse(["--seed_everything=7"]).recipe()


@pytest.mark.parametrize("name", ["sse_v1", "sse_v2"])
def test_the_published_recipe_is_whole_in_its_file(name):
    model = parse(["--config", str(ROOT / "experiments" / "configs" / f"{name}.yaml")]).config.model
    assert (model.norm, model.lr, model.norm_lr, model.start) == ("dyt", 0.1, None, None)
    assert (model.alpha_init, model.table_std, model.scale) == (0.5, 1.0, 20.0)


@pytest.mark.parametrize("rate", ["null", "0.02"])
def test_a_resumed_run_keeps_the_norms_rate(tmp_path, rate):
    options = parse([f"--model.norm_lr={rate}"])
    (tmp_path / "config.yaml").write_text(options.recipe())
    again = parse(["--resume", str(tmp_path)])
    check(again)
    assert again.config.model.norm_lr == options.config.model.norm_lr


def test_a_run_from_before_the_norm_had_a_rate_of_its_own_keeps_the_tables(tmp_path):
    (tmp_path / "config.yaml").write_text("model: {norm: dyt, lr: 0.1}")
    again = parse(["--resume", str(tmp_path)])
    check(again)
    assert (again.config.model.norm, again.config.model.norm_lr) == ("dyt", None)


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [(["--print_config"], ["  dim: 512", "ema: 0.0"]), (["--help"], ["--model.dim DIM"])],
)
def test_help_and_print_config_end_the_program(arguments, lines, capsys):
    with pytest.raises(SystemExit) as end:
        parse(arguments)
    assert not end.value.code
    text = capsys.readouterr().out
    assert all(line in text for line in lines)
    assert "profile:" not in text


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("`dim` is 0: give at least 1", "--model.dim is 0: give at least 1"),
        ("cap is 1: give 2", "--data.cap is 1: give 2"),
        ("lower `lr` or `scale`", "lower --model.lr or --model.scale"),
        ("`dims` has 600", "--model.matryoshka_dims has 600"),
        ("pairs.jsonl: line 3 is no JSON", "pairs.jsonl: line 3 is no JSON"),
        ("`nothing` is 3", "`nothing` is 3"),
    ],
)
def test_an_error_of_the_library_names_the_option(message, line):
    with pytest.raises(UserError) as error, option_names():
        raise UserError(message)
    assert str(error.value) == line


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--model.nrom", "dyt"], "no option --model.nrom (did you mean '--model.norm'?)"),
        (["--data.path=[x]"], "no option --data.path (did you mean '--data.paths'?)"),
        (["--model.dim", "abc"], "--model.dim is 'abc': give a whole number (1 to 65,536)"),
        (["--seed_everything", "abc"], "--seed_everything is 'abc': give true or false or a whole"),
        (["--model.lr", "abc"], "--model.lr is 'abc': give a number or null (more than 0)"),
        (["--data.cap"], "--data.cap has no value: give a whole number or null (at least 2)"),
        (["--trainer.precision", "99"], "--trainer.precision is '99': give 64 or 32 or 16"),
        (["--config", "nope.yaml"], "nope.yaml: no such file"),
        (["foo"], "'foo' stands behind no option"),
    ],
)
def test_a_mistake_on_the_command_line_is_said_in_plain_words(arguments, line):
    with pytest.raises(UserError) as error:
        parse(arguments)
    assert line in str(error.value)
    assert "class" not in str(error.value) and "Parser key" not in str(error.value)


def test_a_wrong_value_names_the_nearest(tmp_path):
    with pytest.raises(UserError, match="did you mean 'dyt'"):
        check(parse(["--model.norm=dty"]))


def test_help_lists_what_people_need_and_help_all_the_rest(capsys):
    texts = []
    training_options._parser.cache_clear()  # another test may have asked as experiments/train.py
    for option in ("--help", "--help-all"):
        with pytest.raises(SystemExit):
            parse([option])
        texts.append(capsys.readouterr().out)
    short, full = texts
    assert short.startswith("usage: sse train") and 20 <= short.count("\n  --") <= 30
    assert "--trainer.strategy" not in short and "--trainer.strategy" in full
    epochs = full.split("--trainer.max_epochs MAX_EPOCHS")[-1].split("--trainer.")[0]
    assert "600 steps" in epochs and "1000" not in epochs


def test_check_reads_no_data_and_makes_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check(parse(["--data.paths=[missing.jsonl]", "--out=run"]))
    assert not list(tmp_path.iterdir())


def test_the_script_takes_the_steps_of_sse_train(tmp_path):
    spec = importlib.util.spec_from_file_location("train", ROOT / "experiments" / "train.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    options = make_options(tmp_path)
    facts = [
        run([*options, "--trainer.max_steps=5", f"--out={tmp_path / name}"])
        for name, run in (("script", script.main), ("library", main))
    ]
    assert facts[0]["metrics"] == facts[1]["metrics"]
    assert same(weights(tmp_path / "script"), weights(tmp_path / "library"))
    files = [
        {file.relative_to(tmp_path / name) for file in (tmp_path / name).rglob("*.*")
         if "events" not in file.name and not file.name.startswith(".run.")}
        for name in ("script", "library")
    ]  # fmt: skip
    assert files[0] == files[1]


def leaves(kind):
    """The plain types within an annotation; the fields of a dataclass too."""
    if is_dataclass(kind):
        return set().union(*map(leaves, get_type_hints(kind).values()))
    return set().union(*map(leaves, get_args(kind))) if get_args(kind) else {kind}


def test_every_number_among_the_options_has_a_range():
    numeric = {
        action.dest
        for action in training_options._parser()._actions
        if leaves(getattr(action, "_typehint", action.type)) & {int, float}
        and not action.dest.endswith(".help")
    }
    elsewhere = {
        "trainer.max_time",  # hours and minutes
        "trainer.precision",  # a choice of names
        "data.sets",  # SetSpec's own checks
    }
    assert len(numeric) > 40
    assert numeric - elsewhere - set(option_ranges()) == set()


@pytest.mark.parametrize("name", sorted(option_ranges()))
def test_a_number_out_of_range_is_refused_by_its_option(name):
    if name in ("model.seed", "data.seed"):
        return  # linked to --seed_everything
    value = "[-2]" if "matryoshka" in name else ".inf" if name == "model.alpha_init" else "-2"
    with pytest.raises(UserError, match=rf"^--{re.escape(name)} is (-2|-2.0|inf): give "):
        check(parse([f"--{name}={value}"]))


@pytest.mark.parametrize(
    "arguments", [["--trainer.max_time=00:01:00:00"], ["--trainer.max_epochs=-1"]]
)
def test_a_schedule_without_an_end_is_refused(arguments):
    with pytest.raises(UserError, match="the schedule of the learning rate needs an end"):
        check(parse(arguments))
    check(parse([*arguments, "--trainer.max_steps=5"]))
    check(parse([*arguments, "--model.schedule=constant", "--model.warmup=0"]))


LAMBDA = "lightning.pytorch.callbacks.LambdaCallback"
UNTRUSTED = {
    "os.system": f"trainer: {{callbacks: [{{class_path: {LAMBDA}, init_args: {{x: os.system}}}}]}}",
    "subprocess.Popen": "trainer: {callbacks: [{class_path: subprocess.Popen}]}",
    "builtins.exec": "trainer.callbacks: [{class_path: X, init_args: {f: [builtins.exec]}}]",
    "more.yaml": "trainer: more.yaml",
}


@pytest.mark.parametrize("name", UNTRUSTED)
@pytest.mark.parametrize("way", ["--config", "--resume"])
def test_a_strangers_file_of_options_names_no_code(name, way, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more.yaml").write_text("max_steps: 1")
    (tmp_path / "config.yaml").write_text(UNTRUSTED[name])
    with pytest.raises(UserError, match=rf"config\.yaml names '{re.escape(name)}', and a file may"):
        parse([way, "." if way == "--resume" else "config.yaml"])


def test_a_file_of_options_may_name_lightnings_classes_and_what_the_command_line_names(tmp_path):
    path = tmp_path / "config.yaml"
    stop = "lightning.pytorch.callbacks.EarlyStopping"
    path.write_text(
        f"trainer: {{callbacks: [{{class_path: {stop}, init_args: {{monitor: val/ndcg}}}}]}}\n"
        "data: {paths: [os.path, a.jsonl]}"
    )
    callbacks = parse([f"--config={path}"]).trainer()["callbacks"]
    assert [type(callback).__name__ for callback in callbacks] == ["EarlyStopping"]
    own = f"{__name__}.Own"
    path.write_text(f"trainer: {{callbacks: [{{class_path: {own}}}]}}")
    with pytest.raises(UserError, match="names"):
        parse([f"--config={path}"])
    callback = parse([f"--config={path}", f"--trainer.callbacks={own}"]).trainer()["callbacks"]
    assert type(callback).__name__ == "Own"


class Own(Callback):
    """A callback of the user's own."""
