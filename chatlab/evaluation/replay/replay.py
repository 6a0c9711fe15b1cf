"""One configuration on a log: every turn is asked when it was asked, and ends when it ended.

    asked   the cache looks the question up; what it does not serve gets a prompt
    ended   the answer is stored, compared, noted; the next prompt is prepared
    rated   a thumb teaches, and evicts

The answer to a turn that the model answered is the model's. Where the cache answered then and would not now, what the
model would have said is not known: what was served stands in for it, but teaches nothing, unless the model is asked.
"""

import heapq
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from chatlab.cache.answers import bucket_of, entry_id_of
from chatlab.cache.lookup import Ask, Lookup
from chatlab.evaluation.replay.answers import LogTime, ReplayedAnswers
from chatlab.evaluation.replay.configuration import Configuration
from chatlab.evaluation.replay.decisions import Decision
from chatlab.evaluation.replay.log import TAKEN, Log, Logged, Progress
from chatlab.evaluation.replay.prompts import ReplayedPrompts, Sent
from chatlab.messages import CacheEntry, CacheLookup, SamplingParams, Timing, Turn


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's, given anew."""

    text: str
    whole: bool
    seconds: float


Model = Callable[[Sent, SamplingParams, str], Awaitable[Answer]]


@dataclass(slots=True)
class _Asked:
    """A turn under way."""

    logged: Logged
    lookup: Lookup
    sent: Sent | None


@dataclass(order=True, slots=True)
class _Event:
    at: datetime
    number: int
    kind: Literal["asked", "ended", "rated", "stray"] = field(compare=False)
    about: Logged | _Asked | CacheLookup = field(compare=False)


