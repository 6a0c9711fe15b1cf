"""Turns as HTML. Everything from a person or a model goes through `escape` or `chatlab.markdown`.

Buttons carry what they do in `data-do`; `scripts/conversation.js` passes that on. A turn is one `article` whose parts
keep their order while it grows, so that an update changes text and never the layout above it.
"""

from collections.abc import Callable
from functools import lru_cache
from html import escape
from itertools import count

from chatlab.markdown import split_reasoning, to_html
from chatlab.messages import Problem, PromptProvenance, Turn
from chatlab.ui.inspector import badge, cache_facts, folded, similar_badge
from chatlab.ui.notes import noted_turns
from chatlab.ui.view import Branch

LONG_MESSAGE_CHARS = 1_200
REASONS = ("Not true", "Not what I asked", "Too long", "Unclear")
EXAMPLES = (
    ("Explain", "Explain how photosynthesis works in three sentences."),
    ("Write", "Write a short, friendly e-mail that moves a meeting from Monday to Wednesday."),
    ("Code", "Write a Python function that returns the n-th Fibonacci number, with an example."),
    ("Compare", "Compare trains and planes for a 600 km journey in a small table."),
)

_RENDERED = count()
CACHED_CHARS = 8_000  # of a text whose HTML is kept for the next time it is shown

Render = Callable[[str], str]


def welcome(model: str) -> str:
    """An empty chat: what this is, and questions to begin with."""
    examples = "".join(
        f'<button type="button" data-do="example" data-text="{escape(text)}"><b>{escape(kind)}</b>'
        f"<span>{escape(text)}</span></button>"
        for kind, text in EXAMPLES
    )
    return (
        '<section class="welcome"><h2>What would you like to know?</h2>'
        f"<p>{escape(model)} answers. Under each answer stands where it came from and what it cost.</p>"
        f'<div class="examples">{examples}</div></section>'
    )


def missing() -> str:
    """The chat of a link that leads nowhere."""
    return (
        '<section class="welcome" role="status"><h2>This chat is not here</h2><p>It was deleted, or it belongs to '
        "another browser: chats are kept for the browser they were made in.</p>"
        '<p><button type="button" class="plain" data-do="new">Begin a new chat</button></p></section>'
    )


@lru_cache(maxsize=512)
def _kept_html(text: str) -> str:
    return to_html(text)


def settled_html(text: str) -> str:
    """A whole answer or its whole reasoning, which is often shown again."""
    return _kept_html(text) if len(text) <= CACHED_CHARS else to_html(text)


def earlier(branch: Branch, most: int) -> str:
    """All turns of a branch but the last, at most `most` of them in all; older ones on request."""
    first = max(0, len(branch.turns) - most)
    shown = [turn_html(branch, at) for at in range(first, len(branch.turns) - 1)]
    if first:
        shown.insert(
            0,
            f'<p class="more"><button type="button" class="plain" data-do="earlier">Show earlier messages '
            f"({first} more)</button></p>",
        )
    # The browser may have moved turns by itself: what is shown anew must never look like what it has.
    return "".join(shown) + f"<!-- {next(_RENDERED)} -->"


def latest(branch: Branch, render: Render = settled_html) -> str:
    """The last turn of a branch.

    Args:
        branch: Not empty.
        render: Markdown to HTML; a growing answer brings its own.
    """
    return turn_html(branch, len(branch.turns) - 1, render)


def turn_html(branch: Branch, at: int, render: Render = settled_html) -> str:
    """A turn: question, answer, its line and what can be done with it."""
    turn = branch.turns[at]
    last = at == len(branch.turns) - 1
    return (
        f'<article class="turn" data-turn="{escape(turn.turn_id)}" data-parent="{escape(turn.parent_turn_id or "")}" '
        f'data-live="{str(turn.live).lower()}">'
        f"{_question(turn, branch.read_only)}{_similar(branch, turn) if last else ''}{_answer(turn, render)}"
        f"{_footer(branch, at, last)}</article>"
    )


def _similar(branch: Branch, turn: Turn) -> str:
    """The answer to a similar question, to take or to turn down while the model answers."""
    similar = branch.similar
    if similar is None or branch.read_only or not turn.live:
        return ""

    def choice(same: bool, name: str) -> str:
        data = f'data-turn="{escape(turn.turn_id)}" data-same="{str(same).lower()}"'
        return f'<button type="button" class="plain" data-do="similar" {data}>{name}</button>'

    return (
        f'<aside class="similar" aria-label="The answer to a similar question">{similar_badge(similar)}'
        f"<p>The answer to a similar question: <q>{escape(similar.question)}</q></p>"
        f'<div class="text">{settled_html(similar.answer)}</div>'
        f'<div class="choice">{choice(True, "That’s it")}{choice(False, "Not this")}</div></aside>'
    )


