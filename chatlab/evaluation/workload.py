"""Made-up traffic with known truth: a stream of questions from families of questions and a seed.

Users come back to what they asked, in the same words or in others, or ask what looks alike and has another answer; they
go on with what only their conversation explains; some questions are about themselves. Knows no cache.
"""

import random
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, TypeAdapter

from chatlab.errors import ConfigError
from chatlab.evaluation.readers.records import read_text, validated
from chatlab.messages import Message

Kind = Literal["first", "repeat", "paraphrase", "trap", "follow-up", "personal"]

# What a user does next: the share of each, where it can be done.
ACTIONS: dict[Kind, float] = {
    "first": 0.36, "repeat": 0.14, "paraphrase": 0.22, "trap": 0.10, "follow-up": 0.12, "personal": 0.06
}  # fmt: skip
USERS = 12
POPULARITY = 0.8  # exponent of Zipf's law, over questions and over users
SLIPS = 0.4  # of questions, those in haste, with a courtesy or a slip of the pen
OWN_FOLLOW_UP = 0.4  # of follow-ups, those that are the family's own
TURNS = 3  # of a conversation, after which it ends
IN_CHAT = 0.15  # of questions that stand alone, those asked in a conversation on something else

Texts = Annotated[list[str], Field(min_length=1)]


class Family(BaseModel, extra="forbid"):
    """Questions with the same form; see the head of `data/cache_workload.toml`."""

    asks: Texts
    a: Texts
    b: Texts = Field(default=[""])
    twists: list[str] = []
    then: list[str] = []


class General(BaseModel, extra="forbid"):
    """What may be said in any conversation."""

    then: Texts
    prefixes: Texts
    suffixes: Texts


class Personal(BaseModel, extra="forbid"):
    """Questions about the user, each in several wordings."""

    asks: Annotated[list[Texts], Field(min_length=1)]


class Words(BaseModel, extra="forbid"):
    """What streams are made of."""

    general: General
    personal: Personal
    family: Annotated[list[Family], Field(min_length=2)]


@dataclass(frozen=True, slots=True)
class Asked:
    """A question of a stream.

    Attributes:
        answer_key: The same for two questions if one answer serves both.
        history: The conversation before it, oldest first.
        kind: What it is to its user; None where that is not known.
    """

    question: str
    answer_key: str
    user: str = ""
    history: tuple[Message, ...] = ()
    kind: str | None = None


@dataclass(frozen=True, slots=True)
class Intent:
    """One thing that may be asked: a family, the values, and the twist, -1 without."""

    family: int
    a: int
    b: int
    twist: int = -1

    @property
    def key(self) -> str:
        """Of its answer."""
        return f"{self.family}-{self.a}-{self.b}" + ("" if self.twist < 0 else f"-twist{self.twist}")


@dataclass(slots=True)
class _User:
    name: str
    number: int
    asked: list[tuple[Intent, int]] = field(default_factory=list[tuple[Intent, int]])  # with the wording
    wordings: dict[str, set[int]] = field(default_factory=dict[str, set[int]])  # by answer
    conversation: tuple[Message, ...] = ()
    topic: tuple[Intent, str] | None = None  # of the conversation, with the key of its last answer


def read_words(file: Path) -> Words:
    """The families of a .toml file.

    Raises:
        ConfigError: It cannot be read; names the field and what is wrong.
    """
    try:
        found = tomllib.loads(read_text(file))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: no TOML: {error}") from error
    return validated(TypeAdapter(Words), found, file, "the workload")


def make_stream(words: Words, seed: int, n: int) -> list[Asked]:
    """A stream of n questions; the same words, seed and n always make the same.

    Args:
        words: Families.
        seed: Of every draw.
        n: Questions.
    """
    return _Maker(words, random.Random(seed)).stream(n)


