"""How likely it is that a statement says anew what an earlier one said, when their words alone do not tell.

"I pay 900 a month for the flat" and "after the increase it comes to 950" share no word. What they mean is alike, both
have a figure, and the later one speaks of a change.
"""

import math
import re
from collections.abc import Mapping
from functools import lru_cache

from chatlab.history.salience import NAME, kinds_of
from chatlab.history.updates import Subject

# Log odds of each sign: a logistic regression by `tools/train_succession.py`, rounded.
BIAS = -5.5
WEIGHTS: Mapping[str, float] = {
    "likeness": 1.0,
    "changed": 1.2,
    "changed_likeness": 1.1,
    "form": 0.9,
    "form_likeness": 0.7,
    "names": 0.1,
    "figure_in_one": -0.6,
    "words": 2.1,
    "by_words": 1.4,
    "sides": 0.5,
    "other_sides": -0.2,
    "people": 0.1,
    "given_up": 0.8,
    "topic": 1.0,
}
SIDES_OF_LIFE = frozenset(
    {"kin", "role", "pet", "health", "prefer", "work", "plan", "skill", "reside", "called", "credential"}
)
MAX_SHARED = 3
FIGURE = re.compile(r"\d[\d,.:]*")
UNIT = re.compile(r"\d\s?([a-z%]{1,12})")
MONEY = re.compile(r"[$£€]")
CODED = re.compile(r"\b[A-Z]{1,3}\d")
DAYS = frozenset(["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"])
MONTHS = frozenset(
    [
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ]
)


def log_odds(earlier: str, later: str, likeness: float) -> float:
    """That the later statement replaces the earlier one; none if people, days or words tell the two apart.

    Args:
        earlier: Its text.
        later: Its text.
        likeness: Cosine of their embeddings.
    """
    was, now = Subject.of(earlier), Subject.of(later)
    if was.told_apart(now) or now.told_apart(was):
        return -math.inf
    return BIAS + sum(WEIGHTS[sign] * value for sign, value in signs(earlier, later, likeness).items())


def signs(earlier: str, later: str, likeness: float) -> Mapping[str, float]:
    """What speaks for it and against it, each about 0 to 3."""
    was, now = Subject.of(earlier), Subject.of(later)
    form_was, form_now = _form(earlier), _form(later)
    sides_was, sides_now = _sides(earlier), _sides(later)
    return {
        "likeness": likeness,
        "changed": now.changed,
        "changed_likeness": now.changed * likeness,
        "form": bool(form_was & form_now),
        "form_likeness": bool(form_was & form_now) * likeness,
        "names": "name" in form_was and "name" in form_now,
        "figure_in_one": bool(form_was - {"name"}) != bool(form_now - {"name"}),
        "words": min(MAX_SHARED, len(was.words & now.words)),
        "by_words": now.replaces(was),
        "sides": len(sides_was & sides_now),
        "other_sides": len(sides_was ^ sides_now),
        "people": bool(was.people & now.people),
        "given_up": any(each <= was.terms for each in now.given_up),
        "topic": bool(was.topic & now.words),
    }


@lru_cache(4096)
def _sides(text: str) -> frozenset[str]:
    return SIDES_OF_LIFE & kinds_of(text).keys()


@lru_cache(4096)
def _form(text: str) -> frozenset[str]:
    """What its value looks like: a name, a day, an amount of something, a number of so many digits."""
    lower = text.lower()
    words = frozenset(lower.split())
    form = {f"digits:{sum(map(str.isdigit, each))}{':' * (':' in each)}" for each in FIGURE.findall(lower)}
    form |= {f"unit:{each}" for each in UNIT.findall(lower)}
    form |= {name for name, pattern in (("money", MONEY), ("coded", CODED)) if pattern.search(text)}
    form |= {name for name, known in (("day", DAYS), ("month", MONTHS)) if words & known}
    if any(each.lower() not in DAYS | MONTHS for each in NAME.findall(text)):
        form.add("name")
    return frozenset(form)
