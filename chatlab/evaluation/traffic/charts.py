"""Bars with intervals: SVG that stretches with the page, beside words that do not; readable aloud as one picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

COLUMNS_HIGH = 100


@dataclass(frozen=True, slots=True)
class Bar:
    """A value in [0, 1] with its interval.

    Attributes:
        interval: Its ends.
        said: The value in words.
        kind: A class of the style sheet, which colours it.
    """

    label: str
    value: float
    interval: tuple[float, float]
    said: str
    kind: str


def bars(title: str, rows: Sequence[Bar], most: float | None = None) -> str:
    """Horizontal bars.

    Args:
        title: What they show; read aloud with every value.
        rows: From the top.
        most: The value at the right end; the largest one if it is not given.
    """
    full = most or max((row.interval[1] for row in rows), default=0.0) or 1.0
    said = "; ".join(f"{row.label}: {row.said}" for row in rows)
    drawn = "".join(_bar(row, full) for row in rows)
    return f'<div class="bars" role="img" aria-label="{escape(f"{title}. {said}")}">{drawn}</div>'


def _bar(row: Bar, full: float) -> str:
    def x(value: float) -> float:
        return round(100 * min(1.0, max(0.0, value / full)), 2)

    low, high = map(x, row.interval)
    return (
        f'<span class="label">{escape(row.label)}</span>'
        '<svg viewBox="0 0 100 14" preserveAspectRatio="none" aria-hidden="true">'
        '<rect width="100" height="14" class="track"/>'
        f'<rect width="{max(0.3, x(row.value))}" height="14" class="{row.kind}"/>'
        f'<path d="M{low} 7H{high}M{low} 3V11M{high} 3V11" class="interval"/></svg>'
        f'<span class="value">{escape(row.said)}</span>'
    )


def columns(title: str, values: Sequence[tuple[str, int]]) -> str:
    """Columns over time.

    Args:
        title: What they show; read aloud.
        values: A name and a number each; at least one.
    """
    most = max(number for _, number in values) or 1
    step = 100 / len(values)
    drawn = "".join(
        f'<rect x="{step * (i + 0.1):.2f}" y="{COLUMNS_HIGH * (1 - number / most):.1f}" width="{step * 0.8:.2f}" '
        f'height="{COLUMNS_HIGH * number / most:.1f}" class="a"><title>{escape(name)}: {number:,}</title></rect>'
        for i, (name, number) in enumerate(values)
    )
    said = "; ".join(f"{name}: {number:,}" for name, number in values)
    return (
        f'<svg class="columns" viewBox="0 0 100 {COLUMNS_HIGH}" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(f"{title}. {said}")}">{drawn}</svg>'
        f'<div class="ends"><span>{escape(values[0][0])}</span><span>{escape(values[-1][0])}</span></div>'
    )
