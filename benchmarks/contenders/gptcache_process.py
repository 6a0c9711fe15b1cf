"""GPTCache in a process of another Python, since its packages are none of ours: asked questions, it says how long.

Its own default store, SQLite and a flat FAISS index, and its own evaluation by distance.
"""

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from chatlab.embedding import bundled_embedder
from chatlab.vectors import Vector

PYTHON = "GPTCACHE_PYTHON"
SCRIPT = Path(__file__).with_name("gptcache_script.py")


@dataclass(frozen=True, slots=True)
class Asked:
    """Milliseconds of each lookup, and how many were served."""

    ms: list[float]
    served: int


class GptCacheProcess:
    """Running until it is closed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._answer()  # it is filled

    @classmethod
    def started(cls, folder: Path, questions: Sequence[str], vectors: Vector) -> Self | None:
        """Filled with entries; None where GPTCACHE_PYTHON is not set.

        Args:
            folder: Of its own, not there yet.
            questions: (n) that are stored.
            vectors: (n, dim) float32, unit norm.
        """
        python = os.environ.get(PYTHON)
        embedder = bundled_embedder()
        if python is None or embedder is None:
            return None
        folder.mkdir()
        (folder / "questions.json").write_text(json.dumps(list(questions)))
        np.save(folder / "vectors.npy", vectors)
        command = [python, str(SCRIPT), str(embedder)]
        return cls(subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))

    def ask(self, questions: Sequence[str]) -> Asked:
        """Look questions up, one after the other."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(list(questions)) + "\n")
        self._process.stdin.flush()
        return Asked(**json.loads(self._answer()))

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()

    def _answer(self) -> str:
        """Its next line; others may print, too."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("= "):
                return line.removeprefix("= ")
        raise RuntimeError("GPTCache ended: see above")
