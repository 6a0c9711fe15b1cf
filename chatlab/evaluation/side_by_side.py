"""The prompts of strategies beside each other, as HTML that needs nothing else. What a prompt says is text only."""

from collections.abc import Iterator, Mapping
from html import escape

from chatlab.evaluation.prompts import Made
from chatlab.history.notes import OPEN

STYLE = """<style>
.prompts { display: grid; grid-template-columns: repeat(auto-fit, minmax(17em, 1fr)); gap: 1em; line-height: 1.35 }
.prompts > div { border: 1px solid #8886; border-radius: .4em; padding: .6em; min-width: 0 }
.prompts .said { max-height: 26em; overflow: auto; font-size: .85em }
.prompts p { white-space: pre-wrap; overflow-wrap: anywhere; margin: .35em 0; padding-left: .6em;
  border-left: 3px solid #8886 }
.prompts .assistant { border-left-style: dotted }
.prompts .notes { border-left: 6px double currentColor }
.prompts small { opacity: .75 }
</style>"""
SHOWN_MESSAGES = 24  # of a prompt: half from its beginning, half from its end


def side_by_side(prompts: Mapping[str, Made]) -> str:
    """A column a prompt, with what it is made of; the middle of a long one is left out and counted.

    Args:
        prompts: By the name of their strategy.
    """
    columns = "".join(_column(name, made) for name, made in prompts.items())
    return f'{STYLE}<div class="prompts">{columns}</div>'


def _column(name: str, made: Made) -> str:
    parts = "" if made.provenance is None else ", ".join(f"{p.kind} {p.tokens:,}" for p in made.provenance.parts)
    head = f"<strong>{escape(name)}</strong> · {made.claimed_tokens:,} tokens<br><small>{escape(parts)}</small>"
    return f'<div>{head}<div class="said">{"".join(_messages(made))}</div></div>'


def _messages(made: Made) -> Iterator[str]:
    half, n = SHOWN_MESSAGES // 2, len(made.messages)
    for i, message in enumerate(made.messages):
        if n > SHOWN_MESSAGES and half <= i < n - half:
            if i == half:
                yield f"<p><small>… {n - SHOWN_MESSAGES} messages …</small></p>"
            continue
        kind = message["role"] + (" notes" if _is_noted(made, i) else "")
        yield f'<p class="{kind}"><small>{kind}</small>\n{escape(message["content"])}</p>'


def _is_noted(made: Made, i: int) -> bool:
    """Whether a message, or the question that it answers, begins with the mark of notes."""
    user = i if made.messages[i]["role"] == "user" else i - 1
    return user >= 0 and made.messages[user]["content"].startswith(OPEN)
