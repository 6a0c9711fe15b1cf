"""`python -m chatlab import` and `export`: chats from a file into a data dir or a running server, and out of it."""

import argparse
import asyncio
import json
import sys
import uuid
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import httpx2

from chatlab.clock import Clock
from chatlab.errors import ConfigError, DataDirHeld, ExchangeError
from chatlab.exchange import FORMATS, ExportedChat, FormatName, read_export, write_chats
from chatlab.importing import Imported, import_chats
from chatlab.settings import Settings, variable
from chatlab.store import Store

DEFAULT_USER = "local"
HEADER = "X-User-ID"
CONNECT_SECONDS = 30.0
BLOCK_BYTES = 1 << 20
ASK_THE_SERVER = "Or ask the server that runs on it: --url http://127.0.0.1:7860"


def add_import_arguments(parser: argparse.ArgumentParser) -> None:
    """What `import` takes."""
    parser.add_argument("file", type=Path, help="an export of ChatGPT, Open WebUI, LibreChat, ShareGPT or chatlab")
    _add_shared(parser)


def add_export_arguments(parser: argparse.ArgumentParser) -> None:
    """What `export` takes."""
    parser.add_argument("--format", choices=list(FORMATS), default="json", help="of the file (json: chatlab's own)")
    parser.add_argument("--chat", help="one chat's id; all of the user's when left out")
    parser.add_argument("--out", type=Path, help="the file; standard output when left out")
    _add_shared(parser)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--user", default=DEFAULT_USER, help=f"whose chats (default: {DEFAULT_USER})")
    parser.add_argument("--url", help="a running server, like http://127.0.0.1:7860, in place of the data dir")
    parser.add_argument("--data-dir", type=Path, help="folder of everything stored (CHATLAB_DATA_DIR)")


def run_import(given: argparse.Namespace, settings: Settings) -> None:
    """Take a file in, all of it or nothing, and say what came of it.

    Raises:
        ConfigError: The file, the data dir or the server cannot be used; nothing was stored.
    """
    file: Path = given.file
    if not file.is_file():
        raise ConfigError(f"{file}: there is no such file")
    if given.url is not None:
        imported = _import_over_http(file, given.user, given.url)
    else:
        try:
            imported = asyncio.run(_import_here(file, given.user, settings))
        except DataDirHeld as error:
            raise ConfigError(f"{error} {ASK_THE_SERVER}") from error
        except ExchangeError as error:
            raise ConfigError(f"{file}: {error}. Nothing was imported.") from error
    _say(f"imported {imported.chats:,} chats with {imported.turns:,} turns for {given.user}")
    for kind, count in sorted(imported.left_out.items()):
        _say(f"  left out: {count:,} {kind}")


async def _import_here(file: Path, user_id: str, settings: Settings) -> Imported:
    with Store(settings.data_dir) as store:
        store.purge_discarded()
        clock = Clock(store.latest_time())
        found = read_export(file, Progress("reading"))
        return await import_chats(store, clock, lambda: uuid.uuid4().hex, user_id, found)


def _import_over_http(file: Path, user_id: str, url: str) -> Imported:
    try:
        with file.open("rb") as body:
            answer = httpx2.post(
                f"{url.rstrip('/')}/chats/import",
                content=_blocks(body, file.stat().st_size),
                headers={HEADER: user_id, "Content-Type": "application/octet-stream"},
                timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
            )
        found = _json_of(answer, file)
        return Imported(found["chats"], found["turns"], found["leftOut"])
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, KeyError) as error:
        raise ConfigError(f"--url {url}: no chatlab answers there: {error or repr(error)}") from error


def _blocks(file: IO[bytes], n_bytes: int) -> Any:
    progress, sent = Progress("sending"), 0
    while block := file.read(BLOCK_BYTES):
        sent += len(block)
        progress(sent, n_bytes)
        yield block


def _json_of(answer: httpx2.Response, file: Path) -> Mapping[str, Any]:
    found: dict[str, Any] = json.loads(answer.text)
    if answer.status_code >= 400:
        raise ConfigError(f"{file}: {found.get('detail', answer.text)}. Nothing was imported.")
    return found


def run_export(given: argparse.Namespace, settings: Settings) -> None:
    """Write chats into a file, or to the standard output.

    Raises:
        ConfigError: The data dir, the server or the file cannot be used.
    """
    name: FormatName = given.format
    if given.out is not None and not given.out.parent.is_dir():
        raise ConfigError(f"--out {given.out}: there is no folder {given.out.parent}")
    out: Path | None = given.out
    partial = None if out is None else out.with_name(f"{out.name}.partial")
    try:
        with nullcontext(sys.stdout.buffer) if partial is None else partial.open("wb") as file:
            if given.url is not None:
                said = _export_over_http(file, name, given.user, given.chat, given.url)
            else:
                said = _export_here(file, name, given.user, given.chat, settings)
        if partial is not None and out is not None:
            partial.replace(out)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written: {error.strerror}") from error
    finally:
        if partial is not None:
            partial.unlink(missing_ok=True)
    _say(f"exported {said}{'' if out is None else f' to {out}'}")


def _export_here(file: IO[bytes], name: FormatName, user_id: str, chat_id: str | None, settings: Settings) -> str:
    if not settings.data_dir.is_dir():
        raise ConfigError(f"{variable('data_dir')}={settings.data_dir}: there is nothing stored there")
    try:
        with Store(settings.data_dir) as store:
            chats = (ExportedChat(known, lookups) for known, lookups in store.whole_chats(user_id, chat_id))
            count = write_chats(chats, name, file, datetime.now(UTC), chat_id is not None)
    except DataDirHeld as error:
        raise ConfigError(f"{error} {ASK_THE_SERVER}") from error
    if chat_id is not None and not count.chats:
        raise ConfigError(f"--chat {chat_id}: {user_id} has no such chat")
    return f"{count.chats:,} chats with {count.turns:,} turns of {user_id}"


def _export_over_http(file: IO[bytes], name: FormatName, user_id: str, chat_id: str | None, url: str) -> str:
    wanted = {"format": name, **({} if chat_id is None else {"chatID": chat_id})}
    n_bytes = 0
    try:
        with httpx2.stream(
            "GET",
            f"{url.rstrip('/')}/chats/export",
            params=wanted,
            headers={HEADER: user_id},
            timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
        ) as answer:
            if answer.status_code >= 400:
                answer.read()
                raise ConfigError(f"--url {url}: {json.loads(answer.text).get('detail', answer.text)}")
            for block in answer.iter_bytes():
                n_bytes += len(block)
                file.write(block)
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
        raise ConfigError(f"--url {url}: no chatlab answers there: {error or repr(error)}") from error
    return f"{'a chat' if chat_id else 'the chats'} of {user_id}, {n_bytes:,} bytes"


class Progress:
    """Says how far a file is, at each whole percent, on one line of the standard error; to a terminal only."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._percent = -1

    def __call__(self, done: int, total: int) -> None:
        """Say it, where it is news."""
        percent = 100 * done // total if total else 100
        if percent != self._percent and sys.stderr.isatty():
            self._percent = percent
            end = "\n" if percent == 100 else ""
            sys.stderr.write(f"\r{self._doing}: {percent:3d} % of {total / 1e6:,.1f} MB{end}")
            sys.stderr.flush()


def _say(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201 - a command's own words
