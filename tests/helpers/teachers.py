"""Tiny teachers, written as the folders that sentence-transformers and model2vec write."""

import json

import numpy as np
import torch
from safetensors.numpy import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import (
    Pooling,
    StaticEmbedding,
    Transformer,
)
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

WIDTH = 16


def write_transformer(folder, tokenizer, seed=0):
    """A random BERT of two layers that reads `tokenizer`'s tokens between [CLS] and [SEP]."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.5,
    )
    plain = folder.with_name(f"{folder.name}-plain")
    BertModel(config).save_pretrained(plain)
    names = {f"{n}_token": f"[{n.upper()}]" for n in ("pad", "unk", "cls", "sep", "mask")}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(plain)
    body = Transformer(str(plain))
    model = SentenceTransformer(modules=[body, Pooling(WIDTH)], device="cpu")
    model.save(str(folder))
    return folder


def write_static(folder, tokenizer, table):
    """A StaticEmbedding alone."""
    module = StaticEmbedding(tokenizer, embedding_weights=table)
    SentenceTransformer(modules=[module], device="cpu").save(str(folder))
    return folder


def write_model2vec(folder, tokenizer, table, weights):
    """A table as model2vec writes it: a row and a weight for each token."""
    folder.mkdir()
    mapping = np.arange(len(table))
    tensors = {"embeddings": table, "weights": weights, "mapping": mapping}
    save_file(tensors, folder / "model.safetensors")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec"}))
    return folder
