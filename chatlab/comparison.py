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
        blind: Whether a vote is to be given before it is told which side is which.
        revealed: Whether that was told without a vote.
        vote: Once there is one.
    """

    user_id: str
    chat_id: str
    question: str
    sides: Sequence[Side]
    shown: tuple[int, ...]
    blind: bool = True
    revealed: bool = False
    vote: Vote | None = None
    tasks: Sequence[asyncio.Task[None]] = ()
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def live(self) -> bool:
        """Whether a side is under way."""
        return any(side.live for side in self.sides)

    @property
    def hidden(self) -> bool:
        """Whether nobody may know yet which side is which."""
        return self.blind and not self.revealed and self.vote is None

    @property
    def votable(self) -> bool:
        """Whether every side has a whole answer."""
        return all(side.state == "done" and side.text.strip() for side in self.sides)

    @property
    def chars(self) -> int:
        """Of all that is kept of it."""
        return sum(len(side.text) + sum(len(each["content"]) for each in side.messages) for side in self.sides)

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
        share: Of the pairs with another side that its votes decided, those it won, so that .5 is chance for any number
            of sides. `n` is of votes, since the pairs of a vote are not independent.
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
            blind: Whether the sides are shown in a random order, and voted on.

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
        made = Comparison(user_id, chat_id, question, [Side(each) for each in settings], tuple(order), blind)
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
            if not turn.live and (answer := turn.assistant_message or "").strip():
                said += [Message(role="user", content=turn.user_message), Message(role="assistant", content=answer)]
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

    async def vote(self, made: Comparison, position: int | None) -> Vote:
        """Store which side was found better.

        Args:
            made: Ended, without a vote.
            position: Of a side, as shown; None for none.

        Raises:
            InvalidInput: There is a vote already, it is known which side is which, a side has no whole answer, or there
                is no such side.
            NotFound: Its chat is gone.
        """
        if made.vote is not None:
            raise InvalidInput(FieldError("vote", "was given already: compare again for another one"))
        if not made.hidden:
            raise InvalidInput(FieldError("vote", "must be blind: compare again with “Hide which is which” on"))
        if not made.votable:
            raise InvalidInput(FieldError("vote", "needs all answers: wait for their end, or compare again"))
        if position is not None and position not in range(len(made.shown)):
            raise InvalidInput(FieldError("vote", "choose one of the answers, or none"))
        settings = tuple(side.settings for side in made.sides)
        answers = tuple(side.text for side in made.sides)
        vote = Vote(
            self._new_id(), made.user_id, made.chat_id, self._clock(), made.question, settings, answers, made.shown,
            None if position is None else made.shown[position],
        )  # fmt: skip
        made.vote = vote  # before it is stored: another one may come meanwhile
        try:
            if not await self._rows.save(vote):
                raise NotFound("chat", made.chat_id)
        except BaseException:
            made.vote = None
            raise
        return vote

    def reveal(self, made: Comparison) -> None:
        """Tell which side is which without a vote; there can be none from then on.

        Raises:
            InvalidInput: A side is under way.
        """
        if made.live:
            raise InvalidInput(FieldError("vote", "wait for the end of all answers, or stop them"))
        made.revealed = True

    async def wins(self, user_id: str) -> Sequence[Wins]:
        """How a user's configurations fared, best first."""
        return wins_of(await self._rows.of_user(user_id))


def wins_of(votes: Sequence[Vote]) -> Sequence[Wins]:
    """Votes by configuration, the highest lower end of an interval first.

    A vote for a side decides its pairs with each other side; those of the others stay open, as all do where none was
    better. Where the same configuration stood on several sides, a vote tells nothing and is left out.
    """
    counted: dict[ChatSettings, list[int | None]] = {}
    for vote in votes:
        if len({*vote.settings}) < len(vote.settings):
            continue
        for place, settings in enumerate(vote.settings):
            won = None if vote.winner is None else len(vote.settings) - 1 if vote.winner == place else 0
            counted.setdefault(settings, []).append(won)
    found = [
        Wins(each, len(won), sum(bool(n) for n in won), won.count(None), _pairs_won([n for n in won if n is not None]))
        for each, won in counted.items()
    ]
    return sorted(found, key=lambda each: (-each.share.low, -(each.share.value or 0.0), -each.votes))


def _pairs_won(won: Sequence[int]) -> Share:
    """The share of pairs won, from how many each vote won; a vote that was lost decided one.

    The interval's n is that of as many equal votes as would say as much (Kish 1965).
    """
    pairs = [max(n, 1) for n in won]
    n_votes = sum(pairs) ** 2 / sum(n * n for n in pairs) if pairs else 0.0
    return share_of(n_votes * sum(won) / sum(pairs), n_votes) if pairs else share_of(0, 0)
