"""Entries from files, and their validation in one line for a person: the file, the entry, the field, what is wrong."""

import csv
import gzip
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from chatlab.errors import ConfigError
from chatlab.messages import Message

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


def read_entries(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The entries of a .csv or .jsonl file, gzipped or not, each with where it is.

    Raises:
        ConfigError: It has another ending, cannot be read, is empty, or an entry is no object.
    """
    name = file.name.removesuffix(".gz")
    if not name.endswith((".csv", ".jsonl")):
        raise ConfigError(f"{file}: must end in .csv, .csv.gz, .jsonl or .jsonl.gz")
    text = read_text(file)
    if name.endswith(".csv"):
        reader = csv.DictReader(io.StringIO(text, newline=""))
        found: list[tuple[str, Any]] = [(f"{file}: line {reader.line_num}", entry) for entry in reader]
    else:
        found = [(f"{file}: line {number}", entry) for number, entry in parse_lines(file, text)]
    if not found:
        raise ConfigError(f"{file}: has no entries")
    for where, entry in found:
        if not isinstance(entry, dict):
            raise ConfigError(f"{where}: must be an object")
        yield where, entry


def messages_of(found: Any, where: str) -> tuple[Message, ...]:
    """A conversation that ends in a user's message.

    Raises:
        ConfigError: It is none; `where` begins what is said.
    """
    if not isinstance(found, list) or not found:
        raise ConfigError(f"{where} must be a list of messages that ends in a user's")
    messages: list[Message] = []
    for message in found:
        match message:
            case {"role": "system" | "user" | "assistant" as role, "content": str() as content}:
                messages.append(Message(role=role, content=content))
            case _:
                raise ConfigError(f"{where}: a message needs role (system, user or assistant) and content (text)")
    if messages[-1]["role"] != "user":
        raise ConfigError(f"{where} must end in a user's message")
    return tuple(messages)


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
