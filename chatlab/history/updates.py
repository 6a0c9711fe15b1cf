"""What a statement is about, and whether it replaces an earlier one about the same.

It does if it speaks of a change, or has the very form of the earlier one, and if neither its people nor the words
beside what both name tell the two apart.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from chatlab.history.lexical import terms
from chatlab.history.salience import VOCABULARY

CHANGE = re.compile(
    r"\b(?:now|no longer|any ?more|instead|rather than|from now on|as from|as of|these days|nowadays|by now|"
    r"after all|turns out|"
    r"switch(?:ed|ing)?|chang(?:ed|ing)|change of plans?|mov(?:ed|ing)|sold|traded|swapped|replaced|upgraded|"
    r"(?:gave|given|giving) up|dropped|scrap(?:ped)?|"
    r"cancell?ed|cancel|postponed|pushed|delayed|brought forward|rescheduled|shifted|new|updated?|actually|"
    r"correction|"
    r"used to|(?:gone|went) (?:off|up|down)|(?:taken|took) over|quit|resigned|not \S{1,20} but|can only|in its place|"
    r"this time|is dead|has arrived|for good|became|i left|we left|started as|got promoted|decided on)\b",
    re.IGNORECASE,
)
# What is given up, in up to three words.
GIVEN_UP = re.compile(
    r"\b(?:sold|(?:gave|given) up(?: on)?|dropped|scrap(?:ped)?|gone off|traded(?: in)?|swapped|replaced|left|"
    r"quit|stopped|"
    r"used to \w+(?: for| in| at| as| to)?|rather than|instead of|no longer|doesn't \w+ in|don't \w+ in|not|"
    r"(?:moved|switched|changed|shifted|went)(?: \S+){0,4}? (?:from|out of))\s+(?:(?:the|my|our|an?|being|with|at|"
    r"on|in|our old|working at|working for)\s+)*"
    r"([^\s,.;:!?]+(?: [^\s,.;:!?]+){0,2})",
    re.IGNORECASE,
)
REPLACED_BY = re.compile(r"\b(?:and|but|to|into|for|with|in|last|this|at|because)\b", re.IGNORECASE)
DIGIT = re.compile(r"\d")
# What tells two of a kind apart: the word before ("bike lock"), and what it is of ("the code of the locker").
BESIDE = re.compile(r"(?=\b([^\W\d_]{1,30}) ([^\W\d_]{1,30}))")
OF = re.compile(r"\b([^\W\d_]{1,30}) (?:of|for|at|with) (?:the|my|our) ([^\W\d_]{1,30})")
FORM = re.compile(r"(?:my|our|the) [^,.;!?]{3,60}? (?:is|are) (?=\S)")
NAMED = re.compile(r"\b(?:name|call)")
TOPIC = re.compile(
    r"\b(?:the|my|our) (?:[^\W\d_]+ ){0,1}?([^\W\d_]+)(?= (?:is|are|was|has|have|had|in|at|of|to|on|will|out|from|"
    r"got|runs|starts|comes)\b|[.,;:!?]|$)"
)
SELF = re.compile(r"\b(?:i|i'm|i've|i'd|we|we're|we've|my|our|me|us)\b", re.IGNORECASE)

PEOPLE = frozenset(term for kind in ("kin", "role", "pet") for term in terms(VOCABULARY[kind]))
TIMES = frozenset(terms(VOCABULARY["time"]))
WEEKDAYS = frozenset(terms("monday tuesday wednesday thursday friday saturday sunday"))
# Words of the change itself and such as go with anything tell nothing of the subject.
COMMON = frozenset(
    terms(
        """now longer anymore instead rather switch switched change changed moved move sold traded swapped replaced
        gave give
        given dropped drop scrap cancel postponed pushed shifted new updated actually correction used use gone went
        taken
        over take turns turn old day days time week month year years get got go going come comes make want need
        please really always never usually first thing know like good one two three last next today morning
        evening tomorrow will would way ago since currently still finally plan plans keep kept put set"""
    )
)
# What one has one of at a time: different words for the same side of a life.
SIDES = {
    term: side
    for side, words in {
        "home": "live moved reside",
        "work": "work job employer employ contract wages profession",
        "shifts": "shifts",
        "vehicle": "drive car vehicle",
        "drink": "drink",
        "lessons": "learn study",
    }.items()
    for term in terms(words)
}


@dataclass(frozen=True, slots=True)
class Subject:
    """A statement as what it is about; all in `terms`.

    Attributes:
        terms: All that it says.
        words: Those that tell its subject.
        sides: Of a life, of `SIDES`.
        beside, of: Pairs of words that stand together.
        topic: The first thing it names.
        form: How it begins, up to the value, if it says what something is.
        given_up: Values that it names as past.
    """

    terms: frozenset[str]
    words: frozenset[str]
    people: frozenset[str]
    weekdays: frozenset[str]
    sides: frozenset[str]
    beside: frozenset[tuple[str, str]]
    of_what: frozenset[tuple[str, str]]
    topic: frozenset[str]
    form: str
    given_up: tuple[frozenset[str], ...]
    changed: bool
    numeric: bool
    timed: bool
    own: bool

    @classmethod
    def of(cls, text: str) -> "Subject":
        """Read out of a statement's text."""
        return _read(text)

    def replaces(self, earlier: "Subject") -> bool:
        """Whether it says anew what the earlier one said."""
        if earlier.terms == self.terms or self.told_apart(earlier):
            return False
        if self.form and self.form == earlier.form:
            return True
        if not self.changed:
            return False
        if any(each <= earlier.terms for each in self.given_up):
            return True
        if (earlier.numeric or earlier.timed) and not (self.numeric or self.timed):
            return False
        if self.own and earlier.own and self.sides & earlier.sides and self.people == earlier.people:
            return True
        if self.topic and self.topic == earlier.topic and (not self.topic & PEOPLE or (self.timed and earlier.timed)):
            return True
        return len(self.words & earlier.words) >= 2

    def told_apart(self, earlier: "Subject") -> bool:
        """By their people, their days beside another value, or a word beside or after one that both have."""
        if self.people and earlier.people and not self.people & earlier.people:
            return True
        both_numeric = self.numeric and earlier.numeric
        if both_numeric and self.weekdays and earlier.weekdays and not self.weekdays & earlier.weekdays:
            return True
        return _differ(self.beside, earlier.beside, 1) or _differ(self.of_what, earlier.of_what, 0)


