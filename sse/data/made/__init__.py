"""Pairs made of texts that have none: docstrings, documents without labels."""
