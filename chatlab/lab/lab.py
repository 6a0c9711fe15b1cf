"""A data dir opened in this process: its chats from Python, and the page beside them."""

import atexit
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from chatlab.api.identity import DEFAULT_USER
from chatlab.api.schemas import ChatChange
from chatlab.cache.statistics import CacheStatistics
from chatlab.engines.base import ModelFacts
from chatlab.errors import ConfigError
from chatlab.lab.chat import LabChat
from chatlab.lab.choices import Cache, History, Params, checked, checked_user
from chatlab.lab.page import HEIGHT, LabPage
from chatlab.lab.thread import PartsThread
from chatlab.lab.view import lab_html
from chatlab.messages import CacheChoice, Chat
from chatlab.settings import Settings, load_settings, quieten_libraries
from chatlab.telemetry import configure_logging
from chatlab.wiring import Parts, wire

PAGE_CHATS = 100
QUIET = "warning"  # a notebook shows answers, not log lines, unless a level was chosen


def open(data_dir: str | Path | None = None, **settings: object) -> "Lab":
    """Open a data dir and load the model.

    Args:
        data_dir: The folder, made if it is not there; `CHATLAB_DATA_DIR` (`.chatlab`) when left out.
        settings: Any other setting by its name in small letters, over variables and `chatlab.toml`:
            `model="bundled"`, `engine="echo"`, `threads=2`.

    Raises:
        ConfigError: A setting is wrong, the model cannot be loaded, or the data dir is held (`DataDirHeld`).
    """
    quieten_libraries()
    if unknown := sorted(settings.keys() - Settings.model_fields.keys()):
        raise ConfigError(f"no such setting: {', '.join(unknown)}. There are: {', '.join(Settings.model_fields)}")
    loaded = load_settings({**settings, "data_dir": data_dir})
    if not structlog.is_configured():
        configure_logging(loaded.log_level if "log_level" in loaded.model_fields_set else QUIET, loaded.log_json)
    return Lab(wire(loaded))


class Lab:
    """Open chats in this process, from construction to `close`, which the end of the interpreter calls, too.

    Usable from several threads. What runs here is what `python -m chatlab serve` runs.

    Args:
        wiring: Gives the parts; `open` makes it.
    """

    def __init__(self, wiring: AbstractContextManager[Parts]) -> None:
        self._thread = PartsThread(wiring)
        self._page: LabPage | None = None
        atexit.register(self.close)

    @property
    def model(self) -> ModelFacts:
        """The model and its limits."""
        return self._thread.parts.engine.facts

    @property
    def data_dir(self) -> Path:
        """The folder of everything stored."""
        return self._thread.parts.settings.data_dir

    def chat(
        self,
        chat_id: str | None = None,
        *,
        user_id: str = DEFAULT_USER,
        title: str | None = None,
        system_prompt: str | None = None,
        history: History | None = None,
        cache: Cache | None = None,
        params: Params | None = None,
    ) -> LabChat:
        """A new chat, or a stored one by its id; settings that are given with an id change that chat.

        Args:
            chat_id: A stored chat.
            user_id: Whose it is; `X-User-ID` of REST callers.
            title: For lists.
            system_prompt: Always in front of the prompt.
            history: A strategy's name, `{"strategy": ..., "budget_tokens": ...}` or a `HistoryChoice`.
            cache: A scope's name, `{"scope": ...}` or a `CacheChoice`.
            params: Sampling as a dict (`{"temperature": 0}`) or `SamplingParams`.

        Raises:
            InvalidInput: Something given cannot be used; names it and the fix.
            NotFound: No such chat of this user.
        """
        owner, scope = checked_user(user_id), self._thread.parts.settings.cache_scope
        given = checked(
            ChatChange, title=title, system_prompt=system_prompt, history=history, cache=cache, params=params
        )

        def fill(made: Chat) -> Chat:
            return given.apply(replace(made, cache=CacheChoice(scope)), scope)

        chats = self._thread.parts.chats
        if chat_id is None:
            stored = self._thread.call(chats.create_chat(fill, owner))
        elif given.model_fields_set:
            stored = self._thread.call(chats.change_chat(owner, chat_id, lambda known: given.apply(known, scope)))
        else:
            stored = self._thread.call(chats.conversation(owner, chat_id)).chat
        return LabChat(self._thread, owner, stored.chat_id)

    def chats(self, user_id: str = DEFAULT_USER, q: str | None = None) -> Sequence[LabChat]:
        """A user's chats, newest first; `q` searches titles and messages."""
        owner, cursor = checked_user(user_id), None
        found: list[LabChat] = []
        while True:
            page = self._thread.call(self._thread.parts.chats.chats(owner, PAGE_CHATS, cursor, q))
            found += [LabChat(self._thread, owner, chat.chat_id) for chat in page.chats]
            if (cursor := page.next_cursor) is None:
                return found

    def cache_statistics(self, days: float = 30.0, user_id: str | None = None) -> CacheStatistics:
        """What the answer cache did in the last days, for a user or, by default, for all.

        Raises:
            InvalidInput: `user_id` cannot be one.
        """
        owner = None if user_id is None else checked_user(user_id)
        since = datetime.now(UTC) - timedelta(days=days)
        return self._thread.call(self._thread.parts.answers.statistics(since, owner))

    def app(self, port: int = 0, height: int = HEIGHT) -> LabPage:
        """Serve the page and the REST API of these chats on a loopback port; in a notebook it shows itself inline.

        Asked again, it is the same page. REST callers without `X-User-ID` are `local`, whose chats `lab.chat()`
        makes; a browser keeps chats of its own.

        Args:
            port: To listen on; 0 takes a free one.
            height: Of the frame in the notebook, in pixels.

        Raises:
            ConfigError: The port is taken, or the page is already there on another one.
        """
        if self._page is None or self._page.closed:
            self._page = LabPage(self._thread, port, height)
        elif port not in (0, self._page.port):
            raise ConfigError(f"port={port}: the page is already on {self._page.url}; close it first")
        self._page.height = height
        return self._page

    def close(self) -> None:
        """Interrupt answers under way with their text kept, close everything, free the data dir; idempotent."""
        atexit.unregister(self.close)
        if self._page is not None and not self._thread.closed:
            self._page.close()
        self._thread.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._thread.closed else f"{self.model.model} on {self.model.device}"
        return f"<lab on {self.data_dir}: {state}>"

    def _repr_html_(self) -> str:
        return lab_html(self.model, self.data_dir, closed=self._thread.closed)
