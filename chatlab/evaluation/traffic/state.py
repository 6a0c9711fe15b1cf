"""What a run has found so far, in a folder beside its result: a run that was killed goes on from there.

Every part is written under another name and renamed, so it is whole or not there. Parts belong to a file's content, to
what was asked of it and to the version of the code that computed them; others are deleted when the folder is opened.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatlab.errors import ConfigError

VERSION = 1  # of what parts hold
KEY_FILE = "key.json"
_AT_ONCE = 1 << 20


class State:
    """Parts by name.

    Args:
        folder: Of this run alone; made if it is not there.
        key: What the parts depend on.
        fresh: Whether to begin anew.

    Raises:
        ConfigError: The folder cannot be written.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any], fresh: bool = False) -> None:
        self.folder = folder
        whole = json.dumps({"version": VERSION, **key}, sort_keys=True, ensure_ascii=False)
        try:
            known = None if fresh else _read(folder / KEY_FILE)
            if known != whole:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir(parents=True)
                self._write(KEY_FILE, whole.encode())
        except OSError as error:
            raise ConfigError(f"{folder}: cannot be written: {error.strerror}; choose another --out") from error
        self.resumed = known == whole and len([*folder.iterdir()]) > 1

    def json(self, name: str) -> Any:
        """A part; None if it is not there."""
        found = _read(self.folder / f"{name}.json")
        return None if found is None else json.loads(found)

    def save_json(self, name: str, value: Any) -> None:
        """Keep a part."""
        self._write(f"{name}.json", json.dumps(value, ensure_ascii=False).encode())

    def arrays(self, name: str) -> dict[str, NDArray[Any]] | None:
        """A part of arrays; None if it is not there."""
        file = self.folder / f"{name}.npz"
        if not file.is_file():
            return None
        with np.load(file) as found:
            return {key: found[key] for key in found.files}

    def save_arrays(self, name: str, **arrays: NDArray[Any]) -> None:
        """Keep a part of arrays."""
        target = self.folder / f"{name}.npz"
        partial = self.folder / f"{name}.partial.npz"
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        partial.replace(target)

    def part(self, name: str, compute: Callable[[], Any]) -> Any:
        """A part, computed if it is not there."""
        if (found := self.json(name)) is None:
            self.save_json(name, found := compute())
        return found

    def delete(self) -> None:
        """All of it: what was wanted is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, name: str, content: bytes) -> None:
        write_whole(self.folder / name, content)


def write_whole(file: Path, content: bytes) -> None:
    """Write a file so that it is whole or as it was.

    Raises:
        OSError: It cannot be written.
    """
    partial = file.with_name(file.name + ".partial")
    try:
        with partial.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        partial.replace(file)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def content_hash(file: Path, progress: Callable[[int, int], None]) -> str:
    """Of a file's bytes.

    Raises:
        ConfigError: It cannot be read.
    """
    digest = hashlib.sha256()
    try:
        size, done = file.stat().st_size, 0
        with file.open("rb") as content:
            while block := content.read(_AT_ONCE):
                digest.update(block)
                done += len(block)
                progress(done, size)
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _read(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
