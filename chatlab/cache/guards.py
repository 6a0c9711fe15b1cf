"""Evidence that two questions cannot have one answer, however alike they are. Each guard names what it saw."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from chatlab.cache.reading import (
    CURRENCIES,
    STOP_WORDS,
    UNITS,
    Reading,
    Word,
    exclusions,
    is_number,
    stem,
    word_set,
)


@dataclass(frozen=True, slots=True)
class Guard:
    """A kind of evidence.

    Attributes:
        sees: Whether two texts have it.
        reach: Most content words that are in one text only for it to refuse: where there are more, it is one of many
            differences, which the verifier weighs.
    """

    name: str
    sees: Callable[[Reading, Reading], bool]
    reach: int


TIME_WORDS = {
    word: kind
    for kind, words in {
        "now": "now currently today nowadays tonight",
        "past": "yesterday ago formerly previously",
        "future": "tomorrow soon upcoming",
    }.items()
    for word in words.split()
}
ANY = 10_000  # a reach that no text has
SPEAKER = word_set("i i'm im my we our")
ASKING = word_set(
    "what who whom whose when where why which how can could should would tell help need want explain show"
)
ANEW = word_set("another else again")
OTHER = ANEW | word_set("different other new more instead")
DENYING = ("un", "in", "im", "ir", "il", "dis", "non", "de")  # prefixes
LISTS = word_set("and or versus & / , nor")  # what stands between things whose order is free
SYMMETRIC = frozenset(
    map(
        stem,
        word_set(
            "between compare comparison difference different differ similar same equal related connected engaged "
            "married tied linked friend friends siblings cousins together differentiate distinguish versus vs "
            "relationship relate meet dating acquaintance acquainted friendly neighbor neighbors neighbours twins "
            "partners roommates colleagues identical equivalent compatible"
        ),
    )
)
AUXILIARIES = word_set("is are was were be been being am do does did has have had will would can could should")
LINKLESS = AUXILIARIES | word_set("a an the my your his her its our their this that it i you we they")
DIRECTIONS = word_set("to from into than before after by")
# Which of these stands in a sentence is mostly grammar, once other words differ.
PARTICLES = word_set("on off in out up down over under above below front back left right")
FRAMING = frozenset({"mean", "happen"})  # "What does X mean?" is "What does it mean that X?"
BEING = word_set("is are was were be been being get got")
GENDERED = word_set("he him his she her hers")

_ASKED_AFTER = re.compile(r"[,;.] (?:(?:so|and|but) )?(?:is|are|am|was|do|does|did|will|any|may|might|ok|safe)\b")


def refusal(a: Reading, b: Reading) -> str | None:
    """The first guard that refuses to let one answer serve both; None if all let it pass."""
    apart = len(_differences(a, b)) + len(_differences(b, a))
    return next((guard.name for guard in GUARDS if apart <= guard.reach and guard.sees(a, b)), None)


def doubt(a: Reading, b: Reading) -> str | None:
    """The first guard that sees something, however different the two are otherwise."""
    return next((guard.name for guard in GUARDS if guard.sees(a, b)), None)


def _differences(a: Reading, b: Reading) -> list[Word]:
    """Content words that only one has; numbers are compared by a guard of their own."""
    return [word for word in _content_only(a, b) if not is_number(word.text)]


def _language(a: Reading, b: Reading) -> bool:
    return a.language != b.language and "none" not in (a.language, b.language)


def _verbatim(a: Reading, b: Reading) -> bool:
    """Code or a quotation in one that the other does not contain at all."""
    if any(part.strip() not in b.text for part in a.code) or any(part.strip() not in a.text for part in b.code):
        return True
    whole_a, whole_b = (" ".join(each.text.casefold().split()) for each in (a, b))
    return any(part.strip(",.?! ") not in whole_b for part in a.verbatim) or any(
        part.strip(",.?! ") not in whole_a for part in b.verbatim
    )


def _numbers(a: Reading, b: Reading) -> bool:
    """Each has a number that the other lacks."""
    only_a, only_b = _numbers_only(a, b), _numbers_only(b, a)
    return bool(only_a and only_b) or (_codes(a, b) and _codes(b, a))


def _one_number(a: Reading, b: Reading) -> bool:
    """One has a number that the other lacks; small ones are often said for nothing."""
    return any(not value.is_integer() or value > 3 for value in _numbers_only(a, b) + _numbers_only(b, a))


def _numbers_only(a: Reading, b: Reading) -> list[float]:
    return [*(Counter(value for value, _ in a.numbers) - Counter(value for value, _ in b.numbers)).elements()]


def _codes(a: Reading, b: Reading) -> bool:
    """Whether it has words of letters and digits, like the name of a version, that the other lacks."""
    theirs = {word.text for word in b.words}
    return any(
        word.text not in theirs and any(map(str.isdigit, word.text)) and any(map(str.isalpha, word.text))
        for word in a.words
    )


def _units(a: Reading, b: Reading) -> bool:
    """The same amounts of something else, or another unit asked for."""
    if bool(a.units - b.units) and bool(b.units - a.units):
        return True
    units_a, units_b = dict(a.numbers), dict(b.numbers)
    return any(units_a[v] and units_b[v] and units_a[v] != units_b[v] for v in units_a.keys() & units_b.keys())


def _currency(a: Reading, b: Reading) -> bool:
    money_a, money_b = ({UNITS.get(word.text, word.text) for word in each.words} & CURRENCIES for each in (a, b))
    return bool(money_a - money_b) and bool(money_b - money_a)


def _dates(a: Reading, b: Reading) -> bool:
    return bool(a.dates - b.dates) and bool(b.dates - a.dates)


def _one_date(a: Reading, b: Reading) -> bool:
    return a.dates != b.dates


def _negation(a: Reading, b: Reading) -> bool:
    """One denies what the other does not, with no opposite that makes up for it."""
    if (a.n_negations - b.n_negations + _others(a) - _others(b)) % 2 == 0:
        return False
    return _turned(a, b) % 2 == 0


def _others(a: Reading) -> int:
    """How often it asks for something else than what it names."""
    return len(re.findall(r"\b(?:other than|apart from|aside from|anything but|free of)\b", a.text.casefold()))


def _opposites(a: Reading, b: Reading) -> bool:
    """A word's opposite stands in its place, and nothing turns it back."""
    return _turned(a, b, PARTICLES) % 2 == 1 and (a.n_negations - b.n_negations) % 2 == 0


