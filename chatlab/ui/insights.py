"""The page Insights: a person's traffic, waiting times, tokens, cache and feedback by day, as plots with tables."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from html import escape
from typing import Any

import gradio as gr

from chatlab.cache.statistics import Share, share_of
from chatlab.clock import last_days
from chatlab.store.insights import Figures, InsightRows, Insights, Property
from chatlab.ui.charts import (
    Bars,
    Chart,
    Line,
    chart_html,
    counts,
    milliseconds,
    percent,
    places,
    shares,
    short,
    table_html,
)
from chatlab.ui.frame import ZONE, Frame, empty_html, figures_html, or_said, part, zone_from
from chatlab.ui.identity import Identities, Kept
from chatlab.ui.refusal import Refused

RANGES = (7, 30, 90)  # days
NAMES: Mapping[str, Mapping[str, str]] = {"source": {"model": "Model", "cache": "Answer cache"}}
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
NONE = "–"


class InsightsPage:
    """Built inside the page's route."""

    def __init__(self, ui: gr.Blocks, identities: Identities, rows: InsightRows, now: Callable[[], datetime]) -> None:
        self._rows = rows
        self._now = now
        self._frame = frame = Frame(
            identities, "insights", "Your own chats, summed up by day. Nothing leaves this server."
        )
        with gr.Column(elem_classes="tab"):
            days = gr.Radio([(f"{n} days", n) for n in RANGES], value=30, label="Range", elem_id="range")
            shown = part("insights")
        ui.load(self._load, [frame.kept, days, frame.zone], [frame.kept, shown], js=_with_zone, **QUIET)
        days.input(self._load, [frame.kept, days, frame.zone], [frame.kept, shown], js=_with_zone, **QUIET)

    async def _load(self, kept: Kept, days: object, zone: object) -> tuple[Kept, str]:
        kept, user_id = self._frame.identify(kept)
        return kept, await or_said(self.html(user_id, days, zone_from(zone)))

    async def html(self, user_id: str, days: object, zone: int) -> str:
        """The plots of the last days.

        Raises:
            Refused: `days` is not one of the ranges.
        """
        if days not in RANGES:
            raise Refused(f"Range: choose one of {', '.join(map(str, RANGES))} days.")
        begin, wanted = last_days(self._now(), int(str(days)), zone)
        return insights_html(await self._rows.since(user_id, begin, zone), wanted)


_with_zone = f"(kept, days) => [kept, days, String({ZONE})]"


def insights_html(known: Insights, days: Sequence[date]) -> str:
    """Figures and plots of these days, those without an answer too."""
    if not known.total.answers:
        return empty_html(
            f"No answers in the last {len(days)} days",
            "Traffic, waiting times, tokens and feedback show here once you have asked something. "
            '<a class="pages" href="./">Start a chat</a>, or choose a longer range.',
        )
    of_days = [known.days.get(day) for day in days]
    charts = (
        _traffic(days, of_days), _waiting(days, of_days, "first"), _waiting(days, of_days, "total"),
        _hits(days, of_days), _tokens(days, of_days), _feedback(days, of_days),
    )  # fmt: skip
    return f'{_total(known.total)}<div class="charts">{"".join(map(chart_html, charts))}{_kinds(known)}</div>'


def _total(total: Figures) -> str:
    rate = share_of(total.hits, total.lookups)
    first, whole = total.first_ms, total.total_ms
    return figures_html(
        [
            ("Answers", f"{total.answers:,}", _troubles(total)),
            (
                "First token, median",
                milliseconds(first.p50) if first else NONE,
                f"95 % within {milliseconds(first.p95)}" if first else "no times yet",
            ),
            (
                "Whole answer, median",
                milliseconds(whole.p50) if whole else NONE,
                f"95 % within {milliseconds(whole.p95)}" if whole else "no times yet",
            ),
            ("From the cache", share(rate), between(rate) if rate.value is not None else "the cache was not asked"),
            ("Tokens", short(total.tokens_in + total.tokens_out), f"{short(total.tokens_saved)} saved by the cache"),
            ("Thumbs", f"{total.up:,} / {total.down:,}", _rated(total)),
        ]
    )


def _troubles(total: Figures) -> str:
    return f"{total.failed:,} failed, {total.stopped:,} stopped" if total.failed or total.stopped else "none failed"


def _rated(total: Figures) -> str:
    return f"up / down; {percent((total.up + total.down) / total.answers)} of answers rated"


def share(known: Share) -> str:
    """A share in percent."""
    return NONE if known.value is None else percent(known.value)


def between(known: Share) -> str:
    """Its interval."""
    return f"{percent(known.low)} to {percent(known.high)}, 95 % interval of {max(known.n, 1):,.0f}"


def _traffic(days: Sequence[date], known: Sequence[Figures | None]) -> Chart:
    answers = [0 if each is None else each.answers for each in known]
    cache = [0 if each is None else each.hits for each in known]
    cut = [0 if each is None else each.failed + each.stopped for each in known]
    model = [max(0, n - b - c) for n, b, c in zip(answers, cache, cut, strict=True)]
    most = max(answers)
    rows = [("Day", "Answers", "From the cache", "Failed", "Stopped")]
    rows += [
        (day.isoformat(), f"{n:,}", f"{b:,}", *_two(each, lambda of: (of.failed, of.stopped)))
        for day, n, b, each in zip(days, answers, cache, known, strict=True)
    ]
    about = f"Bars a day over {len(days)} days; at most {most:,} answers on one day."
    drawn = [Bars("By a model", model), Bars("From the cache", cache), Bars("Failed or stopped", cut)]
    return Chart("traffic", "Answers a day", about, places(days), counts(most, least=4), drawn, rows)


