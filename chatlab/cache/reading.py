"""What the decision sees of a question: its words by stem, numbers, names, quoted parts.

English is read best; of other scripts words and numbers are seen, so that less is served there.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import snowballstemmer

LAST_LATIN = "\u024f"
LONG_WORD = 100  # characters: wordpieces end there
MAX_CHARS = 8_000  # of a text, which are read for evidence; the exact tier reads all


def word_set(listed: str) -> frozenset[str]:
    """Words with spaces between."""
    return frozenset(listed.split())


Number = tuple[float, str]  # value and unit, "" without one

_TOKEN = re.compile(
    r"https?://\S+|[\w.+-]+@[\w-]+\.[\w.]+"
    r"|\d+(?:[.,:/-]\d+)*(?:st|nd|rd|th)?(?![^\W_])|[$€£¥₹%°#]|[^\W_]+(?:['’][^\W\d_]+)*(?:\+\+|#(?!\w))?|[<>=]+"
)
_NUMBER = re.compile(r"(\d+(?:[.,:/-]\d+)*)(st|nd|rd|th)?$")
_GLUED = re.compile(r"(\d+(?:[.,]\d+)*)([^\W\d_]+)$")
_UNDENIED = re.compile(
    r"\b(?:or|if|why|but|and) not\b(?=\s*[,?.!;)]|\s*$)|\bor not\b|\bno matter\b|\bnot only\b", re.IGNORECASE
)
_CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
_QUOTED = re.compile(r"\"([^\"\n]{2,200})\"|“([^”\n]{2,200})”|«([^»\n]{2,200})»|(?<!\w)['‘]([^'’\n]{2,200})['’](?!\w)")
_EXACTING = re.compile(r"[\n`]|(?:^|\s)-\w")
_EXCLAIMED = re.compile(r"(?<=[^\W\d])[!！?.。？ ]+$")
_SENTENCE_END = re.compile(r"[.?!:]\s*[\"'”’)]?\s*$|^\s*$|\n\s*$")

UNITS = {
    name: names.split()[0]
    for names in (
        "% percent pct",
        "$ dollar dollars usd bucks",
        "€ euro euros eur",
        "£ pound pounds gbp quid",
        "¥ yen jpy",
        "₹ rupee rupees rs inr",
        "s second seconds sec secs",
        "min minute minutes mins",
        "h hour hours hr hrs",
        "day days",
        "week weeks wk",
        "month months",
        "year years yr yrs",
        "mm millimetre millimetres millimeter millimeters",
        "cm centimetre centimetres centimeter centimeters",
        "m metre metres meter meters",
        "km kilometre kilometres kilometer kilometers",
        "inch inches",
        "foot feet ft",
        "yard yards",
        "mile miles",
        "mg milligram milligrams",
        "g gram grams",
        "kg kilo kilos kilogram kilograms",
        "ounce ounces oz",
        "lb lbs",
        "ton tons tonne tonnes",
        "ml millilitre millilitres milliliter milliliters",
        "l litre litres liter liters",
        "cup cups",
        "tablespoon tablespoons tbsp",
        "teaspoon teaspoons tsp",
        "gallon gallons",
        "celsius centigrade",
        "fahrenheit",
        "kelvin",
        "kb",
        "mb",
        "gb gigabyte gigabytes gigs",
        "tb",
        "mhz",
        "ghz",
        "mph",
        "kmh kph",
        "watt watts",
        "volt volts",
        "calorie calories kcal",
        "am",
        "pm",
    )
    for name in names.split()
}
CURRENCIES = frozenset("$€£¥₹") | {"dollar", "euro", "pound", "yen", "rupee", "franc", "peso", "yuan", "bitcoin"}
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_ORDINALS = "zeroth first second third fourth fifth sixth seventh eighth ninth tenth"
NUMBER_WORDS = {word: float(n) for n, word in enumerate(_ONES.split())} | {
    word: 10.0 * n for n, word in enumerate(_TENS.split(), 2)
}
MULTIPLIERS = {"hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12, "dozen": 12.0}
TIMES_WORDS = {"once": 1.0, "twice": 2.0, "thrice": 3.0, "double": 2.0, "triple": 3.0, "half": 0.5, "quarter": 0.25}
ORDINAL_WORDS = {word: float(n) for n, word in enumerate(_ORDINALS.split()) if n}
_SHORT = {"k": 1e3, "m": 1e6, "bn": 1e9}
MONTHS = {
    name: month
    for month, names in enumerate(
        (
            "january jan", "february feb", "march", "april apr", "may", "june jun", "july jul", "august aug",
            "september sept sep", "october oct", "november nov", "december dec",
        )
    )
    for name in names.split()
}  # fmt: skip
WEEKDAYS = word_set("monday tuesday wednesday thursday friday saturday sunday")
_DETERMINERS = word_set("the a my your his her our their its every each this that for")
_BEFORE_MONTH = word_set("in of since until till by next last this every early late mid")
STOP_WORDS = word_set(
    "a an the is are was were be been being am do does did done have has had having will would shall should can "
    "could may might must i you he she it we they me him her us them my your his its our their mine yours this "
    "that these those there here of in on at to for from by with about as into onto and or but if so than then "
    "not no what which who whom whose when where why how much many some any all please just really actually very "
    "also too get got let s m re ve ll d t im ive id actually truly somehow literally basically simply exactly "
    "currently kindly maybe perhaps anyway indeed fact quick quickly hi hello hey thanks thank"
)
NEGATIONS = word_set(
    "not no never none nothing nobody nowhere neither nor without cannot except avoid hardly unable lack lacks "
    "lacking unless"
)
CONTRACTED = {"can't": "can not", "won't": "will not", "shan't": "shall not", "cannot": "can not"}
BARE_CONTRACTED = word_set(
    "dont doesnt didnt isnt arent wasnt werent cant couldnt shouldnt wouldnt wont hasnt havent hadnt aint"
)
ALIASES = {
    "u.s": "us", "usa": "us", "america": "us", "uk": "uk", "britain": "uk", "colour": "color", "favourite": "favorite",
    "tv": "television", "photo": "picture", "pic": "picture", "ppl": "people", "js": "javascript", "wifi": "wi-fi",
    "phd": "doctorate", "info": "information", "app": "application", "pc": "computer", "vs": "versus", "pros": "pro",
    "cons": "con", "dad": "father", "mom": "mother", "mum": "mother", "kid": "child", "kids": "child",
    "children": "child", "bike": "bicycle", "fridge": "refrigerator", "exam": "examination", "ad": "advertisement",
    "ads": "advertisement", "math": "mathematics", "maths": "mathematics", "programme": "program",
    "organisation": "organization", "persons": "person", "people": "person", "men": "man", "women": "woman",
    "feet": "foot", "teeth": "tooth", "mice": "mouse", "wives": "wife", "lives": "life", "went": "go", "gone": "go",
    "better": "better", "made": "make", "making": "make", "bought": "buy", "sold": "sell", "told": "tell",
    "taken": "take", "took": "take", "gave": "give", "given": "give", "won": "win", "lost": "lose", "built": "build",
    "wrote": "write", "written": "write", "found": "find", "left": "left", "kept": "keep", "paid": "pay",
    "spoke": "speak", "spoken": "speak", "spent": "spend", "stole": "steal", "stolen": "steal", "chose": "choose",
    "chosen": "choose", "felt": "feel", "sent": "send", "met": "meet", "ran": "run", "ate": "eat", "eaten": "eat",
    "drove": "drive", "driven": "drive", "known": "know", "knew": "know", "became": "become", "began": "begin",
    "begun": "begin", "thought": "think", "taught": "teach", "caught": "catch", "brought": "bring", "held": "hold",
    "shot": "shoot", "fought": "fight", "saw": "see", "seen": "see", "understood": "understand", "grew": "grow",
    "grown": "grow", "broke": "break", "broken": "break", "fell": "fall", "fallen": "fall", "wore": "wear",
    "worn": "wear", "lent": "lend", "lead": "lead", "led": "lead", "died": "die", "dying": "die", "dead": "dead",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a text.

    Attributes:
        text: In lower case.
        stem: What inflected forms have in common.
        named: Written with a capital where a common word has none.
    """

    text: str
    stem: str
    named: bool = False


