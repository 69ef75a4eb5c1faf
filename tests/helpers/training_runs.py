"""A training run of a few seconds, and what it leaves behind."""

import json

import torch

from tests.helpers.samples import sentences


def make_options(folder, negatives=False):
    """Options of a run over 400 pairs written to `folder`: a sentence, its words reversed."""
    path = folder / "pairs.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for text in sentences(400, seed=5):
            words = text.split()
            row = {"anchor": " ".join(words[:3] + words[-1:]), "positive": " ".join(words[::-1])}
            if negatives:
                row["negative"] = " ".join(words[1:4])  # short, so some texts stand there twice
            file.write(json.dumps(row) + "\n")
    return [
        f"--data.paths={path}",
        f"--data.cache={folder / 'cache'}",
        "--data.vocab_size=600",
        "--data.batch_size=32",
        "--model.dim=32",
        "--model.norm=dyt",  # the norm with most parts
        "--trainer.max_epochs=2",
        "--trainer.enable_progress_bar=false",
        "--trainer.accelerator=cpu",
    ]


def weights(folder):
    """The newest checkpoint's weights."""
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


def same(a, b):
    """Whether two state dicts are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
