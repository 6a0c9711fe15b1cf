"""The plots of the page Cache."""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date

import numpy as np

from chatlab.cache.bound import CLOSED, shipped
from chatlab.cache.curve import Calibrated
from chatlab.cache.statistics import Day, share_of
from chatlab.ui.charts import Axis, Bars, Chart, Line, Points, Rule, counts, percent, places, shares

GUARDS_SHOWN = 8
LABEL_BINS = 40
HIGHEST_RISK = 0.5  # that is drawn; what is above is of no use


def traffic_chart(days: Sequence[date], known: Sequence[Day]) -> Chart:
    """Lookups a day, and those that were served."""
    by_day = {each.day: each for each in known}
    hits = [by_day[day].hits if day in by_day else 0 for day in days]
    misses = [by_day[day].lookups - by_day[day].hits if day in by_day else 0 for day in days]
    most = max(a + b for a, b in zip(hits, misses, strict=True))
    rows = [
        ("Day (UTC)", "Hits", "Misses"),
        *((day.isoformat(), f"{a:,}", f"{b:,}") for day, a, b in zip(days, hits, misses, strict=True)),
    ]
    about = f"Bars a day over {len(days)} days: hits and misses; at most {most:,} lookups on one day."
    drawn = [Bars("Hits", hits), Bars("Misses", misses)]
    return Chart("lookups", "Lookups a day", about, places(days), counts(most, least=4), drawn, rows)


def error_chart(days: Sequence[date], known: Sequence[Day]) -> Chart:
    """Of what was served by meaning and audited, the share that was wrong, with its interval."""
    by_day = {each.day: each.wrong for each in known if each.wrong.value is not None}
    wrong = [by_day.get(day) for day in days]
    x = [*range(len(days))]
    line = Line("Wrong", x, *([getattr(each, name, None) for each in wrong] for name in ("value", "low", "high")))
    rows = [("Day (UTC)", "Wrong", "95 % interval", "Audited")]
    rows += [
        (day.isoformat(), percent(of.value), f"{percent(of.low)} to {percent(of.high)}", f"{of.n:.0f}")
        for day, of in zip(days, wrong, strict=True)
        if of is not None and of.value is not None
    ]
    note = (
        "Of answers served by meaning, a share is computed anew and compared; the band is the 95 % interval."
        if by_day
        else "No answer served by meaning was audited yet: a share of them is, by chance, as they are served."
    )
    about = f"The share of wrong answers among those audited, a day, on {len(by_day)} of {len(days)} days."
    return Chart("error", "Error over time", about, places(days), shares(), [line], rows, note=note)


def refusals_chart(refused: Mapping[str, int]) -> Chart:
    """Lookups whose nearest entry a guard refused, by the guard."""
    found = Counter(refused).most_common(GUARDS_SHOWN)
    n = sum(refused.values())
    most = max(refused.values(), default=0)
    x = Axis(-0.5, max(len(found), 1) - 0.5, [(i, _short_name(name)) for i, (name, _) in enumerate(found)])
    rows = [("Guard", "Refused"), *((name, f"{k:,}") for name, k in Counter(refused).most_common())]
    about = f"{n:,} lookups in which a guard refused the nearest stored question" + (
        f": {', '.join(f'{name} {k:,}' for name, k in found)}." if found else "."
    )
    note = (
        "A guard refuses a question that is near but differs in what matters."
        if n
        else "No guard refused anything: none of the questions was near another and differed in what matters."
    )
    bars = [Bars("Refused", [k for _, k in found])]
    return Chart("refusals", "Refusals by guard", about, x, counts(most, least=4), bars, rows, note=note)


def _short_name(name: str) -> str:
    return name if len(name) <= 9 else f"{name[:8]}…"


def calibration_chart(known: Calibrated) -> Chart:
    """Of what each threshold would serve, how much is wrong: by the labels, and by the shipped calibration."""
    curve, before = known.curve, shipped()
    n, k = curve.served * curve.worth, curve.wrong * curve.worth
    risks = [share_of(float(wrong), float(served)) for wrong, served in zip(k, n, strict=True)]
    high = max(HIGHEST_RISK, 2 * known.max_error)
    y = shares(high)
    labels = Line(
        "Wrong, by your server's labels",
        curve.thresholds.tolist(),
        [each.value for each in risks],
        [each.low if each.value is not None else None for each in risks],
        [each.high if each.value is not None else None for each in risks],
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        assumed = np.where(before.served > 0, before.wrong / before.served, np.nan)
    came_with = Line(
        "As shipped", before.thresholds.tolist(), [None if np.isnan(each) else float(each) for each in assumed]
    )
    bound = Rule(f"Promised: at most {percent(known.max_error)}", "y", known.max_error)
    drawn: list[Line | Bars | Points | Rule] = [labels, came_with, bound]
    closed = known.threshold >= CLOSED
    if not closed:
        drawn.append(Rule(f"Today's threshold, {known.threshold:.2f}", "x", known.threshold))
    drawn += _points(known, y.high)
    rows = [("Threshold", "Would be served", "Of these wrong", "95 % interval")]
    rows += [
        (
            f"{at:.2f}",
            f"{served:.0f}",
            percent(risk.value) if risk.value is not None else "–",
            f"{percent(risk.low)} to {percent(risk.high)}",
        )
        for at, served, risk in [*zip(curve.thresholds.tolist(), curve.served.tolist(), risks, strict=True)][3::5]
    ]
    today = (
        "No threshold keeps the promise by what is known, so only the same words are served."
        if closed
        else f"From a score of {known.threshold:.2f} on, a stored answer to other words is served."
    )
    about = (
        "Share of wrong answers among those served, by the least score that is served, from "
        f"{known.n_labels:,} labels, with its 95 % interval, beside the shipped calibration. {today}"
    )
    note = (
        f"{today} The threshold rests on {known.n_labels:,} label{'s' * (known.n_labels != 1)} of all users of this "
        "server, without their words, and on the shipped calibration."
    )
    x = Axis(0.0, 1.0, [(each / 5, f"{each / 5:.1f}") for each in range(6)])
    return Chart(
        "calibration-plot", "Calibration", about, x, y, drawn, rows, x_title="least score that is served", note=note
    )


def _points(known: Calibrated, top: float) -> list[Points]:
    """Labels where their scores are: right ones along the foot, wrong ones along the top; alike ones together."""
    drawn: list[Points] = []
    for name, sign, same, y in (("Label: right", "ring", True, 0.0), ("Label: wrong", "cross", False, top)):
        bins = Counter(min(int(each.score * LABEL_BINS), LABEL_BINS - 1) for each in known.labels if each.same == same)
        at = [
            ((i + 0.5) / LABEL_BINS, y, f"{n:,} at a score of about {(i + 0.5) / LABEL_BINS:.2f}")
            for i, n in sorted(bins.items())
        ]
        if at:
            drawn.append(Points(name, sign, at))
    return drawn
