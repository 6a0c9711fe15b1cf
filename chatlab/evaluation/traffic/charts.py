"""Bars with intervals, as SVG within a page: drawn by classes that its style sheet colours, readable aloud."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LABEL, VALUE = 640, 170, 110  # of a chart, of what stands left and right of its bars
ROW, BAR = 26, 14


@dataclass(frozen=True, slots=True)
class Bar:
    """A value in [0, 1] with its interval.

    Attributes:
        said: The value in words.
        kind: A class of the style sheet.
    """

    label: str
    value: float
    low: float
    high: float
    said: str
    kind: str = "a"


def bars(title: str, rows: Sequence[Bar], most: float | None = None) -> str:
    """Horizontal bars.

    Args:
        title: What they show; read aloud with every value.
        rows: From the top.
        most: The value at the right end; the largest one if it is not given.
    """
    full = most or max((row.high for row in rows), default=0.0) or 1.0
    height = ROW * len(rows) + 4
    room = WIDTH - LABEL - VALUE

    def x(value: float) -> float:
        return LABEL + room * min(1.0, max(0.0, value / full))

    parts: list[str] = []
    for i, row in enumerate(rows):
        y = ROW * i + 4
        middle = y + BAR / 2
        parts.append(f'<text x="{LABEL - 10}" y="{middle + 4:.0f}" class="label">{escape(row.label)}</text>')
        parts.append(f'<rect x="{LABEL}" y="{y}" width="{room}" height="{BAR}" rx="3" class="track"/>')
        width = max(1.0, x(row.value) - LABEL)
        parts.append(f'<rect x="{LABEL}" y="{y}" width="{width:.1f}" height="{BAR}" rx="3" class="{row.kind}"/>')
        ends = "".join(f"M{x(end):.1f} {middle - 4}V{middle + 4}" for end in (row.low, row.high))
        parts.append(f'<path d="M{x(row.low):.1f} {middle}H{x(row.high):.1f}{ends}" class="interval"/>')
        parts.append(f'<text x="{LABEL + room + 10}" y="{middle + 4:.0f}" class="value">{escape(row.said)}</text>')
    said = "; ".join(f"{row.label}: {row.said}" for row in rows)
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(f"{title}. {said}")}">'
        f"{''.join(parts)}</svg>"
    )


def columns(title: str, values: Sequence[tuple[str, int]]) -> str:
    """Columns over time.

    Args:
        title: What they show; read aloud.
        values: A name and a number each.
    """
    most = max((number for _, number in values), default=0) or 1
    height, top = 110, 16
    step = (WIDTH - 20) / max(1, len(values))
    parts: list[str] = []
    every = max(1, -(-len(values) // 8))
    for i, (name, number) in enumerate(values):
        tall = (height - top) * number / most
        left = 10 + step * i
        parts.append(
            f'<rect x="{left + step * 0.1:.1f}" y="{height - tall:.1f}" width="{step * 0.8:.1f}" '
            f'height="{tall:.1f}" rx="2" class="a"><title>{escape(name)}: {number:,}</title></rect>'
        )
        if i % every == 0:
            parts.append(f'<text x="{left + step * 0.1:.1f}" y="{height + 16}" class="tick">{escape(name)}</text>')
    peak, number = max(values, key=lambda each: each[1], default=("", 0))
    said = f"{title}, {values[0][0]} to {values[-1][0]}; most in {peak}: {number:,}" if values else title
    return f'<svg viewBox="0 0 {WIDTH} {height + 22}" role="img" aria-label="{escape(said)}">{"".join(parts)}</svg>'
