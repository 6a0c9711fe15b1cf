"""One process opens a data dir: a lock held for the life of the process, and a note that says who holds it."""

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from chatlab.errors import DataDirHeld

LOCK_FILE = "lock"
HOLDER_FILE = "holder.json"


class DataDirLock:
    """Holds a data dir between `__enter__` and `__exit__`; the system frees it when the process dies.

    Raises:
        DataDirHeld: Another process (or another `open` in this one) has the data dir.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._lock = FileLock(data_dir / LOCK_FILE, timeout=0)

    def __enter__(self) -> Self:
        """Take the lock and leave the note."""
        self._data_dir.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except Timeout:
            raise DataDirHeld(
                f"the data dir {self._data_dir} is {self._holder()}, "
                "or choose another folder with CHATLAB_DATA_DIR or --data-dir."
            ) from None
        note = {"pid": os.getpid(), "command": " ".join(sys.argv), "since": datetime.now(UTC).isoformat("T", "seconds")}
        (self._data_dir / HOLDER_FILE).write_text(json.dumps(note))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the data dir back."""
        self._lock.release()

    def _holder(self) -> str:
        try:
            note = json.loads((self._data_dir / HOLDER_FILE).read_text())
            if note["pid"] == os.getpid():
                return "open in this process already: close what opened it"
            return (
                f"held by process {note['pid']} ({note['command']}, since {note['since']}): stop it, ask it over HTTP"
            )
        except (OSError, ValueError, KeyError):
            return "held by another process: stop it, ask it over HTTP"