@dataclass(frozen=True, slots=True)
class Reading:
    """A text as the decision sees it.

    Attributes:
        words: In order; numbers are among them.
        numbers: With their units, sorted.
        dates: Months and weekdays, by name.
        units: All that are named, sorted.
        verbatim: Quoted strings, white space and case normalised.
        code: Code, as it is.
        strange: Words and symbols for which an English embedder may have no pieces.
        n_negations: Words that deny.
        language: `latin` or the name of the script most letters are of.
    """

    text: str
    words: tuple[Word, ...]
    numbers: tuple[Number, ...]
    dates: frozenset[str]
    units: frozenset[str]
    verbatim: frozenset[str]
    code: frozenset[str]
    strange: frozenset[str]
    n_negations: int
    language: str

    @property
    def content(self) -> tuple[Word, ...]:
        """The words that say something."""
        return tuple(word for word in self.words if word.text not in STOP_WORDS)

    @property
    def stems(self) -> tuple[str, ...]:
        """Of all words, in order."""
        return tuple(word.stem for word in self.words)


def normalised(text: str) -> str:
    """The form in which equal questions are equal: case, white space and what ends a sentence do not count.

    In code and in texts of several lines everything counts.
    """
    text = unicodedata.normalize("NFC", text).strip().replace("’", "'")
    if _EXACTING.search(text):
        return text
    return _EXCLAIMED.sub("", " ".join(text.casefold().split())).rstrip(" .?。？")


