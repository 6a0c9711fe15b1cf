"""A file of chats as bytes of JSON: unpacked, without a byte-order mark, its texts decodable, its progress told.

Memory is a block of bytes, whatever the file's size.
"""

import gzip
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

import numpy as np

from chatlab.errors import ExchangeError
from chatlab.exchange.faults import EXPORT_AGAIN, fault

Progress = Callable[[int, int], None]

BLOCK_BYTES = 256 * 1024
GZIP_MAGIC = b"\x1f\x8b"
ZIP_MAGIC = b"PK\x03\x04"
EMPTY_ZIP_MAGIC = b"PK\x05\x06"
UTF8_BOM = b"\xef\xbb\xbf"
UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
OF_CHATGPT = re.compile(r"conversations[^/]*\.json")
NO_TEXT = "characters that are no text (NUL, half of a surrogate pair)"
MAX_DEPTH = 10_000  # of objects and lists in each other: reading takes the square of it
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, NotImplementedError, RuntimeError)

_ESCAPE_BYTES = 6  # \ud83d
_HIGH, _LOW = rb"\\u[dD][89abAB][0-9a-fA-F]{2}", rb"\\u[dD][c-fC-F][0-9a-fA-F]{2}"
_HALF = re.compile(
    rb"(?<!\\)((?:\\\\)*)(?:" + _HIGH + rb"(?!" + _LOW + rb")|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})" + _LOW + rb"|\\u0000)"
)
_ENDS_HIGH = re.compile(_HIGH + rb"\Z")


class Bytes(Protocol):
    """What bytes are read from."""

    def read(self, n: int = -1, /) -> bytes:
        """Up to `n` bytes, empty at the end."""
        ...


@dataclass(slots=True)
class Nesting:
    """How deep objects and lists lie in each other at some place of a document, which comes in blocks."""

    depth: int = 0
    in_text: int = 0

    def deepest(self, block: bytes) -> int:
        """The greatest depth in the next block, in which no escape is parted."""
        found = np.frombuffer(block.replace(b"\\\\", b"").replace(b'\\"', b""), dtype=np.uint8)
        if not len(found):
            return self.depth
        in_text = (np.cumsum(found == ord('"')) + self.in_text) % 2
        opened = (found == ord("{")) | (found == ord("["))
        closed = (found == ord("}")) | (found == ord("]"))
        depths = self.depth + np.cumsum((opened.astype(np.int32) - closed) * (1 - in_text))
        self.depth, self.in_text = int(depths[-1]), int(in_text[-1])
        return int(depths.max())


@dataclass(slots=True)
class Document:
    """One JSON document of a file.

    Attributes:
        name: Of the part of an archive; empty where the file is the document.
        left_out: Counts the characters that are no text.
    """

    name: str
    _stream: Bytes
    _told: Callable[[], None]
    left_out: Counter[str] = field(default_factory=Counter[str])
    _max_bytes: int | None = None
    _n_bytes: int = 0
    _ready: bytes = b""
    _held: bytes = b""
    _ended: bool = False
    _begun: bool = False
    _nesting: Nesting = field(default_factory=Nesting)

    def peek(self, n: int) -> bytes:
        """The next bytes, up to `n`, still to be read."""
        while len(self._ready) < n and not self._ended:
            self._fill()
        return self._ready[:n]

    def read(self, n: int = -1) -> bytes:
        """Some bytes, empty at the end; as ijson reads."""
        if n == 0:
            return b""
        while not self._ready and not self._ended:
            self._fill()
        n = len(self._ready) if n < 0 else n
        given, self._ready = self._ready[:n], self._ready[n:]
        return given

    def _fill(self) -> None:
        try:
            block = self._stream.read(BLOCK_BYTES)
        except DAMAGED as error:
            raise fault(self.name, f"cannot be unpacked: {EXPORT_AGAIN} ({error})") from error
        self._told()
        self._n_bytes += len(block)
        if self._max_bytes is not None and self._n_bytes > self._max_bytes:
            raise fault(self.name, f"unpacks to more than {self._max_bytes:,} bytes: import it in parts")
        if not self._begun:
            self._begun = True
            if block.startswith(UTF16_BOMS):
                raise fault(self.name, "is in UTF-16: save it as UTF-8")
            block = block.removeprefix(UTF8_BOM)
        self._ended = not block
        data = self._held + block
        cut = len(data) if self._ended else _safe_cut(data)
        whole, self._held = data[:cut], data[cut:]
        if self._nesting.deepest(whole) > MAX_DEPTH:
            raise fault(
                self.name or "file", f"nests deeper than {MAX_DEPTH:,} objects and lists: export it as a flat list"
            )
        if b"\\ud" in whole or b"\\uD" in whole or b"\\u0000" in whole:
            whole, found = _HALF.subn(rb"\1\\ufffd", whole)
            if found:
                self.left_out[NO_TEXT] += found
        self._ready += whole


def _safe_cut(data: bytes) -> int:
    """Where bytes can be parted without parting an escape or a surrogate pair."""
    first = data.find(b"\\", max(0, len(data) - _ESCAPE_BYTES))
    if first < 0:
        first = len(data)
    while first > 0 and data[first - 1 : first] == b"\\":
        first -= 1
    return first - _ESCAPE_BYTES if _ENDS_HIGH.search(data[max(0, first - _ESCAPE_BYTES) : first]) else first


@contextmanager
def _opened(file: Path) -> Generator[IO[bytes]]:
    try:
        stream = file.open("rb")
    except OSError as error:
        raise fault(str(file), f"cannot be read: {error.strerror}") from error
    with stream:
        yield stream


def documents(file: Path, progress: Progress | None = None, max_bytes: int | None = None) -> Iterator[Document]:
    """The documents of a file, each to be read to its end before the next is asked for.

    Args:
        file: JSON, or that in gzip or in a zip archive; told apart by content.
        progress: Told the bytes read of the file, and all of them.
        max_bytes: Of a document, unpacked.

    Raises:
        ExchangeError: It cannot be read.
    """
    with _opened(file) as stream:
        n_bytes = file.stat().st_size

        def told() -> None:
            if progress is not None:
                progress(min(stream.tell(), n_bytes), n_bytes)

        magic = stream.read(4)
        stream.seek(0)
        if magic in (ZIP_MAGIC, EMPTY_ZIP_MAGIC):
            yield from _archived(stream, told, max_bytes)
        elif magic.startswith(GZIP_MAGIC):
            with gzip.GzipFile(fileobj=stream) as unpacked:
                yield Document("", unpacked, told, _max_bytes=max_bytes)
        else:
            yield Document("", stream, told)
        if progress is not None:
            progress(n_bytes, n_bytes)


def _archived(stream: IO[bytes], told: Callable[[], None], max_bytes: int | None) -> Iterator[Document]:
    try:
        with zipfile.ZipFile(stream) as archive:
            names = [each.filename for each in archive.infolist() if not each.is_dir()]
            chosen = [name for name in names if OF_CHATGPT.fullmatch(PurePosixPath(name).name)] or [
                name
                for name in names
                if PurePosixPath(name).suffix in (".json", ".jsonl") and not name.startswith("__MACOSX/")
            ]
            if not chosen:
                raise fault("file", "a zip archive without conversations.json or any other .json: choose the export")
            for name in chosen:
                with archive.open(name) as part:
                    yield Document(name, part, told, _max_bytes=max_bytes)
    except ExchangeError:
        raise
    except DAMAGED as error:
        raise fault("file", f"a zip archive that cannot be unpacked: {EXPORT_AGAIN} ({error})") from error
