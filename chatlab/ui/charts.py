"""Charts as inline SVG: small, in the page's colours, readable at 360 px, each with its numbers as a table.

A chart is drawn for a column of 360 px and grows with it; wide pages set several side by side. What is drawn is told
apart by dashes, hatching and signs, never by colour alone. Every text is escaped.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from html import escape
from math import ceil, floor, log10

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 352, 10, 172  # of what is drawn in
MARK = 3.5  # half the size of a sign

Number = float | None
Show = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Axis:
    """A stretch of numbers, and what is written at some of them."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]

    def place(self, value: float) -> float:
        """In [0, 1] along the axis."""
        return min(1.0, max(0.0, (value - self.low) / ((self.high - self.low) or 1.0)))


@dataclass(frozen=True, slots=True)
class Line:
    """A line through points, by x; `low` and `high` are its interval. None leaves a gap."""

    name: str
    x: Sequence[float]
    y: Sequence[Number]
    low: Sequence[Number] = ()
    high: Sequence[Number] = ()


@dataclass(frozen=True, slots=True)
class Bars:
    """A height for every x; the bars of a chart stand on one another."""

    name: str
    heights: Sequence[float]


@dataclass(frozen=True, slots=True)
class Points:
    """Signs at places, each with what it stands for: `cross` or `ring`."""

    name: str
    sign: str
    at: Sequence[tuple[float, float, str]]


@dataclass(frozen=True, slots=True)
class Rule:
    """A straight line at one value: across the chart (`y`), or from its foot to its top (`x`)."""

    name: str
    axis: str
    value: float


@dataclass(frozen=True, slots=True)
class Chart:
    """What `chart_html` draws.

    Attributes:
        name: Unique on the page, of letters and dashes.
        description: What a person who does not see it is told: the main thing that it shows.
        rows: The table, its head first.
    """

    name: str
    title: str
    description: str
    x: Axis
    y: Axis
    drawn: Sequence[Line | Bars | Points | Rule]
    rows: Sequence[Sequence[str]]
    x_title: str = ""
    note: str = ""


def chart_html(chart: Chart) -> str:
    """A figure: title, key, drawing, table."""
    key = "".join(_key(each, _style(chart, each)) for each in chart.drawn) if len(chart.drawn) > 1 else ""
    note = f'<p class="note">{escape(chart.note)}</p>' if chart.note else ""
    return (
        f'<figure class="chart" id="{chart.name}"><figcaption><h3>{escape(chart.title)}</h3>'
        f"{f'<ul class=key>{key}</ul>' if key else ''}</figcaption>{_svg(chart)}{note}{table_html(chart.rows)}</figure>"
    )


def table_html(rows: Sequence[Sequence[str]]) -> str:
    """Rows under a fold, the first one as their head."""
    head, *body = rows
    cells = "".join(f'<th scope="col">{escape(each)}</th>' for each in head)
    lines = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(each)}</td>" for each in rest)}</tr>'
        for first, *rest in body
    )
    return (
        '<details class="numbers"><summary>As a table</summary><div class="scroll" tabindex="0" role="region" '
        f'aria-label="Table"><table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div></details>'
    )


def counts(high: float, show: Show = lambda value: f"{value:,.0f}", least: float = 1.0) -> Axis:
    """From 0 to at least `high`, with three or four round numbers."""
    high = max(high, least)
    size = 10.0 ** floor(log10(high / 4))
    step = next(size * each for each in (1, 2, 2.5, 5, 10) if size * each * 4 >= high)
    n = ceil(high / step - 1e-9)
    return Axis(0.0, n * step, [(i * step, show(i * step)) for i in range(n + 1)])


def shares(high: float = 1.0) -> Axis:
    """From 0 to at least `high`, in percent."""
    return counts(min(high, 1.0), percent, least=0.04)


def places(days: Sequence[date]) -> Axis:
    """One place a day, with a date at some of them."""
    n = max(len(days), 1)
    step = max(1, ceil(n / 5))
    return Axis(-0.5, n - 0.5, [(i, f"{days[i].day} {days[i]:%b}") for i in range(0, len(days), step)])


def percent(share: float) -> str:
    """`0.123` as `12 %`, small ones with a digit more."""
    return f"{100 * share:.1f} %" if 0 < share < 0.0995 and round(1e3 * share) % 10 else f"{100 * share:.0f} %"


def milliseconds(value: float) -> str:
    """As people say it."""
    return f"{value:,.0f} ms" if value < 1_000 else f"{value / 1e3:,.3g} s"


