"""`sse evaluate`, `sse export` and `sse info`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from sse.cli.options import Run
from sse.common.errors import UserError
from sse.common.hub import model_folder
from sse.common.ranges import whole
from sse.common.terminal import clean
from sse.model.table import ROW_KINDS


def info(parser: argparse.ArgumentParser) -> Run:
    """Declare the options of `sse info`."""
    parser.description = "What a model folder holds, and which tokenizer and pooling run it."
    parser.epilog = "examples:\n  sse info model\n  sse info model --json | jq .tokenizer_because\n"
    parser.add_argument("model", metavar="DIR")
    parser.add_argument("--json", action="store_true", help="the facts as JSON")
    return _info


def _info(args: argparse.Namespace) -> None:
    from sse.serving.encoder import Encoder

    facts = Encoder(args.model).info()
    if args.json:
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
        return
    facts["table"] = f"{facts.pop('table_bytes') / 2**20:,.1f} MiB of {facts.pop('rows')} rows"
    facts["tokenizer"] += f" ({facts.pop('tokenizer_because')})"
    facts["prompts"] = ", ".join(f"{k}: {v!r}" for k, v in facts["prompts"].items() if v) or "none"
    facts["max_tokens"] = facts["max_tokens"] or "no limit"
    for name, value in facts.items():
        sys.stdout.write(f"{name.replace('_', ' '):<12} {clean(str(value))}\n")


def export(parser: argparse.ArgumentParser) -> Run:
    """Declare the options of `sse export`."""
    parser.description = (
        "Write a model in another form: a folder for sentence-transformers (extra `train`),\n"
        "a folder with smaller rows for this package, a folder for another library or for a web\n"
        "server, or an ONNX file (extra `onnx`)."
    )
    parser.epilog = (
        "examples:\n"
        "  sse export published-model portable\n"
        "  sse export model small --rows int8 --dim 256\n"
        "  sse export model model.onnx --rows int8\n"
        "  sse export model for-model2vec --to model2vec\n"
        "  sse export model site --to web --rows int4 --dim 256 --texts notes/\n"
    )
    add = parser.add_argument
    add("model", metavar="DIR")
    add("target", metavar="OUT", help="a new folder, or a file ending in .onnx")
    add("--to", choices=["model2vec", "web"], help="the folder of another library, or a web page")
    add("--rows", choices=ROW_KINDS, help="how the table is stored (default: float32; web: int8)")
    add("--dim", type=whole(1), help="first dimensions only (Matryoshka)")
    add("--texts", metavar="PATH", help="what the web page searches: a file of texts, or a folder")
    add("--column", help="column of --texts (default: text, or the only one)")
    add("--force", action="store_true", help="replace OUT if it is an ONNX file or a model folder")
    add("--json", action="store_true", help="the summary as JSON")
    return _export


def _export(args: argparse.Namespace) -> None:
    """Write the model in the form that OUT and `--rows` name."""
    target = Path(args.target)
    notes = _write(args, target)
    files = [target] if target.is_file() else [f for f in target.rglob("*") if f.is_file()]
    size = sum(file.stat().st_size for file in files)
    if args.json:
        facts = {"out": str(target), "bytes": size} | ({"notes": notes} if notes else {})
        sys.stdout.write(json.dumps(facts) + "\n")
    else:
        sys.stdout.write(f"{target}: {size / 2**20:,.1f} MiB\n")
        sys.stdout.writelines(f"note: {note}\n" for note in notes)


def _write(args: argparse.Namespace, target: Path) -> list[str]:
    """Write to `target`; return what there is to say of it."""
    rows = args.rows or ("int8" if args.to == "web" else "float32")
    if args.texts and args.to != "web":
        raise UserError(f"--texts {args.texts}: only a web page holds texts; give --to web")
    if target.suffix == ".onnx":
        from sse.model.convert.onnx import export_onnx
        from sse.serving.vector_files import check_target

        check_target(target, args.force)
        if args.to:
            raise UserError(f"--to {args.to}: {target} names an ONNX file; give a folder")
        export_onnx(args.model, target, args.dim, rows)
    elif target.is_dir() and any(target.iterdir()) and not args.force:
        raise UserError(f"{target} exists: give a new folder, or --force to replace a model folder")
    elif args.to == "web":
        from sse.web.export import write_web

        return write_web(args.model, target, rows, args.dim, args.texts, args.column)
    elif args.to == "model2vec":
        from sse.model.convert.model2vec import write_model2vec

        return write_model2vec(args.model, target, rows, args.dim)
    elif rows != "float32":
        from sse.model.quantise import write_compact

        write_compact(args.model, target, rows, args.dim)
    else:
        _portable(args.model, target, args.dim)
    return []


def _portable(source: str, target: Path, dim: int | None) -> None:
    from sse.model.folder import read_folder
    from sse.model.quantise import truncate

    folder = read_folder(source)
    if dim is not None:
        folder = truncate(folder, dim)
    # Slow: torch, only now that the folder is sound.
    from sse.model.export import export
    from sse.model.load import SSEModel, build

    names = ("prompts", "default_prompt_name", "similarity_fn_name")
    settings = {name: folder.settings[name] for name in names if folder.settings.get(name)}
    export(SSEModel(modules=[build(folder)], device="cpu", **settings), target)


def evaluate(parser: argparse.ArgumentParser) -> Run:
    """Declare the options of `sse evaluate`."""
    parser.description = (
        "Evaluate a model on retrieval collections, at each Matryoshka dimension. The JSON is\n"
        "{folder name: {dim: {metric: value}}}."
    )
    parser.epilog = (
        "examples:\n"
        "  sse evaluate model --beir scifact nfcorpus --dims 512 128\n"
        "  sse evaluate model --nanobeir --baselines --report report/\n"
    )
    add = parser.add_argument
    add("model", metavar="DIR", help="folder of any sentence-transformers model, or OWNER/NAME")
    add("--beir", nargs="+", default=[], metavar="FOLDER", help="folders in the BEIR layout")
    add("--split", help="judgements in qrels/SPLIT.tsv (default: test, or the only one)")
    add("--nanobeir", nargs="?", const="sentence-transformers/NanoBEIR-en", metavar="SOURCE",
        help="NanoBEIR from the hub or a folder (default: the hub's)")  # fmt: skip
    add("--dims", nargs="+", type=whole(1), help="prefixes to evaluate (default: standard ones)")
    add("--baselines", action="store_true", help="also BM25 and an untrained static model")
    add("--hybrid", action="store_true", help="also BM25, and the model and BM25 together")
    add("--json", metavar="FILE", help="write every metric; -: standard output, no table")
    add("--report", metavar="FOLDER", help="write table, intervals, figure, scores per query")
    add("--graded", action="store_true", help="nDCG with the judged grades as gains, not 0 and 1")
    add("--device", help="cpu, cuda, ... (default: the best available)")
    add("--batch-size", type=whole(1), default=256, help="texts per batch (default: 256)")
    return _evaluate


def _evaluate(args: argparse.Namespace) -> None:
    """Check the arguments and collections before the slow imports, then evaluate and write."""
    folder = model_folder(args.model)
    if not args.beir and not args.nanobeir:
        raise UserError("nothing to evaluate on: give --beir FOLDER or --nanobeir")
    for path, wrong in ((args.json, Path.is_dir), (args.report, Path.is_file)):
        if path and wrong(Path(path)):
            raise UserError(
                f"{path}: --json takes a file, --report a folder, and this is the other"
            )
    from sse.evaluation import collection as beir
    from sse.evaluation import nanobeir

    collections = [beir.load_beir(folder, args.split) for folder in args.beir]
    collections += nanobeir.load_nanobeir(args.nanobeir) if args.nanobeir else []
    from sse.common import files  # slow imports: only now that the collections are sound
    from sse.evaluation import report, systems

    model = systems.load_model(folder, args.device)
    results = systems.evaluate_beside(
        model, collections, args.dims, args.baselines, args.hybrid,
        batch_size=args.batch_size, graded=args.graded, progress=sys.stderr.isatty(),
    )  # fmt: skip
    values = results["model"].values()
    if args.json == "-":
        sys.stdout.write(json.dumps(values) + "\n")
    else:
        sys.stdout.write(report.format_table(results) + "\n")
        if args.json:
            files.write_json(args.json, values)
    if args.report:
        report.write_report(results, args.report)
