"""What configurations did with one log: figures of each, and paired differences to the first.

Turns of a chat hang together, so that intervals are over chats. A paired difference is of the same turns.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from chatlab.evaluation import bootstrap
from chatlab.evaluation.bootstrap import Estimate
from chatlab.evaluation.replay.configuration import Configuration
from chatlab.evaluation.replay.decisions import Decision, differences
from chatlab.evaluation.replay.log import Log

SHARES = ("served", "wrong_of_judged", "prefix_reuse")
MAX_CHANGED = 200  # turns that a report lists

Measure = Callable[[Decision], float]

MEASURES: Mapping[str, Measure] = {
    "served": lambda each: float(each.served),
    "prompt_tokens": lambda each: float(each.prompt_tokens),
    "computed_tokens": lambda each: float(each.computed_tokens),
    "dropped_turns": lambda each: float(each.dropped_turns),
    "seconds": lambda each: each.seconds,
}


@dataclass(frozen=True, slots=True)
class Replayed:
    """A configuration and what it decided, in the order of the turns."""

    configuration: Configuration
    decisions: Sequence[Decision]
    faults: int = 0

    @property
    def name(self) -> str:
        """Of the configuration."""
        return self.configuration.name

    def share(self, measure: Measure, seed: int = 0, over: Measure = lambda each: 1.0) -> Estimate | None:
        """The sum of a measure over that of another one, which counts turns by default; None where that is 0."""
        return clustered(self.decisions, measure, seed, over)

    @property
    def judged(self) -> Sequence[Decision]:
        """Served by meaning, where it is known whether the answer will do."""
        return [each for each in self.decisions if each.cache.tier == "semantic" and each.right is not None]


def clustered(
    decisions: Sequence[Decision], measure: Measure, seed: int, over: Measure = lambda each: 1.0
) -> Estimate | None:
    """A ratio of two sums over turns, with its interval over chats; n counts turns."""
    above, below = defaultdict[str, float](float), defaultdict[str, float](float)
    for each in decisions:
        chat_id = each.logged.chat.chat_id
        above[chat_id] += measure(each)
        below[chat_id] += over(each)
    found = bootstrap.ratio([above[key] for key in below], [*below.values()], seed)
    return found and replace(found, n=len(decisions))


def difference(one: Replayed, baseline: Replayed, measure: Measure, seed: int = 0) -> Estimate | None:
    """The mean of a measure less the baseline's, paired by turn."""
    before = {each.logged.turn.turn_id: measure(each) for each in baseline.decisions}
    return clustered(one.decisions, lambda each: measure(each) - before[each.logged.turn.turn_id], seed)


def result(log: Log, replayed: Sequence[Replayed], seed: int = 0) -> dict[str, Any]:
    """The report as JSON.

    Args:
        log: What was replayed.
        replayed: The baseline first.
        seed: Of the intervals.
    """
    baseline, *others = replayed
    return {
        "log": {
            "source": log.source,
            "chats": len(log.conversations),
            "turns": len(log.turns),
            "lookups": sum(each.lookup is not None for each in log.turns),
            "stray_lookups": len(log.stray),
        },
        "seed": seed,
        "baseline": baseline.name,
        "configurations": [_figures(each, seed) for each in replayed],
        "differences": [_differences(each, baseline, seed) for each in others],
        "changed": _changed(replayed),
    }