def _question(turn: Turn, read_only: bool) -> str:
    text = escape(turn.user_message)
    if len(turn.user_message) > LONG_MESSAGE_CHARS:
        beginning = escape(turn.user_message[:200].rstrip())
        shown = (
            f'<details class="long"><summary><span class="beginning">{beginning}…</span> <i>Show all</i></summary>'
            f'<div class="said">{text}</div></details>'
        )
    else:
        shown = f'<div class="said">{text}</div>'
    edit = (
        '<button type="button" data-do="edit" title="Edit and send again" aria-label="Edit and send again">'
        '<i class="icon edit"></i></button>'
    )
    return (
        f'<div class="question"><h3 class="sr-only">You</h3>{shown}<div class="tools">'
        '<button type="button" data-do="copy" title="Copy message" aria-label="Copy message"><i class="icon copy"></i>'
        f"</button>{'' if read_only else edit}</div></div>"
    )


def _answer(turn: Turn, render: Render) -> str:
    thought = split_reasoning(turn.assistant_message or "")
    reasoning = ""
    if thought.reasoning:
        settled = thought.closed or not turn.live
        name, html = ("Reasoning", settled_html) if settled else ("Thinking…", to_html)
        reasoning = (
            f'<details class="reasoning"><summary>{name}</summary><div>{html(thought.reasoning)}</div></details>'
        )
    body = render(thought.answer) if thought.answer else ""
    if turn.live and not thought.answer and not thought.reasoning:
        waiting = "Waiting for a free place…" if turn.status == "queued" else ""
        body = f'<p class="waiting"><span class="dots" aria-hidden="true"><i></i><i></i><i></i></span>{waiting}</p>'
    return (
        f'<div class="answer" tabindex="-1"><h3 class="sr-only">Answer</h3>{reasoning}'
        f'<div class="text">{body}</div></div>'
    )


def _footer(branch: Branch, at: int, last: bool) -> str:
    turn = branch.turns[at]
    if turn.live:
        return '<footer><p class="line">&nbsp;</p></footer>'  # its place is kept: nothing moves when the line comes
    return (
        f"<footer>{_problem(turn.error) if turn.error else ''}{_line(turn)}"
        f'<div class="tools">{_switch(branch, at)}{_tools(turn, last, branch.read_only)}</div>'
        f"{'' if branch.read_only else _verdict(turn)}"
        f'<textarea hidden class="raw" aria-hidden="true">{escape(turn.assistant_message or "")}</textarea></footer>'
    )


def _switch(branch: Branch, at: int) -> str:
    """Which of several versions this is: `2/3`, with a way to the others."""
    versions = branch.siblings[at]
    if len(versions) < 2:
        return ""
    place = versions.index(branch.turns[at].turn_id)

    def step(to: int, name: str, sign: str) -> str:
        known = 0 <= to < len(versions)
        target = f' data-turn="{escape(versions[to])}"' if known else " disabled"
        return f'<button type="button" data-do="branch"{target} title="{name}" aria-label="{name}">{sign}</button>'

    return (
        '<span class="switch" role="group" aria-label="Versions">'
        + step(place - 1, "Previous version", "‹")
        + f"<span>{place + 1}/{len(versions)}</span>"
        + step(place + 1, "Next version", "›")
        + "</span>"
    )