def _waiting(days: Sequence[date], known: Sequence[Figures | None], what: str) -> Chart:
    times = [each and (each.first_ms if what == "first" else each.total_ms) for each in known]
    p50, p95 = [each and each.p50 for each in times], [each and each.p95 for each in times]
    most = max((each for each in p95 if each is not None), default=0.0)
    title = "Time to the first token" if what == "first" else "Time to the whole answer"
    rows = [("Day", "Median", "95th percentile")]
    rows += [
        (day.isoformat(), *((milliseconds(of.p50), milliseconds(of.p95)) if of else (NONE, NONE)))
        for day, of in zip(days, times, strict=True)
    ]
    x = [*range(len(days))]
    about = f"Median and 95th percentile a day; the slowest day's 95th percentile is {milliseconds(most)}."
    drawn = [Line("Median", x, p50), Line("95 % within", x, p95)]
    return Chart(f"{what}-wait", title, about, places(days), counts(most, milliseconds), drawn, rows)


def _hits(days: Sequence[date], known: Sequence[Figures | None]) -> Chart:
    rates = [share_of(each.hits, each.lookups) if each and each.lookups else None for each in known]
    x = [*range(len(days))]
    line = Line("Served", x, *([getattr(each, name, None) for each in rates] for name in ("value", "low", "high")))
    rows = [("Day", "Served", "Of lookups", "95 % interval")]
    rows += [
        (day.isoformat(), share(of), f"{of.n:,.0f}", f"{percent(of.low)} to {percent(of.high)}") if of
        else (day.isoformat(), NONE, "0", NONE)
        for day, of in zip(days, rates, strict=True)
    ]  # fmt: skip
    return Chart(
        "hit-rate",
        "Share answered from the cache",
        "Of the questions for which the cache was asked, those it answered, a day, with the 95 % interval as a band.",
        places(days),
        shares(),
        [line],
        rows,
        note="The band is the 95 % interval (Wilson).",
    )


def _tokens(days: Sequence[date], known: Sequence[Figures | None]) -> Chart:
    names = ("Prompts", "Answers", "Saved by the cache")
    values = [(0, 0, 0) if each is None else (each.tokens_in, each.tokens_out, each.tokens_saved) for each in known]
    bars = [Bars(name, [of[i] for of in values]) for i, name in enumerate(names)]
    most = max(map(sum, values))
    rows = [("Day", *names)]
    rows += [(day.isoformat(), *(f"{each:,}" for each in of)) for day, of in zip(days, values, strict=True)]
    about = f"Tokens a day: of prompts, of answers, and those a stored answer saved; at most {short(most)} on one day."
    return Chart("tokens", "Tokens a day", about, places(days), counts(most, short, least=4), bars, rows)


def _feedback(days: Sequence[date], known: Sequence[Figures | None]) -> Chart:
    values = [(0, 0) if each is None else (each.up, each.down) for each in known]
    bars = [Bars(name, [of[i] for of in values]) for i, name in enumerate(("Thumbs up", "Thumbs down"))]
    n = sum(map(sum, values))
    rows = [("Day", "Up", "Down")]
    rows += [(day.isoformat(), f"{up:,}", f"{down:,}") for day, (up, down) in zip(days, values, strict=True)]
    note = "" if n else "Rate an answer with the thumbs under it, and it counts here."
    about = f"Thumbs a day, up and down; {n:,} in all."
    most = max(map(sum, values))
    return Chart("feedback", "Feedback a day", about, places(days), counts(most, least=4), bars, rows, note=note)


def _kinds(known: Insights) -> str:
    """What answered: sources, models, strategies, as shares that add up."""
    parts: list[str] = []
    rows: list[tuple[str, ...]] = [("", "Answers", "Share")]
    properties: Sequence[tuple[str, Property]] = (
        ("Sources", "source"),
        ("Models", "model"),
        ("History strategies", "strategy"),
    )
    for title, name in properties:
        found = known.by(name)
        n = sum(found.values()) or 1
        names = {each: NAMES.get(name, {}).get(each, each) for each in found}
        rows += [(names[each], f"{k:,}", percent(k / n)) for each, k in found.items()]
        items = "".join(
            f'<li><span class="name">{escape(names[each])}</span><span class="meter" aria-hidden="true">'
            f'<i style="width:{100 * k / n:.1f}%"></i></span><span class="value">{percent(k / n)}</span></li>'
            for each, k in found.items()
        )
        parts.append(f"<h4>{title}</h4><ul>{items or '<li>none yet</li>'}</ul>")
    return (
        f'<figure class="chart kinds" id="kinds"><figcaption><h3>What answered</h3></figcaption>{"".join(parts)}'
        f"{table_html(rows)}</figure>"
    )


def _two(known: Figures | None, of: Callable[[Figures], tuple[int, int]]) -> tuple[str, str]:
    first, second = (0, 0) if known is None else of(known)
    return f"{first:,}", f"{second:,}"
