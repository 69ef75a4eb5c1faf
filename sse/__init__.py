"""Stable Static Embedding: train, evaluate and serve static text embeddings."""

__version__ = "0.1.0"
