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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `eval cache` takes."""
    parser.add_argument("--pairs", type=Path, help="labelled pairs of questions: a, b, label (.csv, .jsonl, or .gz)")
    parser.add_argument("--conversations", type=Path, help="labelled pairs of conversations (.jsonl or .jsonl.gz)")
    parser.add_argument("--pool", action="store_true", help="store all first sides before a second one is asked")
    parser.add_argument(
        "--max-error", type=float, help="share of served answers that may be wrong (CHATLAB_CACHE_MAX_ERROR)"
    )
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

    def __post_init__(self) -> None:
        if self.pairs is None and self.conversations is None:
            raise ConfigError("--pairs or --conversations: one of them is needed")
        if self.pool and self.pairs is None:
            raise ConfigError("--pool: is about --pairs")
        if self.max_error is not None and not 0 < self.max_error < 1:
            raise ConfigError(f"--max-error {self.max_error:g}: must be between 0 and 1")
        check_file("--json", self.json)

    @classmethod
    def of(cls, given: argparse.Namespace) -> "Options":
        """From parsed arguments."""
        return cls(given.pairs, given.conversations, given.pool, given.max_error, given.json)


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
    from chatlab.embedding import Embedder
    from chatlab.evaluation.cache import evaluate_conversations, evaluate_pairs
    from chatlab.evaluation.readers.pairs import read_conversations, read_pairs

    pairs = None if options.pairs is None else read_pairs(options.pairs)
    conversations = None if options.conversations is None else read_conversations(options.conversations)
    max_error = settings.cache_max_error if options.max_error is None else options.max_error
    threshold = shipped().threshold(max_error)
    embedder = Embedder(settings.embedder)
    if not calibrated_for(embedder.name):
        raise ConfigError(f"{variable('embedder')}={embedder.name!r}: the cache is calibrated for all-MiniLM-L6-v2")
    result: dict[str, Any] = {"max_error": max_error, "embedder": embedder.name, "pool": options.pool}
    try:
        if pairs is not None:
            result["pairs"] = (await evaluate_pairs(pairs, embedder, threshold, options.pool)).as_json()
        if conversations is not None:
            result["conversations"] = (await evaluate_conversations(conversations, embedder, threshold)).as_json()
    except ModelUnavailable as error:
        raise ConfigError(str(error)) from error
    finally:
        embedder.close()
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
    served = f"served from a score of {parts[0]['threshold']:.3f} on: at most {result['max_error']:g} of it wrong"
    pooled = [f"right {result['pairs']['right']}, wrong {result['pairs']['wrong']}"] if result["pool"] else []
    return "\n".join([*aligned(rows), served, *pooled])


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
