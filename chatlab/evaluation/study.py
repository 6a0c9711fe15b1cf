"""All that a person needs to decide whether to summarise their chats: what `notebooks/02_summarization.ipynb` shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chatlab.errors import ConfigError
from chatlab.evaluation import bootstrap
from chatlab.evaluation.bootstrap import Estimate
from chatlab.evaluation.datasets import read_dialogues
from chatlab.evaluation.dialogues import Dialogue
from chatlab.evaluation.facts import SEGMENT_TOKENS, FactReport, SegmentNotes, survey
from chatlab.evaluation.history import evaluate_history
from chatlab.evaluation.likelihoods import next_turns
from chatlab.evaluation.parts import counting_for, open_recall
from chatlab.evaluation.prompts import Made, PromptMaker, check_strategies
from chatlab.evaluation.report import HistoryReport
from chatlab.evaluation.scoring import load_scorer
from chatlab.history import NOTING, PromptBuilder
from chatlab.history.notes import COMPRESSION
from chatlab.settings import load_settings

MORE_STRANGERS = 3  # beside the chats that prompts are made of, for the control; made-up chats have much in common


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured.

    Attributes:
        data: A file or folder of conversations, or a data dir of chatlab.
        model: As CHATLAB_MODEL; its weights are in this process.
        data_dir: Where the model is kept.
        budgets: Tokens of a prompt.
        strategies: With `truncate`, which others are compared with.
        scored_turns: True next turns that are scored; the time goes mostly here.
        history_tokens: How long the whole history of a scored turn may be, from and to.
        chats: That prompts are made of; facts are looked for in all.
        replayed_turns: Of each of these chats, for the prefixes in memory.
        compression: Tokens of turns for a token of a note.
        segment_tokens: Of the turns that become a note, where facts are looked for.
        seed: Of draws and intervals.
    """

    data: Path
    model: str
    data_dir: Path
    budgets: tuple[int, ...]
    strategies: tuple[str, ...] = ("truncate", "summarize", "hybrid")
    scored_turns: int = 6
    history_tokens: tuple[int, int] = (1_000, 2_000)
    chats: int = 3
    replayed_turns: int = 30
    compression: float = COMPRESSION
    segment_tokens: int = SEGMENT_TOKENS
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Loss:
    """What prompts of one kind lose on the full history.

    Attributes:
        prompt_tokens: Mean of the scored turns' prompts.
        nats: On a token of the true next turn, paired; None where nothing was scored.
    """

    prompt_tokens: float
    nats: Estimate | None


@dataclass(frozen=True, slots=True)
class Study:
    """What was found.

    Attributes:
        facts: What survived, and what went stale.
        history: The strategies by budget.
        asked: The question whose prompts stand side by side.
        prompts: By strategy, at the largest budget; those that refuse are missing.
    """

    plan: Plan
    facts: FactReport
    history: HistoryReport
    asked: str
    prompts: Mapping[str, Made]

    @property
    def scored_turns(self) -> int:
        """How many were."""
        return max((cell.sections["perplexity"]["n"] for cell in self.history.cells), default=0)

    def loss(self, strategy: str, budget: int, shown: str = "history") -> Loss | None:
        """Of a strategy.

        Args:
            strategy: Its name.
            budget: One of the plan's.
            shown: `history`; `control` for another chat's; `notes` for those of people; `none` for the question alone.

        Returns:
            None where it was not measured.
        """
        cell = self.history.cell(strategy, budget)
        found = cell and [t for t in cell.sections["perplexity"]["targets"] if shown in t["nll"]]
        if not found:
            return None
        lost = [target["nll"][shown] - target["nll"]["full"] for target in found]
        size = "history" if shown == "control" else shown
        return Loss(
            sum(target["prompt_tokens"][size] for target in found) / len(found),
            bootstrap.ratio(lost, [target["answer_tokens"] for target in found], self.plan.seed),
        )

    @property
    def full_tokens(self) -> float:
        """Mean tokens of the scored turns' prompts with the full history."""
        found = [t["prompt_tokens"]["full"] for t in self.history.cells[0].sections["perplexity"]["targets"]]
        return sum(found) / max(1, len(found))


async def study(plan: Plan) -> Study:
    """Measure.

    Raises:
        ConfigError: The data or the model cannot be used; says which and why.
    """
    check_strategies(plan.strategies)
    settings = load_settings({"model": plan.model, "data_dir": plan.data_dir})
    dialogues = read_dialogues(plan.data)
    counting = counting_for(settings)
    if counting.source is None:
        raise ConfigError(f"CHATLAB_ENGINE={settings.engine}: true next turns are scored by a model in this process")
    few = _longest(dialogues, plan.chats)
    strangers = _longest(dialogues, plan.chats + MORE_STRANGERS)
    with open_recall(settings) as recall:
        builder = PromptBuilder(counting.engine, recall, patient=True)
        writer = SegmentNotes(counting.engine, builder.writer, plan.compression)
        facts = await survey(dialogues, writer, plan.segment_tokens, seed=plan.seed)
        history = await evaluate_history(
            few,
            counting.engine,
            builder,
            plan.strategies,
            plan.budgets,
            recall=recall,
            tokenize=counting.tokenize,
            max_turns=plan.replayed_turns,
            seed=plan.seed,
        )
        maker = PromptMaker(counting.engine, builder)
        dialogue, asked = _question(few)
        prompts: dict[str, Made] = {}
        for strategy in ("direct", *plan.strategies):
            budget = maker.window if strategy == "direct" else max(plan.budgets)
            made = await maker.make(strategy, budget, dialogue, dialogue.turns, asked)
            if made is not None:
                prompts[strategy] = made
        scorer = load_scorer(counting.source, settings.device)
        for stranger in strangers:
            await recall.index(stranger.sample_id, stranger.turns)
        sizes, noting = range(*plan.history_tokens), [name for name in plan.strategies if name in NOTING]
        await next_turns(history, few, maker, scorer, plan.scored_turns, plan.seed, sizes, noting, strangers)
    return Study(plan, facts, history, asked, prompts)


def _longest(dialogues: Sequence[Dialogue], n: int) -> tuple[Dialogue, ...]:
    """The longest conversations, in the order of the data."""
    by_length = sorted(range(len(dialogues)), key=lambda i: -len(dialogues[i].turns))
    return tuple(dialogues[i] for i in sorted(by_length[:n]))


def _question(dialogues: Sequence[Dialogue]) -> tuple[Dialogue, str]:
    """A question about a value that was replaced, if there is one; else any; else the last thing that was said."""
    for wanted in (True, False):
        for dialogue in dialogues:
            for asked in dialogue.questions:
                if not wanted or asked.stale is not None:
                    return dialogue, asked.question
    return dialogues[0], dialogues[0].turns[-1].user_message
