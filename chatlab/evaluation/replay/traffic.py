"""Traffic with known truth through a real chatlab, in a time of its own: what a replay is held against.

Users ask the questions of a made-up stream in chats of their own, some at the same time; they regenerate, edit, stop,
rate, take or refuse what is similar, and perhaps delete chats. The answers are made up; everything else is as live: the
turns, the cache, its store. Between two moments everything that is done aside gets done.
"""

import asyncio
import heapq
import random
from collections import defaultdict, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from chatlab.chat import TurnRequest
from chatlab.engines.base import Chunk, EngineLoad, Finished, GenerationRequest, Piece, Started
from chatlab.engines.echo import EchoEngine
from chatlab.evaluation.workload import Asked, Words, make_stream
from chatlab.messages import CacheChoice, CacheScope, Turn
from chatlab.settings import Settings
from chatlab.wiring import Parts, wire

BEGIN = datetime(2026, 1, 5, 8, tzinfo=UTC)
GAP_SECONDS = 60.0  # between questions, on average
ANSWER_SECONDS = (1.0, 20.0)
SCOPES: dict[CacheScope, float] = {"user": 0.6, "global": 0.3, "off": 0.1}
REGENERATED, EDITED, ECHOED, STOPPED, RATED, DELETED = 0.03, 0.02, 0.03, 0.01, 0.06, 0.02  # shares of turns
JUDGED = 0.5  # of what is similar
CUT, REFUSED = 0.02, 0.02  # of answers
ANSWER_WORDS = 12
SYLLABLES = ("ba", "de", "fi", "go", "lu", "ma", "ne", "ri", "so", "tu", "ve", "zo")
ENDLESS = ("turn ", "purge ", "partial texts")  # names of tasks that are not waited for


@dataclass(slots=True)
class Traffic:
    """What was asked.

    Attributes:
        keys: By turn, what its answer is about: two questions with one key have one answer.
        kinds: By turn, what it was to its user; see `workload`.
        n_deleted: Turns whose chat was deleted.
    """

    keys: dict[str, str] = field(default_factory=dict[str, str])
    kinds: dict[str, str] = field(default_factory=dict[str, str])
    n_deleted: int = 0

    def right(self, question_key: str, answer: str) -> bool:
        """Whether an answer is the one to a question."""
        return answer == answer_to(question_key)


def answer_to(key: str) -> str:
    """The answer to all questions with a key, and to no other one."""
    chance = random.Random(key)
    words = ["".join(chance.choices(SYLLABLES, k=2)) for _ in range(ANSWER_WORDS)]
    return f"{' '.join(words).capitalize()}."


class ScriptedEngine(EchoEngine):
    """Says what it was told to, when it is told to; counts words."""

    def __init__(self) -> None:
        super().__init__(context_tokens=8_192)
        self.says: dict[tuple[str, str], tuple[str, bool]] = {}  # by user and question: what, and whether it is cut
        self.held: dict[tuple[str, str], deque[asyncio.Event]] = defaultdict(deque)

    @property
    def load(self) -> EngineLoad:
        """Nobody waits for it: who is answered does so elsewhere."""
        return EngineLoad(running=0, waiting=0)

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        """What it was told to say."""
        key = request.user_id, request.messages[-1]["content"][request.quoted_chars :]
        held, task = self.held[key], asyncio.current_task()
        if held and task is not None and task.get_name().startswith("turn "):  # and no audit
            await held.popleft().wait()
        text, cut = self.says[key]
        yield Started(self.count(request.messages), 0)
        yield Piece(text, len(text.split()))
        yield Finished("length" if cut else "stop")


@dataclass(slots=True)
class _Chat:
    chat_id: str
    user: str
    scope: CacheScope
    turns: list[Turn] = field(default_factory=list[Turn])
    asked: list[Asked] = field(default_factory=list[Asked])


