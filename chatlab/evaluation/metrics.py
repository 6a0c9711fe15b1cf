"""What is measured of a text, a prompt's or a note's, so that anyone can measure it again.

Content words are `[a-z0-9]+` of the lower-cased text without STOP_WORDS. Evidence is present when its text, white
space normalised and case folded, occurs in the prompt's. The zero-width spaces that make control tokens and marks
inert do not count.
"""

import re
from collections import Counter as Tally
from collections.abc import Iterable, Sequence

from chatlab.history.inert import ZERO_WIDTH_SPACE
from chatlab.messages import Message

_WORD = re.compile(r"[a-z0-9]+")
_STOP_TEXT = (
    "a about again all also an and any are as at be been being both but by can could d did do does done don down "
    "each few for from had has have having he her here him his how i if in into is it its just ll m may me might "
    "more most must my no not now o of on once only or other our out over own re s same shall she should so some "
    "such t than that the their them then there these they this those to too under up us ve very was we were what "
    "when where which who whom why will with would y you your"
)
STOP_WORDS = frozenset(_STOP_TEXT.split())


def words(text: str) -> list[str]:
    """All words of a text, in order."""
    return _WORD.findall(text.lower())


def content_words(text: str) -> list[str]:
    """The words that say something, in order."""
    return [word for word in words(text) if word not in STOP_WORDS]


class PromptText:
    """The texts of a prompt's messages, looked through for answers and evidence."""

    def __init__(self, messages: Sequence[Message]) -> None:
        texts = "\n".join(message["content"] for message in messages)
        self._words = frozenset(words(texts))
        self._normal = normalised(texts)

    def coverage(self, answer: str) -> float | None:
        """Share of the answer's content words that are there; None of an answer without any."""
        wanted = set(content_words(answer))
        return len(wanted & self._words) / len(wanted) if wanted else None

    def has_all(self, normalised_texts: Iterable[str]) -> bool:
        """Whether each of these texts is there."""
        return all(text in self._normal for text in normalised_texts)


def normalised(text: str) -> str:
    """Runs of white space as one space, case folded, without the marks by which a prompt makes words inert."""
    return " ".join(text.replace(ZERO_WIDTH_SPACE, "").split()).casefold()


def holds(text: str, value: str) -> bool:
    """Whether a value stands in a text as it is, not as a part of longer words; both normalised."""
    return re.search(rf"(?<!\w){re.escape(normalised(value))}(?!\w)", normalised(text)) is not None


def rouge_1(candidate: str, reference: str) -> float:
    """ROUGE-1 (Lin 2004) as F1: words in common, each as often as both have it; without stemming."""
    ours, theirs = Tally(words(candidate)), Tally(words(reference))
    common = (ours & theirs).total()
    return 2 * common / (ours.total() + theirs.total()) if common else 0.0
