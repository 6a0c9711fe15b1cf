"""The same question, or conversation, through several configurations side by side, and a blind vote on the answers.

Each side is a completion without a chat (`completions`): nothing is stored of it, no answer enters the cache and no
lookup is counted; a stored answer is looked at where a configuration's cache would serve it. What a strategy recalls is
found by words, and notes are statements by rules, as on `/v1`. One side's failure is its own. Only a vote is stored.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal

import structlog

from chatlab.cache.statistics import Share, share_of
from chatlab.chat import ChatService
from chatlab.clock import Clock
from chatlab.completions import CompletionService
from chatlab.engines.base import Finished, Piece
from chatlab.errors import ChatlabError, FieldError, InvalidInput, NotFound, check_text
from chatlab.messages import ChatSettings, Message, Provenance, Usage, path_to
from chatlab.problems import problem_of
from chatlab.progress import Progress
from chatlab.store import Vote, VoteRows

log = structlog.get_logger(__name__)

MIN_SIDES, MAX_SIDES = 2, 4

State = Literal["waiting", "running", "done", "stopped", "failed"]


@dataclass(slots=True)
class Side:
    """A configuration and its answer so far.

    Attributes:
        messages: What the model saw; of a cache hit, what was said.
        error: Why it failed.
    """

    settings: ChatSettings
    state: State = "waiting"
    text: str = ""
    messages: Sequence[Message] = ()
    provenance: Provenance = field(default_factory=Provenance)
    error: str | None = None

    @property
    def live(self) -> bool:
        """Whether more is to come."""
        return self.state in ("waiting", "running")


@dataclass(slots=True)
class Comparison:
    """Sides under way or ended; belongs to one event loop.

    Attributes:
        shown: Places of the sides, in the order in which they are shown.
        vote: Once there is one.
    """

    user_id: str
    chat_id: str
    question: str
    sides: Sequence[Side]
    shown: tuple[int, ...]
    vote: Vote | None = None
    tasks: Sequence[asyncio.Task[None]] = ()
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def live(self) -> bool:
        """Whether a side is under way."""
        return any(side.live for side in self.sides)

    async def stop(self) -> None:
        """End what is under way; the texts so far stay."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        for side in self.sides:
            if side.live:  # cancelled before its first step
                side.state = "stopped"
        self.changed.set()


@dataclass(frozen=True, slots=True)
class Wins:
    """How often a configuration was found better.

    Attributes:
        share: Of the votes that were for one of the sides.
    """

    settings: ChatSettings
    votes: int
    wins: int
    equal: int
    share: Share


