"""A summary that a model writes of some turns: what it is asked, and whether what it wrote may be used.

A small model leaves out, repeats itself and makes things up. What is not provably sound is not used.
"""

import re
from collections import Counter
from collections.abc import Sequence

from chatlab.engines.base import ModelFacts
from chatlab.history.inert import make_inert
from chatlab.history.lexical import STOP_WORDS, WORD
from chatlab.history.quotes import LINE_BREAKS
from chatlab.messages import FinishReason, Message, Turn

INSTRUCTION = (
    "Below is a part of a conversation. Summarize it in at most {words} words, in plain sentences. Keep what the user "
    "said about themselves, and names, numbers, dates and decisions. Add nothing."
)
MIN_WORDS = 5
MAX_REPEATED = 3  # times that the same four words may occur
MAX_SAME = 0.4  # of all runs of three words that may be repetitions
NUMBER = re.compile(r"\d+(?:[.,:/]\d+)*")
CAPITALISED = re.compile(r"[^\W\d_a-z][\w'’]*[^\W\d_][\w]*")
SENTENCE = re.compile(r"(?:^|[.!?:\n\"“*])\s*(?:[-*•]\s*)?")
COMMON = STOP_WORDS | frozenset(
    WORD.findall(
        """
        user assistant speaker person people conversation summary chat they the also later then finally overall first
        next both each one two another however additionally furthermore meanwhile afterwards initially lastly moreover
        """
    )
)


def instruction(turns: Sequence[Turn], words: int, facts: ModelFacts) -> tuple[Message, ...]:
    """The prompt that asks for a summary of these turns."""
    said: list[str] = []
    for turn in turns:
        for name, text in (("User", turn.user_message), ("Assistant", turn.assistant_message or "")):
            said.append(f"{name}: {LINE_BREAKS.sub(chr(10) + '  ', text.strip())}")
    text = "\n\n".join([INSTRUCTION.format(words=words), "\n".join(said), "Summary:"])
    return ({"role": "user", "content": make_inert(text, facts)},)


def flaw(text: str, reason: FinishReason, turns: Sequence[Turn]) -> str | None:
    """Why a summary may not be used; None if nothing is wrong with it.

    Args:
        text: As the model wrote it.
        reason: Why it ended.
        turns: What it is a summary of.
    """
    source = "\n".join(f"{turn.user_message}\n{turn.assistant_message or ''}" for turn in turns)
    words = [word.lower() for word in WORD.findall(text)]
    if len(words) < MIN_WORDS:
        return "empty"
    if reason != "stop":
        return "cut off"
    if len(text) >= len(source):
        return "not shorter than its source"
    if _loops(words):
        return "repeats itself"
    known_numbers = {_plain(number) for number in NUMBER.findall(source)}
    if new := [number for number in NUMBER.findall(text) if _plain(number) not in known_numbers]:
        return f"states a number that was not said: {new[0]}"
    known = {word.lower() for word in WORD.findall(source)}
    if new := [name for name in _names(text) if not known.issuperset(word.lower() for word in WORD.findall(name))]:
        return f"states a name that was not said: {new[0]}"
    return None


def _plain(number: str) -> str:
    return number.replace(",", "")


def _names(text: str) -> list[str]:
    """Capitalised words, but for what a sentence begins with if it looks like an ordinary word."""
    begins = {found.end() for found in SENTENCE.finditer(text)}
    return [
        found[0]
        for found in CAPITALISED.finditer(text)
        if not (found.start() in begins and (found[0].lower() in COMMON or found[0].endswith(("ing", "ly", "ed"))))
    ]


def _loops(words: Sequence[str]) -> bool:
    fours = Counter(zip(words, words[1:], words[2:], words[3:], strict=False))
    threes = Counter(zip(words, words[1:], words[2:], strict=False))
    again = sum(count - 1 for count in threes.values())
    return max(fours.values(), default=0) > MAX_REPEATED or again > MAX_SAME * max(1, sum(threes.values()))
