"""How far a command is, on the terminal: one line that is written anew, or a line now and then where there is none."""

import sys
import time
from typing import TextIO

BAR = 24  # characters
EVERY_SECONDS = 0.2  # on a terminal
SELDOM_SECONDS = 10.0  # elsewhere


class Progress:
    """Steps that go on side by side, each with how much of it is done.

    Args:
        out: Where it is written.

    Attributes:
        took: Seconds from the beginning of each step to its end; steps overlap.
    """

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out or sys.stderr
        self._terminal = self._out.isatty()
        self._done: dict[str, tuple[int, int]] = {}
        self._began: dict[str, float] = {}
        self.took: dict[str, float] = {}
        self._written_at = 0.0
        self._width = 0

    def __call__(self, step: str, done: int, of: int) -> None:
        """So much of a step is done."""
        if step in self.took:
            return
        new = step not in self._done
        self._done[step] = done, of
        now = time.monotonic()
        began = self._began.setdefault(step, now)
        if new or done >= of or now - self._written_at >= (EVERY_SECONDS if self._terminal else SELDOM_SECONDS):
            self._written_at = now
            self._write()
        if done >= of:
            self.took[step] = now - began
            del self._done[step]

    def say(self, line: str) -> None:
        """A line of its own."""
        self._clear()
        self._out.write(line + "\n")
        self._out.flush()

    def close(self) -> None:
        """Leave the terminal clean."""
        self._clear()

    def _clear(self) -> None:
        if self._terminal and self._width:
            self._out.write("\r" + " " * self._width + "\r")
            self._width = 0

    def _write(self) -> None:
        share = sum(done / max(1, of) for done, of in self._done.values()) / max(1, len(self._done))
        steps = ", ".join(f"{step} {done / max(1, of):.0%}" for step, (done, of) in self._done.items())
        if not self._terminal:
            self._out.write(steps + "\n")
        else:
            full = round(BAR * share)
            line = f"{'█' * full}{'░' * (BAR - full)} {steps}"[:110]
            self._clear()
            self._out.write("\r" + line)
            self._width = len(line)
        self._out.flush()
