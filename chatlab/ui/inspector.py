"""What is inside a turn as HTML: its badge, and on request the prompt, the cache, the times and the tokens.

Everything from a person or a model goes through `escape`. What is opened is asked for by `scripts/inspector.js`, so
that a long chat carries a line a turn and no more. Nothing is told by colour alone: a part has its number, in the bar
and in the table below it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import count

from chatlab.chat import SeenPrompt
from chatlab.messages import (
    CacheEntry,
    CacheLookup,
    CacheProvenance,
    Chat,
    Note,
    PartKind,
    PromptProvenance,
    Similar,
    Timing,
    Turn,
)
from chatlab.ui.mattered import offer
from chatlab.ui.notes import said_html
from chatlab.ui.view import MAX_TURNS

SHOWN_CHARS = 100  # of a matched question on the line
PARTS: Mapping[PartKind, str] = {
    "system": "System prompt",
    "pinned": "Pinned turns",
    "summary": "Notes of old turns",
    "verbatim": "Turns, word for word",
    "retrieved": "Recalled passages",
    "question": "Question",
}
OUTCOMES: Mapping[str, str] = {
    "hit": "Served",
    "miss": "Not served",
    "bypass": "Left aside",
    "off": "Off for this chat",
}
SAMPLING: Mapping[str, str] = {
    "temperature": "temperature",
    "top_p": "top-p",
    "top_k": "top-k",
    "max_new_tokens": "at most tokens",
    "seed": "seed",
    "repetition_penalty": "repetition penalty",
}

_RENDERED = count()


@dataclass(frozen=True, slots=True)
class Inspected:
    """What is known of a turn.

    Attributes:
        turn: The one looked into, ended.
        path: The turns of its branch up to it, root first.
        shown: How many turns the branch on show has.
        notes: Of the chat, as they are now.
        lookup: What the cache noted of it.
        entry: The stored answer that served it, if it is still there.
        attributes: Whether it can be measured what of its prompt mattered.
    """

    turn: Turn
    path: Sequence[Turn]
    shown: int
    chat: Chat
    notes: Sequence[Note] = ()
    lookup: CacheLookup | None = None
    entry: CacheEntry | None = None
    attributes: bool = False


# On the line of each answer


def badge(turn: Turn) -> str:
    """Where an answer came from: the model, or the cache."""
    if turn.source == "cache":
        return '<span class="badge cache">from the cache</span>'
    return f'<span class="badge">{escape(turn.provenance.model or "model")}</span>' if turn.source else ""


def cache_facts(turn: Turn) -> list[str]:
    """What is worth saying of the cache beside the badge: what was matched and how near, or what it refused."""
    cache = turn.provenance.cache
    if cache.outcome == "hit":
        if cache.tier == "exact":
            return ["exact hit"]
        return [f"similar to “{_short(cache.matched_question or '')}”", cache.reason or ""]
    near = cache.similarity is not None or cache.reason == "the cache does not answer"
    return [f"cache refused: {_refusal(cache)}"] if cache.outcome == "miss" and near and cache.reason else []


def _refusal(cache: CacheProvenance) -> str:
    reason = cache.reason or ""
    return "not enough is known yet to trust a match" if reason.startswith("by what is known") else reason


def similar_badge(similar: Similar) -> str:
    """How near a question is whose answer is offered, not served."""
    return (
        f'<p class="line"><span class="badge similar-badge">not served: too far</span> · score {similar.score:.2f} · '
        f"similarity {similar.similarity:.2f}</p>"
    )


def folded(turn: Turn, line: str) -> str:
    """The line of an answer, which unfolds what is inside.

    Args:
        turn: Ended.
        line: HTML.
    """
    return (
        f'<details class="inspector" data-turn="{escape(turn.turn_id)}"><summary class="line" title="See inside">{line}'
        '</summary><div class="inside" role="region" aria-label="Inside this answer"></div></details>'
    )


# What is asked for


def part_html(turn_id: str, part: str, html: str) -> str:
    """A part of an inspector on its way to its place; never equal to the one before."""
    return f'<div data-turn="{escape(turn_id)}" data-part="{part}">{html}</div><!-- {next(_RENDERED)} -->'


def inside_html(known: Inspected) -> str:
    """All of an inspector but the exact prompt."""
    turn = known.turn
    prompt = turn.provenance.prompt
    hit = turn.source == "cache"
    parts = [
        _cache(known) if hit else "",
        _prompt(known, prompt) if prompt else "",
        offer(turn) if prompt and known.attributes and turn.assistant_message else "",
        _notes(known, prompt) if prompt else "",
        "" if hit else _cache(known),
        _times(turn.provenance.timing),
        _tokens(known),
        _settings(known, prompt),
        _exact(turn) if prompt else "",
    ]
    return "".join(part for part in parts if part)


def exact_html(seen: SeenPrompt) -> str:
    """The prompt as the model saw it: the messages, and the text made of them."""
    messages = "".join(
        f'<dt>{escape(message["role"])}</dt><dd><pre tabindex="0">{escape(message["content"])}</pre></dd>'
        for message in seen.messages
    )
    rendered = (
        f'<h5>As one text, {seen.prompt_tokens:,} tokens</h5><pre tabindex="0">{escape(seen.rendered)}</pre>'
        if seen.rendered is not None
        else "<p>Another model is loaded now, or its template is not known: the text made of them cannot be shown.</p>"
    )
    return f'<h5>Messages</h5><dl class="messages">{messages}</dl>{rendered}'


def _section(name: str, html: str) -> str:
    return f"<section><h4>{name}</h4>{html}</section>"


def _head(*names: str) -> str:
    cells = "".join(f'<th scope="col">{name}</th>' for name in names)
    return f"<thead><tr>{cells}</tr></thead>"


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    """A list of names and values, as text."""
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts if value)
    return f'<dl class="facts">{rows}</dl>' if rows else ""


def _cache(known: Inspected) -> str:
    cache, lookup = known.turn.provenance.cache, known.lookup
    if cache.outcome == "off":
        return ""
    said = {True: "It serves", False: "It does not serve"}
    facts = [
        ("Outcome", OUTCOMES[cache.outcome]),
        ("Why", cache.reason or {"exact": "the same words after the same conversation", None: ""}.get(cache.tier, "")),
        ("Tier", {"exact": "exact: the same words", "semantic": "semantic: the same meaning", None: ""}[cache.tier]),
        ("Matched question", cache.matched_question or ""),
        ("Similarity", "" if cache.similarity is None else f"{cache.similarity:.3f}"),
        ("Score", "" if lookup is None or lookup.score is None else f"{lookup.score:.3f}"),
        ("Threshold", "" if cache.threshold is None or cache.similarity is None else _threshold(cache.threshold)),
        ("Guard that refused", (lookup and lookup.guard) or ""),
        ("Stored", _age(known.turn, known.entry) if known.entry is not None else ""),
        ("Known to be right", said.get(lookup.same, "") if lookup is not None and lookup.same is not None else ""),
    ]
    return _section("Answer cache", _facts(facts))


def _threshold(threshold: float) -> str:
    return f"{threshold:.3f}" if threshold <= 1 else "none yet: nothing to other words is served"


def _age(turn: Turn, entry: CacheEntry) -> str:
    """When what was served was stored; another answer may have taken its place since then."""
    seconds = (turn.created_at - entry.created_at).total_seconds()
    if seconds < 0:
        return ""
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if seconds >= size:
            return f"{(n := int(seconds // size))} {unit}{'s' * (n > 1)} before · expires {entry.expires_at:%Y-%m-%d}"
    return f"{seconds:.0f} s before · expires {entry.expires_at:%Y-%m-%d}"


def _prompt(known: Inspected, prompt: PromptProvenance) -> str:
    budget = max(prompt.budget_tokens, prompt.prompt_tokens, 1)
    free = prompt.budget_tokens - prompt.prompt_tokens
    stretches = [(part.kind, PARTS[part.kind], part.turn_ids, part.tokens) for part in prompt.parts]
    if free > 0:
        stretches.append(("free", "Free room", (), free))
    bar = "".join(
        f'<span class="part {kind}" style="flex-grow:{tokens}" title="{name}: {tokens:,} tokens"><b>{number}</b></span>'
        for number, (kind, name, _, tokens) in enumerate(stretches, 1)
        if tokens > 0
    )
    rows = "".join(
        f'<tr data-kind="{kind}"><th scope="row"><i class="part {kind}" aria-hidden="true"><b>{number}</b></i>{name}'
        f"{_of_turns(known, kind, turn_ids)}</th><td>{tokens:,}</td><td>{tokens / budget:.0%}</td></tr>"
        for number, (kind, name, turn_ids, tokens) in enumerate(stretches, 1)
    )
    dropped = ""
    if prompt.dropped_turn_ids:
        n, links = len(prompt.dropped_turn_ids), links_to(known, prompt.dropped_turn_ids)
        dropped = f'<p class="dropped">{n} turn{"s" * (n > 1)} not in the prompt: {links}</p>'
    fault = f'<p class="dropped">Not as chosen: {escape(prompt.fault)}</p>' if prompt.fault else ""
    return _section(
        f"The prompt: {prompt.prompt_tokens:,} of {prompt.budget_tokens:,} tokens",
        f'<div class="bar-of-parts" aria-hidden="true">{bar}</div><table class="parts">'
        '<caption class="sr-only">Parts of the prompt</caption>'
        f"{_head('Part', 'Tokens', 'Share')}<tbody>{rows}</tbody></table>{dropped}{fault}",
    )


def _of_turns(known: Inspected, kind: str, turn_ids: Sequence[str]) -> str:
    if kind in ("system", "question") or not turn_ids:
        return ""
    return f' <span class="of">{links_to(known, turn_ids)}</span>'


def links_to(known: Inspected, turn_ids: Sequence[str]) -> str:
    """Buttons that show these turns; a run of several is one."""
    places = {turn.turn_id: place for place, turn in enumerate(known.path)}
    found = sorted(places[turn_id] for turn_id in turn_ids if turn_id in places)
    runs: list[list[int]] = []
    for place in found:
        if runs and runs[-1][-1] == place - 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return ", ".join(_link(known, run) for run in runs)


def _link(known: Inspected, run: Sequence[int]) -> str:
    first, last = run[0] + 1, run[-1] + 1
    name = f"turn {first}" if first == last else f"turns {first}–{last}"
    back = known.shown - run[0]
    if back > MAX_TURNS:
        return name
    return (
        f'<button type="button" class="link" data-do="to-turn" data-turn="{escape(known.path[run[0]].turn_id)}" '
        f'data-back="{back}">{name}</button>'
    )


def _notes(known: Inspected, prompt: PromptProvenance) -> str:
    noted = set(prompt.turn_ids_in("summary"))
    notes = [note for note in known.notes if note.kind != "deleted" and noted >= set(note.turn_ids)]
    if not noted:
        return ""
    places = {turn.turn_id: place for place, turn in enumerate(known.path)}
    notes.sort(key=lambda note: [places.get(turn_id, 0) for turn_id in note.turn_ids])
    items = "".join(
        f"<li><p>{links_to(known, note.turn_ids)}{_since(known.turn, note)}</p>{said_html(note.text)}</li>"
        for note in notes
    )
    gone = (
        "" if items else "<p>They were merged or deleted since then; the exact prompt below has them as they were.</p>"
    )
    return _section("Notes that stood for old turns", f'<ul class="noted">{items}</ul>{gone}')


def _since(turn: Turn, note: Note) -> str:
    return " · changed since this answer" if note.updated_at > turn.created_at else ""


def _times(timing: Timing) -> str:
    if timing.total_ms is None:
        return ""
    cache, prompt, queue = timing.cache_ms or 0.0, timing.prompt_ms or 0.0, timing.queue_ms or 0.0
    first = timing.ttft_ms if timing.ttft_ms is not None else timing.total_ms
    began = min(cache, prompt) if timing.prompt_ms is not None else cache
    stretches = [
        ("Cache looked up", 0.0, began),
        ("Prompt put together", began, prompt),
        ("Waiting for a place", prompt, prompt + queue),
        ("Reading the prompt", prompt + queue, first),
        ("Writing the answer", first, timing.total_ms),
    ]
    if timing.prompt_ms is None:  # served, or it never came so far
        stretches = [("Cache looked up", 0.0, cache), ("Answer", cache, timing.total_ms)]
    total = max(timing.total_ms, 1e-3)
    rows = "".join(
        f'<tr><th scope="row">{name}</th><td>{_ms(end - begin)}</td><td class="track">'
        f'<i aria-hidden="true" style="margin-left:{100 * begin / total:.1f}%;'
        f'width:{max(0.4, 100 * (end - begin) / total):.1f}%"></i></td></tr>'
        for name, begin, end in stretches
        if end > begin
    )
    facts = [
        ("First token", "" if timing.ttft_ms is None else _ms(timing.ttft_ms)),
        ("Total", _ms(timing.total_ms)),
        ("Rate", "" if timing.tokens_per_second is None else f"{timing.tokens_per_second:.0f} tokens/s"),
    ]
    names = _head("Step", "Time", "When")
    return _section("Times", f'<table class="times">{names}<tbody>{rows}</tbody></table>{_facts(facts)}')


def _ms(ms: float) -> str:
    return f"{ms / 1e3:,.1f} s" if ms >= 10_000 else f"{ms:,.0f} ms" if ms >= 10 else f"{ms:.1f} ms"


def _tokens(known: Inspected) -> str:
    usage, lookup = known.turn.provenance.usage, known.lookup
    reused = ""
    if usage.reused_prefix_tokens is not None and usage.prompt_tokens:
        reused = (
            f"{usage.reused_prefix_tokens:,} of the prompt ({usage.reused_prefix_tokens / usage.prompt_tokens:.0%})"
        )
    facts = [
        ("In", "" if usage.prompt_tokens is None else f"{usage.prompt_tokens:,}"),
        ("Out", "" if usage.completion_tokens is None else f"{usage.completion_tokens:,}"),
        ("Reused, not computed again", reused),
        ("Saved by the cache", "" if usage.saved_tokens is None else f"{usage.saved_tokens:,} tokens"),
        ("Time saved", _ms(lookup.saved_ms) if lookup is not None and lookup.outcome == "hit" else ""),
    ]
    listed = _facts(facts)
    return _section("Tokens", listed) if listed else ""


def _settings(known: Inspected, prompt: PromptProvenance | None) -> str:
    provenance, params = known.turn.provenance, known.chat.params
    sampling = [f"{name} {value:g}" for key, name in SAMPLING.items() if (value := getattr(params, key)) is not None]
    facts = [
        ("Strategy", prompt.strategy if prompt else ""),
        ("Budget", f"{prompt.budget_tokens:,} tokens" if prompt else ""),
        ("Model", provenance.model or ""),
        ("Engine", provenance.engine or ""),
        ("Sampling, as the chat has it now", ", ".join(sampling) or "the model's defaults"),
    ]
    return _section("Made with", _facts(facts))


def _exact(turn: Turn) -> str:
    return (
        f'<details class="exact" data-turn="{escape(turn.turn_id)}"><summary>The exact prompt</summary>'
        '<div class="exact-prompt"></div></details>'
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARS else line[: SHOWN_CHARS - 1] + "…"
