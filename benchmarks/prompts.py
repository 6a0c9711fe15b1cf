"""Prompts of a wanted length, no two alike, that make a small model write long answers."""

import itertools
import random
import re

from benchmarks.contenders.contender import Job
from chatlab.engines.template import ChatTemplate
from chatlab.messages import Message

WORDS: list[str] = re.findall(
    r"\w+",
    "river stone window garden letter copper market winter bridge candle forest mirror engine island ladder basket "
    "harbor silver pocket valley button thunder kettle orchard ribbon lantern castle feather mountain compass blanket "
    "needle spider station village wagon whistle pepper marble meadow anchor barrel cabin desert falcon glacier hammer",
)
STORY = "Write a very long story, with every detail, about these things: "


class Prompts:
    """Makes jobs.

    Args:
        template: The model's.
        seed: Of the words.
    """

    def __init__(self, template: ChatTemplate, seed: int = 0) -> None:
        self._template = template
        self._random = random.Random(seed)
        self._users = itertools.count()

    def user(self) -> str:
        """Somebody who has asked nothing before."""
        return f"user-{next(self._users)}"

    def story(self, prompt_tokens: int, max_new_tokens: int, after_tokens: int = 0) -> Job:
        """A request of a new user, as long as wanted with the template's own tokens."""
        around = self._template.count([{"role": "user", "content": ""}])
        return self.job([self.message(prompt_tokens - around)], max_new_tokens, self.user(), after_tokens)

    def message(self, n_tokens: int) -> Message:
        """A user's message of about so many tokens."""
        text = STORY
        while (left := n_tokens - len(self._template.encode(text))) > 0:
            text += "".join(f"{word} " for word in self._random.choices(WORDS, k=max(left // 2, 1)))
        return {"role": "user", "content": text.rstrip()}

    def job(self, messages: list[Message], max_new_tokens: int, user_id: str, after_tokens: int = 0) -> Job:
        """A job for these messages."""
        token_ids = self._template.encode(self._template.render(messages))
        return Job(messages, token_ids, max_new_tokens, user_id, after_tokens)
