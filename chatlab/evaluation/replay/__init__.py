"""Stored turns through other configurations, in order: `python -m chatlab replay`."""