def _directions(a: Reading, b: Reading) -> bool:
    """The same of words that are mostly grammar."""
    return _turned(a, b) % 2 == 1 and (a.n_negations - b.n_negations) % 2 == 0


def _turned(a: Reading, b: Reading, but: frozenset[str] = frozenset()) -> int:
    """How many words of one are the opposite of a word that only the other has; some words are left out."""
    opposites = exclusions().opposites
    only_a, only_b = ([word for word in only if word not in but] for only in (_only(a, b), _only(b, a)))
    n = 0
    for word in only_a:
        if (found := next((other for other in only_b if other in opposites.get(word, ())), None)) is not None:
            only_b.remove(found)
            n += 1
    for left, right in ((only_a, only_b), (only_b, only_a)):
        n += sum(_denied(word, other) for word in left for other in right)
    return n


def _alternatives(a: Reading, b: Reading) -> bool:
    """One thing of a kind stands in the place of another."""
    alternatives, theirs = exclusions().alternatives, set(_only(b, a))
    return any(theirs & alternatives.get(word, frozenset()) for word in _only(a, b))


def _conjunction(a: Reading, b: Reading) -> bool:
    """Either of two in one, both in the other."""
    if _content_only(a, b) and _content_only(b, a):
        return False
    texts_a, texts_b = ({word.text for word in each.words} for each in (a, b))
    both = {"simultaneously", "both", "together"}
    return any(
        "or" in left and "or" not in right and "and" in right and "and" not in left and bool(both & right)
        for left, right in ((texts_a, texts_b), (texts_b, texts_a))
    )


