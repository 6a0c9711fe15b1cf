"""Whether notes are worth it at a budget: a rule over intervals, beside dropping the oldest turns.

Something must be shown to be better than `truncate` at the same budget: the answers to questions are in the prompt, or
the true next turn is likelier, and likelier than with the notes of another chat. And nothing may be shown to be worse:
neither of these two, nor may prompts say a replaced value alone in more than a share of all cases. Shown is what a 95 %
interval excludes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chatlab.evaluation import bootstrap
from chatlab.evaluation.bootstrap import Estimate
from chatlab.evaluation.facts import FactReport
from chatlab.evaluation.report import HistoryReport

BASELINE = "truncate"
MAX_STALE = 0.1


@dataclass(frozen=True, slots=True)
class Verdict:
    """On one strategy at one budget; a missing estimate was not measured.

    Attributes:
        answers: Share of answer words in the prompt, more than with `truncate`.
        gain: Loss on the true next turn, less than with `truncate`, in nats a token.
        own: The same, less than with another chat's turns.
        stale: Share of replaced values that notes say alone, after the most compactions.
        max_stale: The most that it may be.
    """

    strategy: str
    budget: int
    answers: Estimate | None
    gain: Estimate | None
    own: Estimate | None
    stale: Estimate | None
    max_stale: float = MAX_STALE

    @property
    def better(self) -> tuple[str, ...]:
        """What is shown to be better."""
        found = ["more answers in the prompt"] if self.answers and self.answers.low > 0 else []
        if self.gain and self.gain.low > 0 and self.own and self.own.low > 0:
            found.append("a likelier next turn")
        return tuple(found)

    @property
    def worse(self) -> tuple[str, ...]:
        """What is shown to be worse."""
        found = ["fewer answers in the prompt"] if self.answers and self.answers.high < 0 else []
        if self.gain and self.gain.high < 0:
            found.append("a less likely next turn")
        if self.stale and self.stale.low > self.max_stale:
            found.append("replaced values that live on")
        return tuple(found)

    @property
    def worth_it(self) -> bool:
        """Better in something, worse in nothing."""
        return bool(self.better) and not self.worse

    def __str__(self) -> str:
        name = f"{self.strategy} at {self.budget:,} tokens: "
        if self.worse:
            return name + f"no, it shows {' and '.join(self.worse)}"
        return name + (
            f"yes, it shows {' and '.join(self.better)}" if self.better else "no, nothing shows that it pays"
        )


def verdicts(report: HistoryReport, facts: FactReport, max_stale: float = MAX_STALE) -> tuple[Verdict, ...]:
    """One for each strategy and budget that has `truncate` beside it."""
    found: list[Verdict] = []
    stale = facts.stale_alone(max(facts.compactions))
    for cell in report.cells:
        base = report.cell(BASELINE, cell.budget)
        if base is None or base is cell:
            continue
        answers = [value - base.coverage[key] for key, value in cell.coverage.items() if key in base.coverage]
        ours, theirs = _targets(cell.sections), _targets(base.sections)
        gains = [(t["nll"]["history"], theirs[key]["nll"]["history"], t) for key, t in ours.items() if key in theirs]
        own = [(t["nll"]["history"], t["nll"]["control"], t) for t in ours.values() if "control" in t["nll"]]
        found.append(
            Verdict(
                cell.strategy,
                cell.budget,
                bootstrap.mean(answers, report.seed),
                _less(gains, report.seed),
                _less(own, report.seed),
                stale,
                max_stale,
            )
        )
    return tuple(found)


def conclusion(found: Sequence[Verdict]) -> str:
    """The verdicts in a sentence for each strategy, with their budgets."""
    lines: list[str] = []
    for strategy in dict.fromkeys(each.strategy for each in found):
        yes = [f"{each.budget:,}" for each in found if each.strategy == strategy and each.worth_it]
        no = [f"{each.budget:,}" for each in found if each.strategy == strategy and not each.worth_it]
        said = [f"use it at {' and '.join(yes)} tokens"] if yes else []
        said += [f"do not at {' and '.join(no)} tokens"] if no else []
        lines.append(f"{strategy}: {', '.join(said)}")
    return "\n".join(lines)


def _targets(sections: Mapping[str, Any]) -> dict[str, Any]:
    return {each["id"]: each for each in sections.get("perplexity", {}).get("targets", ())}


def _less(pairs: Sequence[tuple[float, float, Mapping[str, Any]]], seed: int) -> Estimate | None:
    """By how many nats a token the first sums are less than the second."""
    return bootstrap.ratio([b - a for a, b, _ in pairs], [t["answer_tokens"] for *_, t in pairs], seed)