class Replay:
    """A configuration at work.

    Args:
        log: What is replayed.
        configuration: That decides.
        answers: Its cache, empty.
        time: The cache's.
        prompts: Builds prompts; None builds none.
        model: Answers what the cache does not serve; None takes the answers of the log.
    """

    def __init__(
        self,
        log: Log,
        configuration: Configuration,
        answers: ReplayedAnswers,
        time: LogTime,
        prompts: ReplayedPrompts | None = None,
        model: Model | None = None,
    ) -> None:
        self._log = log
        self._configuration = configuration
        self._answers = answers
        self._time = time
        self._prompts = prompts
        self._model = model
        self._events: list[_Event] = []
        self._number = 0
        self._waiting: dict[str, list[_Asked]] = {}  # by entry, those that follow the same question under way
        self._beyond = beyond(log, answers.embedder)
        self._served: dict[str, bool] = {}  # by turn that has ended
        self._decisions: dict[str, Decision] = {}  # by turn

    async def run(self, progress: Progress | None = None) -> Sequence[Decision]:
        """What becomes of every turn, in the order in which they were asked.

        Args:
            progress: Told how many turns of how many have ended.
        """
        turns = self._log.turns
        for logged in turns:
            self._at(logged.turn.created_at, "asked", logged)
            if (said := logged.turn.feedback) is not None:
                self._at(max(said.at or logged.ended_at, logged.ended_at), "rated", logged)
        for stray in self._log.stray:
            self._at(stray.created_at, "stray", stray)
        while self._events:
            event = heapq.heappop(self._events)
            self._time.at = event.at
            if isinstance(event.about, CacheLookup):
                await self._answers.told.count_stray(event.about)
            elif isinstance(event.about, _Asked):
                await self._end(event.about)
            elif event.kind == "asked":
                await self._ask(event.about)
            else:
                await self._rate(event.about)
            if progress is not None:
                progress(len(self._decisions), len(turns))
        return [self._decisions[each.turn.turn_id] for each in turns]

    def _at(
        self, at: datetime, kind: Literal["asked", "ended", "rated", "stray"], about: Logged | _Asked | CacheLookup
    ) -> None:
        self._number += 1
        heapq.heappush(self._events, _Event(at, self._number, kind, about))

    # Asked

    async def _ask(self, logged: Logged) -> None:
        configuration, told = self._configuration, self._answers.told
        told.logged = logged
        told.threshold_then = None if configuration.own_threshold else logged.threshold
        lookup = await self._answers.look_up(self._question(logged))
        sent: Sent | None = None
        if lookup.entry is None and self._prompts is not None:
            sent = await self._prompts.build(logged)
            if sent is None:
                await self._decide(logged, lookup, None, refused=True)
                return
        asked = _Asked(logged, lookup, sent)
        if lookup.entry is not None:
            await self._serve(asked)
            return
        self._answers.lead(lookup)
        self._at(self._end_of(asked), "ended", asked)

    def _question(self, logged: Logged) -> Ask:
        configuration = self._configuration
        return replace(
            asked_then(logged),
            scope=configuration.scope or logged.scope,
            params=configuration.params.over(logged.chat.params),
            history=configuration.history(logged.chat),
        )

    def _end_of(self, asked: _Asked) -> datetime:
        """When the answer is there: as it was, or after the usual time where the model did not answer then."""
        logged = asked.logged
        if logged.by_model or logged.taken or asked.lookup.following is not None:
            return logged.ended_at
        return logged.turn.created_at + timedelta(seconds=self._log.answer_seconds)

    # Ended

    async def _serve(self, asked: _Asked) -> None:
        """End a turn that has its answer at once."""
        await self._answers.note(asked.lookup)
        await self._audit(asked)
        await self._decide(asked.logged, asked.lookup, None)

    async def _end(self, asked: _Asked) -> None:
        logged, lookup, answers = asked.logged, asked.lookup, self._answers
        if lookup.following is not None and not lookup.following.done():  # it took longer this time
            self._waiting.setdefault(lookup.entry_id or "", []).append(asked)
            return
        answers.told.logged = logged
        # 1. Whether a stored answer is there by now: what it followed, or what a person took.
        entry = None if lookup.following is None else lookup.following.result()
        if entry is None:
            entry = await self._judged_by_person(asked)
        answer: Answer | None = None
        if entry is not None:
            if not lookup.taken:
                lookup.serve(entry)
            turn = replace(logged.turn, source="cache", assistant_message=entry.answer)
        else:
            if self._model is not None and asked.sent is not None:
                params = self._configuration.params.over(logged.chat.params)
                answer = await self._model(asked.sent, params, logged.turn.user_id)
            turn = self._answered(asked, answer)
        # 2. Stored, and served to those who follow.
        kept: CacheEntry | None = None
        try:
            kept = await answers.offer(lookup, turn)
        finally:
            answers.ended(lookup, kept)
            for each in self._waiting.pop(lookup.entry_id or "", ()):
                self._at(self._time.at, "ended", each)
        if kept is not None:
            await answers.index(lookup, kept)
        # 3. Noted and learnt from.
        await answers.note(lookup)
        answers.told.answer_known = logged.by_model or answer is not None
        await answers.learn(lookup, turn)
        if entry is not None:
            await self._audit(asked)
        await self._decide(logged, lookup, asked.sent if entry is None else None, answer=answer)

    async def _judged_by_person(self, asked: _Asked) -> CacheEntry | None:
        """Let a person say of the similar question what was said then; the entry if they took its answer."""
        logged, lookup = asked.logged, asked.lookup
        known = self._answers.told.known(lookup)
        if known is None or known.label_source != "person" or known.same is None:
            return None
        if self._answers.similar_to(logged.turn.turn_id) is None:
            return None
        await self._answers.person_says(logged.turn, known.same)
        if not logged.taken:
            lookup.taken = False
            return None
        lookup.serve_matched(TAKEN)
        return lookup.entry

    def _answered(self, asked: _Asked, answer: Answer | None) -> Turn:
        """The turn with the model's answer, or with what stands in for it."""
        turn, sent = asked.logged.turn, asked.sent
        if turn.turn_id in self._beyond and turn.source == "cache" and answer is None:
            return turn  # nobody knows whose answer it was, so it serves nobody
        known = asked.logged.by_model
        prompt = turn.provenance.prompt
        if sent is not None and (self._configuration.own_prompts or prompt is None):
            prompt = sent.provenance
        timing = turn.provenance.timing if known else Timing(total_ms=1e3 * self._log.answer_seconds)
        provenance = replace(turn.provenance, prompt=prompt, timing=timing)
        if answer is not None:
            ended, text = ("stop" if answer.whole else "length"), answer.text
            provenance = replace(provenance, timing=Timing(total_ms=1e3 * answer.seconds))
            return replace(
                turn, source="model", assistant_message=text, finish_reason=ended, status="done", provenance=provenance
            )
        return replace(turn, source="model", provenance=provenance)

    async def _audit(self, asked: _Asked) -> None:
        """Compare the model's answer to what was served, where a draw says so and it is known."""
        logged, lookup = asked.logged, asked.lookup
        if not self._answers.may_audit(lookup, logged):
            return
        told = self._answers.told
        told.logged, told.answer_known = logged, logged.by_model
        # What an audit said is not in the log: what was served later to the same question is it, as far as is known.
        given = replace(logged.turn, source="model", status="done", finish_reason="stop", error=None)
        known = told.known(lookup)
        if known is not None and known.renewed is False:
            given = replace(given, status="stopped")  # or cut, or a refusal: it was not stored
        kept = await self._answers.audited(lookup, given)
        if kept is not None:
            await self._answers.index(lookup, kept)

    async def _decide(
        self, logged: Logged, lookup: Lookup, sent: Sent | None, refused: bool = False, answer: Answer | None = None
    ) -> None:
        """Note what became of a turn, and prepare the next one."""
        turn = logged.turn
        looked_up = lookup.ask.scope != "off" and not refused
        record = lookup.record(self._time.clock(), self._answers.verifier) if looked_up else None
        right: bool | None = None
        if lookup.entry is not None:
            known = self._answers.told.known(lookup)
            if known is not None and known.same is not None:
                right = known.same
            elif lookup.tier == "exact":
                right = True
            elif logged.by_model:
                right = await self._answers.told.says_the_same(lookup, turn.assistant_message or "")
        self._served[turn.turn_id] = lookup.entry is not None
        self._decisions[turn.turn_id] = Decision(
            logged=logged,
            cache=lookup.provenance,
            lookup=record,
            sent=sent,
            refused=refused,
            right=right,
            seconds=self._seconds(logged, lookup, answer),
            answer=lookup.entry.answer if lookup.entry is not None else answer and answer.text,
            beyond=turn.turn_id in self._beyond,
        )
        if self._prompts is not None and turn.assistant_message and not refused:
            await self._prompts.ended(logged, sent, turn.assistant_message)

    def _seconds(self, logged: Logged, lookup: Lookup, answer: Answer | None) -> float:
        if lookup.entry is not None:
            return lookup.ms / 1e3
        if answer is not None:
            return answer.seconds
        took_ms = logged.turn.provenance.timing.total_ms if logged.by_model else None
        return self._log.answer_seconds if took_ms is None else took_ms / 1e3

    # Rated

    async def _rate(self, logged: Logged) -> None:
        """Give the thumb that was given, if it is about an answer from the same place."""
        turn = logged.turn
        said, served = turn.feedback, self._served.get(turn.turn_id)
        if said is None or served is None or served == logged.by_model:
            return
        await self._answers.rated(replace(turn, source="cache" if served else "model"), said.rating)


def asked_then(logged: Logged) -> Ask:
    """What the cache was asked, as far as the log tells."""
    turn, chat = logged.turn, logged.chat
    return Ask(
        user_id=turn.user_id,
        chat_id=turn.chat_id,
        turn_id=turn.turn_id,
        scope=logged.scope,
        question=turn.user_message,
        path=logged.path,
        system_prompt=chat.system_prompt,
        params=chat.params,
        model=f"{turn.provenance.engine}/{turn.provenance.model}",
        bypass=logged.bypass,
        history=chat.history,
    )


def beyond(log: Log, embedder: str) -> frozenset[str]:
    """Turns whose lookup found what no turn of the log can have stored: the answer of a chat that is gone.

    Args:
        log: All of it.
        embedder: Its name.
    """
    asks = [asked_then(each) for each in log.turns]
    known = {entry_id_of(ask, bucket_of(ask, embedder)) for ask in asks}
    found = [each for each in log.turns if each.lookup is not None and each.lookup.entry_id is not None]
    return frozenset(each.turn.turn_id for each in found if each.lookup and each.lookup.entry_id not in known)