class Comparisons:
    """Compares configurations.

    Args:
        chats: Whose conversations may be gone on with.
        completions: Answers.
        rows: Of the votes.
        model: That answers, and what runs it.
        clock: Later than everything stored.
        new_id: Unique ids.
        max_message_chars: Longest question taken.
        shuffle: Puts places in an order that tells nothing.
    """

    def __init__(
        self,
        chats: ChatService,
        completions: CompletionService,
        rows: VoteRows,
        model: str,
        engine: str,
        clock: Clock,
        new_id: Callable[[], str],
        max_message_chars: int,
        shuffle: Callable[[list[int]], None] = random.shuffle,
    ) -> None:
        self._chats = chats
        self._completions = completions
        self._rows = rows
        self._model = model
        self._engine = engine
        self._clock = clock
        self._new_id = new_id
        self._max_message_chars = max_message_chars
        self._shuffle = shuffle

    async def begin(
        self, user_id: str, question: str, settings: Sequence[ChatSettings], chat_id: str = "", blind: bool = True
    ) -> Comparison:
        """Let each configuration answer.

        Args:
            user_id: Who asks.
            question: What; empty asks the last question of the chat again.
            settings: Two to four configurations.
            chat_id: A chat of theirs whose newest branch comes before; empty for none.
            blind: Whether the sides are shown in a random order.

        Raises:
            InvalidInput: A question is missing or too long, or there are too few or too many configurations.
            NotFound: No such chat of this user.
        """
        if not MIN_SIDES <= len(settings) <= MAX_SIDES:
            message = f"must be {MIN_SIDES} to {MAX_SIDES}, got {len(settings)}"
            raise InvalidInput(FieldError("configurations", message))
        said, question = await self._said(user_id, question, chat_id)
        check_text("question", question, self._max_message_chars)
        order = [*range(len(settings))]
        if blind:
            self._shuffle(order)
        made = Comparison(user_id, chat_id, question, [Side(each) for each in settings], tuple(order))
        made.tasks = [
            asyncio.create_task(self._answer(made, side, [*said, Message(role="user", content=question)]))
            for side in made.sides
        ]
        return made

    async def _said(self, user_id: str, question: str, chat_id: str) -> tuple[list[Message], str]:
        """What was said before, and the question."""
        if not chat_id:
            return [], question
        turns = (await self._chats.conversation(user_id, chat_id)).turns
        path = path_to(turns, turns[-1].turn_id if turns else None)
        if not question.strip() and path:
            path, question = path[:-1], path[-1].user_message
        said: list[Message] = []
        for turn in path:
            said.append(Message(role="user", content=turn.user_message))
            said.append(Message(role="assistant", content=turn.assistant_message or ""))
        return said, question

    async def _answer(self, made: Comparison, side: Side, messages: list[Message]) -> None:
        """Run one side to its end. Never raises."""
        progress = Progress(time.perf_counter())
        system = side.settings.system_prompt
        given = [Message(role="system", content=system), *messages] if system else messages
        try:
            chosen, scope = side.settings, side.settings.cache.scope
            prepared = await self._completions.prepare(
                made.user_id, given, chosen.params, chosen.history, None if scope == "off" else scope, peek=True
            )
            lookup = prepared.lookup
            side.messages = prepared.request.messages
            side.state = "running"
            made.changed.set()
            hit = lookup is not None and lookup.entry is not None
            async with aclosing(self._completions.stream(prepared)) as chunks:
                async for chunk in chunks:
                    progress.take(chunk)
                    if isinstance(chunk, Piece):
                        side.text += chunk.text
                    made.changed.set()
                    if isinstance(chunk, Finished):
                        usage = progress.usage
                        side.provenance = Provenance(
                            *(() if lookup is None else (lookup.provenance,)),
                            prompt=prepared.prompt,
                            usage=Usage(0, 0, 0, chunk.usage.saved_tokens) if hit and chunk.usage else usage,
                            timing=progress.timing,
                            model=self._model,
                            engine=self._engine,
                        )
            side.state = "done"
        except asyncio.CancelledError:
            side.state = "stopped"
        except Exception as error:
            side.state, side.error = "failed", problem_of(error).detail
            log.warning("a side failed", exc_info=not isinstance(error, ChatlabError))
        made.changed.set()

    async def vote(self, made: Comparison, winner: int | None) -> Vote:
        """Store which side was found better.

        Args:
            made: Ended, without a vote.
            winner: The place of a side; None for none.

        Raises:
            InvalidInput: There is a vote already, a side is under way or failed, or there is no such side.
            NotFound: Its chat is gone.
        """
        if made.vote is not None:
            raise InvalidInput(FieldError("vote", "was given already: compare again for another one"))
        if any(side.state not in ("done", "stopped") for side in made.sides):
            raise InvalidInput(FieldError("vote", "needs all answers: wait for their end, or compare again"))
        if winner is not None and winner not in range(len(made.sides)):
            raise InvalidInput(FieldError("vote", "choose one of the answers, or none"))
        settings = tuple(side.settings for side in made.sides)
        answers = tuple(side.text for side in made.sides)
        vote = Vote(
            self._new_id(), made.user_id, made.chat_id, self._clock(), made.question, settings, answers, made.shown,
            winner,
        )  # fmt: skip
        if not await self._rows.save(vote):
            raise NotFound("chat", made.chat_id)
        made.vote = vote
        return vote

    async def wins(self, user_id: str) -> Sequence[Wins]:
        """How a user's configurations fared, best first."""
        return wins_of(await self._rows.of_user(user_id))


def wins_of(votes: Sequence[Vote]) -> Sequence[Wins]:
    """Votes by configuration; where the same one stood on several sides, a vote tells nothing and is left out."""
    counted: dict[ChatSettings, list[int]] = {}
    for vote in votes:
        if len({*vote.settings}) < len(vote.settings):
            continue
        for place, settings in enumerate(vote.settings):
            counts = counted.setdefault(settings, [0, 0, 0])
            counts[0] += 1
            counts[1] += vote.winner == place
            counts[2] += vote.winner is None
    found = [Wins(each, n, k, equal, share_of(k, n - equal)) for each, (n, k, equal) in counted.items()]
    return sorted(found, key=lambda each: (-(each.share.value or 0.0), -each.votes))