@lru_cache(512)
def read(text: str) -> Reading:
    """Read a text."""
    text = unicodedata.normalize("NFC", text)[:MAX_CHARS].replace("’", "'")
    verbatim = {_spaced(next(filter(None, match.groups()))) for match in _QUOTED.finditer(_CODE.sub(" ", text))}
    words = tuple(_words(text))
    numbers = tuple(_numbers(words))
    return Reading(
        text=text,
        words=words,
        numbers=tuple(sorted(numbers)),
        dates=frozenset(_dates(words)),
        units=frozenset(
            unit for word in words if (unit := UNITS.get(word.text)) and (len(word.text) > 1 or unit in CURRENCIES)
        ),
        verbatim=frozenset(verbatim),
        code=frozenset(match.group().strip("`") for match in _CODE.finditer(text)),
        strange=frozenset(_strange(text, words)),
        n_negations=sum(word.text in NEGATIONS for word in words) - len(_UNDENIED.findall(text)),
        language=language_of(text),
    )


def is_number(word: str) -> bool:
    """Whether a word is a number or a part of one."""
    return any(map(str.isdigit, word)) or any(
        word in known for known in (NUMBER_WORDS, MULTIPLIERS, TIMES_WORDS, ORDINAL_WORDS, {"times"})
    )


def stem(word: str) -> str:
    """What inflected forms of an English word have in common."""
    return _stem(ALIASES.get(word, word))


@lru_cache(50_000)
def _stem(word: str) -> str:
    return _stemmer().stemWord(word) if word.isascii() and word.isalpha() else word


@lru_cache(1)
def _stemmer() -> snowballstemmer.basestemmer.BaseStemmer:  # type: ignore[name-defined]
    return snowballstemmer.stemmer("english")


def _spaced(text: str) -> str:
    return " ".join(text.split()).casefold()


def _words(text: str) -> Iterator[Word]:
    shouting = _shouting(text)
    for match in _TOKEN.finditer(text):
        token = match.group()
        lower = token.casefold()
        if lower in CONTRACTED or lower.endswith("n't") or lower in BARE_CONTRACTED:
            first = CONTRACTED.get(lower, "").partition(" ")[0] or re.sub("n'?t$", "", lower)
            yield Word(first, first)
            yield Word("not", "not")
            continue
        if glued := _GLUED.fullmatch(lower):  # "16gb", "5k"
            yield Word(glued.group(1), glued.group(1))
            yield Word(glued.group(2), stem(glued.group(2)))
            continue
        if lower in {"no", "yes"} and text[match.end() : match.end() + 1] == ",":
            continue  # it answers; what follows says it all
        base, _, ending = lower.partition("'")
        if ending and ending not in {"s", "re", "ve", "ll", "d", "m"}:  # O'Brien, rock'n'roll
            base, ending = lower.replace("'", ""), ""
        capital = token[0].isupper() and base != "i" and not shouting
        first = bool(_SENTENCE_END.search(text[max(0, match.start() - 4) : match.start()]))
        yield Word(base, stem(base), capital and (not first or (len(token) > 1 and token[1:].isupper())))
        if ending in {"re", "m"} or (ending == "s" and base in {"what", "who", "it", "he", "she", "that", "where"}):
            yield Word("is", "is")


def _dates(words: tuple[Word, ...]) -> Iterator[str]:
    """Months and weekdays, by three letters; "may", "march" and what is short are mostly other words."""
    for before, word in zip(("", *(word.text for word in words)), words, strict=False):
        text = word.text.removesuffix("s") if word.text.removesuffix("s") in WEEKDAYS else word.text
        if text not in MONTHS and text not in WEEKDAYS:
            continue
        told = len(text) > 3 and text != "march"
        if told or before in _BEFORE_MONTH or before.isdigit() or (word.named and text in {"may", "march"}):
            yield text[:3]


