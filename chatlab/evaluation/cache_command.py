"""`python -m chatlab eval cache`: its arguments, the run, and where the result goes."""

import argparse
import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatlab.errors import ConfigError, ModelUnavailable
from chatlab.evaluation.output import check_file, publish
from chatlab.settings import Settings, variable

EXACT_ONLY = 1.0  # the score of the same words: where no threshold can be trusted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `eval cache` takes."""
    parser.add_argument("--pairs", type=Path, help="labelled pairs of questions: a, b, label (.csv, .jsonl, or .gz)")
    parser.add_argument("--conversations", type=Path, help="labelled pairs of conversations (.jsonl or .jsonl.gz)")
    parser.add_argument("--pool", action="store_true", help="store all first sides before a second one is asked")
    parser.add_argument(
        "--max-error", type=float, help="share of served answers that may be wrong (CHATLAB_CACHE_MAX_ERROR)"
    )
    parser.add_argument(
        "--verifier", help="a cross-encoder instead of the shipped verifier, Hub id or folder (CHATLAB_CACHE_VERIFIER)"
    )
    parser.add_argument("--threshold", type=float, help="least score that is served, instead of the calibrated one")
    parser.add_argument("--json", type=Path, help="write the result here, too")
    parser.add_argument("--data-dir", type=Path, help="folder of everything stored (CHATLAB_DATA_DIR)")


@dataclass(frozen=True, slots=True)
class Options:
    """The arguments, checked.

    Raises:
        ConfigError: One cannot be used; names it.
    """

    pairs: Path | None = None
    conversations: Path | None = None
    pool: bool = False
    max_error: float | None = None
    json: Path | None = None
    verifier: str | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.pairs is None and self.conversations is None:
            raise ConfigError("--pairs or --conversations: one of them is needed")
        if self.pool and self.pairs is None:
            raise ConfigError("--pool: is about --pairs")
        if self.max_error is not None and not 0 < self.max_error < 1:
            raise ConfigError(f"--max-error {self.max_error:g}: must be between 0 and 1")
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise ConfigError(f"--threshold {self.threshold:g}: must be above 0 and at most 1")
        check_file("--json", self.json)

    @classmethod
    def of(cls, given: argparse.Namespace) -> "Options":
        """From parsed arguments."""
        return cls(
            given.pairs, given.conversations, given.pool, given.max_error, given.json, given.verifier, given.threshold
        )


def run(given: argparse.Namespace, settings: Settings) -> None:
    """Measure, print the table, write the result where it was asked for.

    Raises:
        ConfigError: An argument, the data or the embedder cannot be used.
    """
    options = Options.of(given)
    result = asyncio.run(measure(options, settings))
    publish(result, table(result), options.json)


async def measure(options: Options, settings: Settings) -> dict[str, Any]:
    """The result in the documented shape.

    Args:
        options: What and how.
        settings: Whose embedder and bound.

    Raises:
        ConfigError: The data or the embedder cannot be used.
    """
    from chatlab.cache.bound import shipped
    from chatlab.cache.verifier import calibrated_for
    from chatlab.cross_encoder import CrossEncoderVerifier
    from chatlab.embedding import Embedder
    from chatlab.evaluation.cache import evaluate_conversations, evaluate_pairs
    from chatlab.evaluation.readers.pairs import read_conversations, read_pairs

    pairs = None if options.pairs is None else read_pairs(options.pairs)
    conversations = None if options.conversations is None else read_conversations(options.conversations)
    max_error = settings.cache_max_error if options.max_error is None else options.max_error
    location = settings.cache_verifier if options.verifier is None else options.verifier
    verifier = CrossEncoderVerifier(location) if location else None
    threshold = shipped().threshold(max_error) if verifier is None or verifier.calibrated else EXACT_ONLY
    threshold_from = "calibration" if verifier is None or verifier.calibrated else "closed"
    if options.threshold is not None:
        threshold, threshold_from = options.threshold, "argument"
    embedder = Embedder(settings.embedder)
    if not calibrated_for(embedder.name):
        raise ConfigError(f"{variable('embedder')}={embedder.name!r}: the cache is calibrated for all-MiniLM-L6-v2")
    result: dict[str, Any] = {
        "max_error": max_error,
        "embedder": embedder.name,
        "pool": options.pool,
        "verifier": location,
        "threshold_from": threshold_from,
    }
    try:
        if pairs is not None:
            result["pairs"] = (await evaluate_pairs(pairs, embedder, threshold, options.pool, verifier)).as_json()
        if conversations is not None:
            result["conversations"] = (
                await evaluate_conversations(conversations, embedder, threshold, verifier)
            ).as_json()
    except ModelUnavailable as error:
        raise ConfigError(str(error)) from error
    finally:
        embedder.close()
        if verifier is not None:
            verifier.close()
    return result


def table(result: Mapping[str, Any]) -> str:
    """The figures of a result as aligned lines."""
    from chatlab.evaluation.report import aligned

    rows = [["", "n", "repeats served", "others served", "precision", "p50 ms", "p95 ms"]]
    for name in ("pairs", "conversations"):
        if (part := result.get(name)) is None:
            continue
        latency = part["latency_ms"]
        rows.append(
            [
                name,
                str(part["n"]),
                _share(part["hit_rate"]),
                _share(part["false_hit_rate"]),
                _share(part["precision"]),
                f"{latency['p50']:.1f}",
                f"{latency['p95']:.1f}",
            ]
        )
        rows += [
            [f"  {category}", str(each["n"]), _share(each["hit_rate"]), _share(each["false_hit_rate"]), "", "", ""]
            for category, each in part["by_category"].items()
        ]
    parts = [result[name] for name in ("pairs", "conversations") if name in result]
    served = f"served from a score of {parts[0]['threshold']:.3f} on"
    if result["threshold_from"] == "calibration":
        served += f": at most {result['max_error']:g} of it wrong"
    elif result["threshold_from"] == "closed":
        served += ", the same words only: this verifier is not calibrated (try --threshold)"
    pooled = [f"right {result['pairs']['right']}, wrong {result['pairs']['wrong']}"] if result["pool"] else []
    return "\n".join([*aligned(rows), served, *pooled])


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
