"""Readers, one a shape of data: from a file to dialogues."""
