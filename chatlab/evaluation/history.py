"""History strategies on conversations, beside a peer, at equal budgets and without the model's weights.

Two passes a strategy and budget. Questions: each is asked as the next user message after the whole dialogue, and its
prompt is looked through for the answer's words and the evidence. Replay: every turn is asked in order after the turns
before it, for what a running chat shows: prompts over the limit, and how much of each the engine has in memory. The
peer keeps no prefix and is not replayed where there are questions.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import structlog

from chatlab.evaluation.dialogues import Dialogue
from chatlab.evaluation.metrics import PromptText, normalised
from chatlab.evaluation.prefixes import ChatMemory, Tokenize, WordTokens
from chatlab.evaluation.prompts import PEER, Builder, Made, PromptMaker, check_strategies
from chatlab.evaluation.report import Cell, HistoryReport
from chatlab.history.budget import Counter
from chatlab.messages import Message, Provenance, Turn

Dump = Callable[[Mapping[str, Any]], None]

log = structlog.get_logger(__name__)


class Renderer(Counter, Protocol):
    """The part of an engine that is needed here."""

    def render(self, messages: Sequence[Message]) -> str:
        """The text that the model would be given."""
        ...


class Recall(Protocol):
    """The search over the turns of a chat."""

    def index(self, chat_id: str, turns: Sequence[Turn]) -> Awaitable[Any]:
        """Make these turns searchable."""
        ...


async def evaluate_history(
    dialogues: Sequence[Dialogue],
    engine: Renderer,
    builder: Builder,
    strategies: Sequence[str],
    budgets: Sequence[int],
    *,
    recall: Recall | None = None,
    tokenize: Tokenize | None = None,
    dump: Dump | None = None,
    max_turns: int | None = None,
    seed: int = 0,
) -> HistoryReport:
    """Measure strategies on dialogues.

    Args:
        dialogues: With different ids.
        engine: Renders and counts.
        builder: Makes the prompts, for the same engine.
        strategies: Names, of `prompts.STRATEGIES`.
        budgets: Tokens that a prompt may have.
        recall: Told the turns of every dialogue before anything is asked.
        tokenize: From rendered text to the engine's tokens; None takes words.
        dump: Given a line for each prompt of a question, or of a turn in a dialogue without questions.
        max_turns: Replay no more turns of a dialogue than these; None replays all, 0 none.
        seed: Of the intervals.

    Raises:
        ConfigError: A strategy's name is none.
    """
    check_strategies(strategies)
    if recall is not None:
        for dialogue in dialogues:
            await recall.index(dialogue.sample_id, dialogue.turns)
    maker = PromptMaker(engine, builder)
    run = _Run(engine, maker, tokenize or WordTokens(), dump, max_turns)
    cells: list[Cell] = []
    for strategy in dict.fromkeys(strategies):
        for budget in dict.fromkeys(budgets):
            begun = time.perf_counter()
            cell = Cell(strategy, budget)
            for dialogue in dialogues:
                await run.ask_questions(cell, dialogue)
                if strategy != PEER or not dialogue.questions:
                    await run.replay(cell, dialogue)
            cell.note_seconds = maker.note_seconds(strategy, budget)
            cells.append(cell)
            log.info("measured", strategy=strategy, budget=budget, seconds=round(time.perf_counter() - begun, 1))
    about = {
        "model": engine.facts.model,
        "counting": engine.facts.counting,
        "dialogues": len(dialogues),
        "turns": sum(len(each.turns) for each in dialogues),
        "questions": sum(len(each.questions) for each in dialogues),
    }
    return HistoryReport(cells, about, seed, PEER)


class _Run:
    """What the passes of a run share."""

    def __init__(
        self, engine: Renderer, maker: PromptMaker, tokenize: Tokenize, dump: Dump | None, max_turns: int | None
    ) -> None:
        self._engine = engine
        self._maker = maker
        self._tokenize = tokenize
        self._dump = dump
        self._max_turns = max_turns

    async def ask_questions(self, cell: Cell, dialogue: Dialogue) -> None:
        """Every question after the whole dialogue."""
        texts = {each.utterance_id: normalised(each.text) for each in dialogue.utterances}
        for asked in dialogue.questions:
            made = await self._maker.make(cell.strategy, cell.budget, dialogue, dialogue.turns, asked.question)
            key = f"{dialogue.sample_id}:{asked.index}"
            if self._note_asked(cell, made, key):
                assert made is not None
                text = PromptText(made.messages)
                if (coverage := text.coverage(asked.answer)) is not None:
                    cell.coverage[key] = coverage
                if asked.evidence is not None:
                    cell.evidence[key] = float(text.has_all(texts[each] for each in asked.evidence))

    async def replay(self, cell: Cell, dialogue: Dialogue) -> None:
        """Every turn after those before it, which know how their prompts were made, as in a running chat."""
        memory = ChatMemory(self._engine.render, self._tokenize)
        strategy, budget = cell.strategy, cell.budget
        path: list[Turn] = []
        for i, turn in enumerate(dialogue.turns[: self._max_turns]):
            made = await self._maker.make(strategy, budget, dialogue, path, turn.user_message)
            cell.replayed += 1
            if not dialogue.questions:
                self._note_asked(cell, made, f"{dialogue.sample_id}:t{i}")
            elif made is None:
                cell.replayed_refused += 1
            else:
                self._check(cell, made)
            path.append(replace(turn, provenance=Provenance(prompt=made and made.provenance)))
            if made is not None:
                if (reuse := memory.measure(made.messages)) is not None:
                    cell.reuse.append(reuse)
                memory.remember(made.messages, turn.assistant_message or "")
            if (begins := await self._maker.upcoming(strategy, budget, dialogue, path)) is not None:
                memory.warm(begins)

    def _note_asked(self, cell: Cell, made: Made | None, key: str) -> bool:
        """Whether there is a prompt; it is checked and dumped."""
        cell.n += 1
        if made is None:
            cell.refused += 1
            return False
        tokens = self._check(cell, made)
        cell.tokens.append(tokens)
        cell.seconds.append(made.seconds)
        if self._dump is not None:
            self._dump(
                {
                    "id": key,
                    "strategy": cell.strategy,
                    "budget": cell.budget,
                    "messages": list(made.messages),
                    "prompt_tokens": tokens,
                }
            )
        return True

    def _check(self, cell: Cell, made: Made) -> int:
        """The exact tokens of a prompt, held against what it claims and what it may have."""
        tokens = self._engine.count(made.messages)
        cell.count_error = max(cell.count_error, abs(tokens - made.claimed_tokens))
        cell.faults += made.provenance is not None and made.provenance.fault is not None
        cell.over_limit += tokens > min(cell.budget, self._maker.window)
        return tokens
