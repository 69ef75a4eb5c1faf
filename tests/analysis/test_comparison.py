"""Variants are compared over seeds and queries; what does not fit is named in one line."""

import itertools
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sse.analysis.comparison import compare, summarise
from sse.analysis.comparison_table import by_collection, details, to_markdown
from sse.analysis.selection import HELD_OUT, label, select
from sse.analysis.statistics import t_interval
from sse.cli.compare import run
from sse.common.errors import UserError
from sse.sweeps.results import KEY, VERSION

QUERIES = {"first": 40, "second": 90}


def sweep(norms=("none", "dyt"), sizes=(100,), seeds=3, shift=None, seed=0, dims=(32, 8)):
    """A results table as `read_results` gives it."""
    rng = np.random.default_rng(seed)
    base = {name: rng.random(n) * 0.4 + 0.3 for name, n in QUERIES.items()}
    rows = []
    for norm, size, s in itertools.product(norms, sizes, range(seeds)):
        effect = (shift or {}).get(norm, 0.0)
        for (name, scores), dim in itertools.product(base.items(), dims):
            scores = scores + effect + rng.normal(0, 0.002, len(scores)) - 1 / dim
            rows.append(
                {"trial": f"{norm}-{size}-{s}", "model.norm": norm, "data.pairs": size,
                 "seed_everything": s, "model.seed": s, "model.lr": 0.1, "collection": name,
                 "dim": dim, "ndcg@10": scores.mean(), "query_ndcg@10": scores.astype(np.float32),
                 "queries": name, "mrr@10": scores.mean() / 2}
            )  # fmt: skip
    return pd.DataFrame(rows)


def test_summary_is_the_t_interval_of_the_mean_over_collections():
    table = sweep()
    found = summarise(table, ["model.norm"], dims=[32])
    assert list(found["collection"]) == ["first", "second", "mean"] * 2
    part = table[(table["model.norm"] == "dyt") & (table["dim"] == 32)]
    e = t_interval(part.groupby("seed_everything")["ndcg@10"].mean())
    row = found[(found["model.norm"] == "dyt") & (found["collection"] == "mean")].iloc[0]
    assert (row["mean"], row["low"], row["high"], row["n"]) == pytest.approx(
        (e.mean, e.low, e.high, 3)
    )


def test_held_out_pairs_stand_aside_unless_alone_or_asked_for():
    table = sweep()
    table.loc[table["collection"] == "second", "collection"] = HELD_OUT
    assert set(summarise(table, ["model.norm"])["collection"]) == {"first", "mean"}
    asked = summarise(table, ["model.norm"], collections=[HELD_OUT])
    alone = summarise(table[table["collection"] == HELD_OUT], ["model.norm"])
    assert set(asked["collection"]) == set(alone["collection"]) == {HELD_OUT, "mean"}


def test_comparison_pairs_seeds_and_queries():
    table = sweep(shift={"dyt": 0.02}, sizes=(100, 1000))
    found = compare(table, "model.norm", "none", within=["data.pairs"])
    assert len(found) == 4 and set(found["level"]) == {"dyt"}
    one = found[(found["data.pairs"] == 1000) & (found["dim"] == 8)].iloc[0]
    part = table[(table["data.pairs"] == 1000) & (table["dim"] == 8)].set_index("model.norm")
    by_seed = part.groupby(["model.norm", "seed_everything"])["ndcg@10"].mean()
    e = t_interval((by_seed["dyt"] - by_seed["none"]).to_numpy())
    assert (one["difference"], one["low"], one["high"]) == pytest.approx(
        (e.mean, e.low, e.high), abs=1e-6
    )
    assert (found["p_holm"] >= found["p"]).all() and not found["noise"].any()
    assert one["better"] > 0.99 and one["queries"] == 130 and one["n"] == 3


def test_equal_levels_differ_by_noise_only_and_the_table_says_so():
    found = compare(sweep(norms=("none", "dyt", "rmsnorm")), "model.norm", "none")
    assert found["noise"].all()
    text = to_markdown(summarise(sweep(), ["model.norm"]), found, by="model.norm")
    assert "**+" not in text and "**−" not in text and text.count("within noise") == 1 + 4


