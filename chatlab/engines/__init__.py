"""Engines turn a prompt into a stream of text; `base` says what every engine promises."""
