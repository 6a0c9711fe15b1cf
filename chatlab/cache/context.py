"""Whether a message can be understood without the conversation before it.

What it says itself is judged by a logistic regression over its words and its embedding, trained by
`tools/train_context.py` (card in `data/README.md`). Where it continues what was asked before, "How do navigation
systems work?" may be about satellites: there it takes less to need the conversation. After "Always answer in French",
everything needs it, and after "I am vegan" all advice.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from chatlab.cache.reading import MAX_CHARS, STOP_WORDS, Reading, read, word_set

WEIGHTS = "context.npz"
EMBEDDING_SCALE = 6.0  # of the embedding's weights beside the features'
ALONE = 0.6  # log odds, below zero, from which on the conversation is needed
# Similarity to what was asked before, in [-1, 1]: in chats of their own topic 95 % of the questions of
# `data/cache_topics.jsonl` have more, in those of another topic 18 %. Who speaks of himself may have said why before.
TIED, TIED_PERSON = 0.25, 0.1
RESOLVED_AFTER = 2  # content words, among which a pronoun may find what it stands for
DECAY = 0.7  # of what was asked before, a turn

Floats = NDArray[np.float64]
Vector = NDArray[np.float32]

_POINTING = word_set(
    "it its they them their theirs he him his she her hers this that these those there one ones such other others "
    "another else same instead more also too both each either next previous last above earlier former latter "
    "again continue rest example examples"
)
_PRONOUNS = word_set("it its they them their theirs he him his she her hers this that these those")
_PERSON = word_set("i me we us")
_OWN = word_set("my mine our ours")  # what of the user's, only the user has said
_EXPLETIVE = word_set(
    "called mean means take takes cost snow rain possible legal illegal true better worth normal safe ok bad good "
    "to when that"
)
_PERIODS = word_set("year week month weekend day days morning evening summer winter spring fall season time")
_OPENING = re.compile(r"(?:and|or|but|so|what about|how about|why not|then|ok|okay|yes|no|also)\b")
_VAGUE = re.compile(r"\b(?:some|any|most|main|other|common|different|typical|important|major|first)\b")
_DEFINED = re.compile(r"\bthe (?:\w+ ){1,3}(?:of|in|for|that|to)\b")
_ASKING = re.compile(r"(?:what|who|where|when|why|how)\b")
_PREPOSITION = re.compile(r"\b(?:of|in|for|about|with) \w")
# What was agreed on before: how to answer, a role, a game.
_INSTRUCTIONS = (
    r"(?:must |should )?(?:always|never|only) \w",
    r"from now on",
    r"(?:for|during) the rest of",
    r"(?:in|for|during) this (?:chat|conversation|session)",
    r"let'?s (?:play|pretend|say|assume|imagine)",
    r"pretend|act (?:as|like)|imagine (?:that )?(?:you|we|i)\b|assume|suppose",
    r"you are|you're|i want you to|i'd like you to|call me",
    r"i(?:'ll| will) (?:call|ask|give|send|show|tell)\b",
    r"(?:talk|speak) (?:to me|like|in|as)",
    r"(?:answer|reply|respond|explain (?:things|everything|all)|write everything)\b(?: \w+){0,3} "
    r"(?:in|like|as|with|using|only|without|briefly|shortly)\b",
    r"use (?:only|just|simple|metric|imperial|\w+ units)",
    r"(?:keep|make) (?:it|your|all|the|every) (?:answers?|replies|responses?|explanations?|brief|short|simple)",
    r"be (?:brief|short|concise|honest|funny|rude|formal|polite|strict)",
    r"(?:stop|avoid|don't|do not) (?:us(?:e|ing)|mention|say|tell|explain|writ)",
)
_INSTRUCTED = re.compile(rf"(?:^|[.!?,;:]\s*)(?:(?:please|so|ok|okay|now|and|you) )?(?:{'|'.join(_INSTRUCTIONS)})")
_OF_THE_USER = re.compile(r"^(?:\w+, )?(?:i|i'm|im|i've|my|we|we're|we've|our)\b(?!.*\?\s*$)")
_ADVICE = re.compile(
    r"\b(?:should|recommend|suggest|advi[cs]e|best|good|better|plan|ideas?|tips?|can i|may i|am i|could i|do i|give me|"
    r"write|make|find|choose|need|worth|safe|allowed)\b"
)
# What stands in the conversation, unless it is said of what it is.
_GIVEN = re.compile(
    r"\bthe (?:list|text|table|code|story|poem|answer|result|question|email|paragraph|sentence|essay|draft|summary|"
    r"function|script|program|output|error|message|recipe|translation|document|passage|options|steps|items|points)\b"
    r"(?! (?:of|for|in|from|that|which|to|about|between|with|on|when|called|\w+ed)\b)"
)
_GENERAL = word_set(
    "time year way place thing day month week hour price cost part reason idea option choice step risk advantage "
    "disadvantage benefit downside pro con problem example number name size age height weight length width depth color "
    "result effect cause side kind type sort rule detail point source good best better worst bad right wrong easy hard "
    "big small long short old new other different main important common usual normal typical possible happen work use "
    "start stop begin end find buy mean take need make give tell show explain know think say change try help recommend "
    "suggest much many often far first last next more less most least"
)


@dataclass(frozen=True, slots=True)
class Weights:
    """Of the features, scaled by `mean` and `scale`, (n_features,), of the embedding, (dim,), and the bias."""

    mean: Floats
    scale: Floats
    features: Floats
    embedding: Floats
    bias: Floats

    def log_odds(self, features: Floats, vectors: Floats) -> Floats:
        """That the conversation is needed, (n,), of features (n, n_features) and vectors (n, dim)."""
        return ((features - self.mean) / self.scale) @ self.features + vectors @ self.embedding + self.bias


def needs_context(text: str, vector: Vector, before: Sequence[Vector], said: Sequence[str] = ()) -> bool:
    """Whether a message is only understood with the conversation before it.

    Args:
        text: The message.
        vector: Its embedding, (dim,), unit norm.
        before: Those of what the user said before, the oldest first; without any there is nothing to need.
        said: What that was, in words.
    """
    if not before:
        return False
    reading = read(text)
    if len({word.stem for word in reading.content}) < 2 and not any(word.named for word in reading.words):
        return True  # `continue`, `yes`, "Why?"
    if _general(reading) or _GIVEN.search(reading.text.lower()) or _agreed(reading, said):
        return True
    odds = float(_weights().log_odds(features(reading)[None], vector.astype(np.float64)[None])[0])
    tied = TIED_PERSON if any(word.text in _PERSON for word in reading.words) else TIED
    return odds > -ALONE or _points_back(reading) or tie(vector, before) > tied


def _general(reading: Reading) -> bool:
    """Whether it names nothing that it could be about: "When is the best time of year?"."""
    return all(word.text in _GENERAL or word.stem in _GENERAL for word in reading.content)


def _agreed(reading: Reading, said: Sequence[str]) -> bool:
    """Whether what the user said before holds on: how to answer, or for advice, who is asking."""
    earlier = [text[:MAX_CHARS].replace("’", "'").lower().strip() for text in said]
    if any(_INSTRUCTED.search(text) for text in earlier):
        return True
    return _ADVICE.search(reading.text.lower()) is not None and any(_OF_THE_USER.match(text) for text in earlier)


def _points_back(reading: Reading) -> bool:
    """Whether a pronoun stands for something that the text does not say."""
    texts = [word.text for word in reading.words]
    n_content = 0
    for text, following in zip(texts, [*texts[1:], ""], strict=True):
        if text in _OWN:
            return True
        if n_content > RESOLVED_AFTER:
            continue
        match text:
            case "it" if following in _EXPLETIVE:
                pass
            case "this" | "that" | "these" | "those" if following in _PERIODS:
                pass
            case "that" if n_content:  # a conjunction, more often than not
                pass
            case _ if text in _PRONOUNS:
                return True
            case _:
                n_content += text not in STOP_WORDS
    return False


def tie(vector: Vector, before: Sequence[Vector]) -> float:
    """The similarity of a message to what was asked before: to one question, or to where the chat was going."""
    stacked = np.stack([*before])  # (n, dim)
    course = DECAY ** np.arange(len(before))[::-1] @ stacked
    return float(max((stacked @ vector).max(), course @ vector / np.linalg.norm(course)))


def features(reading: Reading) -> Floats:
    """What a text's words say of it, (n_features,)."""
    lower = reading.text.lower()
    texts = [word.text for word in reading.words]
    content = [text for text in texts if text not in STOP_WORDS]
    pointing = sum(text in _POINTING for text in texts)
    defined = len(_DEFINED.findall(lower))
    lengths = [len(text) for text in content] or [0]
    return np.array(
        [
            len(texts),
            np.log1p(len(texts)),
            len(content),
            np.log1p(len(content)),
            pointing > 0,
            pointing,
            any(text in _PRONOUNS for text in texts),
            texts.count("the"),
            defined,
            texts.count("the") - defined,
            _OPENING.match(lower) is not None,
            sum(word.named for word in reading.words) + len(reading.numbers),
            max(lengths),
            np.mean(lengths),
            sum(length > 8 for length in lengths),
            _PREPOSITION.search(lower) is not None,
            _VAGUE.search(lower) is not None,
            _ASKING.match(lower) is not None,
            len(content) <= 1,
            len(content) == 2,
            len(content) == 3,
        ],
        dtype=np.float64,
    )


@cache
def _weights() -> Weights:
    with resources.files("chatlab.cache").joinpath(WEIGHTS).open("rb") as file, np.load(file) as arrays:
        return Weights(**{name: arrays[name].astype(np.float64) for name in Weights.__dataclass_fields__})
