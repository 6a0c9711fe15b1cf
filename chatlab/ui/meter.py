"""The context meter as HTML: how full the next prompt is, and what the chat's strategy will do about it, in words."""

from dataclasses import replace
from html import escape

from chatlab.history import NOTING, Outlook

NEAR = 0.85  # of the budget: before long the strategy has to act
BEGINS = 0.6  # where none writes notes earlier


def meter_html(outlook: Outlook) -> str:
    """The meter of a chat; `scripts/inspector.js` adds what is being typed."""
    noting = NOTING.get(outlook.strategy)
    begins = noting.start if noting else BEGINS
    level = "near" if outlook.share >= NEAR else "begins" if outlook.share >= begins else "calm"
    words = _words(outlook, begins)
    if_more = _words(replace(outlook, tokens=max(outlook.tokens, outlook.budget_tokens)), begins)
    tokens = f"{outlook.tokens:,} of {outlook.budget_tokens:,} tokens"
    now, width = min(outlook.tokens, outlook.budget_tokens), min(1, outlook.share)
    return (
        f'<div class="meter" data-level="{level}" data-tokens="{outlook.tokens}" data-budget="{outlook.budget_tokens}" '
        f'data-begins="{begins}" data-near="{NEAR}" data-words="{escape(words)}" data-if-more="{escape(if_more)}">'
        f'<div class="gauge" role="meter" aria-label="Context of the next message" aria-valuemin="0" '
        f'aria-valuemax="{outlook.budget_tokens}" aria-valuenow="{now}" '
        f'aria-valuetext="{outlook.share:.0%} full, {tokens}. {escape(words)}"><i style="width:{width:.1%}"></i></div>'
        f'<p><b>Context {outlook.share:.0%}</b> <span class="tokens">{tokens}</span> '
        f'<span class="words">{escape(words)}</span></p></div>'
    )


def no_room_html(why: str) -> str:
    """Where no message fits the settings."""
    words = f'<b>No message fits</b> · <span class="words">{escape(why)}</span>'
    return f'<div class="meter" data-level="near"><p>{words}</p></div>'


def unknown_html(why: str) -> str:
    """Where it cannot be told how full the prompt will be."""
    return f'<div class="meter"><p><span class="words">{escape(why)}</span></p></div>'


def _words(outlook: Outlook, begins: float) -> str:
    near, share = outlook.share >= NEAR, outlook.share
    out = outlook.n_left_out
    left_out = f"{out} old turn{'s' * (out > 1)} {'are' if out > 1 else 'is'} left out" if out else ""
    noted = f"notes stand for {outlook.n_noted} old turn{'s' * (outlook.n_noted > 1)}" if outlook.n_noted else ""
    match outlook.strategy:
        case "direct":
            if share >= 1:
                return "The next message will be refused: choose another history in the settings, or begin a new chat."
            if near:
                return "A longer message will be refused: choose another history in the settings."
            return "The whole chat is sent; what no longer fits will be refused."
        case "truncate":
            coming = "Soon the oldest turns will be left out." if near else ""
            now = f"{left_out.capitalize()}." if left_out else ""
        case "summarize":
            coming = "Soon notes take the place of the oldest turns." if near else ""
            if not near and share >= begins:
                coming = "Notes of the oldest turns are being prepared."
            now = _sentence(noted, left_out)
        case "hybrid":
            searched = f"{out + outlook.n_noted} old turns are searched for each question" if out else ""
            coming = "Soon the oldest turns will only be searched." if near and not out else ""
            if not coming and share >= begins and not out:
                coming = "Notes of the oldest turns are being prepared."
            now = _sentence(noted, searched)
    return " ".join(each for each in (now, coming) if each) or "Everything fits."


def _sentence(*facts: str) -> str:
    said = ", ".join(fact for fact in facts if fact)
    return f"{said[0].upper()}{said[1:]}." if said else ""
