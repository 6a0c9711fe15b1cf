"""Titles that the model gives: asked for beside the turns, taken only if they are any good.

Foreground first: a title waits while answers wait, and makes room for one that comes. Nothing depends on it: whatever
goes wrong, the chat keeps the title that it has.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable

import structlog

from chatlab.aside import answer_aside
from chatlab.engines.base import Engine, GenerationRequest
from chatlab.errors import ChatlabError
from chatlab.history.inert import make_inert
from chatlab.jobs import Jobs
from chatlab.messages import Message, SamplingParams, Turn
from chatlab.telemetry import Metrics

INSTRUCTION = "Write a title of at most six words for the conversation below. Answer with the title alone."
PARAMS = SamplingParams(temperature=0.0, max_new_tokens=24)
LIMIT_SECONDS = 30.0
SHOWN_CHARS = 600  # of each message: the beginning says what it is about
MIN_CHARS, MAX_CHARS, MAX_WORDS = 2, 60, 8
# Words that say nothing of what a conversation is about.
STOP_WORDS = frozenset((
    "about", "and", "are", "but", "can", "could", "did", "does", "for", "from", "had", "has", "have", "here", "how",
    "into", "its", "just", "like", "more", "not", "our", "out", "please", "some", "than", "that", "the", "their",
    "them", "then", "there", "these", "they", "this", "those", "was", "were", "what", "when", "where", "which", "who",
    "why", "will", "with", "would", "you", "your",
))  # fmt: skip
CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # written without spaces: two characters count as a word
LEAD = re.compile(r"^(?:the |a |chat |conversation )?title(?: is:?|\s*[:-])\s*", re.IGNORECASE)
WORD = re.compile(rf"(?=([{CJK}]{{2}}))|([^\W_{CJK}]{{3,}}|\d+)")

log = structlog.get_logger(__name__)


class TitleWriter:
    """Titles under way, one a chat. Belongs to one event loop; closed with the jobs."""

    def __init__(self, engine: Engine, jobs: Jobs, metrics: Metrics) -> None:
        self._engine = engine
        self._jobs = jobs
        self._metrics = metrics
        self._under_way: dict[str, asyncio.Task[None]] = {}  # by chat

    def begin(self, turn: Turn, use: Callable[[str], Awaitable[None]]) -> None:
        """Think of a title for a chat that began with `turn`, and hand it to `use` if there is one."""
        if self._engine.facts.writes_titles and turn.chat_id not in self._under_way:
            work = self._run(turn, use)
            self._under_way[turn.chat_id] = self._jobs.aside(work, f"title {turn.chat_id}")
            self._under_way[turn.chat_id].add_done_callback(lambda _: self._under_way.pop(turn.chat_id))

    async def ended(self, chat_id: str) -> None:
        """Return once no title is under way for the chat."""
        if (task := self._under_way.get(chat_id)) is not None:
            await asyncio.wait([task])

    async def _run(self, turn: Turn, use: Callable[[str], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(LIMIT_SECONDS):
                if (title := await write_title(self._engine, turn)) is not None:
                    await use(title)
        except TimeoutError:
            log.info("no time for a title", chat_id=turn.chat_id)
        except Exception as error:
            self._metrics.fault("title")
            log.warning("no title", chat_id=turn.chat_id, exc_info=not isinstance(error, ChatlabError))


async def write_title(engine: Engine, turn: Turn) -> str | None:
    """Ask the model for the title of a conversation that began with `turn`; None if it gives no good one.

    Raises:
        ChatlabError: The engine failed.
    """
    prompt = _prompt(turn)
    inert: list[Message] = [{"role": "user", "content": make_inert(prompt, engine.facts)}]
    answer = await answer_aside(engine, GenerationRequest(inert, PARAMS, turn.user_id))
    return acceptable(answer.text, turn) if answer.reason == "stop" else None


def acceptable(text: str, turn: Turn) -> str | None:
    """The title in a model's answer, without its wrapping; None for what would be worse than the first words.

    It is one line of 2 to 60 characters and at most 8 words, says nothing twice, has a word in common with the
    conversation, and more than the instruction in common with it.
    """
    title = _unwrapped(text)
    if not (MIN_CHARS <= len(title) <= MAX_CHARS and title.isprintable() and len(title.split()) <= MAX_WORDS):
        return None
    words = _words(title)
    telling = set(words) - set(_words(INSTRUCTION))
    known = set(_words(f"{turn.user_message} {turn.assistant_message or ''}"))
    return title if telling & known and len(set(words)) == len(words) else None


def _unwrapped(text: str) -> str:
    """Without quotes, a leading "Title:", marks of emphasis, and punctuation at the end."""
    title = text.strip()
    before = None
    while title != before:
        before = title
        title = LEAD.sub("", title)
        title = title.strip(" \t\"'`*#“”‘’«»").rstrip(".,;:!?。")
    return title


def _words(text: str) -> list[str]:
    """The words that say something, folded; plurals count as the same word."""
    found = ("".join(groups).casefold() for groups in WORD.findall(text))
    return [word.removesuffix("s") for word in found if word not in STOP_WORDS]


def _prompt(turn: Turn) -> str:
    said = f"User: {turn.user_message[:SHOWN_CHARS]}\nAssistant: {(turn.assistant_message or '')[:SHOWN_CHARS]}"
    return f"{INSTRUCTION}\n\n{said}\n\nTitle:"