def _unit(word: Word) -> str | None:
    """The unit that a word names; a single letter may be anything."""
    return UNITS.get(word.text) if len(word.text) > 1 or word.text in CURRENCIES else None


def _strange(text: str, words: tuple[Word, ...]) -> Iterator[str]:
    for word in words:
        if len(word.text) > LONG_WORD or any(letter > LAST_LATIN for letter in word.text):
            yield word.text
    for character in text:
        if character > LAST_LATIN and unicodedata.category(character).startswith("S"):
            yield character


def _shouting(text: str) -> bool:
    """Whether capitals say nothing: all words begin with one, or consist of them."""
    words = [word for word in re.findall(r"[^\W\d_]{2,}", text) if word.casefold() not in STOP_WORDS]
    return len(words) > 3 and sum(word[0].isupper() for word in words) > 0.8 * len(words)


def _numbers(words: tuple[Word, ...]) -> Iterator[Number]:
    i = 0
    while i < len(words):
        value, n = _number_at(words, i)
        if value is None:
            i += 1
            continue
        before = words[i - 1].text if i else ""
        after = words[i + n].text if i + n < len(words) else ""
        unit = UNITS.get(after) or (before if before in CURRENCIES else "")
        if not unit and after in _SHORT:
            value *= _SHORT[after]
        elif not unit and after in MULTIPLIERS:
            value *= MULTIPLIERS[after]
        yield value, unit or ""
        i += n


def _number_at(words: tuple[Word, ...], i: int) -> tuple[float | None, int]:
    """The number that begins at a word, and how many words it takes; "one" may be a pronoun, so it is none."""
    text = words[i].text
    if match := _NUMBER.fullmatch(text):
        return _value(match.group(1)), 1
    if text in NUMBER_WORDS and text not in {"one", "zero"}:
        value, n = NUMBER_WORDS[text], 1
        if value >= 20 and i + 1 < len(words) and 0 < NUMBER_WORDS.get(words[i + 1].text, 0) < 10:
            value, n = value + NUMBER_WORDS[words[i + 1].text], 2
        if i + n < len(words) and (factor := MULTIPLIERS.get(words[i + n].text)):
            value, n = value * factor, n + 1
        return value, n
    if text == "second" and not (0 < i < len(words) - 1 and words[i - 1].text in _DETERMINERS):
        return None, 1  # a unit of time
    if text in ORDINAL_WORDS:
        return ORDINAL_WORDS[text], 1
    if text in TIMES_WORDS:
        return TIMES_WORDS[text], 1
    return None, 1


def _value(digits: str) -> float:
    plain = re.sub(r",(?=\d{3}(?!\d))", "", digits)
    try:
        return float(plain)
    except ValueError:  # a date, a version, a time: told apart by its digits
        return float(int.from_bytes(plain.encode()[:16]) % 10**12) + 0.5


@dataclass(frozen=True, slots=True)
class Exclusions:
    """By stem, the stems that cannot stand for it; `opposites` are those of which one is what the other is not."""

    opposites: dict[str, frozenset[str]]
    alternatives: dict[str, frozenset[str]]


@lru_cache(1)
def exclusions() -> Exclusions:
    """Of `opposites.txt`."""
    kinds: tuple[dict[str, set[str]], dict[str, set[str]]] = ({}, {})
    for line in resources.files("chatlab.cache").joinpath("opposites.txt").read_text("utf-8").splitlines():
        if line.startswith("#"):
            continue
        sides = [[stem(word) for word in side.split()] for side in line.split("|")]
        kind = kinds[len(sides) > 2]
        for side in sides:
            others = {word for other in sides if other is not side for word in other}
            for word in side:
                kind.setdefault(word, set()).update(others - {word})
    opposites, alternatives = ({word: frozenset(found) for word, found in kind.items()} for kind in kinds)
    return Exclusions(opposites, alternatives)


def language_of(text: str) -> str:
    """`latin`, the name of the script that most letters are of, or `none`."""
    counts: dict[str, int] = {}
    for letter in filter(str.isalpha, text):
        script = "latin" if letter <= LAST_LATIN else unicodedata.name(letter, "other").partition(" ")[0].lower()
        counts[script] = counts.get(script, 0) + 1
    return max(counts, key=lambda name: counts[name]) if counts else "none"
