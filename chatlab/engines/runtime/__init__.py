"""Transformers weights in this process: many sequences in one batch, prefixes kept. Knows tokens and users, no text."""