def short(value: float) -> str:
    """`12345` as `12.3k`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if letter == 'k' else size):.3g}{letter}"
    return f"{value:,.0f}"


def _svg(chart: Chart) -> str:
    grid = "".join(
        f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{y}" y2="{y}"/>'
        f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{escape(text)}</text>'
        for y, text in ((_y(chart, value), text) for value, text in chart.y.ticks)
    )
    feet = "".join(
        f'<text x="{_x(chart, value)}" y="{BOTTOM + 14}" text-anchor="middle">{escape(text)}</text>'
        for value, text in chart.x.ticks
    )
    if chart.x_title:
        feet += f'<text x="{RIGHT}" y="{HEIGHT - 2}" text-anchor="end">{escape(chart.x_title)}</text>'
    drawn = "".join(_draw(chart, each) for each in chart.drawn)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{chart.name}-title {chart.name}-about">'
        f'<title id="{chart.name}-title">{escape(chart.title)}</title>'
        f'<desc id="{chart.name}-about">{escape(chart.description)}</desc>{_HATCHING.format(name=chart.name)}'
        f"{grid}{_stack(chart)}{drawn}{feet}</svg>"
    )


_HATCHING = (
    '<defs><pattern id="{name}-hatch" class="hatch" width="5" height="5" patternUnits="userSpaceOnUse" '
    'patternTransform="rotate(45)"><rect width="5" height="5"/><line x1="0" x2="0" y1="0" y2="5"/></pattern></defs>'
)


def _draw(chart: Chart, drawn: Line | Points | Rule | Bars) -> str:
    match drawn:
        case Line():
            return _line(chart, drawn)
        case Points():
            return f'<g class="{_style(chart, drawn)}">{"".join(_sign(chart, drawn.sign, *at) for at in drawn.at)}</g>'
        case Rule(axis="y"):
            y = _y(chart, drawn.value)
            return f'<line class="{_style(chart, drawn)}" x1="{LEFT}" x2="{RIGHT}" y1="{y}" y2="{y}"/>'
        case Rule():
            x = _x(chart, drawn.value)
            return f'<line class="{_style(chart, drawn)}" x1="{x}" x2="{x}" y1="{TOP}" y2="{BOTTOM}"/>'
        case Bars():
            return ""


def _stack(chart: Chart) -> str:
    """Bars on one another, each with its own words for those who point at it."""
    stacked = [each for each in chart.drawn if isinstance(each, Bars)]
    feet = [0.0] * max((len(each.heights) for each in stacked), default=0)
    width = min(40.0, 0.76 * (RIGHT - LEFT) / max(len(feet), 1))
    found: list[str] = []
    for place, bars in enumerate(stacked):
        fill = f' style="fill:url(#{chart.name}-hatch)"' if place == 1 else ""
        for i, height in enumerate(bars.heights):
            if height <= 0:
                continue
            top, foot = _y(chart, feet[i] + height), _y(chart, feet[i])
            feet[i] += height
            found.append(
                f'<rect class="{_style(chart, bars)}"{fill} x="{_x(chart, i) - width / 2:.1f}" y="{top}" '
                f'width="{width:.1f}" height="{max(0.5, foot - top):.1f}"><title>{escape(bars.name)}: '
                f"{height:,.0f}</title></rect>"
            )
    return "".join(found)


def _line(chart: Chart, line: Line) -> str:
    style = _style(chart, line)
    band = ""
    if line.low:
        for part in _parts(line.x, line.low, line.high):
            edge = [f"{_x(chart, x)},{_y(chart, high)}" for x, _, high in part]
            edge += [f"{_x(chart, x)},{_y(chart, low)}" for x, low, _ in reversed(part)]
            band += f'<polygon class="band {style}" points="{" ".join(edge)}"/>'
    drawn = ""
    for part in _parts(line.x, line.y, line.y):
        if len(part) == 1:
            drawn += f'<circle class="dot {style}" cx="{_x(chart, part[0][0])}" cy="{_y(chart, part[0][1])}" r="2.5"/>'
        else:
            points = " ".join(f"{_x(chart, x)},{_y(chart, y)}" for x, y, _ in part)
            drawn += f'<polyline class="{style}" points="{points}"/>'
    return band + drawn


def _parts(x: Sequence[float], low: Sequence[Number], high: Sequence[Number]) -> list[list[tuple[float, float, float]]]:
    """Stretches without a gap."""
    parts: list[list[tuple[float, float, float]]] = [[]]
    for at, bottom, top in zip(x, low, high, strict=True):
        if bottom is None or top is None:
            parts.append([])
        else:
            parts[-1].append((at, bottom, top))
    return [part for part in parts if part]


def _sign(chart: Chart, sign: str, x: float, y: float, words: str) -> str:
    across, down = _x(chart, x), _y(chart, y)
    title = f"<title>{escape(words)}</title>"
    if sign == "ring":
        return f'<circle cx="{across}" cy="{down}" r="{MARK}">{title}</circle>'
    return (
        f'<path d="M{across - MARK:.1f} {down - MARK:.1f}l{2 * MARK} {2 * MARK}m0 {-2 * MARK}l{-2 * MARK} {2 * MARK}">'
        f"{title}</path>"
    )


def _style(chart: Chart, drawn: Line | Bars | Points | Rule) -> str:
    """`line-1`, `bars-2`, `points-1`, `rule-1`: what it is, and the how many-th of these."""
    alike = [each for each in chart.drawn if type(each) is type(drawn)]
    return f"{type(drawn).__name__.lower()}-{alike.index(drawn) + 1}"


def _key(drawn: Line | Bars | Points | Rule, style: str) -> str:
    match drawn:
        case Bars():
            sign = f'<rect class="{style}" x="1" y="2" width="16" height="10"/>'
            if style == "bars-2":
                sign += '<path class="hatched" d="M3 12 9 2M9 12l6-10"/>'
        case Points():
            sign = (
                f'<g class="{style}"><circle cx="9" cy="7" r="{MARK}"/></g>'
                if drawn.sign == "ring"
                else f'<g class="{style}"><path d="M5.5 3.5l7 7m0-7l-7 7"/></g>'
            )
        case _:
            sign = f'<line class="{style}" x1="0" x2="18" y1="7" y2="7"/>'
    return (
        f'<li><svg viewBox="0 0 18 14" width="18" height="14" aria-hidden="true">{sign}</svg>{escape(drawn.name)}</li>'
    )


def _x(chart: Chart, value: float) -> float:
    return round(LEFT + (RIGHT - LEFT) * chart.x.place(value), 1)


def _y(chart: Chart, value: float) -> float:
    return round(BOTTOM - (BOTTOM - TOP) * chart.y.place(value), 1)
