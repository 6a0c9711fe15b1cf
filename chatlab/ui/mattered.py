"""What of its prompt mattered for an answer as HTML: a bar of the parts by their effect, and the same as a table."""

from collections.abc import Callable, Sequence
from html import escape
from math import exp

from chatlab.attribution import MAX_TOKENS, Attribution, Effect
from chatlab.messages import PartKind, Turn

NAMES: dict[PartKind, str] = {
    "system": "System prompt",
    "pinned": "Pinned",
    "summary": "Notes of old turns",
    "verbatim": "",
    "retrieved": "Recalled passages",
}
LITTLE = 0.5  # nats, that rounding alone can bring


def offer(turn: Turn) -> str:
    """The fold that asks for it."""
    return (
        f'<details class="mattered" data-turn="{escape(turn.turn_id)}"><summary>What mattered</summary>'
        '<div class="mattered-parts" role="status"></div></details>'
    )


def mattered_html(found: Attribution, links: Callable[[Sequence[str]], str]) -> str:
    """The effects.

    Args:
        found: Measured.
        links: Turns by their ids, as buttons that show them.
    """
    if not found.parts:
        return "<p>The prompt was the question alone: there is nothing to leave out.</p>"
    most = max(abs(effect.change) for effect in found.parts)
    bar = "".join(
        f'<span class="effect {_side(effect)}" style="flex-grow:{max(1, effect.tokens)};--strength:'
        f'{100 * abs(effect.change) / max(most, LITTLE):.0f}%"></span>'
        for effect in found.parts
    )
    rows = "".join(
        f'<tr><th scope="row"><i class="effect {_side(effect)}" aria-hidden="true" style="--strength:'
        f'{100 * abs(effect.change) / max(most, LITTLE):.0f}%"></i>{_name(effect, links)}</th>'
        f"<td>{effect.tokens:,}</td><td>{_words(effect.change)}</td></tr>"
        for effect in found.parts
    )
    first = "first " if found.tokens >= MAX_TOKENS else ""
    return (
        f'<div class="bar-of-parts" aria-hidden="true">{bar}</div><table class="effects"><caption class="sr-only">'
        'What leaving each part out does</caption><thead><tr><th scope="col">Part</th><th scope="col">Tokens</th>'
        f'<th scope="col">Without it, this answer is</th></tr></thead><tbody>{rows}</tbody></table>'
        f'<p class="of">Of the answer&#8217;s {first}{found.tokens:,} tokens&#8217; log-likelihood '
        f"({found.log_likelihood:.1f} nats), one part left out at a time; what is said twice covers for itself. "
        f"Measured in {found.ms / 1e3:.1f} s.</p>"
    )


def _side(effect: Effect) -> str:
    return "little" if abs(effect.change) < LITTLE else "helped" if effect.change < 0 else "hindered"


def _name(effect: Effect, links: Callable[[Sequence[str]], str]) -> str:
    of = links(effect.turn_ids) if effect.turn_ids else ""
    return " ".join(filter(None, (NAMES[effect.kind], f'<span class="of">{of}</span>' if of else "")))


def _words(change: float) -> str:
    if abs(change) < LITTLE:
        return f"about as likely ({change:+.1f} nats)"
    times = exp(min(abs(change), 20.0))
    factor = f"{times:,.1f}" if times < 10 else f"{times:,.0f}" if times < 1e6 else "over a million"
    return f"{factor} times {'less' if change < 0 else 'more'} likely ({change:+.1f} nats)"