@lru_cache(4096)
def _read(text: str) -> Subject:
    lower = text.lower().replace("’", "'")
    all_terms = frozenset(terms(text))
    given_up = (frozenset(terms(REPLACED_BY.split(each, maxsplit=1)[0])) - COMMON for each in GIVEN_UP.findall(lower))
    form = FORM.match(lower)
    topic = TOPIC.search(lower)
    return Subject(
        terms=all_terms,
        words=frozenset(term for term in all_terms - COMMON - TIMES if not DIGIT.search(term)),
        people=all_terms & PEOPLE,
        weekdays=all_terms & WEEKDAYS,
        sides=frozenset(SIDES[term] for term in all_terms & SIDES.keys()),
        beside=_pairs(BESIDE, lower),
        of_what=_pairs(OF, lower),
        topic=frozenset(terms(topic[1])) if topic else frozenset(),
        form=form[0] if form and not NAMED.search(lower) else "",
        given_up=tuple(filter(None, given_up)),
        changed=bool(CHANGE.search(lower)),
        numeric=bool(DIGIT.search(text)),
        timed=bool(all_terms & TIMES),
        own=bool(SELF.search(lower)),
    )


def _pairs(pattern: re.Pattern[str], lower: str) -> frozenset[tuple[str, str]]:
    return frozenset(
        (first, second)
        for left, right in pattern.findall(lower)
        for first in terms(left)
        for second in terms(right)
        if not {first, second} & COMMON
    )


def _differ(mine: frozenset[tuple[str, str]], theirs: frozenset[tuple[str, str]], at: int) -> bool:
    """Whether a word that both have in this place goes with other words in the one than in the other."""
    for shared in {each[at] for each in mine} & {each[at] for each in theirs}:
        if not {each for each in mine if each[at] == shared} & {each for each in theirs if each[at] == shared}:
            return True
    return False
