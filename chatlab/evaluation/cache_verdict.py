"""Whether a cache pays on some traffic: a rule over intervals, for each scope and bound.

It pays if the time saved, less what every lookup takes, is shown to be more than nothing, and nothing shows that more
of what is served is wrong than was promised. Shown is what a 95 % interval over seeds excludes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chatlab.evaluation import bootstrap
from chatlab.evaluation.bootstrap import Estimate
from chatlab.evaluation.stream_study import Cell
from chatlab.messages import CacheScope

PER = 1_000  # questions that savings are given for


@dataclass(frozen=True, slots=True)
class Cost:
    """What answers and lookups take.

    Attributes:
        answer_seconds: Of the model, on average.
        answer_tokens: Prompt and answer, on average.
        lookup_seconds: Of one lookup.
    """

    answer_seconds: float
    answer_tokens: float
    lookup_seconds: float

    @property
    def break_even(self) -> float:
        """Hit rate from which on a cache saves time."""
        return self.lookup_seconds / self.answer_seconds


@dataclass(frozen=True, slots=True)
class CacheVerdict:
    """On one method in one scope at one bound.

    Attributes:
        hits: Share of questions that are served.
        wrong: Of these; None where nothing is served.
        seconds: Saved in 1,000 questions, less what all lookups take; negative is a loss.
        tokens: Not computed in 1,000 questions.
        break_even: Hit rate from which on time is saved.
    """

    method: str
    scope: CacheScope
    max_error: float
    hits: Estimate
    wrong: Estimate | None
    seconds: Estimate
    tokens: float
    break_even: float

    @property
    def pays(self) -> bool:
        """Time is saved, and the promise is not shown to be broken."""
        return self.seconds.low > 0 and not self.breaks

    @property
    def breaks(self) -> bool:
        """More of what is served is wrong than was promised."""
        return self.wrong is not None and self.wrong.low > self.max_error

    def __str__(self) -> str:
        name = f"scope {self.scope}, at most {self.max_error:.0%} wrong: "
        if self.breaks and self.wrong is not None:
            return name + f"do not cache, {self.wrong.value:.1%} of what is served is wrong"
        if self.pays:
            return name + f"cache, it saves {self.seconds.value:,.0f} s in {PER:,} questions"
        return name + f"do not cache, nothing shows that it saves time (break-even at {self.break_even:.1%} hits)"


def verdict(cell: Cell, scope: CacheScope, cost: Cost, seed: int = 0) -> CacheVerdict:
    """What a method's runs say.

    Args:
        cell: Of a study.
        scope: That it was made in.
        cost: Of answers and lookups.
        seed: Of the intervals.
    """
    rates = [float(run.served.mean()) for run in cell.runs]
    hits = bootstrap.mean(rates, seed)
    saved = bootstrap.mean([PER * (rate * cost.answer_seconds - cost.lookup_seconds) for rate in rates], seed)
    assert hits is not None
    assert saved is not None
    served = [float(run.served.sum()) for run in cell.runs]
    wrong = bootstrap.ratio([float(run.wrong.sum()) for run in cell.runs], served, seed) if sum(served) else None
    tokens = PER * float(np.mean(rates)) * cost.answer_tokens
    return CacheVerdict(cell.method, scope, cell.max_error, hits, wrong, saved, tokens, cost.break_even)


def conclusion(found: Sequence[CacheVerdict]) -> str:
    """The verdicts in a sentence for each scope."""
    lines: list[str] = []
    for scope in dict.fromkeys(each.scope for each in found):
        yes = [each for each in found if each.scope == scope and each.pays]
        if not yes:
            lines.append(f"scope {scope}: do not cache")
            continue
        best = max(yes, key=lambda each: each.seconds.value)
        bounds = ", ".join(f"{each.max_error:.0%}" for each in yes)
        lines.append(
            f"scope {scope}: cache at a bound of {bounds}; most is saved at {best.max_error:.0%}, "
            f"{best.seconds.value:,.0f} s and {best.tokens:,.0f} tokens in {PER:,} questions"
        )
    return "\n".join(lines)