def _denied(word: str, other: str) -> bool:
    """Whether a word is another with a prefix that denies it."""
    return (
        any(word == prefix + other for prefix in ("un", "in", "im", "ir", "il", "dis", "non", "de")) and len(other) > 3
    )


def _only(a: Reading, b: Reading) -> list[str]:
    theirs = Counter(b.stems)
    kept: list[str] = []
    for each in a.stems:
        if theirs[each] > 0:
            theirs[each] -= 1
        else:
            kept.append(each)
    return kept


def _time(a: Reading, b: Reading) -> bool:
    """One is about now, the other about what was or will be."""
    times_a, times_b = ({TIME_WORDS[w.text] for w in each.words if w.text in TIME_WORDS} for each in (a, b))
    if times_a and times_b and times_a != times_b:
        return True
    return _used_to(a) != _used_to(b) or (_becoming(a) != _becoming(b) and _bare(a, b))


def _used_to(a: Reading) -> bool:
    texts = [word.text for word in a.words]
    asked = "did" in texts
    return any(
        texts[i] in {"used", "use"} and texts[i + 1] == "to" and (texts[i] == "used" or asked)
        and (i + 2 == len(texts) or not texts[i + 2].endswith("ing"))
        and (asked or i == 0 or texts[i - 1] not in AUXILIARIES | {"get", "getting", "got", "not"})
        for i in range(len(texts) - 1)
    )  # fmt: skip


def _becoming(a: Reading) -> bool:
    return any(word.text == "becoming" for word in a.words)


def _bare(a: Reading, b: Reading) -> bool:
    """Whether that is about all that is different."""
    return len(_content_only(a, b)) + len(_content_only(b, a)) <= 1


def _content_only(a: Reading, b: Reading) -> list[Word]:
    stems = set(b.stems)
    return [word for word in a.content if word.stem not in stems]


def _names(a: Reading, b: Reading) -> bool:
    """Each names somebody or something that the other does not."""
    only_a, only_b = _names_only(a, b), _names_only(b, a)
    return bool(only_a and only_b) and not _short_for(only_a, only_b) and not _short_for(only_b, only_a)


def _names_only(a: Reading, b: Reading) -> list[str]:
    theirs = {word.stem for word in b.words} | {word.text for word in b.words}
    joined = "".join(word.text for word in b.words)
    return [
        word.text
        for word in a.words
        if word.named
        and word.stem not in theirs
        and word.text not in theirs
        and (word.text not in STOP_WORDS or (len(word.text) == 1 and word.text not in {"a", "i"}))
        and word.text not in UNITS
        and word.text.removesuffix("s") not in theirs
        and word.text + "s" not in theirs
        and not (len(word.text) > 3 and word.text in joined)
        and not any(_spelled_alike(word.text, other) for other in theirs)
    ]


def _spelled_alike(word: str, other: str) -> bool:
    """Whether one may be a slip of the pen for the other."""
    if word[0] != other[:1] or abs(len(word) - len(other)) > 2 or min(len(word), len(other)) < 5:
        return False
    return not any(c.isdigit() for c in word) and SequenceMatcher(None, word, other, autojunk=False).ratio() > 0.82


def _short_for(long: Sequence[str], short: Sequence[str]) -> bool:
    """Whether one is the initials of the other."""
    return len(short) == 1 and short[0].replace(".", "") == "".join(word[0] for word in long)


def _people(a: Reading, b: Reading) -> bool:
    """The same is asked of him and of her, or of one where the other asks of a name."""
    theirs, ours = (Counter(word.text for word in each.words if word.text in GENDERED) for each in (a, b))
    if theirs == ours or not _bare(a, b):
        return _pronouns(a) != _pronouns(b) and Counter(_pronouns(a)) == Counter(_pronouns(b))
    return True