def _tools(turn: Turn, last: bool, read_only: bool) -> str:
    rating = turn.feedback.rating if turn.feedback else 0
    turn_id = escape(turn.turn_id)

    def button(do: str, name: str, icon: str, more: str = "") -> str:
        return (
            f'<button type="button" data-do="{do}" data-turn="{turn_id}" title="{name}" aria-label="{name}"{more}>'
            f'<i class="icon {icon}"></i></button>'
        )

    tools = [button("copy", "Copy answer", "copy")] if turn.assistant_message else []
    if read_only:
        return "".join(tools)
    if turn.source == "cache":
        tools.append(
            f'<button type="button" class="plain" data-do="wrong" data-turn="{turn_id}" '
            'title="Deletes the stored answer and asks the model">Wrong answer: ask the model</button>'
        )
    tools.append(button("regenerate", "Regenerate", "again"))
    if turn.assistant_message:
        name = "Let it go: no longer in every prompt" if turn.pinned else "Pin: the model sees it from now on"
        tools.append(button("pin-turn", name, "pin", f' aria-pressed="{str(turn.pinned).lower()}"'))
        tools.append(button("rate", "Good answer", "up", f' data-rating="1" aria-pressed="{str(rating == 1).lower()}"'))
        tools.append(
            button("rate", "Bad answer", "down", f' data-rating="-1" aria-pressed="{str(rating == -1).lower()}"')
        )
    if last and turn.assistant_message and (turn.finish_reason == "length" or turn.status in ("stopped", "failed")):
        tools.append(f'<button type="button" class="plain" data-do="continue" data-turn="{turn_id}">Continue</button>')
    return "".join(tools)


def _verdict(turn: Turn) -> str:
    """After a thumb down: why? Then the reason given."""
    if turn.feedback is None or turn.feedback.rating == 1:
        return ""
    if turn.feedback.reason:
        return f'<p class="verdict">Noted: {escape(turn.feedback.reason)}</p>'
    turn_id = escape(turn.turn_id)
    chips = "".join(
        f'<button type="button" class="plain" data-do="rate" data-rating="-1" data-turn="{turn_id}" '
        f'data-reason="{reason}">{reason}</button>'
        for reason in REASONS
    )
    return (
        f'<form class="verdict" data-do="rate" data-rating="-1" data-turn="{turn_id}"><span>What was wrong?</span>'
        f'{chips}<input name="reason" maxlength="500" placeholder="Something else" aria-label="Something else">'
        '<button type="submit" class="plain">Send</button></form>'
    )


def _problem(problem: Problem) -> str:
    return (
        f'<div class="problem" role="alert"><b>{escape(problem.title)}</b> {escape(problem.detail)} '
        f"<span>{escape(advice(problem))}</span></div>"
    )


def advice(problem: Problem) -> str:
    """What to do next about a failed turn."""
    kind = problem.type.rpartition(":")[2]
    known = {
        "interrupted": "What was written is kept: continue from it, or regenerate the answer.",
        "engine-failed": "Regenerate the answer; if it fails again, the log of the server says why.",
    }
    return known.get(kind, "Regenerate the answer, or begin a new chat.")


def line_of(turn: Turn) -> str:
    """Source, what the cache did, tokens, time to first token, rate, what of the chat the model saw."""
    source = {"model": turn.provenance.model or "model", "cache": "from the cache", None: ""}[turn.source]
    return " · ".join(fact for fact in (source, *_facts(turn)) if fact)


def _line(turn: Turn) -> str:
    """The same, with a badge for its source; it unfolds what is inside, if there is anything."""
    facts = " · ".join(fact for fact in (badge(turn), *map(escape, _facts(turn))) if fact)
    return folded(turn, facts) if turn.source else f'<p class="line">{facts}</p>'


def _facts(turn: Turn) -> list[str]:
    """What is known beside the source."""
    usage, timing = turn.provenance.usage, turn.provenance.timing
    facts = [
        *cache_facts(turn),
        f"{usage.prompt_tokens:,} → {usage.completion_tokens:,} tokens" if usage.prompt_tokens is not None else "",
        f"first token {timing.ttft_ms:.0f} ms" if timing.ttft_ms is not None else "",
        f"{timing.tokens_per_second:.0f} tokens/s" if timing.tokens_per_second is not None else "",
        *_history(turn.provenance.prompt, len(noted_turns(turn))),
        "stopped" if turn.status == "stopped" else "",
        "cut at the token limit" if turn.finish_reason == "length" else "",
    ]
    return [fact for fact in facts if fact]


def _history(prompt: PromptProvenance | None, n_noted: int) -> list[str]:
    """What is worth saying of the history: turns noted, brought back or not seen, and why it is not as chosen."""
    if prompt is None:
        return []
    quoted = next((len(part.turn_ids) for part in prompt.parts if part.kind == "retrieved"), 0)
    return [
        f"{n_noted} turn{'s' * (n_noted > 1)} as notes" if n_noted else "",
        f"{quoted} earlier turn{'s' * (quoted > 1)} recalled" if quoted else "",
        f"{len(prompt.dropped_turn_ids)} not seen" if prompt.dropped_turn_ids else "",
        f"earlier turns could not be searched ({prompt.fault})" if prompt.fault else "",
    ]
