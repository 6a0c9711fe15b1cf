"""The report of a replay as one HTML page that loads nothing; whatever chats say is text only."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from chatlab.evaluation.replay.report import NAMES, difference_rows, heads, row, sentences, shown

STYLE = """
:root { color-scheme: light dark; --ink: #1d1f21; --paper: #fff; --soft: #63676d; --line: #d6d9dd; --mark: #0f766e }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e8eaed; --paper: #16181b; --soft: #a6abb3; --line: #3a3f45; --mark: #5eead4 }
}
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem 1rem 4rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.5 system-ui, sans-serif }
h1 { font-size: 1.6rem; margin: 0 0 .2rem } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }
p { margin: .3rem 0; max-width: 60rem } .soft { color: var(--soft) }
.wide { overflow-x: auto } table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
th { font-weight: 600; white-space: nowrap }
td.text { overflow-wrap: anywhere; min-width: 12rem; white-space: pre-wrap }
svg { display: block; width: 100%; max-width: 44rem; height: auto }
svg text { fill: var(--ink); font: 13px system-ui, sans-serif }
svg .axis { stroke: var(--line) } svg .zero { stroke: var(--soft); stroke-dasharray: 3 3 }
svg .bar { stroke: var(--mark); stroke-width: 3 } svg .point { fill: var(--mark) }
"""
WIDTH, LEFT, RIGHT, STEP = 700, 190, 20, 34
MAX_QUESTION_CHARS = 300


def page(found: Mapping[str, Any]) -> str:
    """The whole page of a `comparison.result`."""
    log = found["log"]
    title = f"Replay of {log['source']}"
    about = f"{log['turns']:,} turns in {log['chats']:,} chats, {log['lookups']:,} cache lookups."
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="soft">{escape(about)} Means are a turn; brackets hold 95 % intervals over chats.</p>',
        "<h2>Configurations</h2>",
        _table(heads(), [row(each) for each in found["configurations"]]),
        *(_difference(each) for each in found["differences"]),
        "<h2>What this rests on</h2>",
        *(f"<p>{escape(each)}.</p>" for figures in found["configurations"] for each in sentences(figures)),
        _changed(found),
    ]
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _table(heading: Sequence[str], rows: Sequence[Sequence[str]], text_from: int | None = None) -> str:
    """A table; columns from `text_from` on hold long text."""
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in heading)
    lines = [
        "<tr>"
        + "".join(
            f'<td class="text">{escape(cell)}</td>'
            if text_from is not None and i >= text_from
            else f"<td>{escape(cell)}</td>"
            for i, cell in enumerate(cells)
        )
        + "</tr>"
        for cells in rows
    ]
    scroll = '<div class="wide" tabindex="0" role="region" aria-label="table">'
    return f"{scroll}<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"


def _difference(each: Mapping[str, Any]) -> str:
    rows = [[name, value] for name, value in difference_rows(each)]
    title = f"{each['name']} less {each['minus']}"
    return f"<h2>{escape(title)}</h2>{forest(each)}{_table(['a turn', 'difference'], rows)}"


def forest(each: Mapping[str, Any]) -> str:
    """Paired differences with their intervals; every line has a scale of its own, and 0 is in the middle."""
    known = [(name, found) for name, found in each["estimates"].items() if found is not None]
    height, middle, half = STEP * len(known) + 8, (LEFT + WIDTH - RIGHT) / 2, (WIDTH - RIGHT - LEFT) / 2
    lines: list[str] = []
    for i, (name, found) in enumerate(known):
        y = STEP * i + STEP / 2 + 4
        low, high = found["interval"]
        most = max(abs(low), abs(high), abs(found["value"]))
        at = [middle + (0.9 * half * x / most if most else 0.0) for x in (low, found["value"], high)]
        said = f"{NAMES[name]}: {shown(name, found, signed=True)}"
        lines.append(
            f"<g><title>{escape(said)}</title>"
            f'<text x="0" y="{y + 4:.1f}">{escape(NAMES[name])}</text>'
            f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<line class="bar" x1="{at[0]:.1f}" x2="{at[2]:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<circle class="point" cx="{at[1]:.1f}" cy="{y:.1f}" r="5"/></g>'
        )
    name = escape(f"Paired differences of {each['name']} to {each['minus']} with intervals")
    zero = f'<line class="zero" x1="{middle:.1f}" x2="{middle:.1f}" y1="0" y2="{height}"/>'
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{name}">{zero}{"".join(lines)}</svg>'


def _changed(found: Mapping[str, Any]) -> str:
    if not found["changed"]:
        return ""
    names = [each["name"] for each in found["configurations"]]
    rows = [[_short(each["question"]), *(_told(each["by"][name]) for name in names)] for each in found["changed"]]
    return f"<h2>Turns that are answered otherwise</h2>{_table(['question', *names], rows, text_from=0)}"


def _told(each: Mapping[str, Any]) -> str:
    if each["outcome"] != "hit":
        return f"{each['outcome']}: {each['reason']}" if each["reason"] else each["outcome"]
    judged = {True: ", right", False: ", wrong", None: ""}[each["right"]]
    return f"hit, {each['tier']}{judged}: {_short(each['matched_question'] or '')}"


def _short(text: str) -> str:
    return text if len(text) <= MAX_QUESTION_CHARS else text[:MAX_QUESTION_CHARS] + "…"
