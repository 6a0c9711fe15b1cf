"""Measuring chatlab's own choices on conversations: what `python -m chatlab eval` and the notebooks call."""
