"""Answers side by side as HTML: texts, figures, what each model saw and the others did not, votes so far.

Everything from a person or a model goes through `escape` or `chatlab.markdown`. Until a blind vote, nothing tells which
side is which.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from html import escape
from os.path import commonprefix

from chatlab.comparison import Comparison, Side, Wins
from chatlab.markdown import to_html
from chatlab.messages import ChatSettings, Message
from chatlab.ui.charts import milliseconds, percent, table_html
from chatlab.ui.conversation import settled_html
from chatlab.ui.insights import NONE

LETTERS = "ABCD"
STATES = {"waiting": "Waiting …", "running": "Answering …", "stopped": "Stopped", "failed": "Failed", "done": "Done"}
SPEAKERS = {"system": "System prompt", "user": "You", "assistant": "Answer"}
EXCERPT_CHARS = 1_000
BEFORE_CHARS = 200  # of an excerpt, before what differs
SCOPES = {"off": "no cache", "user": "own cache", "global": "shared cache"}


@dataclass(frozen=True, slots=True)
class Prices:
    """Per million tokens, in whatever money; None where it is not known."""

    prompt: float | None = None
    answer: float | None = None

    def cost(self, side: Side) -> str:
        """Of an answer that ended; what the cache served costs nothing."""
        usage = side.provenance.usage
        if self.prompt is None and self.answer is None:
            return "type a price"
        if usage.prompt_tokens is None or usage.completion_tokens is None:
            return NONE
        cost = ((self.prompt or 0.0) * usage.prompt_tokens + (self.answer or 0.0) * usage.completion_tokens) / 1e6
        missing = "prompt" if self.prompt is None else "answer" if self.answer is None else ""
        return f"{cost:.6f}{f', without the {missing}: its price is missing' if missing else ''}"


def sides_html(made: Comparison, prices: Prices) -> str:
    """All sides; with a vote where one can be given, and all that tells them apart where it may be seen."""
    cards = "".join(
        _card(LETTERS[at], place, made.sides[place], made.hidden, made.vote is not None and made.vote.winner == place)
        for at, place in enumerate(made.shown)
    )
    below = _vote(made) if made.hidden else _told(made, prices)
    asked = f'<p class="asked"><span class="sr-only">Question: </span>{escape(made.question)}</p>'
    return f'{asked}<div class="sides">{cards}</div>{below}'


def _card(letter: str, place: int, side: Side, hidden: bool, better: bool) -> str:
    name = letter if hidden else f"{letter} · configuration {place + 1}"
    text = settled_html(side.text) if not side.live else to_html(side.text)
    problem = f'<div class="problem"><b>This side failed.</b> {escape(side.error)}</div>' if side.error else ""
    about = "" if hidden else f'<p class="facts">{escape(label_of(side.settings))}</p>'
    state = "" if side.state == "done" else f'<span class="state">{STATES[side.state]}</span>'
    mark = '<span class="state">✓ your choice</span>' if better else ""
    empty = '<p class="facts">An empty answer.</p>' if side.state == "done" and not side.text else ""
    return (
        f'<section class="side{" better" if better else ""}" aria-label="Answer {letter}" '
        f'aria-busy="{str(side.live).lower()}"><h3>{escape(name)} {state}{mark}</h3>{about}'
        f'<div class="text">{text}{empty}</div>{problem}</section>'
    )


def _vote(made: Comparison) -> str:
    """The buttons of a vote, or why there are none yet."""
    if made.live:
        return '<p class="facts">When all have answered, say which one is better; then you see which is which.</p>'
    if not made.votable:
        return (
            '<p class="facts">Not every side has a whole answer, so there is nothing to vote on. '
            '<button type="button" class="plain" data-do="reveal">Show which is which</button></p>'
        )
    better = "".join(
        f'<button type="button" class="plain" data-do="vote" data-winner="{at}">{LETTERS[at]} is better</button>'
        for at in range(len(made.shown))
    )
    return (
        f'<div class="ballot" role="group" aria-label="Which answer is better?">{better}'
        '<button type="button" class="plain" data-do="vote" data-winner="equal">Equal</button></div>'
    )


def _told(made: Comparison, prices: Prices) -> str:
    """Figures and prompts, for those who may know which is which."""
    said = '<p class="said" role="status">Your vote is stored.</p>' if made.vote is not None else ""
    if made.live:
        return said
    order = [(LETTERS[at], made.sides[place]) for at, place in enumerate(made.shown)]
    head, *rows = figures_of(order, prices)
    cells = "".join(f'<th scope="col">{escape(each)}</th>' for each in head)
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(each)}</td>" for each in rest)}</tr>'
        for name, *rest in rows
    )
    table = (
        '<div class="scroll" tabindex="0" role="region" aria-label="Figures"><table class="compared"><thead><tr>'
        f"{cells}</tr></thead><tbody>{lines}</tbody></table></div>"
    )
    first, *others = order
    served = [name for name, side in order if side.provenance.cache.outcome == "hit"]
    note = f'<p class="facts">{", ".join(served)}: from the cache, no model saw it.</p>' if served else ""
    diffs = "".join(diff_html(first[0], first[1].messages, name, side.messages) for name, side in others)
    return f"{said}<h2>Figures</h2>{table}<h2>What each model saw</h2>{note}{diffs}"


def figures_of(order: Sequence[tuple[str, Side]], prices: Prices) -> list[tuple[str, ...]]:
    """Rows of figures, the head first; a column a side."""
    rows: list[tuple[str, ...]] = [("", *(name for name, _ in order))]
    sides = [side for _, side in order]
    timing = [side.provenance.timing for side in sides]
    usage = [side.provenance.usage for side in sides]
    rows.append(("Source", *(_source(side) for side in sides)))
    rows.append(("First token", *(NONE if each.ttft_ms is None else milliseconds(each.ttft_ms) for each in timing)))
    rows.append(("Whole answer", *(NONE if each.total_ms is None else milliseconds(each.total_ms) for each in timing)))
    rows.append(("Prompt, tokens", *(_number(each.prompt_tokens) for each in usage)))
    rows.append(("Answer, tokens", *(_number(each.completion_tokens) for each in usage)))
    rows.append(("Messages sent", *(_number(len(side.messages)) for side in sides)))
    rows.append(("Cost", *(prices.cost(side) for side in sides)))
    return rows


def _source(side: Side) -> str:
    cache = side.provenance.cache
    if cache.outcome == "hit":
        return f"cache, {cache.tier}"
    return "model" if side.state == "done" else STATES[side.state].lower()


def _number(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"


def diff_html(a: str, seen_a: Sequence[Message], b: str, seen_b: Sequence[Message]) -> str:
    """What one model saw and the other did not, message by message: `+` and `−` and words, not colour alone."""
    left = [(each["role"], each["content"]) for each in seen_a]
    right = [(each["role"], each["content"]) for each in seen_b]
    items: list[str] = []
    same = 0
    for kind, i, j, k, m in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if kind == "equal":
            same += j - i
            items += [_message("same", f"in {a} and {b}", *each) for each in left[i:j]]
        else:
            pairs = zip(left[i:j], right[k:m], strict=False)
            alike = [len(commonprefix([one, other])) for (_, one), (_, other) in pairs]
            at = [*alike, *([0] * (max(j - i, m - k) - len(alike)))]
            items += [_message("gone", f"only in {a}", *each, n) for each, n in zip(left[i:j], at, strict=False)]
            items += [_message("new", f"only in {b}", *each, n) for each, n in zip(right[k:m], at, strict=False)]
    if left == right:
        return f'<p class="facts">{a} and {b} saw the same {len(left):,} message{"s" * (len(left) != 1)}.</p>'
    found = f"{len(left) - same:,} only in {a}, {len(right) - same:,} only in {b}, {same:,} in both"
    return f'<details class="diff"><summary>{a} and {b}: {found}</summary><ul>{"".join(items)}</ul></details>'


def _message(kind: str, where: str, role: str, content: str, at: int = 0) -> str:
    """A message; of a long one the place `at` which it begins to differ."""
    sign = {"same": "=", "gone": "−", "new": "+"}[kind]
    begin = max(0, at - BEFORE_CHARS) if len(content) > EXCERPT_CHARS else 0
    end = begin + EXCERPT_CHARS
    text = f"{'… ' if begin else ''}{content[begin:end]}{' …' if end < len(content) else ''}"
    return (
        f'<li class="{kind}"><b><span aria-hidden="true">{sign}</span> {where} · {SPEAKERS[role]}</b>'
        f'<div class="said-then">{escape(text)}</div></li>'
    )


def wins_html(wins: Sequence[Wins]) -> str:
    """Blind votes by configuration."""
    if not wins:
        return (
            '<p class="facts">No votes yet. Compare with “Hide which is which” on, and say which answer is better; '
            "your votes are summed up here.</p>"
        )
    rows = [("Configuration", "Better", "Equal", "Votes", "Pairs won, 95 % interval")]
    rows += [
        (
            label_of(each.settings),
            f"{each.wins:,}",
            f"{each.equal:,}",
            f"{each.votes:,}",
            NONE
            if each.share.value is None
            else f"{percent(each.share.value)} ({percent(each.share.low)} to {percent(each.share.high)})",
        )
        for each in wins
    ]
    return table_html(rows).replace("<details", "<details open", 1).replace("As a table", "Your blind votes so far")


def label_of(settings: ChatSettings) -> str:
    """A configuration in one line."""
    params = settings.params
    parts = [settings.history.strategy]
    if settings.history.budget_tokens is not None:
        parts.append(f"{settings.history.budget_tokens:,} tokens")
    parts.append(SCOPES[settings.cache.scope])
    for name, value in (
        ("temperature", params.temperature), ("top p", params.top_p), ("top k", params.top_k),
        ("at most", params.max_new_tokens), ("repetition penalty", params.repetition_penalty), ("seed", params.seed),
    ):  # fmt: skip
        if value is not None:
            parts.append(f"{name} {value:g}")
    if params.stop:
        parts.append(f"{len(params.stop)} stop strings")
    if settings.system_prompt:
        words = " ".join(settings.system_prompt.split())
        parts.append(f"“{words[:40]}{'…' if len(words) > 40 else ''}”")
    return " · ".join(parts)
