"""From what was computed to the figures that are shown: shares with their intervals over chats, as JSON holds them.

Intervals say what another set of chats like these might have given: chats are resampled, not questions, since the
questions of a chat go together.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatlab.cache.comparator import shipped
from chatlab.cache.statistics import share_of
from chatlab.evaluation import bootstrap
from chatlab.evaluation.bootstrap import Estimate
from chatlab.evaluation.traffic.again import Group
from chatlab.evaluation.traffic.lookups import Cell
from chatlab.evaluation.traffic.pairs import Pair
from chatlab.evaluation.traffic.prices import Prices
from chatlab.evaluation.traffic.prompts import PromptCell, Tokens
from chatlab.evaluation.traffic.requests import Requests

SEED = 0
LOOKUP_SECONDS = 0.03  # docs/performance.md: a lookup that misses, 19 of 20
ENOUGH = 20  # pairs judged, with which a share of wrong ones is spoken of
SHOWN_GROUPS = 40
SHOWN_WORDINGS = 4
SHOWN_CHARS = 500  # of an answer
QUESTION_CHARS = 2_000  # of a question
MONTHS = 36

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Study:
    """All that was computed.

    Attributes:
        cells: Caches, of which `main` is the one that sentences are about.
        pairs: A random sample.
        groups: Questions asked again.
        prompts: Strategies at budgets.
        tokens: Of each request.
    """

    name: str
    requests: Requests
    cells: Sequence[Cell]
    main: int
    pairs: Sequence[Pair]
    groups: Sequence[Group]
    prompts: Sequence[PromptCell]
    tokens: Tokens
    prices: Prices
    model: str
    ttl_hours: float
    count_error: int
    n_counted: int


def figures(study: Study) -> dict[str, Any]:
    """All figures, of plain values."""
    requests = study.requests
    return {
        "file": study.name,
        "chats": len(requests.chats),
        "empty_chats": requests.n_empty,
        "turns": len(requests.asked),
        "users": len(requests.users),
        "asked_anew": sum(each.anew for each in requests.asked),
        "unanswered": sum(not each.answer for each in requests.asked),
        "months": _months(requests),
        "tokens": {
            "model": study.model,
            "prompts_whole": int(study.tokens.prompts.sum()),
            "answers": int(study.tokens.answers.sum()),
            "longest_prompt": int(study.tokens.prompts.max(initial=0)),
            "count_error": study.count_error,
            "counted_whole": study.n_counted,
        },
        "cache": {
            "main": study.main,
            "ttl_hours": study.ttl_hours,
            "comparison_errs": asdict(shipped()),
            "lookup_seconds": LOOKUP_SECONDS,
            "cells": [_cell(study, i) for i in range(len(study.cells))],
            "pairs": [_pair(study, pair) for pair in study.pairs],
        },
        "again": _again(study),
        "history": [_prompts(cell) for cell in study.prompts],
        "prices": study.prices.as_json(),
    }


def _cell(study: Study, number: int) -> dict[str, Any]:
    cell, asked = study.cells[number], study.requests.asked
    lookups, hits, exact = (np.zeros(len(study.requests.chats)) for _ in range(3))
    saved_prompts = saved_answers = 0
    guards: Counter[str] = Counter()
    for place, (request, found) in enumerate(zip(asked, cell.found, strict=True)):
        lookups[request.chat] += found.outcome != "anew"
        hits[request.chat] += found.served
        exact[request.chat] += found.outcome == "exact"
        if found.served:
            saved_prompts += int(study.tokens.prompts[place])
            saved_answers += int(study.tokens.answers[place])
        elif found.guard is not None:
            guards[found.guard] += 1
    semantic = hits.sum() - exact.sum()
    return {
        "scope": cell.scope,
        "max_error": cell.max_error,
        "threshold": cell.threshold,
        "lookups": int(lookups.sum()),
        "hits": int(hits.sum()),
        "exact": int(exact.sum()),
        "semantic": int(semantic),
        "hit_rate": _json(bootstrap.ratio(hits, lookups, SEED)),
        "saved_prompt_tokens": saved_prompts,
        "saved_answer_tokens": saved_answers,
        "compared": _compared(study, number, int(semantic), int(hits.sum())),
        "refused": dict(guards.most_common()),
    }


def _compared(study: Study, number: int, semantic: int, hits: int) -> dict[str, Any] | None:
    """The share of hits whose stored answer differs from the one that was given, as far as the comparison sees.

    Its errors are not taken out: they are known for another model's answers, and taking them out magnifies chance.
    """
    said = [pair.same for pair in study.pairs if number in pair.cells and pair.same is not None]
    if not said or not hits:
        return None
    differ = share_of(sum(not same for same in said), len(said))
    assert differ.value is not None
    share = semantic / hits
    return {"value": share * differ.value, "interval": [share * differ.low, share * differ.high], "n": len(said)}


def _pair(study: Study, pair: Pair) -> dict[str, Any]:
    asked, before = study.requests.asked[pair.request], study.requests.asked[pair.entry]
    return {
        "id": f"{pair.request}-{pair.entry}",
        "question": _cut(asked.turn.user_message, QUESTION_CHARS),
        "earlier": _cut(before.turn.user_message, QUESTION_CHARS),
        "answer": _cut(asked.answer),
        "earlier_answer": _cut(before.answer),
        "whole": max(map(len, (asked.turn.user_message, before.turn.user_message))) <= QUESTION_CHARS,
        "chat": study.requests.chats[asked.chat].title[:80],
        "earlier_chat": study.requests.chats[before.chat].title[:80],
        "at": _day(study, pair.request),
        "earlier_at": _day(study, pair.entry),
        "score": round(pair.found.score, 3),
        "similarity": round(pair.found.similarity, 3),
        "guard": pair.found.guard,
        "in_conversation": asked.before is not None,
        "cells": list(pair.cells),
        "same_by_comparison": pair.same,
    }


def _again(study: Study) -> dict[str, Any]:
    asked = study.requests.asked
    in_groups: Floats = np.zeros(len(study.requests.chats))
    all_of: Floats = np.zeros(len(study.requests.chats))
    for request in asked:
        all_of[request.chat] += not request.anew
    for group in study.groups:
        for place in group.requests[1:]:
            in_groups[asked[place].chat] += 1
    served = study.cells[study.main].found
    shown: list[dict[str, Any]] = []
    for group in study.groups[:SHOWN_GROUPS]:
        wordings = Counter(asked[place].turn.user_message.strip() for place in group.requests)
        shown.append(
            {
                "count": len(group.requests),
                "chats": len({asked[place].chat for place in group.requests}),
                "served": sum(served[place].served for place in group.requests),
                "wordings": [_cut(text, 200) for text, _ in wordings.most_common(SHOWN_WORDINGS)],
                "n_wordings": len(wordings),
                "first": _day(study, group.requests[0]),
                "last": _day(study, group.requests[-1]),
            }
        )
    return {
        "groups": len(study.groups),
        "repeats": int(in_groups.sum()),
        "share": _json(bootstrap.ratio(in_groups, all_of, SEED)),
        "shown": shown,
    }


def _prompts(cell: PromptCell) -> dict[str, Any]:
    return {
        "strategy": cell.strategy,
        "budget": cell.budget,
        "turns": cell.n_turns,
        "measured": cell.n_measured,
        "exact": cell.n_measured == cell.n_turns,
        "tokens": round(cell.total("tokens")),
        "of_whole": _json(cell.share("tokens", "whole", SEED)),
        "dropped_of_past": _json(cell.share("dropped", "past", SEED)),
        "questions_with_dropped": _json(cell.share("turns_dropped", "turns", SEED)),
        "noted_of_past": _json(cell.share("noted", "past", SEED)),
        "quoted": round(cell.total("quoted")),
        "dropped": round(cell.total("dropped")),
        "refused": round(cell.total("refused")),
        "refused_share": _json(cell.share("refused", "turns", SEED)),
    }


def _months(requests: Requests) -> list[dict[str, Any]]:
    """How much was asked, by month, without gaps; empty where the export has no times."""
    counts = Counter((each.at.year, each.at.month) for each in requests.asked if each.at is not None)
    if not counts:
        return []
    first, last = min(counts), max(counts)
    n = 12 * (last[0] - first[0]) + last[1] - first[1] + 1
    months = [(first[0] + (first[1] - 1 + i) // 12, (first[1] - 1 + i) % 12 + 1) for i in range(n)]
    return [{"month": f"{year}-{month:02d}", "turns": counts[year, month]} for year, month in months[-MONTHS:]]


def _day(study: Study, place: int) -> str:
    at = study.requests.asked[place].at
    return "" if at is None else at.date().isoformat()


def _cut(text: str, most: int = SHOWN_CHARS) -> str:
    return text if len(text) <= most else f"{text[:most]} … [{len(text) - most:,} more characters]"


def _json(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else estimate.as_json()
