"""JSON from files, and its validation in one line for a person: the file, the entry, the field, what is wrong."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from chatlab.errors import ConfigError

T = TypeVar("T")


def read_text(file: Path) -> str:
    """A file's text, unpacked where it ends in `.gz`.

    Raises:
        ConfigError: It cannot be read.
    """
    try:
        if file.suffix == ".gz":
            with gzip.open(file, "rt", encoding="utf-8") as stream:
                return stream.read()
        return file.read_text(encoding="utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error


def parse_json(file: Path, text: str) -> Any:
    """The one value of a JSON text.

    Raises:
        ConfigError: It is none.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{file}: no JSON: {error}") from error


def parse_lines(file: Path, text: str) -> Iterator[tuple[int, Any]]:
    """Line numbers, from 1, and their values; empty lines are left out.

    Raises:
        ConfigError: A line is no JSON; named when it is reached.
    """
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except ValueError as error:
                raise malformed(file, f"line {number}", f"no JSON: {error}") from error


def validated(adapter: TypeAdapter[T], value: object, file: Path, entry: str) -> T:
    """The value in its shape.

    Args:
        adapter: The shape.
        value: As parsed.
        file: For the message.
        entry: For the message: which part of the file.

    Raises:
        ConfigError: It has another shape; names the first field that is wrong.
    """
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise malformed(file, entry, f"{place}: {first['msg']}" if place else first["msg"]) from error


def malformed(file: Path, entry: str, what: str) -> ConfigError:
    """An entry that cannot be used."""
    return ConfigError(f"{file}: {entry}: {what}")
