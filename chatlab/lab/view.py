"""Turns, chats and labs as HTML for a notebook. Plain values in, text out; what people or models wrote never runs.

Everything is inside `.chatlab`, in the notebook's own colours, light or dark. Without its styles (a notebook that is
not trusted, a code host's preview) it reads as plain paragraphs and tables.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from chatlab.engines.base import ModelFacts
from chatlab.markdown import split_reasoning, to_html
from chatlab.messages import Chat, PromptProvenance, Provenance, Turn, path_to

STYLE = """<style>
.chatlab { max-width: 48em; margin: .4em 0; line-height: 1.45 }
.chatlab .asked { white-space: pre-wrap; overflow-wrap: anywhere; border-left: 3px solid #8886; padding: .1em .8em }
.chatlab .answered { overflow-wrap: anywhere; margin: .5em 0 }
.chatlab .answered button { display: none }
.chatlab .answered pre { overflow-x: auto; background: #8881; border-radius: 6px; padding: .6em }
.chatlab .wrong { color: #c33 }
.chatlab details { font-size: .86em; margin: .3em 0 }
.chatlab summary { cursor: pointer; opacity: .75 }
.chatlab .facts td { text-align: left; vertical-align: top; padding: .1em 1em .1em 0; background: none }
.chatlab .bar { display: flex; height: .7em; max-width: 30em; border-radius: 3px; overflow: hidden; background: #8882 }
.chatlab .bar span { min-width: 2px }
.chatlab .key { display: inline-block; width: .7em; height: .7em; border-radius: 2px }
.chatlab table { color: inherit; font-size: inherit }
.chatlab .system { background: #8a8fa3 } .chatlab .pinned { background: #7c5cbf }
.chatlab .summary { background: #c58b1f } .chatlab .verbatim { background: #3b82c4 }
.chatlab .retrieved { background: #2f9e77 } .chatlab .question { background: #d0568b }
</style>"""


def turn_html(turn: Turn) -> str:
    """A turn: question, answer, and where the answer came from."""
    return f'{STYLE}<div class="chatlab">{_turn(turn)}</div>'


def chat_html(chat: Chat, turns: Sequence[Turn]) -> str:
    """A chat: its newest branch, and how many turns are on others."""
    branch = path_to(turns, turns[-1].turn_id if turns else None)
    others = f" · {len(turns) - len(branch)} on other branches" if len(turns) > len(branch) else ""
    head = f"{chat.title or 'Untitled chat'} · {chat.user_id} · {chat.history.strategy} · {_turns(len(branch))}{others}"
    return f'{STYLE}<div class="chatlab"><p><strong>{escape(head)}</strong></p>{"".join(map(_turn, branch))}</div>'


def lab_html(facts: ModelFacts, data_dir: Path, closed: bool) -> str:
    """A lab: what answers, where, and where it is kept."""
    state = " · <strong>closed</strong>" if closed else ""
    what = f"{facts.model} ({facts.engine}) on {facts.device} · window of {facts.context_tokens} tokens · "
    place = f"<code>{escape(str(data_dir))}</code>"
    return f'<div class="chatlab"><strong>chatlab</strong> · {escape(what)}{place}{state}</div>'


def facts_line(turn: Turn) -> str:
    """Source, strategy, tokens and times in one line; what is unknown is left out."""
    provenance = turn.provenance
    usage, timing, prompt = provenance.usage, provenance.timing, provenance.prompt
    source = {"model": provenance.model or "model", "cache": "from the cache", None: ""}[turn.source]
    facts = [
        source,
        prompt.strategy if prompt else "",
        f"{_count(usage.prompt_tokens)} → {_count(usage.completion_tokens)} tokens" if usage.prompt_tokens else "",
        f"first token {_ms(timing.ttft_ms)}" if timing.ttft_ms is not None else "",
        f"{timing.tokens_per_second:.0f} tokens/s" if timing.tokens_per_second is not None else "",
        turn.status if turn.status != "done" else "",
        "cut at the token limit" if turn.finish_reason == "length" else "",
    ]
    return " · ".join(fact for fact in facts if fact)


def _turn(turn: Turn) -> str:
    thought = split_reasoning(turn.assistant_message or "")
    reasoning = ""
    if thought.reasoning:
        reasoning = f"<details><summary>Reasoning</summary>{to_html(thought.reasoning)}</details>"
    wrong = ""
    if turn.error is not None:
        wrong = f'<p class="wrong">{escape(turn.error.title)}: {escape(turn.error.detail)}</p>'
    return (
        f'<div class="asked">{escape(turn.user_message)}</div>{reasoning}'
        f'<div class="answered">{to_html(thought.answer)}</div>{wrong}'
        f"<details><summary>{escape(facts_line(turn))}</summary>{_provenance(turn)}</details>"
    )


def _provenance(turn: Turn) -> str:
    """A table of what is known; a row without content is left out."""
    provenance = turn.provenance
    usage, timing = provenance.usage, provenance.timing
    tokens = {
        "prompt": usage.prompt_tokens,
        "of it reused": usage.reused_prefix_tokens,
        "answer": usage.completion_tokens,
        "saved": usage.saved_tokens,
    }
    times = {
        "queue": timing.queue_ms,
        "cache": timing.cache_ms,
        "prompt": timing.prompt_ms,
        "first token": timing.ttft_ms,
        "total": timing.total_ms,
    }
    rows = {
        "Source": escape(" · ".join(each for each in (turn.source, provenance.model, provenance.engine) if each)),
        "Prompt": _prompt(provenance.prompt) if provenance.prompt else "",
        "Tokens": " · ".join(f"{name} {count}" for name, count in tokens.items() if count is not None),
        "Cache": _cache(provenance),
        "Times": " · ".join(f"{name} {_ms(ms)}" for name, ms in times.items() if ms is not None),
        "Rated": escape(f"{turn.feedback.rating:+d} {turn.feedback.reason or ''}") if turn.feedback else "",
    }
    cells = "".join(f"<tr><td>{name}</td><td>{content}</td></tr>" for name, content in rows.items() if content)
    return f'<table class="facts">{cells}</table>'


def _prompt(prompt: PromptProvenance) -> str:
    """The strategy, and the parts of the prompt as a bar over its budget."""
    bar, legend = "", ""
    for part in prompt.parts:
        turns = f" of {_turns(len(part.turn_ids))}" if part.kind in {"verbatim", "summary", "retrieved"} else ""
        share = 100 * part.tokens / max(prompt.budget_tokens, prompt.prompt_tokens, 1)
        bar += f'<span class="{part.kind}" style="width: {share:.2f}%"></span>'
        name = "notes" if part.kind == "summary" else part.kind
        legend += f' · <span class="key {part.kind}"></span> {name} {part.tokens}{turns}'
    dropped = f" · left out {_turns(len(prompt.dropped_turn_ids))}" if prompt.dropped_turn_ids else ""
    total = f"{prompt.strategy}: {prompt.prompt_tokens} of {prompt.budget_tokens} tokens"
    fault = f" · {escape(prompt.fault)}" if prompt.fault else ""
    return f'<div class="bar">{bar}</div>{total}{legend}{dropped}{fault}'


def _cache(provenance: Provenance) -> str:
    cache = provenance.cache
    facts = [
        cache.outcome,
        cache.tier,
        f"similarity {cache.similarity:.3f}" if cache.similarity is not None else None,
        f"threshold {cache.threshold:.3f}" if cache.threshold is not None else None,
        f"answers “{cache.matched_question}”" if cache.matched_question is not None else None,
        cache.reason,
    ]
    return escape(" · ".join(fact for fact in facts if fact))


def _turns(n: int) -> str:
    return "1 turn" if n == 1 else f"{n} turns"


def _count(tokens: int | None) -> str:
    return "?" if tokens is None else str(tokens)


def _ms(milliseconds: float) -> str:
    return f"{milliseconds / 1e3:.1f} s" if milliseconds >= 1e3 else f"{milliseconds:.0f} ms"
