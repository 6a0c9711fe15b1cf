"""Compactions while everything goes wrong: no original is altered, no turn is lost, and every chat still answers."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from chatlab.chat import NEWEST, ChatService, TurnRequest
from chatlab.engines.base import Chunk, Finished, GenerationRequest
from chatlab.errors import EngineError, NotFound
from chatlab.history.notes import source_hash
from chatlab.messages import Chat, Note, Turn
from chatlab.settings import Settings
from chatlab.store import Store
from chatlab.wiring import Parts, wire
from tests.test_notes import FACTS, SUMMARIZE, Words

USERS = 4
SLOWLY = "Take your time."


@dataclass
class Unsound(Words):
    """Whose summaries fail in every way, one after the other."""

    random: Random = field(default_factory=lambda: Random(0))

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        asked = request.messages[-1]["content"]
        pieces: list[str | Exception] = ["I see."]
        pause = 0.05 if asked.endswith(SLOWLY) else 0.0  # long enough to be stopped
        if "Summarize it" in asked:
            ways: list[str | Exception] = [
                "",
                "again " * 40,
                "Ana lives in Porto, and I am a nurse",
                EngineError("gone"),
            ]
            pieces = [self.random.choice(ways)]
            pause = 0.05 if self.random.random() < 0.2 else 0.0  # long enough to be interrupted by the next turn
        if pause:
            await asyncio.sleep(pause)
        self.pieces = pieces  # read before anything else runs
        async for chunk in super().stream(request):
            cut = isinstance(chunk, Finished) and self.random.random() < 0.3
            yield Finished("length") if cut else chunk


@dataclass
class Run:
    """A user at work in chats of theirs, and what must be true of them."""

    chats: ChatService
    user_id: str
    random: Random
    said: dict[str, tuple[str, str | None]] = field(default_factory=dict[str, tuple[str, str | None]])
    n_answered: int = 0
    n_stopped: int = 0

    async def work(self, enough: asyncio.Event) -> None:
        """Ask, stop, go back, edit, delete, all at random, until there is enough."""
        chat = await self._new()
        while not enough.is_set():
            match self.random.random():
                case x if x < 0.03:
                    await self.chats.delete_chat(self.user_id, chat.chat_id)
                    chat = await self._new()
                    self.said.clear()
                case x if x < 0.12:
                    await self._change_a_note(chat)
                case _:
                    await self._ask(chat)
        await self._ask(chat)

    async def _new(self) -> Chat:
        return await self.chats.create_chat(lambda made: replace(made, history=SUMMARIZE), self.user_id)

    async def _ask(self, chat: Chat) -> None:
        stopping = self.random.random() < 0.05
        text = f"{self.random.choice(FACTS)} That was number {len(self.said)}.{f' {SLOWLY}' if stopping else ''}"
        back = self.said and self.random.random() < 0.05
        parent_turn_id = self.random.choice([*self.said]) if back else NEWEST
        begun = await self.chats.begin(self.user_id, chat.chat_id, TurnRequest(text, parent_turn_id))
        changing = asyncio.ensure_future(self._change_a_note(chat)) if self.random.random() < 0.1 else None
        turn = await (self.chats.stop if stopping else self.chats.wait)(self.user_id, begun.turn_id)
        if changing is not None:
            await changing
        assert turn.status == "done" or (stopping and turn.status == "stopped"), turn.error
        self.n_stopped += turn.status == "stopped"
        self.said[turn.turn_id] = (text, turn.assistant_message)
        self.n_answered += 1
        await asyncio.sleep(0)

    async def _change_a_note(self, chat: Chat) -> None:
        notes = await self.chats.notes(self.user_id, chat.chat_id)
        if not notes:
            return
        note = self.random.choice(notes)
        try:
            if self.random.random() < 0.5:
                await self.chats.edit_note(self.user_id, chat.chat_id, note.note_id, f"{note.text}\nuser: I row.")
            else:
                await self.chats.delete_note(self.user_id, chat.chat_id, note.note_id)
        except NotFound:  # merged meanwhile
            pass


def check(store: Store, said: dict[str, tuple[str, str | None]]) -> None:
    """Everything that was said is there as it was said, and every note is of turns that are there."""
    turns: dict[str, Turn] = {}
    for known in store.all_conversations():
        turns |= {turn.turn_id: turn for turn in known.turns}
        for note in known.notes:
            assert note.source_hash == source_hash([turns[turn_id] for turn_id in note.turn_ids])
    for turn_id, (asked, answered) in said.items():
        assert (turns[turn_id].user_message, turns[turn_id].assistant_message) == (asked, answered)


@pytest.mark.parametrize("compactions", [20, pytest.param(1_000, marks=pytest.mark.slow)])
async def test_compactions_while_everything_goes_wrong(
    tmp_path: Path, compactions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    enough = asyncio.Event()
    n_committed = 0
    with wire(Settings(data_dir=tmp_path / "data", notes="model", embedder="none"), Unsound()) as parts:
        commit, random = parts.store.commit_note, Random(1)

        async def faulty(note: Note, instead_of: Any = ()) -> bool:
            nonlocal n_committed
            if random.random() < 0.1:
                raise OSError("the disk is gone for a moment")
            done = await commit(note, instead_of)
            n_committed += done and note.kind in ("ledger", "model")
            if n_committed >= compactions:
                enough.set()
            return done

        def by_keeper(note: Note, instead_of: Any = ()) -> Any:
            people = note.kind in ("edited", "deleted")
            return commit(note, instead_of) if people else faulty(note, instead_of)

        monkeypatch.setattr(parts.store, "commit_note", by_keeper)
        runs = [Run(parts.chats, f"u{i}", Random(i)) for i in range(USERS)]
        await asyncio.gather(*(run.work(enough) for run in runs))
        assert sum(run.n_stopped for run in runs)
        assert await answers(parts, runs)
        await parts.jobs.close()
    with Store(tmp_path / "data") as store:
        check(store, {turn_id: said for run in runs for turn_id, said in run.said.items()})


async def answers(parts: Parts, runs: list[Run]) -> bool:
    """Whether every chat still answers."""
    for run in runs:
        for chat in (await parts.chats.chats(run.user_id, 10)).chats:
            begun = await parts.chats.begin(run.user_id, chat.chat_id, TurnRequest("Still there?"))
            if (await parts.chats.wait(run.user_id, begun.turn_id)).status != "done":
                return False
    return True


WRITER = """
import asyncio, json, sys
from pathlib import Path
from dataclasses import replace
from chatlab.chat import TurnRequest
from chatlab.settings import Settings
from chatlab.wiring import wire
from tests.test_notes import FACTS, SUMMARIZE, Words