class _Maker:
    def __init__(self, words: Words, chance: random.Random) -> None:
        self._words = words
        self._chance = chance
        self._intents = [
            Intent(i, a, b)
            for i, family in enumerate(words.family)
            for a in range(len(family.a))
            for b in range(len(family.b))
        ]
        chance.shuffle(self._intents)
        self._popularity = _zipf(len(self._intents))
        self._users = [_User(f"user-{i}", chance.randrange(1_000, 10_000)) for i in range(USERS)]

    def stream(self, n: int) -> list[Asked]:
        """Each user in turn does something."""
        weights = _zipf(USERS)
        return [self._next(self._chance.choices(self._users, weights)[0]) for _ in range(n)]

    def _next(self, user: _User) -> Asked:
        possible = {
            kind: share
            for kind, share in ACTIONS.items()
            if kind in ("first", "personal") or (user.topic is not None if kind == "follow-up" else user.asked)
        }
        (kind,) = self._chance.choices([*possible], [*possible.values()])
        if kind == "follow-up":
            return self._follow_up(user)
        if kind == "personal":
            return self._personal(user)
        if kind == "first":
            intent = self._chance.choices(self._intents, self._popularity)[0]
            return self._ask(user, intent, self._wording(intent))
        intent, wording = self._chance.choice(user.asked)
        if kind == "repeat":
            return self._ask(user, intent, wording)
        if kind == "paraphrase":
            others = [i for i in range(self._n_wordings(intent)) if i != wording]
            return self._ask(user, intent, self._chance.choice(others) if others else wording)
        trap = self._changed(intent)
        return self._ask(user, trap, wording if trap.twist < 0 else 0, wanted="trap")

    def _ask(self, user: _User, intent: Intent, wording: int, wanted: Kind = "first") -> Asked:
        """A question that stands alone, mostly at the beginning of a conversation."""
        known = user.wordings.setdefault(intent.key, set())
        kind = wanted if wanted == "trap" and not known else "first"
        if known:  # by chance, too
            kind = "repeat" if wording in known else "paraphrase"
        known.add(wording)
        text = self._text(intent, wording)
        if self._chance.random() < SLIPS:
            text = self._slipped(text)
        user.asked.append((intent, wording))
        history = user.conversation if self._chance.random() < IN_CHAT else ()
        user.conversation = (*history, *_turn(text, intent.key))
        user.topic = intent, intent.key
        return Asked(text, intent.key, user.name, history, kind)

    def _follow_up(self, user: _User) -> Asked:
        assert user.topic is not None
        intent, before = user.topic
        own = self._words.family[intent.family].then
        general = self._words.general.then
        text = self._chance.choice(own if own and self._chance.random() < OWN_FOLLOW_UP else general)
        asked = Asked(text, f"{before}>{text}", user.name, user.conversation, "follow-up")
        user.conversation = (*user.conversation, *_turn(text, asked.answer_key))
        user.topic = intent, asked.answer_key
        if len(user.conversation) >= 2 * TURNS:
            user.topic, user.conversation = None, ()
        return asked

    def _personal(self, user: _User) -> Asked:
        asks = self._words.personal.asks
        i = self._chance.randrange(len(asks))
        numbers = {"n": user.number, "d": 1 + user.number % 28, "d2": 50 + user.number % 49}
        text = self._chance.choice(asks[i]).format(**numbers)
        user.topic, user.conversation = None, ()
        return Asked(text, f"personal-{i}-{user.name}", user.name, (), "personal")

    def _changed(self, intent: Intent) -> Intent:
        """What looks like it and has another answer."""
        family = self._words.family[intent.family]
        others = [Intent(intent.family, a, intent.b) for a in range(len(family.a)) if a != intent.a]
        others += [Intent(intent.family, intent.a, b) for b in range(len(family.b)) if b != intent.b]
        twists = [Intent(intent.family, intent.a, intent.b, i) for i in range(len(family.twists)) if i != intent.twist]
        pools = [pool for pool in (others, twists) if pool]
        return self._chance.choice(self._chance.choice(pools))

    def _n_wordings(self, intent: Intent) -> int:
        return len(self._words.family[intent.family].asks) if intent.twist < 0 else 1

    def _wording(self, intent: Intent) -> int:
        return self._chance.randrange(self._n_wordings(intent))

    def _text(self, intent: Intent, wording: int) -> str:
        family = self._words.family[intent.family]
        pattern = family.asks[wording] if intent.twist < 0 else family.twists[intent.twist]
        return pattern.replace("{a}", family.a[intent.a]).replace("{b}", family.b[intent.b])

    def _slipped(self, text: str) -> str:
        """The same, hastily or politely."""
        general = self._words.general
        match self._chance.randrange(4):
            case 0:
                return text.lower().rstrip("?.")
            case 1:
                return self._chance.choice(general.prefixes) + text[0].lower() + text[1:]
            case 2:
                return text + self._chance.choice(general.suffixes)
            case _:
                i = self._chance.randrange(len(text) - 1)
                swapped = text[i : i + 2].isalpha() and text[i : i + 2].islower()
                return text[:i] + text[i + 1] + text[i] + text[i + 2 :] if swapped else text


def _turn(question: str, key: str) -> tuple[Message, ...]:
    return Message(role="user", content=question), Message(role="assistant", content=f"(the answer to {key})")


def _zipf(n: int) -> Sequence[float]:
    return [(1 + i) ** -POPULARITY for i in range(n)]
