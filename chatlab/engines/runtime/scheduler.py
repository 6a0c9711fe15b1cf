"""Which tokens are computed next: every answer under way gets one, and the rest of a step goes to prompts in turn.

Sequences join and leave between two steps. Their keys and values, and the prefixes kept of earlier ones, share one
limit: first kept prefixes give way, least recently used first, then the sequences that joined last, which are computed
again when there is room. When there is nothing to answer, the beginning of a prompt that may come is computed; it makes
way at once. Knows tokens and users, not text, requests or event loops; belongs to one thread.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic

import structlog

from chatlab.engines.runtime.pace import Pace
from chatlab.engines.runtime.prefixes import Prefixes
from chatlab.engines.runtime.runner import Feed, KvMemoryFull, Runner, State
from chatlab.engines.runtime.sampling import Sampler, sample
from chatlab.errors import EngineError
from chatlab.messages import SamplingParams

log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class TokenSequence:
    """One prompt and the answer so far.

    Attributes:
        user_id: Whose kept prefixes serve it, and whose it becomes one of.
        token_ids: Prompt and answer; grows by a token a step.
        sampler: Chooses the answer's tokens.
        state: Its keys and values; None while it waits for memory.
        n_computed: Tokens whose keys and values are there.
        told: Whether the start was reported.
    """

    user_id: str
    token_ids: list[int]
    sampler: Sampler
    state: Any = None
    n_computed: int = 0
    told: bool = False

    @property
    def n_left(self) -> int:
        """Tokens to compute before the next one of the answer is known; 1 while answering."""
        return len(self.token_ids) - self.n_computed


@dataclass(frozen=True, slots=True)
class Joined:
    """The sequence is being computed; so many tokens of its prompt were known."""

    n_reused: int


Outcome = Joined | int | EngineError  # int: the answer's next token
Part = tuple[TokenSequence, int]  # what a step computes of a sequence: so many tokens


class Scheduler(Generic[State]):
    """All sequences under way.

    Args:
        runner: The model.
        max_bytes: Keys and values of running sequences and kept prefixes together.
        max_prompt_tokens: Of prompts in a step.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        runner: Runner[State],
        max_bytes: int,
        max_prompt_tokens: int = 512,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._runner = runner
        self._max_bytes = max_bytes
        self._clock = clock
        self._prefixes = Prefixes(runner.cuts)
        self._pace = Pace(max_prompt_tokens)
        self._waiting: deque[TokenSequence] = deque()  # for memory
        self._running: list[TokenSequence] = []  # in the order in which they joined
        self._turns: deque[TokenSequence] = deque()  # those with more than one token to compute, next first
        self._warming: TokenSequence | None = None
        self.n_preempted = 0

    def __len__(self) -> int:
        """Sequences under way, those that wait for memory included."""
        return len(self._waiting) + len(self._running)

    @property
    def n_bytes(self) -> int:
        """Keys and values of running sequences and kept prefixes."""
        return self._runner.n_bytes + self._prefixes.n_bytes

    @property
    def warming(self) -> str | None:
        """The user for whom steps that have nothing to answer compute a prompt's beginning."""
        return self._warming and self._warming.user_id

    def join(self, sequence: TokenSequence) -> None:
        """Begin it with the next step, or when there is memory for it."""
        self._waiting.append(sequence)

    def leave(self, sequence: TokenSequence) -> None:
        """End it and free its place; what is computed is kept for the user's next prompts, as far as there is room."""
        if sequence in self._waiting:
            self._waiting.remove(sequence)
        if sequence in self._running:
            self._keep(sequence)

    def warm(self, user_id: str, token_ids: Sequence[int]) -> None:
        """Compute a prompt's beginning in steps that have nothing to answer, and keep it; the one before is given up.

        It makes way for sequences that join, and goes on after them. Forgotten when it fails or there is no room.
        """
        self._put_off()
        self._warming = TokenSequence(user_id, [*token_ids], Sampler(SamplingParams(temperature=0.0), ()))

    def step(self) -> list[tuple[TokenSequence, Outcome]]:
        """Compute the next tokens; sequences that failed have left."""
        if not len(self):
            self._warm_on()
            return []
        self._put_off()
        outcomes = self._begin_waiting()
        self._grow_running()
        answers = [(sequence, 1) for sequence in self._running if sequence.n_left == 1]
        prompts = self._prompts(self._pace.prompt_tokens(len(answers)))
        if answers or prompts:
            started = self._clock()
            outcomes += self._compute([*answers, *prompts])
            self._pace.took(len(answers), sum(n for _, n in prompts), self._clock() - started)
        return outcomes

    def _put_off(self) -> None:
        """Free the place of what is computed ahead; the prompt that continues it profits from what is done."""
        if self._warming is not None and self._warming.state is not None:
            self._keep(self._warming)

    def _warm_on(self) -> None:
        """The next part of what is computed ahead; kept when it is complete, forgotten when it fails."""
        sequence = self._warming
        if sequence is None:
            return
        try:
            self._compute_ahead(sequence)
        except Exception as error:
            if not isinstance(error, KvMemoryFull):
                log.warning("a prompt's beginning could not be computed ahead", exc_info=True)
            self._warming = None
            if sequence.state is not None:
                self._release(sequence, spoiled=True)
        else:
            if not sequence.n_left:
                self._put_off()
                self._warming = None

    def _compute_ahead(self, sequence: TokenSequence) -> None:
        """One part, unless all of it is known.

        Raises:
            KvMemoryFull: There is no room.
        """
        n_tokens, known = len(sequence.token_ids), None
        if sequence.state is None:
            a_prompt = [*sequence.token_ids, 0]  # goes on, with whatever
            known, sequence.n_computed = self._prefixes.longest(sequence.user_id, a_prompt)
            if not sequence.n_left:
                return
        self._make_room(self._runner.cost_of(n_tokens, sequence.state))
        if sequence.state is None:
            sequence.state = self._runner.begin(n_tokens, known and known.kept, sequence.n_computed)
        started, n = self._clock(), sequence.n_computed
        part = sequence.token_ids[n : n + self._pace.idle_tokens()]
        logits = self._runner.step([Feed(sequence.state, n, part, wants_logits=True)])
        if sample(logits, [sequence.sampler]) == [None]:
            raise _not_numbers()
        sequence.n_computed += len(part)
        if sequence.n_left:  # a short rest would make each of its tokens look slow
            self._pace.took(0, len(part), self._clock() - started)

    def _keep(self, sequence: TokenSequence) -> None:
        """End it; what is computed becomes one of the user's prefixes, as far as there is room."""
        n_known, kept = sequence.n_computed, None
        n_bytes = n_known * self._runner.bytes_per_token
        if 0 < n_bytes <= self._max_bytes:
            with suppress(KvMemoryFull):
                kept = self._runner.keep(sequence.state, n_known)
        self._release(sequence)
        if kept is not None:
            self._prefixes.put(sequence.user_id, sequence.token_ids[:n_known], kept, n_bytes)
            self._drop_prefixes(to=self._max_bytes)

    def _begin_waiting(self) -> list[tuple[TokenSequence, Outcome]]:
        """Let those in that there is memory for, first come first served; who has it all and not enough fails."""
        outcomes: list[tuple[TokenSequence, Outcome]] = []
        while self._waiting:
            sequence = self._waiting[0]
            n_tokens = len(sequence.token_ids) + 1
            prefix, n_known = self._prefixes.longest(sequence.user_id, sequence.token_ids)
            try:
                self._make_room(self._runner.cost_of(n_tokens))
                sequence.state = self._runner.begin(n_tokens, prefix and prefix.kept, n_known)
            except KvMemoryFull as full:
                if self._running:
                    break
                if len(self._prefixes):  # the machine has less than the limit
                    self._prefixes.clear()
                    continue
                self._waiting.popleft()
                outcomes.append((sequence, _no_memory(full)))
                continue
            self._waiting.popleft()
            sequence.n_computed = n_known
            self._running.append(sequence)
            if sequence.n_left > 1:
                self._turns.append(sequence)
            if not sequence.told:
                sequence.told = True
                outcomes.append((sequence, Joined(n_known)))
        return outcomes

    def _grow_running(self) -> None:
        """Room for the next token of each; where there is none, the last to join wait, be it the one that grows."""
        for sequence in [*self._running]:
            while sequence.state is not None:
                n_tokens = len(sequence.token_ids)
                try:
                    self._make_room(self._runner.cost_of(n_tokens, sequence.state))
                    sequence.state = self._runner.grow(sequence.state, n_tokens, sequence.n_computed)
                    break
                except KvMemoryFull:
                    if len(self._prefixes):  # the machine has less than the limit
                        self._prefixes.clear()
                    else:
                        self._preempt(self._running[-1])

    def _prompts(self, room: int) -> list[Part]:
        """Parts of prompts, `room` tokens together; who has more to come gets the next turn after the others."""
        prompts: list[Part] = []
        while self._turns and room:
            sequence = self._turns.popleft()
            prompts.append((sequence, n := min(room, sequence.n_left)))
            room -= n
        self._turns.extend(sequence for sequence, n in prompts if sequence.n_left - n > 1)  # with 1 left it answers
        return prompts

    def _compute(self, parts: Sequence[Part]) -> list[tuple[TokenSequence, Outcome]]:
        """One step; if it fails, each sequence by itself, so that only the one it is due to fails."""
        whole = [n == sequence.n_left for sequence, n in parts]
        feeds = [
            Feed(s.state, s.n_computed, s.token_ids[s.n_computed : s.n_computed + n], wants_logits=wants)
            for (s, n), wants in zip(parts, whole, strict=True)
        ]
        choosing = [sequence for (sequence, _), wants in zip(parts, whole, strict=True) if wants]
        try:
            logits = self._runner.step(feeds)
            tokens = sample(logits, [sequence.sampler for sequence in choosing]) if choosing else []
        except Exception as error:
            if len(parts) > 1:
                log.warning("a step failed; its sequences are computed one by one", exc_info=True)
                return [outcome for part in parts for outcome in self._compute([part])]
            failed = EngineError(f"{type(error).__name__}: {error}")
            failed.__cause__ = error
            return [self._failed(parts[0][0], failed)]
        for sequence, n in parts:
            sequence.n_computed += n
        outcomes: list[tuple[TokenSequence, Outcome]] = []
        for sequence, token in zip(choosing, tokens, strict=True):
            if token is None:
                outcomes.append(self._failed(sequence, _not_numbers()))
            else:
                sequence.token_ids.append(token)
                outcomes.append((sequence, token))
        return outcomes

    def _failed(self, sequence: TokenSequence, error: EngineError) -> tuple[TokenSequence, Outcome]:
        """End a sequence of which nothing can be trusted, so nothing is kept."""
        self._release(sequence, spoiled=True)
        return sequence, error

    def _release(self, sequence: TokenSequence, spoiled: bool = False) -> None:
        self._runner.end(sequence.state, spoiled)
        sequence.state, sequence.n_computed = None, 0
        for line in (self._running, self._turns):
            if sequence in line:
                line.remove(sequence)

    def _preempt(self, sequence: TokenSequence) -> None:
        """Take a sequence's memory; it is computed again, before any that has not begun."""
        self._release(sequence)
        self._waiting.appendleft(sequence)
        self.n_preempted += 1

    def _make_room(self, n_bytes: int) -> None:
        """Drop kept prefixes until so many more bytes are within the limit.

        Raises:
            KvMemoryFull: Not even without any; none is dropped then.
        """
        if n_bytes:
            if self._runner.n_bytes + n_bytes > self._max_bytes:
                raise KvMemoryFull(f"{n_bytes / 1e6:.0f} MB more exceed the limit of {self._max_bytes / 1e6:.0f} MB")
            self._drop_prefixes(to=self._max_bytes - n_bytes)

    def _drop_prefixes(self, to: int) -> None:
        """Drop the least recently used ones until no more than so many bytes are taken by everything."""
        while len(self._prefixes) and self.n_bytes > to:
            self._prefixes.drop_oldest()


def _not_numbers() -> EngineError:
    return EngineError("the model's logits are not numbers: its weights or its precision are broken")


def _no_memory(full: KvMemoryFull) -> EngineError:
    return EngineError(
        f"no memory for the conversation's keys and values: {full}. Shorten it, or raise CHATLAB_KV_CACHE_MB"
    )
