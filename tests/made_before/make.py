"""Make the fixtures of this folder with the code of commit 86cdad4, from texts.txt and sweep.yaml.

    git worktree add OLD 86cdad4    # its sse/_pool.c and sse/_loss.c compiled
    python make.py OLD

All runs in this folder with relative paths, so that what is written down of them is as true in a
copy of it. The paths that the old code makes absolute, in last.ckpt and indices, are patched.
"""

import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

HERE, OLD = Path(__file__).resolve().parent, Path(sys.argv[1]).resolve()
sys.path[:0] = [str(OLD), str(OLD / "kernels")]
os.environ |= {"PYTHONPATH": ":".join(sys.path[:2]), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

from sse import Encoder, export  # noqa: E402, I001
from sse.model import SSE, SSEModel  # noqa: E402
from sse.norms import NORMS  # noqa: E402
from sse.tokenizer import TextTokenizer, train_tokenizer  # noqa: E402

TEXTS = (HERE / "texts.txt").read_text("utf-8").split("\n")[:-1]
WHO = {"miller": "by the river", "weaver": "in the market", "pilot": "on the hill",
       "gardener": "near the mill", "baker": "under the arch", "clerk": "at home"}  # fmt: skip
DOES = {"mends": "at dawn", "paints": "at noon", "sells": "today", "hides": "once", "has": "now"}
WHAT = ["copper lantern", "garden gate", "iron key", "wooden ladder"]
TRAIN, CLI = OLD / "experiments" / "train.py", ("-m", "sse.cli")
RUN = ["--data.paths=[pairs.jsonl]", "--data.cache=cache", "--data.vocab_size=300",
       "--data.batch_size=16", "--model.dim=16", "--model.matryoshka_dims=[16,8]",
       "--trainer.max_epochs=4", "--trainer.accelerator=cpu", "--diagnostics=20",
       "--trainer.enable_progress_bar=false", "--eval.baselines=false"]  # fmt: skip
# Runs a script that gets a SIGTERM when its 17th training step has ended: of 28, amid an epoch.
STOPPED = """
import os, runpy, signal, sys, sse.callbacks
old = sse.callbacks.Throughput.on_train_batch_end
def hook(self, trainer, *rest):
    old(self, trainer, *rest)
    trainer.global_step == 17 and os.kill(os.getpid(), signal.SIGTERM)
sse.callbacks.Throughput.on_train_batch_end = hook
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def python(*words, code=0):
    done = subprocess.run([sys.executable, *map(str, words)], stdout=subprocess.PIPE)
    assert done.returncode == code, words
    return done.stdout.decode("utf-8")


def patched(value):
    """Of a checkpoint: Lightning's ModelCheckpoint resolves the path of best.ckpt."""
    if isinstance(value, dict):
        for key in list(value):
            value[patched(key)] = patched(value.pop(key))
    return value.replace(f"{HERE}/", "") if isinstance(value, str) else value


def make_run():
    with open("pairs.jsonl", "w", encoding="utf-8") as file:
        for who, does, what in itertools.product(WHO, DOES, WHAT):
            row = {"anchor": f"who {does} the {what} {WHO[who]}?"}
            row["positive"] = f"the {who} and the {what}, {DOES[does]}"
            file.write(json.dumps(row) + "\n")
    python("-c", STOPPED, TRAIN, *RUN, "--checkpoint_minutes=0", "--out=run", code=143)
    Path("run/checkpoints/previous.ckpt").unlink(), shutil.rmtree("run/tensorboard")
    last = "run/checkpoints/last.ckpt"
    torch.save(patched(torch.load(last, weights_only=True)), last)
    shutil.copytree("run", "resumed")
    python(TRAIN, "--resume", "resumed")
    np.savez_compressed("run_expected.npz", vectors=Encoder("resumed/model").encode(TEXTS))
    shutil.copy("resumed/metrics.json", "run_expected.json")
    shutil.rmtree("resumed")


def make_models():
    tokenizer = train_tokenizer(TEXTS[:10], 100, progress=False)

    def model(norm="dyt", max_tokens=None):
        made = SSE(TextTokenizer(tokenizer.tokenizer, max_tokens), 16, norm, seed=0)
        generator = torch.Generator().manual_seed(1)
        for parameter in made.norm.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
        return made

    for norm in NORMS.keys() - {"derf"}:
        export(model(norm), f"models/{norm}")
    cut, prompts = model(max_tokens=5), {"query": "the ", "document": ""}
    export(SSEModel(modules=[cut], prompts=prompts, device="cpu"), "models/prompts")
    for name in ("float16", "int8", "int4"):
        python(*CLI, "export", "models/dyt", f"models/{name}", "--rows", name)
    python(*CLI, "export", "models/dyt", "models/dim8", "--dim=8")
    # The published layout, as its author's code writes it, with float32 rows and with 4 bits.
    table = {"embedding.weight": model().embedding.weight.detach().numpy()}
    norm = {f"dyt.{name}": v.detach().numpy() for name, v in model().norm.named_parameters()}
    modules = json.dumps([{"idx": 0, "name": "0", "path": "", "type": "SSE.SSE"}])
    for name, file, more in (("published", "model", table), ("published_int4", "model_rest", {})):
        Path("models", name).mkdir()
        save_file(norm | more, f"models/{name}/{file}.safetensors")
        tokenizer.save(f"models/{name}/tokenizer.json")
        Path(f"models/{name}/modules.json").write_text(modules)
    shutil.copy("models/int4/embedding.q4_k_m.bin", "models/published_int4")
    plain = StaticEmbedding(tokenizer.tokenizer, embedding_weights=table["embedding.weight"])
    SentenceTransformer(modules=[plain], device="cpu").save("models/plain", create_model_card=False)
    found = {folder.name: Encoder(folder).encode(TEXTS) for folder in Path("models").iterdir()}
    found["prompts.query"] = Encoder("models/prompts").encode(TEXTS, prompt_name="query")
    np.savez_compressed("expected.npz", **found)


def make_outputs():
    of_dyt, real = ("-m", "models/dyt", "--quiet"), f'"{HERE}/models/dyt"'.encode()
    for name in ("vectors.parquet", "vectors.npy", "vectors.jsonl"):
        python(*CLI, "encode", "texts.txt", name, *of_dyt)
    for kind in ("int8", "binary"):
        python(*CLI, "encode", "texts.txt", f"vectors.{kind}.npy", *of_dyt, "--precision", kind)
    for kind, file in (("exact", Path("exact.sse")), ("binary", Path("binary.sse"))):
        python(*CLI, "index", "texts.txt", file, *of_dyt, "--kind", kind)
        data = file.read_bytes()  # as long as before, since blanks may stand between JSON's tokens
        file.write_bytes(data.replace(real, b'"models/dyt"'.ljust(len(real))))
        hits = json.loads(python(*CLI, "search", file, "a long letter", "-k", 5, "--json"))["hits"]
        Path(f"{kind}.hits.json").write_text(json.dumps(hits, ensure_ascii=False, indent=1) + "\n")


def make_sweep():
    at_once, by = ("--jobs=1", "--threads=1"), ("--by=model.norm", "--reference=none")
    python(TRAIN.with_name("sweep.py"), "--config=sweep.yaml", "--out=sweep", *at_once)
    Path("sweep/compare.md").write_text(python(TRAIN.with_name("compare.py"), "sweep", *by))
    read = ("trial.json", "config.yaml", "diagnostics.parquet", "per_query.parquet")  # by --collect
    for path in Path("sweep/trials").rglob("*"):
        if path.is_file() and path.name not in read:
            path.unlink()


os.chdir(HERE)
for path in HERE.iterdir():
    if path.name not in ("make.py", "README.md", "texts.txt", "sweep.yaml"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
make_run(), make_models(), make_outputs(), make_sweep()