async def client(parts, name):
    chat = await parts.chats.create_chat(lambda made: replace(made, history=SUMMARIZE), name)
    for i in range(1_000_000):
        begun = await parts.chats.begin(name, chat.chat_id, TurnRequest(f"{FACTS[i % 8]} That was number {i}."))
        turn = await parts.chats.wait(name, begun.turn_id)
        print(json.dumps([turn.turn_id, turn.user_message, turn.assistant_message]), flush=True)

async def main():
    with wire(Settings(data_dir=Path(sys.argv[1]), notes="ledger", embedder="none"), Words()) as parts:
        await asyncio.gather(*(client(parts, f"{sys.argv[2]}-{n}") for n in range(4)))

asyncio.run(main())
"""


@pytest.mark.parametrize("kills", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_notes_and_turns_after_kills(tmp_path: Path, kills: int) -> None:
    said: dict[str, tuple[str, str | None]] = {}
    environment = {"PYTHONPATH": str(Path(__file__).parents[1])}
    n_notes = 0
    for kill in range(kills):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), f"round{kill}"],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        lines = [writer.stdout.readline() for _ in range(80)]  # it writes notes by now
        time.sleep(0.01 * (kill % 7))
        writer.kill()
        rest, _ = writer.communicate()
        for line in "".join([*lines, rest]).splitlines(keepends=True):
            if line.startswith('["') and line.endswith("\n"):  # no log line, and not cut
                turn_id, asked, answered = json.loads(line)
                said[turn_id] = (asked, answered)
        with Store(tmp_path) as store:
            check(store, said)
            n_notes = sum(len(known.notes) for known in store.all_conversations())
    assert n_notes >= kills
