"""Benchmarks, each with its peers in the same run: `python -m chatlab bench SUBJECT`."""