def test_a_wide_seed_interval_is_noise_even_where_p_is_small():
    table = sweep(seeds=2, dims=(32,))
    for i, row in table[table["model.norm"] == "dyt"].iterrows():
        shift = 0.01 if row["seed_everything"] else 0.03
        table.at[i, "query_ndcg@10"] = row["query_ndcg@10"] + np.float32(shift)
    one = compare(table, "model.norm", "none").iloc[0]
    assert one["low"] < 0 < one["high"] and one["noise"]


def test_table_for_a_paper():
    table = sweep(shift={"dyt": 0.02}, sizes=(1000, 100))
    chosen = {"dims": [32], "where": {"model.lr": "0.1"}}
    found = compare(table, "model.norm", "none", within=["data.pairs"], **chosen)
    summary = summarise(table, ["model.norm", "data.pairs"], **chosen)
    text = to_markdown(summary, found, by="model.norm", within="data.pairs")
    lines = text.splitlines()
    assert (
        lines[2] == "| model.norm, by data.pairs | 100 | 1000 |"
        and lines[3] == "| --- | ---: | ---: |"
    )
    assert [line.split(" |")[0] for line in lines[4:]] == ["| none", "| dyt", "| dyt − none"]
    row = found[found["data.pairs"] == 100].iloc[0]
    assert lines[6].split(" | ")[1] == f"**{row['difference']:+.4f}** (p < .001)"
    assert "n = 3 seeds" in lines[0] and "mean over 2 collections (first, second)" in lines[0]
    assert "Holm-corrected over the 2 shown" in lines[0]
    assert len(details(found, ["data.pairs"]).splitlines()) == 2 + 2
    assert len(by_collection(summary, ["model.norm", "data.pairs"]).splitlines()) == 2 + 4 * 3