async def make_traffic(
    settings: Settings,
    words: Words,
    seed: int,
    n: int,
    deletes: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Traffic:
    """Fill a data dir with turns.

    Args:
        settings: Of the chatlab that answers; its data dir is new.
        words: What is asked.
        seed: Of every draw but that of audits.
        n: Turns, at least.
        deletes: Whether chats are deleted, too.
        progress: Told how many turns of how many were asked.
    """
    engine, driver_time = ScriptedEngine(), _Time()
    with wire(settings, engine, lambda: driver_time.at) as parts:
        await parts.embedder.embed(["a first text loads the model"])
        driver = _Driver(parts, engine, driver_time, random.Random(seed), deletes)
        await driver.run(make_stream(words, seed, n), n, progress)
        await parts.jobs.close()
    return driver.traffic


class _Time:
    def __init__(self) -> None:
        self.at = BEGIN


class _Driver:
    """Asks a stream's questions, and does what people do besides, moment by moment."""

    def __init__(self, parts: Parts, engine: ScriptedEngine, time: _Time, chance: random.Random, deletes: bool) -> None:
        self.traffic = Traffic()
        self._parts = parts
        self._engine = engine
        self._time = time
        self._chance = chance
        self._deletes = deletes
        self._moments: list[tuple[datetime, int, Callable[[], Awaitable[None]]]] = []
        self._number = 0
        self._open: dict[str, _Chat] = {}  # by user, the chat that they go on with
        self._old: list[_Chat] = []
        self._under_way: set[str] = set()  # chats that are answering

    async def run(self, stream: Sequence[Asked], n: int, progress: Callable[[int, int], None] | None) -> None:
        """Until n turns were asked."""
        at = BEGIN
        for asked in stream:
            at += timedelta(seconds=self._chance.expovariate(1 / GAP_SECONDS))
            self._later(at, lambda asked=asked: self._ask(asked))
        while self._moments:
            self._time.at, _, act = heapq.heappop(self._moments)
            await act()
            await _settled()
            if progress is not None:
                progress(len(self.traffic.keys), n)

    def _later(self, at: datetime, act: Callable[[], Awaitable[None]]) -> None:
        self._number += 1
        heapq.heappush(self._moments, (at, self._number, act))

    def _in(self, seconds: float, act: Callable[[], Awaitable[None]]) -> None:
        self._later(self._time.at + timedelta(seconds=seconds), act)

    def _draw(self, share: float) -> bool:
        return self._chance.random() < share

    async def _ask(self, asked: Asked) -> None:
        """The next question of the stream, in the user's chat or a new one."""
        chat = self._open.get(asked.user)
        if chat is None or not asked.history or not chat.turns:
            chat = await self._new_chat(asked.user)
        if chat.chat_id in self._under_way:  # the user reads the answer first
            self._in(ANSWER_SECONDS[1], lambda: self._ask(asked))
            return
        await self._begin(chat, asked, chat.turns[-1].turn_id if chat.turns else None)
        if self._draw(ECHOED):  # somebody else wonders, too, or the same person elsewhere
            user = asked.user if self._draw(0.5) else self._chance.choice([*self._open])
            other = await self._new_chat(user, chat.scope, keep=False)
            alone = replace(asked, user=user, history=())
            self._in(0.5, lambda: self._begin(other, alone, None))

    async def _new_chat(self, user: str, scope: CacheScope | None = None, keep: bool = True) -> _Chat:
        scopes: list[CacheScope] = [*SCOPES]
        drawn = self._chance.choices(scopes, [*SCOPES.values()])[0]
        chosen = drawn if scope is None else scope
        made = await self._parts.chats.create_chat(lambda chat: replace(chat, cache=CacheChoice(chosen)), user)
        chat = _Chat(made.chat_id, user, chosen)
        if keep:
            if (old := self._open.get(user)) is not None:
                self._old.append(old)
            self._open[user] = chat
        return chat

    async def _begin(self, chat: _Chat, asked: Asked, parent: str | None, bypass: bool = False) -> None:
        key = chat.user, asked.question
        text = answer_to(asked.answer_key)
        cut = self._draw(CUT)
        self._engine.says[key] = ("I'm sorry, I cannot help with that." if self._draw(REFUSED) else text, cut)
        release = asyncio.Event()
        self._engine.held[key].append(release)
        turn = await self._parts.chats.begin(
            chat.user, chat.chat_id, TurnRequest(asked.question, parent, cache_bypass=bypass)
        )
        chat.turns.append(turn)
        chat.asked.append(asked)
        self.traffic.keys[turn.turn_id], self.traffic.kinds[turn.turn_id] = asked.answer_key, asked.kind or ""
        if not turn.live:
            self._engine.held[key].pop()
            await self._over(turn)
            await self._after(chat, turn)
            return
        self._under_way.add(chat.chat_id)
        if (similar := self._parts.chats.similar_to(turn)) is not None and self._draw(JUDGED):
            same = self.traffic.right(asked.answer_key, similar.answer)
            self._in(0.9, lambda: self._judge(turn, same))
        if self._draw(STOPPED):
            self._in(0.95, lambda: self._stop(turn))
        self._in(self._chance.uniform(*ANSWER_SECONDS), lambda: self._end(chat, turn, release))

    async def _end(self, chat: _Chat, turn: Turn, release: asyncio.Event) -> None:
        release.set()
        held = self._engine.held[turn.user_id, turn.user_message]
        job = self._parts.jobs.of_chat(chat.chat_id)
        if release in held and job is not None and job.turn_id == turn.turn_id:  # it waits for another one's answer
            self._in(1.0, lambda: self._end(chat, turn, release))
            return
        if release in held:
            held.remove(release)
        ended = await self._over(turn)
        self._under_way.discard(chat.chat_id)
        await self._after(chat, ended)

    async def _over(self, turn: Turn) -> Turn:
        """A turn once it has ended and its chat is free."""
        ended = await self._parts.chats.wait(turn.user_id, turn.turn_id)
        if (job := self._parts.jobs.of_chat(turn.chat_id)) is not None:
            await job.ended.wait()
        return ended

    async def _after(self, chat: _Chat, turn: Turn) -> None:
        """What a person does once the answer is there."""
        asked, parent = chat.asked[-1], turn.parent_turn_id
        if self._draw(RATED):
            good = self.traffic.right(asked.answer_key, turn.assistant_message or "")
            self._in(30.0 * self._chance.random(), lambda: self._rate(turn, 1 if good else -1))
        if self._draw(REGENERATED):
            self._in(25.0, lambda: self._again(chat, asked, parent, bypass=True))
        elif self._draw(EDITED):
            edited = replace(asked, question=asked.question + " please")
            self._in(25.0, lambda: self._again(chat, edited, parent))
        if self._deletes and self._old and self._draw(DELETED):
            old = self._old.pop(self._chance.randrange(len(self._old)))
            self._in(45.0, lambda: self._delete(old))

    async def _again(self, chat: _Chat, asked: Asked, parent: str | None, bypass: bool = False) -> None:
        if chat.chat_id not in self._under_way:
            await self._begin(chat, asked, parent, bypass)

    async def _judge(self, turn: Turn, same: bool) -> None:
        if self._parts.chats.similar_to(turn) is not None:
            await self._parts.chats.judge_similar(turn.user_id, turn.turn_id, same)

    async def _stop(self, turn: Turn) -> None:
        await self._parts.chats.stop(turn.user_id, turn.turn_id)

    async def _rate(self, turn: Turn, rating: int) -> None:
        await self._parts.chats.rate(turn.user_id, turn.chat_id, turn.turn_id, rating, None)

    async def _delete(self, chat: _Chat) -> None:
        if chat.chat_id in self._under_way:
            return
        self._under_way.add(chat.chat_id)
        self.traffic.n_deleted += len(chat.turns)
        await self._parts.chats.delete_chat(chat.user, chat.chat_id)


async def _settled() -> None:
    """Return once nothing is done aside."""
    me = asyncio.current_task()
    while busy := [
        task
        for task in asyncio.all_tasks()
        if task is not me and not task.get_name().startswith(ENDLESS) and _ours(task)
    ]:
        await asyncio.wait(busy)


def _ours(task: "asyncio.Task[object]") -> bool:
    """Whether chatlab began it: its tasks have names of two words."""
    return " " in task.get_name()
