"""The prompts of a replay: what each question would have been asked with, and how much of it was in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from chatlab.errors import PromptTooLong
from chatlab.evaluation.history import Renderer
from chatlab.evaluation.prefixes import ChatMemory, Reuse, Tokenize
from chatlab.evaluation.replay.configuration import Configuration
from chatlab.evaluation.replay.log import Logged
from chatlab.history import Prompt, PromptBuilder, PromptInput, Recall, UnstoredNotes, recalls
from chatlab.messages import HistoryChoice, Note, PromptProvenance, SamplingParams, Turn


@dataclass(frozen=True, slots=True)
class Sent:
    """A prompt; `reuse` is None of a chat's first."""

    prompt: Prompt
    reuse: Reuse | None

    @property
    def provenance(self) -> PromptProvenance:
        """What it is made of."""
        return self.prompt.provenance

    @property
    def computed_tokens(self) -> int:
        """That were not in memory."""
        reused = 0 if self.reuse is None else self.reuse.warmed
        return max(0, self.provenance.prompt_tokens - reused)


class ReplayedPrompts:
    """Builds the prompts of one configuration, turn after turn, as a server would; notes are statements alone.

    Args:
        engine: Renders and counts.
        tokenize: From rendered text to tokens.
        recall: Of this configuration alone.
        configuration: That decides.
    """

    def __init__(self, engine: Renderer, tokenize: Tokenize, recall: Recall, configuration: Configuration) -> None:
        self._engine = engine
        self._tokenize = tokenize
        self._recall = recall
        self._configuration = configuration
        self._builder = PromptBuilder(engine, recall, patient=True)
        self._notes = UnstoredNotes(self._builder, self._builder.writer, engine.facts.model)
        self._memories: dict[str, ChatMemory] = {}
        self._made: dict[str, PromptProvenance | None] = {}  # by turn
        self._noted: dict[str, Sequence[Note]] = {}  # by the last turn of a branch

    async def build(self, logged: Logged) -> Sent | None:
        """The prompt of a turn that the cache does not serve; None where none fits."""
        given, choice, params = self._asked(logged, logged.path, logged.turn.user_message)
        try:
            prompt = await self._builder.build(given, choice, params)
        except PromptTooLong:
            return None
        self._made[logged.turn.turn_id] = prompt.provenance
        return Sent(prompt, self._memory(logged).measure(prompt.messages))

    async def ended(self, logged: Logged, sent: Sent | None, answer: str) -> None:
        """What is done after a turn for the next one: notes, its prompt's beginning, what evicted turns are found by.

        Args:
            logged: The turn.
            sent: Its prompt; None of one that was served from the cache.
            answer: To it.
        """
        memory = self._memory(logged)
        if sent is not None:
            memory.remember(sent.prompt.messages, answer)
        path = (*logged.path, logged.turn)
        given, choice, params = self._asked(logged, path, "")
        try:
            notes = await self._notes.keep(given, choice, params)
            self._noted[logged.turn.turn_id] = notes
            memory.warm(await self._builder.upcoming(replace(given, notes=notes), choice, params))
        except PromptTooLong:  # the next question will be refused
            return
        if recalls(choice.strategy):
            await self._recall.index(logged.chat.chat_id, path)

    def _asked(
        self, logged: Logged, path: Sequence[Turn], question: str
    ) -> tuple[PromptInput, HistoryChoice, SamplingParams]:
        """What the builder is given; the turns before know how their prompts were made in this replay."""
        seen = [
            replace(turn, provenance=replace(turn.provenance, prompt=self._made.get(turn.turn_id))) for turn in path
        ]
        notes = self._noted.get(path[-1].turn_id, ()) if path else ()
        if not notes and len(path) > 1:
            notes = self._noted.get(path[-2].turn_id, ())
        chat = logged.chat
        given = PromptInput(chat.system_prompt, seen, question, logged.turn.turn_id, chat.chat_id, notes)
        return given, self._configuration.history(chat), self._configuration.params.over(chat.params)

    def _memory(self, logged: Logged) -> ChatMemory:
        return self._memories.setdefault(logged.chat.chat_id, ChatMemory(self._engine.render, self._tokenize))
