"""`python -m chatlab calibrate`: which threshold labels allow, of a labelled file, a data dir, or a running server."""

import argparse
import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatlab.errors import ConfigError, DataDirHeld, ModelUnavailable
from chatlab.evaluation.output import check_file, publish
from chatlab.settings import Settings, variable

if TYPE_CHECKING:
    from chatlab.cache.curve import Curve

ROWS = 12  # of the table
BAR_CHARS = 24
SECONDS = 30.0  # that a server may take


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `calibrate` takes."""
    parser.add_argument("--pairs", type=Path, help="labelled pairs of questions: a, b, label (.csv, .jsonl, or .gz)")
    parser.add_argument("--url", help="a running server, like http://127.0.0.1:7860: its labels")
    parser.add_argument(
        "--max-error", type=float, help="share of served answers that may be wrong (CHATLAB_CACHE_MAX_ERROR)"
    )
    parser.add_argument("--plot", type=Path, help="draw the curve here (.svg, .png, .pdf); needs matplotlib")
    parser.add_argument("--json", type=Path, help="write the result here, too")
    parser.add_argument("--data-dir", type=Path, help="the log to read, where neither is given (CHATLAB_DATA_DIR)")


@dataclass(frozen=True, slots=True)
class Options:
    """The arguments, checked.

    Raises:
        ConfigError: One cannot be used; names it.
    """

    pairs: Path | None = None
    url: str | None = None
    max_error: float | None = None
    plot: Path | None = None
    json: Path | None = None

    def __post_init__(self) -> None:
        if self.pairs is not None and self.url is not None:
            raise ConfigError("--pairs and --url: only one of them can be given")
        if self.max_error is not None and not 0 < self.max_error < 1:
            raise ConfigError(f"--max-error {self.max_error:g}: must be between 0 and 1")
        check_file("--json", self.json)
        check_file("--plot", self.plot)
        if self.plot is not None and self.plot.suffix not in (".svg", ".png", ".pdf"):
            raise ConfigError(f"--plot {self.plot}: must end in .svg, .png or .pdf")

    @classmethod
    def of(cls, given: argparse.Namespace) -> "Options":
        """From parsed arguments."""
        return cls(**{each.name: getattr(given, each.name) for each in fields(cls)})


def run(given: argparse.Namespace, settings: Settings) -> None:
    """Read the labels, print what they allow, write and draw it where it was asked for.

    Raises:
        ConfigError: An argument, the labels, the server or the embedder cannot be used.
    """
    options = Options.of(given)
    figure = _figure() if options.plot is not None else None
    max_error = settings.cache_max_error if options.max_error is None else options.max_error
    if options.pairs is not None:
        source, curve, in_force = str(options.pairs), asyncio.run(_of_pairs(options.pairs, settings)), None
    elif options.url is not None:
        source, (curve, in_force) = options.url, _of_server(options.url)
    else:
        source, (curve, in_force) = str(settings.data_dir), asyncio.run(_of_data_dir(settings, max_error))
    found = {"source": source, **result(curve, max_error, in_force)}
    publish(found, table(found), options.json)
    if figure is not None and options.plot is not None:
        _draw(figure, found, options.plot)


def result(curve: "Curve", max_error: float, in_force: float | None = None) -> dict[str, Any]:
    """The threshold with its interval, and the curve.

    Args:
        curve: What the labels say.
        max_error: Share of served answers that may be wrong.
        in_force: The threshold that the cache itself uses; it also knows the shipped calibration.
    """
    from chatlab.cache.statistics import share_of

    low, high = curve.interval(max_error)
    points = [
        {
            "threshold": round(float(threshold), 2),
            "served": served / curve.lookups if curve.lookups else 0.0,
            "wrong": (share := share_of(wrong * curve.worth, served * curve.worth)).value,
            "wrong_low": share.low,
            "wrong_high": share.high,
        }
        for threshold, served, wrong in zip(
            curve.thresholds.tolist(), curve.served.tolist(), curve.wrong.tolist(), strict=True
        )
    ]
    return {
        "max_error": max_error,
        "labels": curve.lookups,
        "threshold": _open(curve.threshold(max_error)),
        "threshold_interval": [_open(low), _open(high)],
        "live": in_force is not None,
        "in_force": None if in_force is None else _open(in_force),
        "curve": points,
    }


def _open(threshold: float) -> float | None:
    """None where no threshold keeps the bound."""
    return None if threshold > 1 else round(threshold, 4)


async def _of_pairs(file: Path, settings: Settings) -> "Curve":
    from chatlab.cache.curve import curve_of
    from chatlab.cache.recalibration import Label
    from chatlab.cache.verifier import calibrated_for
    from chatlab.embedding import Embedder
    from chatlab.evaluation.cache import evaluate_pairs
    from chatlab.evaluation.readers.pairs import read_pairs

    pairs = read_pairs(file)
    embedder = Embedder(settings.embedder)
    if not calibrated_for(embedder.name):
        raise ConfigError(f"{variable('embedder')}={embedder.name!r}: the verifier's scores are of all-MiniLM-L6-v2")
    try:
        outcome = await evaluate_pairs(pairs, embedder, threshold=1.0)
    except ModelUnavailable as error:
        raise ConfigError(str(error)) from error
    finally:
        embedder.close()
    return curve_of([Label(item.score, bool(item.label)) for item in outcome.items])


def _of_server(url: str) -> "tuple[Curve, float]":
    import httpx2
    import numpy as np

    from chatlab.cache.curve import Curve

    try:
        answer = httpx2.get(f"{url.rstrip('/')}/cache/calibration", timeout=SECONDS).raise_for_status()
        found: dict[str, Any] = json.loads(answer.text)
        thresholds, served, wrong = (np.array(found[name]) for name in ("thresholds", "served", "wrong"))
        curve = Curve(thresholds, served, wrong, found["lookups"], found["worth"])
        return curve, float(found["threshold"])
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, KeyError) as error:
        raise ConfigError(f"--url {url}: no chatlab answers there: {error or repr(error)}") from error


async def _of_data_dir(settings: Settings, max_error: float) -> "tuple[Curve, float]":
    from chatlab.cache.comparator import shipped
    from chatlab.cache.curve import curve_of_log
    from chatlab.cache.labels import REMEMBERED, known_from
    from chatlab.cache.verifier import NAME
    from chatlab.store import Store

    if not settings.data_dir.is_dir():
        raise ConfigError(f"{variable('data_dir')}={settings.data_dir}: there is nothing stored there")
    try:
        with Store(settings.data_dir) as store:
            lookups = await store.answers.latest(REMEMBERED, settings.cache_verifier or NAME)
    except DataDirHeld as error:
        raise ConfigError(f"{error} Or ask the server that runs on it: --url http://127.0.0.1:7860") from error
    return curve_of_log(lookups, shipped()), known_from(lookups, max_error, not settings.cache_verifier).threshold


def table(found: Mapping[str, Any]) -> str:
    """The curve and the threshold as lines."""
    from chatlab.evaluation.report import aligned

    points = found["curve"]
    rows = [["threshold", "served", "wrong of it", "95 % interval", ""]]
    for point in points[:: max(1, len(points) // ROWS)]:
        known = point["wrong"] is not None
        bar = "█" * round(BAR_CHARS * point["served"])
        interval = f"{point['wrong_low']:.3f} - {point['wrong_high']:.3f}" if known else ""
        wrong = f"{point['wrong']:.3f}" if known else "-"
        rows.append([f"{point['threshold']:.2f}", f"{point['served']:.3f}", wrong, interval, bar])
    low, high = found["threshold_interval"]
    lines = [
        f"{found['source']}: {found['labels']:g} lookups with a label or a guard's refusal",
        *aligned(rows),
        f"at most {found['max_error']:g} wrong of what is served: from {_said(found['threshold'])} "
        f"(95 %: {_said(low)} to {_said(high)})",
    ]
    if found["live"]:
        lines.append(f"in force, with the shipped calibration: {_said(found['in_force'])}")
    return "\n".join(lines)


def _said(threshold: float | None) -> str:
    return "none" if threshold is None else f"{threshold:.2f}"


def _figure() -> Any:
    """An empty figure.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ConfigError("--plot: needs matplotlib: pip install matplotlib") from error
    return Figure(figsize=(7, 4.2), layout="constrained")


def _draw(figure: Any, found: Mapping[str, Any], file: Path) -> None:
    known = [point for point in found["curve"] if point["wrong"] is not None]
    at = [point["threshold"] for point in known]
    axes = figure.subplots()
    axes.plot(at, [point["served"] for point in known], label="served", color="#0f766e")
    axes.plot(at, [point["wrong"] for point in known], label="wrong of what is served", color="#b42318")
    axes.fill_between(
        at,
        [point["wrong_low"] for point in known],
        [point["wrong_high"] for point in known],
        color="#b42318",
        alpha=0.2,
    )
    axes.axhline(found["max_error"], color="#63676d", linestyle=":", label="bound")
    if found["threshold"] is not None:
        axes.axvline(found["threshold"], color="#1d1f21", linestyle="--", label="threshold")
    axes.set(xlabel="least score that is served", ylabel="share", xlim=(0, 1), ylim=(0, 1), title=found["source"])
    axes.legend(frameon=False)
    try:
        figure.savefig(file)
    except OSError as error:
        raise ConfigError(f"--plot {file}: cannot be written: {error.strerror}") from error