def test_one_seed_is_said_and_decides_nothing():
    table = sweep(seeds=1, shift={"dyt": 0.2})
    found = compare(table, "model.norm", "none")
    assert found["noise"].all() and found["p"].isna().all()
    text = to_markdown(summarise(table, ["model.norm"]), found, by="model.norm")
    assert "n = 1 has no interval" in text and "1 seed: undecided" in text and "nan" not in text
    assert "none (1 seed)" in details(found) and "nan" not in details(found)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda t: compare(t, "model.nrom", "none"), "no option 'model.nrom' in the results; what "
         "differs among trials is model.norm, data.pairs"),
        (lambda t: compare(t, "model.norm", "relu", where={"data.pairs": "100"}),
         "model.norm has no level 'relu' in the results: choose one of none, dyt"),
        (lambda t: compare(t, "model.norm", "none"), "trials none-100-0, none-1000-0 share seed "
         "and model.norm: not one trial per seed"),
        (lambda t: summarise(t, ["model.norm"], "ndcg@11"), "unknown metric 'ndcg@11'"),
        (lambda t: summarise(t, ["model.norm"], dims=[64]), "no dim 64 in the results: choose "
         "from 32, 8"),
        (lambda t: summarise(t, ["model.norm"], collections=["third"]), "no collection 'third'"),
        (lambda t: compare(t, "model.norm", "none", where={"data.pairs": "7"}),
         "data.pairs has no level '7'"),
        (lambda t: compare(t, "model.norm", "none", "mrr@10", where={"data.pairs": "100"}),
         "no per-query scores of mrr@10"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_one_line(call, says):
    with pytest.raises(UserError) as raised:
        call(sweep(sizes=(100, 1000)))
    assert says in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("lacking", ["none", "dyt"])
def test_a_missing_trial_is_named_with_the_command_that_mends_it(lacking):
    table = sweep(sizes=(100, 1000))
    table = table[table["trial"] != f"{lacking}-1000-2"]
    with pytest.raises(UserError) as raised:
        compare(table, "model.norm", "none", within=["data.pairs"])
    message = str(raised.value)
    assert f"missing trial: model.norm={lacking}, data.pairs=1000 has no seed 2" in message
    assert "experiments/sweep.py" in message


def test_a_missing_collection_is_named():
    table = sweep()
    gone = (table["trial"] == "dyt-100-1") & (table["collection"] == "second")
    for call in (
        lambda: compare(table[~gone], "model.norm", "none"),
        lambda: summarise(table[~gone], ["model.norm"]),
    ):
        with pytest.raises(UserError, match="missing trial: .*dyt.* second"):
            call()


def test_a_reference_without_trials_at_one_size_is_missing_too():
    table = sweep(sizes=(100, 1000))
    table = table[(table["model.norm"] == "dyt") | (table["data.pairs"] == 100)]
    with pytest.raises(UserError, match="missing trial: model.norm=none, data.pairs=1000"):
        compare(table, "model.norm", "none", within=["data.pairs"])


def test_unequal_queries_are_not_paired():
    table = sweep()
    other = (table["trial"] == "dyt-100-1") & (table["collection"] == "second")
    table.loc[other, "queries"] = "others"
    with pytest.raises(UserError, match="second: trials .* different queries"):
        compare(table, "model.norm", "none")


def test_levels_are_named_as_the_command_line_writes_them():
    values = [None, float("nan"), True, 100000.0, np.int64(3), 0.5, "dyt"]
    assert [label(v) for v in values] == ["null", "null", "true", "100000", "3", "0.5", "dyt"]
    table = sweep(sizes=(1000,))
    assert len(select(table, ["model.norm"], "ndcg@10", where={"data.pairs": "1e3"})) == len(table)


def test_an_option_left_at_null_is_one_level():
    table = sweep(sizes=(1000,)).assign(**{"model.norm_lr": np.nan})
    table.loc[table["model.norm"] == "dyt", "model.norm_lr"] = 0.01
    summary = summarise(table, ["model.norm_lr"])
    differences = compare(table, "model.norm_lr", "null")
    text = to_markdown(summary, differences, by="model.norm_lr")
    rows = [line.split(" | ")[0] for line in text.split("\n") if line.startswith("| ")]
    assert rows[2:] == ["| null", "| 0.01", "| 0.01 − null"] and "–" not in text


@pytest.fixture
def folder(tmp_path):
    """A sweep's folder: two norms, two sizes, three seeds; one trial not finished."""
    table = pa.Table.from_pandas(sweep(sizes=(100, 1000), shift={"dyt": 0.02}))
    pq.write_table(table.replace_schema_metadata({KEY: VERSION}), tmp_path / "results.parquet")
    trials = [{"trial": name} for name in (*dict.fromkeys(table["trial"].to_pylist()), "late")]
    (tmp_path / "sweep.json").write_text(json.dumps({"trials": trials}))
    return str(tmp_path)


NORMS = ("--by=model.norm", "--reference=none")


def test_the_command_prints_both_tables(folder, capsys):
    assert run([folder, *NORMS, "--within=data.pairs", "--dim=32", "--each"]) == 0
    output = capsys.readouterr()
    assert "| dyt − none | **+0.0" in output.out and "95% over seeds (t)" in output.out
    assert output.out.count("| first |") == 4
    assert "1 of the sweep's trials are not in" in output.err and "the first late" in output.err
    one = [folder, *NORMS, "--where=data.pairs=100", "--collections=second", "--dim=32,8"]
    assert run(one) == 0 and "nDCG@10, second; n = 3 seeds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            (*NORMS, "--within=data.pairs"),
            "--within data.pairs fills the columns: choose one --dim",
        ),
        ((*NORMS, "--dim=big"), "--dim big: give whole numbers"),
        ((*NORMS, "--where=data.pairs"), "--where data.pairs: give OPTION=VALUE"),
        (NORMS, "what differs among trials is data.pairs"),
        (("--by=model.norm",), "--reference"),
    ],
)
def test_the_commands_mistakes_are_one_line(folder, arguments, says, capsys):
    assert run([folder, *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert says in lines[-1] and lines[-1].startswith("error: ")
    assert all(line.startswith("note: ") for line in lines[:-1])


def test_a_folder_without_tables_names_the_command_that_makes_them(tmp_path, capsys):
    assert run([str(tmp_path), *NORMS]) == 2
    assert "experiments/sweep.py --collect" in capsys.readouterr().err
