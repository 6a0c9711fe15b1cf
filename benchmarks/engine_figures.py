"""What is measured of an engine, once a round: from the moments of tokens to figures."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from benchmarks.contenders.contender import ContenderProcess, Timeline, Unavailable
from benchmarks.prompts import Prompts
from benchmarks.report import p50, p95
from chatlab.messages import Message

CHATS = (1, 4, 16, 64)
PROMPT_TOKENS = (50, 1_500)
ANSWER_TOKENS = 200  # at most, of what is ended when there is enough
ENOUGH_TOKENS = {1: 64, 4: 32, 16: 24, 64: 16}  # of each of so many chats while all of them stream
MIN_TOKENS = 12  # where one ends earlier
TURNS, MESSAGE_TOKENS, TURN_TOKENS = 10, 80, 32
UNDISTURBED_TOKENS = 20


@dataclass(frozen=True, slots=True)
class Measure:
    """One list of jobs, or one conversation.

    Attributes:
        name: For people.
        take: Gives figures by their names.
        joins: Whether a request joins others that are under way.
    """

    name: str
    take: Callable[["Asked"], dict[str, float]]
    joins: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """Who is measured, and what it is asked.

    Attributes:
        contender: Its process.
        prompts: New ones for each measure.
        tokenizer: For answers that come as tokens.
        keeps_prefixes: Whether what was computed for one turn serves the next one.
    """

    contender: ContenderProcess
    prompts: Prompts
    tokenizer: Any
    keeps_prefixes: bool


def measures() -> list[Measure]:
    """All of them, in the order in which they are taken."""
    first = [Measure(f"first token of {n}", lambda asked, n=n: _first_token(asked, n)) for n in PROMPT_TOKENS]
    decode = [Measure(f"{n} chats", lambda asked, n=n: _decode(asked, n)) for n in CHATS]
    return [*first, *decode, Measure("conversation", _conversation), Measure("gap", _gap, joins=True)]


def warm_up(asked: Asked) -> None:
    """What an engine sets up at its first requests is not measured."""
    for n_chats in (1, 4):
        asked.contender.run([asked.prompts.story(50, 8) for _ in range(n_chats)], 8)


def _first_token(asked: Asked, n_tokens: int) -> dict[str, float]:
    (timeline,) = asked.contender.run([asked.prompts.story(n_tokens, 1)], 1)
    return {f"first_token_{n_tokens}_ms": timeline.first_token_ms}


def _decode(asked: Asked, n_chats: int) -> dict[str, float]:
    jobs = [asked.prompts.story(50, ANSWER_TOKENS) for _ in range(n_chats)]
    return {f"decode_{n_chats}": tokens_per_second(asked.contender.run(jobs, ENOUGH_TOKENS[n_chats]))}


def tokens_per_second(timelines: Sequence[Timeline]) -> float:
    """Tokens of all, from when the last one has its first token until the first one has its last.

    Raises:
        Unavailable: That is too short a time.
    """
    began = max(timeline.token_at[0] for timeline in timelines)
    ended = min(timeline.token_at[-1] for timeline in timelines)
    counts = [sum(began < at <= ended for at in timeline.token_at) for timeline in timelines]
    if min(counts) < MIN_TOKENS:
        raise Unavailable(f"all {len(timelines)} streamed together for {min(counts)} tokens only")
    return sum(counts) / (ended - began)


def _conversation(asked: Asked) -> dict[str, float]:
    """First tokens of the first and the last turn. Without kept prefixes the turns between need not be asked."""
    user_id, messages = asked.prompts.user(), list[Message]()
    times: dict[int, float] = {}
    for turn in range(1, TURNS + 1):
        messages.append(asked.prompts.message(MESSAGE_TOKENS))
        answer = "A story about a river. " * (TURN_TOKENS // 6)
        if asked.keeps_prefixes or turn in (1, TURNS):
            limit = TURN_TOKENS if asked.keeps_prefixes else 1
            (timeline,) = asked.contender.run([asked.prompts.job([*messages], limit, user_id)], limit)
            times[turn] = timeline.first_token_ms
            answer = _text(timeline, asked.tokenizer) if asked.keeps_prefixes else answer
        messages.append({"role": "assistant", "content": answer})
    return {
        "turn_1_ms": times[1],
        "turn_10_ms": times[TURNS],
        "turn_10_prompt_tokens": len(asked.prompts.job(messages[:-1], 1, user_id).token_ids),
    }


def _text(timeline: Timeline, tokenizer: Any) -> str:
    """An answer up to the model's own end."""
    if isinstance(timeline.answer, str):
        return timeline.answer
    ids = timeline.answer
    if tokenizer.eos_token_id in ids:
        ids = ids[: ids.index(tokenizer.eos_token_id)]
    return tokenizer.decode(ids, skip_special_tokens=True)


def _gap(asked: Asked) -> dict[str, float]:
    """Between two tokens of a stream: undisturbed, and until a prompt that arrives has its first token."""
    stream, arriving = asked.contender.run(
        [asked.prompts.story(50, ANSWER_TOKENS), asked.prompts.story(1_500, 1, after_tokens=UNDISTURBED_TOKENS)], 1
    )
    gaps = [(end, (end - start) * 1e3) for start, end in pairwise(stream.token_at)]
    before = [ms for end, ms in gaps if end <= arriving.asked_at]
    meanwhile = [ms for end, ms in gaps if arriving.asked_at < end and end - ms / 1e3 < arriving.token_at[0]]
    if not before or not meanwhile:
        raise Unavailable("the stream ended before the prompt arrived")
    return {
        "gap_ms": p50(before),
        "gap_p95_ms": p95(meanwhile) if len(meanwhile) > 1 else meanwhile[0],
        "arriving_first_token_ms": arriving.first_token_ms,
    }
