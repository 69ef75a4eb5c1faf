"""Pseudo-sentences, and a model folder without its digests."""

import json

import torch

WORDS = ["red", "green", "blue", "circle", "square", "large", "small", "spins", "rolls", "over"]


def unseal(folder):
    """Drop a model folder's digests, as one who changes its files on purpose does."""
    path = folder / "sse_config.json"
    config = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({k: v for k, v in config.items() if "digest" not in k}))
    return folder


def sentences(count: int, words: int = 6, seed: int = 0) -> list[str]:
    """`count` different pseudo-sentences."""
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(len(WORDS), (count, words), generator=generator)
    return [" ".join(WORDS[i] for i in row) + f" {n}" for n, row in enumerate(picks.tolist())]
