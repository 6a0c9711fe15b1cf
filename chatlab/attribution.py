"""What of its prompt mattered for an answer: how much less likely it is without each part, one left out at a time.

Leave-one-out context attribution, the simplest estimator of Cohen-Wang et al., ContextCite (arXiv 2409.00729), with the
given answer's log-likelihood as the score. What it means and where it misleads: docs/attribution.md. Belongs to one
event loop.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakValueDictionary

from chatlab.engines.base import Engine, GenerationRequest, Scorer
from chatlab.errors import ChatlabError, FieldError, InvalidInput
from chatlab.history import stored_messages
from chatlab.messages import Message, PartKind, StoredMessage, Turn

MAX_PARTS = 12  # neighbours of a kind are left out together where there are more
MAX_TOKENS = 256  # of the answer, that are scored
AT_ONCE = 4  # prompts of one attribution that are computed side by side
ASIDE = "\x00attribution"  # after a user's id: what is kept of these prompts must not push out the chats'


@dataclass(frozen=True, slots=True)
class Effect:
    """What leaving one part out does.

    Attributes:
        kind: Of the part.
        turn_ids: That it is made from or stands for.
        tokens: That it takes.
        change: Of the answer's log-likelihood, in nats: below 0 the part made the answer likelier.
    """

    kind: PartKind
    turn_ids: tuple[str, ...]
    tokens: int
    change: float


@dataclass(frozen=True, slots=True)
class Attribution:
    """The effects of all parts but the question, in the prompt's order.

    Attributes:
        log_likelihood: Of the answer after the whole prompt, in nats.
        tokens: Of the answer, that were scored.
        ms: How long it took.
    """

    parts: tuple[Effect, ...]
    log_likelihood: float
    tokens: int
    model: str
    ms: float


@dataclass(frozen=True, slots=True)
class _Part:
    """Consecutive messages of a recipe; of the last message, which is never left out, the quotes before the question.

    Attributes:
        places: Of the messages; empty for quotes.
        tokens: Where they are known; of turns the prompt's length without them tells. Without a system prompt it does
            not: a template may put one of its own there.
    """

    kind: PartKind
    turn_ids: tuple[str, ...]
    places: range
    tokens: int | None = None


class Attributor:
    """Scores prompts with parts left out, for one user one answer at a time.

    Args:
        engine: Which may be one that cannot score.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by user, while one is held

    @property
    def able(self) -> bool:
        """Whether the engine can score."""
        return isinstance(self._engine, Scorer)

    async def attribute(self, turn: Turn, turns: Mapping[str, Turn]) -> Attribution:
        """What of its prompt mattered for a turn's answer.

        Args:
            turn: With its recipe.
            turns: Of its chat, by id.

        Raises:
            InvalidInput: The engine cannot score, another model answered, or there is no answer of a model.
            EngineError: The model failed.
        """
        engine, facts = self._engine, self._engine.facts
        if not isinstance(engine, Scorer):
            raise _refused(f"the engine {facts.engine!r} does not say how likely answers are: use 'transformers'")
        if turn.provenance.model != facts.model:
            raise _refused(f"{turn.provenance.model or 'no model'} answered it, and {facts.model} is loaded now")
        if turn.live or turn.source != "model" or not (turn.assistant_message or "").strip():
            raise _refused("it has no answer of a model")
        async with self._locks.setdefault(turn.user_id, asyncio.Lock()):
            return await self._attributed(engine, turn, turns)

    async def _attributed(self, engine: Scorer, turn: Turn, turns: Mapping[str, Turn]) -> Attribution:
        began = time.perf_counter()
        parts = _parts(turn)
        prompts = [self._messages(turn.prompt, turns), *(self._without(part, turn, turns) for part in parts)]
        counts = await asyncio.to_thread(lambda: [self._engine.count(each) for each in prompts])
        answer, gate = turn.assistant_message or "", asyncio.Semaphore(AT_ONCE)

        async def scored(messages: Sequence[Message]) -> tuple[float, ...]:
            async with gate:
                request = GenerationRequest(messages, user_id=turn.user_id + ASIDE)
                return await engine.score(request, answer, MAX_TOKENS)

        whole = await scored(prompts[0])  # first: the others begin like it
        try:
            async with asyncio.TaskGroup() as group:
                others = [group.create_task(scored(each)) for each in prompts[1:]]
        except ExceptionGroup as failed:  # one failed, and the others were cancelled: it is theirs to tell
            ours = (error for error in failed.exceptions if isinstance(error, ChatlabError))
            raise next(ours, failed.exceptions[0]) from None
        effects = tuple(
            Effect(part.kind, part.turn_ids, part.tokens or counts[0] - count, sum(other.result()) - sum(whole))
            for part, other, count in zip(parts, others, counts[1:], strict=True)
        )
        ms = round(1e3 * (time.perf_counter() - began), 1)
        return Attribution(effects, sum(whole), len(whole), self._engine.facts.model, ms)

    def _without(self, part: _Part, turn: Turn, turns: Mapping[str, Turn]) -> tuple[Message, ...]:
        recipe = [each for place, each in enumerate(turn.prompt) if place not in part.places]
        if not part.places:
            recipe[-1] = StoredMessage(recipe[-1].role, recipe[-1].turn_id)
        return self._messages(recipe, turns)

    def _messages(self, recipe: Sequence[StoredMessage], turns: Mapping[str, Turn]) -> tuple[Message, ...]:
        return stored_messages(recipe, turns, self._engine.facts)


def _parts(turn: Turn) -> list[_Part]:
    """What can be left out: the system prompt, each turn, the notes, the quotes."""
    prompt = turn.provenance.prompt
    if prompt is None or not turn.prompt:
        raise _refused("its prompt is not known")
    # The notes' messages are what the other parts leave: system 1, a turn 2, the question 1.
    n_before = sum(part.kind == "system" for part in prompt.parts)
    n_turns = {kind: len(prompt.turn_ids_in(kind)) for kind in ("pinned", "verbatim")}
    n_noted = len(turn.prompt) - 1 - n_before - 2 * sum(n_turns.values())
    found: list[_Part] = []
    place = 0
    for part in prompt.parts:
        match part.kind:
            case "system":
                found.append(_Part("system", (), range(place, place + 1), part.tokens))
                place += 1
            case "pinned" | "verbatim":
                most = max(1, MAX_PARTS * n_turns[part.kind] // max(1, sum(n_turns.values())))
                for ids in _split(part.turn_ids, most):
                    found.append(_Part(part.kind, ids, range(place, place + 2 * len(ids))))
                    place += 2 * len(ids)
            case "summary":
                found.append(_Part("summary", part.turn_ids, range(place, place + n_noted), part.tokens))
                place += n_noted
            case "retrieved":
                found.append(_Part("retrieved", part.turn_ids, range(0), part.tokens))
            case "question":
                pass
    return found


def _split(turn_ids: Sequence[str], most: int) -> list[tuple[str, ...]]:
    """At most so many runs of neighbours, as equal as can be."""
    n = min(most, len(turn_ids))
    ends = [round(len(turn_ids) * i / n) for i in range(n + 1)] if n else [0]
    return [tuple(turn_ids[a:b]) for a, b in zip(ends[:-1], ends[1:], strict=True)]


def _refused(why: str) -> InvalidInput:
    return InvalidInput(FieldError("turnID", f"what mattered for it cannot be measured: {why}"))