def _pronouns(a: Reading) -> list[str]:
    return [word.text for word in a.words if word.text in GENDERED]


def _roles(a: Reading, b: Reading) -> bool:
    """Two words stand in each other's place, where places matter: who did it to whom, from what to what."""
    n_only = len(_content_only(a, b)) + len(_content_only(b, a))
    if any(word.stem in SYMMETRIC for word in (*a.words, *b.words)):
        return False
    links = _exchanged(a.stems, b.stems)
    if _passive(a) != _passive(b):
        return not links and n_only == 0 and sum(word.text not in STOP_WORDS for word in a.words) > 2
    return bool(links) and (n_only <= 2 or bool(links & DIRECTIONS))


def _exchanged(a: Sequence[str], b: Sequence[str]) -> set[str]:
    """The words around which two others change places, where that is all that changed."""
    place_a, place_b = _places(a), _places(b)
    common = [word for word in place_a if word in place_b]
    things = [word for word in common if word not in STOP_WORDS and word not in FRAMING]
    moved = [(x, y) for x, y in zip(things, sorted(things, key=lambda word: place_b[word]), strict=True) if x != y]
    if len(moved) != 2 or moved[0] != moved[1][::-1]:
        return set()
    x, y = moved[0]
    if _listed(a, place_a[x], place_a[y]) or _listed(b, place_b[y], place_b[x]):
        return set()
    between = {m for m in common if place_a[x] < place_a[m] < place_a[y] and place_b[y] < place_b[m] < place_b[x]}
    return set() if between & LISTS else between - LINKLESS


def _places(stems: Sequence[str]) -> dict[str, int]:
    """Of the words that occur once, in order."""
    counts = Counter(stems)
    return {word: i for i, word in enumerate(stems) if counts[word] == 1}


def _listed(stems: Sequence[str], start: int, end: int) -> bool:
    return end - start < 5 and any(word in LISTS for word in stems[start + 1 : end])


def _passive(reading: Reading) -> bool:
    """Whether it says what is done by whom."""
    texts = [word.text for word in reading.words]
    return any(
        text == "by"
        and texts[i - 1] not in STOP_WORDS
        and not texts[i + 1].endswith("ing")
        and not BEING.isdisjoint(texts[:i])
        for i, text in enumerate(texts[1:-1], 1)
    )


def _statement(a: Reading, b: Reading) -> bool:
    """One says something of the speaker, the other asks."""
    return _says(a) != _says(b)


def _says(reading: Reading) -> bool:
    texts = [word.text for word in reading.words]
    if not texts or texts[0] not in SPEAKER or "?" in reading.text:
        return False
    return ASKING.isdisjoint(texts) and _ASKED_AFTER.search(reading.text.casefold()) is None


def _another(a: Reading, b: Reading) -> bool:
    """One asks for something else than it was given, the other for anything."""
    texts_a, texts_b = ({word.text for word in each.words} for each in (a, b))
    return any(
        not ANEW.isdisjoint(one) and OTHER.isdisjoint(other) for one, other in ((texts_a, texts_b), (texts_b, texts_a))
    )


GUARDS: Sequence[Guard] = (
    Guard("language", _language, ANY),
    Guard("statement", _statement, ANY),
    Guard("another", _another, 4),
    Guard("code or quotation", _verbatim, 4),
    Guard("number", _numbers, 6),
    Guard("number on one side", _one_number, 1),
    Guard("unit", _units, 6),
    Guard("currency", _currency, 4),
    Guard("date", _dates, 4),
    Guard("date on one side", _one_date, 1),
    Guard("negation", _negation, 2),
    Guard("opposite", _opposites, 6),
    Guard("direction", _directions, 2),
    Guard("alternative", _alternatives, 6),
    Guard("conjunction", _conjunction, 4),
    Guard("time", _time, 2),
    Guard("name", _names, 4),
    Guard("person", _people, 2),
    Guard("role", _roles, 2),
)
