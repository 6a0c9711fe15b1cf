"""Titles from the model: good ones are taken, nothing else changes, and people come first."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import pytest

from chatlab import titles
from chatlab.chat import TurnRequest
from chatlab.engines.base import Chunk, Engine, EngineLoad, GenerationRequest, ModelFacts
from chatlab.engines.echo import EchoEngine
from chatlab.errors import EngineError, NotFound
from chatlab.messages import CacheChoice, Turn
from chatlab.settings import Settings
from chatlab.titles import acceptable, write_title
from chatlab.wiring import Parts, wire
from tests.conftest import ScriptedEngine

PROVISIONAL = "What is the capital…"
QUESTION = "What is the capital of France?"
TURN = Turn("t", "c", "u", None, QUESTION, datetime(2026, 1, 1, tzinfo=UTC), "It is Paris, on the river Seine.", "done")


@dataclass
class TitlingEngine(ScriptedEngine):
    """Answers with its pieces, and with a title when asked for one."""

    title: list[str | Exception] = field(default_factory=lambda: ["Capital of ", "France"])
    title_pause: asyncio.Event | None = None
    n_waiting: int = 0

    @property
    def load(self) -> EngineLoad:
        return EngineLoad(self.n_open, self.n_waiting)

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        if request.params != titles.PARAMS:
            engine = self
        else:
            pause = self.title_pause.wait if self.title_pause is not None else None
            engine = ScriptedEngine(self.title, pause, seen=self.seen)
        async for chunk in ScriptedEngine.stream(engine, request):
            yield chunk

    @property
    def n_titles(self) -> int:
        """Titles asked for."""
        return sum(request.params == titles.PARAMS for request in self.seen)


async def begun(parts: Parts, entitle: str | None = PROVISIONAL) -> str:
    """A chat after its first turn."""
    off = CacheChoice("off")  # every chat is to be answered by its engine
    chat = await parts.chats.create_chat(lambda chat: replace(chat, title=PROVISIONAL, cache=off), "u")
    turn = await parts.chats.begin("u", chat.chat_id, TurnRequest(QUESTION, entitle=entitle))
    await parts.chats.wait("u", turn.turn_id)
    return chat.chat_id


async def title_with(settings: Settings, engine: Engine, entitle: str | None = PROVISIONAL) -> str | None:
    """The title of a chat, in the end."""
    with wire(settings, engine) as parts:
        chat_id = await begun(parts, entitle)
        title = (await asyncio.wait_for(parts.chats.titled("u", chat_id), timeout=5)).title
        await parts.jobs.close()
        return title


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Capital of France", "Capital of France"),
        (' "Title: Capital of France." \n', "Capital of France"),
        ("**The Seine in Paris**", "The Seine in Paris"),
        ('The title is "Capital of France: Paris."', "Capital of France: Paris"),
        ("**Title:** The Seine**", "The Seine"),
        ("Capitals", "Capitals"),
        ("", None),
        ("?", None),
        ("Capital of France\nIt is Paris.", None),
        ("Capital " + "of France " * 8, None),
        ("Capital " + "x" * 60, None),
        ("France, France and Paris", None),
        ("Baking bread at home", None),
        ("Title", None),
        ("Write a title of at most six words", None),
        ("Conversation title", None),
        ("of the and", None),
        ("Capital\x00France", None),
    ],
)
def test_only_a_good_title_is_taken(text: str, title: str | None) -> None:
    assert acceptable(text, TURN) == title


def test_titles_without_spaces() -> None:
    turn = replace(TURN, user_message="フランスの首都はどこですか", assistant_message="パリです。")
    assert acceptable("フランスの首都", turn) == "フランスの首都"
    assert acceptable("料理の作り方", turn) is None


async def test_a_title_is_asked_for_with_little_and_kept_apart() -> None:
    engine = TitlingEngine()
    turn = replace(TURN, user_message="<|im_start|>" + "word " * 10_000)
    await write_title(engine, turn)
    (request,) = engine.seen
    assert request.user_id == "u"
    (message,) = request.messages
    assert len(message["content"]) < 2_000
    assert "<|im_start|>" not in message["content"]


async def test_the_model_names_the_chat(settings: Settings) -> None:
    assert await title_with(settings, TitlingEngine()) == "Capital of France"


@pytest.mark.parametrize("title", [["Nonsense"], [], [EngineError("gone")], [ValueError("broken")]])
async def test_the_provisional_title_stays(settings: Settings, title: list[str | Exception]) -> None:
    engine = TitlingEngine(title=title)
    assert await title_with(settings, engine) == PROVISIONAL
    assert engine.n_titles == 1


async def test_errors_are_counted(settings: Settings) -> None:
    with wire(settings, TitlingEngine(title=[EngineError("gone")])) as parts:
        await parts.chats.titled("u", await begun(parts))
        assert b'chatlab_faults_total{chatlab_part="title"' in parts.metrics.prometheus()
        await parts.jobs.close()


async def test_no_title_where_none_was_asked_for_or_the_turn_failed(settings: Settings) -> None:
    unasked, failing = TitlingEngine(), TitlingEngine([EngineError("gone")])
    assert await title_with(settings, unasked, entitle=None) == PROVISIONAL
    assert await title_with(settings, failing) == PROVISIONAL
    assert unasked.n_titles == failing.n_titles == 0


async def test_the_echo_engine_is_not_asked(settings: Settings) -> None:
    asked: list[ModelFacts] = []

    class Echo(EchoEngine):
        async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
            asked.append(self.facts)
            async for chunk in super().stream(request):
                yield chunk

    assert await title_with(settings, Echo()) == PROVISIONAL
    assert len(asked) == 1


async def test_a_persons_title_and_next_message_go_on_meanwhile(settings: Settings) -> None:
    engine = TitlingEngine(title_pause=asyncio.Event())
    with wire(settings, engine) as parts:
        chat_id = await begun(parts)
        titled = asyncio.create_task(parts.chats.titled("u", chat_id))
        with pytest.raises(NotFound):
            await parts.chats.titled("eve", chat_id)
        turn = await parts.chats.begin("u", chat_id, TurnRequest("And of Italy?"))
        assert (await parts.chats.wait("u", turn.turn_id)).status == "done"
        await parts.chats.change_chat("u", chat_id, lambda chat: replace(chat, title="Mine"))
        assert not titled.done()
        assert engine.title_pause is not None
        engine.title_pause.set()
        assert (await asyncio.wait_for(titled, timeout=5)).title == "Mine"
        await parts.jobs.close()


async def test_a_title_does_not_move_the_chat(settings: Settings) -> None:
    with wire(settings, TitlingEngine()) as parts:
        chat_id = await begun(parts)
        ended_at = (await parts.chats.conversation("u", chat_id)).turns[0].finished_at
        assert (await parts.chats.titled("u", chat_id)).updated_at == ended_at
        await parts.jobs.close()


async def test_a_chat_deleted_meanwhile_stays_deleted(settings: Settings) -> None:
    pause = asyncio.Event()
    with wire(settings, TitlingEngine(title_pause=pause)) as parts:
        chat_id = await begun(parts)
        await parts.chats.delete_chat("u", chat_id)
        pause.set()
        await asyncio.sleep(0.05)
        assert (await parts.chats.chats("u", 5)).chats == ()
        assert b"chatlab_faults_total{" not in parts.metrics.prometheus()
        await parts.jobs.close()


async def test_people_come_first() -> None:
    """A title waits for the queue, and makes room for a message that comes while it is being written."""
    pause = asyncio.Event()
    engine = TitlingEngine(title_pause=pause, n_waiting=1)
    writing = asyncio.create_task(write_title(engine, TURN))
    await asyncio.sleep(0.15)
    assert engine.seen == []
    engine.n_waiting = 0
    while not engine.seen:
        await asyncio.sleep(0.01)
    engine.n_waiting = 1
    pause.set()
    await asyncio.sleep(0.15)
    assert engine.n_titles == 1
    engine.n_waiting = 0
    assert await asyncio.wait_for(writing, timeout=5) == "Capital of France"
    assert engine.n_titles == 2


async def test_a_title_has_its_time(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(titles, "LIMIT_SECONDS", 0.05)
    assert await title_with(settings, TitlingEngine(title_pause=asyncio.Event())) == PROVISIONAL


async def test_closing_does_not_wait_for_a_title(settings: Settings) -> None:
    with wire(settings, TitlingEngine(title_pause=asyncio.Event())) as parts:
        chat_id = await begun(parts)
        assert parts.jobs.n_live == 0, "a title takes no place"
        await asyncio.wait_for(parts.jobs.close(), timeout=3)
        assert (await parts.chats.titled("u", chat_id)).title == PROVISIONAL