def _figures(one: Replayed, seed: int) -> dict[str, Any]:
    decisions, wrong = one.decisions, [not each.right for each in one.judged]
    reuse = [each for each in decisions if each.sent is not None and each.sent.reuse is not None]
    estimates = {name: one.share(measure, seed) for name, measure in MEASURES.items()}
    estimates["wrong_of_judged"] = clustered(one.judged, lambda each: float(not each.right), seed)
    estimates["prefix_reuse"] = clustered(reuse, _reused, seed, _reusable)
    return {
        "name": one.name,
        "named": sorted(one.configuration.named),
        "served": sum(each.served for each in decisions),
        "exact": sum(each.served and each.cache.tier == "exact" for each in decisions),
        "semantic": sum(each.served and each.cache.tier == "semantic" for each in decisions),
        "judged": len(one.judged),
        "wrong": sum(wrong),
        "prompts": sum(each.sent is not None for each in decisions),
        "refused": sum(each.refused for each in decisions),
        "answers_assumed": sum(_assumed(each) for each in decisions),
        "faults": one.faults,
        "estimates": {
            name: None if each is None else _bounded(name, each).as_json() for name, each in estimates.items()
        },
        "as_logged": _as_logged(decisions),
    }


def _bounded(name: str, estimate: Estimate) -> Estimate:
    """Figures are not negative, and shares not above 1; intervals of few chats would be."""
    most = 1.0 if name in SHARES else inf
    return replace(estimate, low=max(0.0, estimate.low), high=min(most, estimate.high))


def _assumed(decision: Decision) -> bool:
    """Whether what was served then stands in for what the model would say."""
    return not (decision.served or decision.refused or decision.logged.by_model or decision.answer is not None)


def _reused(decision: Decision) -> float:
    sent = decision.sent
    return 0.0 if sent is None or sent.reuse is None else float(min(sent.reuse.warmed, sent.reuse.reusable))


def _reusable(decision: Decision) -> float:
    sent = decision.sent
    return 0.0 if sent is None or sent.reuse is None else float(sent.reuse.reusable)


def _as_logged(decisions: Sequence[Decision]) -> dict[str, Any]:
    """How many decisions of the cache are those of the log, and in what the others differ."""
    known = [each for each in decisions if each.logged.turn.provenance.model is not None]
    inside = [each for each in known if not each.beyond]
    differ = [found for each in inside if (found := differences(each))]
    return {
        "known": len(known),
        "beyond": len(known) - len(inside),
        "same": len(inside) - len(differ),
        "different": len(differ),
        "by": dict(Counter(name for names in differ for name in names)),
    }


def _differences(one: Replayed, baseline: Replayed, seed: int) -> dict[str, Any]:
    pairs = [*zip(one.decisions, baseline.decisions, strict=True)]
    estimates = {name: difference(one, baseline, measure, seed) for name, measure in MEASURES.items()}
    return {
        "name": one.name,
        "minus": baseline.name,
        "served_more": sum(ours.served and not theirs.served for ours, theirs in pairs),
        "served_less": sum(theirs.served and not ours.served for ours, theirs in pairs),
        "other_answer": sum(
            ours.served and theirs.served and ours.cache.matched_question != theirs.cache.matched_question
            for ours, theirs in pairs
        ),
        "estimates": {name: None if each is None else each.as_json() for name, each in estimates.items()},
    }


def _changed(replayed: Sequence[Replayed]) -> list[dict[str, Any]]:
    """Turns that not all configurations answer in the same way."""
    found: list[dict[str, Any]] = []
    for row in zip(*(each.decisions for each in replayed), strict=True):
        if len({(each.served, each.cache.matched_question, each.refused) for each in row}) == 1:
            continue
        turn = row[0].logged.turn
        found.append(
            {
                "turn_id": turn.turn_id,
                "chat_id": turn.chat_id,
                "question": turn.user_message,
                "by": {one.name: _told(each) for one, each in zip(replayed, row, strict=True)},
            }
        )
        if len(found) == MAX_CHANGED:
            break
    return found


def _told(decision: Decision) -> dict[str, Any]:
    cache, lookup = decision.cache, decision.lookup
    return {
        "outcome": "refused" if decision.refused else cache.outcome,
        "tier": cache.tier,
        "matched_question": cache.matched_question,
        "score": None if lookup is None else lookup.score,
        "threshold": cache.threshold,
        "reason": cache.reason,
        "right": decision.right,
        "prompt_tokens": decision.prompt_tokens,
        "answer": decision.answer,
    }
