"""One prompt by the name of a strategy: the builder's own, or a peer's."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, cast, get_args

from chatlab.errors import ConfigError, PromptTooLong
from chatlab.evaluation.baselines import BM25Peer
from chatlab.evaluation.dialogues import Dialogue
from chatlab.history import NoteWriter, Prompt, PromptInput, UnstoredNotes
from chatlab.history.budget import Counter
from chatlab.history.unstored import Due
from chatlab.messages import HistoryChoice, Message, Note, PromptProvenance, SamplingParams, StrategyName, Turn

PEER = "bm25"
ANSWER_TOKENS = 256  # kept free in the window

STRATEGIES: tuple[str, ...] = (*get_args(StrategyName), PEER)


class Builder(Due, Protocol):
    """`chatlab.history.PromptBuilder`."""

    writer: NoteWriter

    async def build(self, given: PromptInput, choice: HistoryChoice, params: SamplingParams) -> Prompt:
        """The prompt for a question."""
        ...

    async def upcoming(self, given: PromptInput, choice: HistoryChoice, params: SamplingParams) -> tuple[Message, ...]:
        """What the prompt of the next question begins with."""
        ...


@dataclass(frozen=True, slots=True)
class Made:
    """A prompt as sent.

    Attributes:
        messages: The list.
        claimed_tokens: What its provenance says.
        seconds: How long it took to build.
        provenance: None of the peer's.
    """

    messages: tuple[Message, ...]
    claimed_tokens: int
    seconds: float
    provenance: PromptProvenance | None = None


class PromptMaker:
    """Makes prompts for the turns and questions of dialogues.

    A conversation has the notes that it would have on a server by then; they are statements alone.

    Args:
        counter: The engine.
        builder: Of the same engine.
    """

    def __init__(self, counter: Counter, builder: Builder) -> None:
        self.counter = counter
        self._builder = builder
        self._notes = UnstoredNotes(builder, builder.writer, counter.facts.model)
        self._noted: dict[tuple[str, str, int], tuple[int, Sequence[Note]]] = {}  # so far, and after how many turns
        self._note_seconds: dict[tuple[str, int], dict[str, float]] = {}  # by strategy and budget, by note
        self._peers: dict[tuple[str, int], BM25Peer] = {}

    @property
    def window(self) -> int:
        """The largest budget that leaves room for an answer."""
        return self.counter.facts.context_tokens - self.answer_tokens

    @property
    def answer_tokens(self) -> int:
        """Kept free for the answer."""
        return min(ANSWER_TOKENS, self.counter.facts.context_tokens // 4)

    def note_seconds(self, strategy: str, budget: int) -> tuple[float, ...]:
        """How long each note took to write that the prompts of a strategy and budget had, merged ones included."""
        return tuple(self._note_seconds.get((strategy, min(budget, self.window)), {}).values())

    async def make(
        self, strategy: str, budget: int, dialogue: Dialogue, path: Sequence[Turn], question: str, notes: str = ""
    ) -> Made | None:
        """The prompt of a question asked after some turns of a dialogue.

        Args:
            strategy: One of STRATEGIES.
            budget: In tokens.
            dialogue: Whose turns they are.
            path: The turns before the question.
            question: The user's message.
            notes: Put into the system prompt.

        Returns:
            None where the strategy refuses.
        """
        system = "\n\n".join(filter(None, (dialogue.system_prompt, notes))) or None
        budget = min(budget, self.window)
        try:
            if strategy == PEER:
                peer = self._peer(dialogue, len(path))
                begun = time.perf_counter()
                found = peer.prompt(question, budget)
                return Made(found.messages, found.tokens, time.perf_counter() - begun)
            given, choice, params = await self._asked(strategy, budget, dialogue, path, question, system)
            begun = time.perf_counter()
            prompt = await self._builder.build(given, choice, params)
            seconds = time.perf_counter() - begun
            return Made(prompt.messages, prompt.provenance.prompt_tokens, seconds, prompt.provenance)
        except PromptTooLong:
            return None

    async def upcoming(
        self, strategy: str, budget: int, dialogue: Dialogue, path: Sequence[Turn]
    ) -> tuple[Message, ...] | None:
        """What the prompt after these turns will begin with, which a server computes while nothing is asked.

        Returns:
            None where the strategy refuses, and of the peer.
        """
        if strategy == PEER:
            return None
        try:
            asked = await self._asked(strategy, min(budget, self.window), dialogue, path, "", dialogue.system_prompt)
            return await self._builder.upcoming(*asked)
        except PromptTooLong:
            return None

    async def _asked(
        self, strategy: str, budget: int, dialogue: Dialogue, path: Sequence[Turn], question: str, system: str | None
    ) -> tuple[PromptInput, HistoryChoice, SamplingParams]:
        """What a builder is given."""
        given = PromptInput(system, path, question, f"{dialogue.sample_id}:asked", dialogue.sample_id)
        choice = HistoryChoice(cast("StrategyName", strategy), budget)
        params = SamplingParams(max_new_tokens=self.answer_tokens)
        key = (dialogue.sample_id, strategy, budget)
        n_turns, known = self._noted.get(key, (0, ()))
        notes = await self._notes.keep(replace(given, notes=known if n_turns <= len(path) else ()), choice, params)
        self._noted[key] = (len(path), notes)
        self._note_seconds.setdefault((strategy, budget), {}).update(
            (f"{dialogue.sample_id} {note.note_id}", note.latency_ms / 1e3) for note in notes
        )
        return replace(given, notes=notes), choice, params

    def _peer(self, dialogue: Dialogue, n_turns: int) -> BM25Peer:
        key = (dialogue.sample_id, n_turns)
        if key not in self._peers:
            before = [each for each in dialogue.utterances if each.turn_index < n_turns]
            self._peers[key] = BM25Peer(before, self.counter, dialogue.system_prompt)
        return self._peers[key]


def check_strategies(names: Sequence[str]) -> None:
    """Raise ConfigError for a name that is none."""
    for name in names:
        if name not in STRATEGIES:
            raise ConfigError(f"--strategies: {name!r} is none of {', '.join(STRATEGIES)}")
