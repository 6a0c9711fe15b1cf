"""`python -m chatlab eval cache`: its arguments, the run, and where the result goes."""

import argparse
import asyncio
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from chatlab.errors import ConfigError, ModelUnavailable
from chatlab.evaluation.output import check_file, publish
from chatlab.settings import Settings, variable

if TYPE_CHECKING:
    from chatlab.evaluation.workload import Asked

# Assumed of a comparison of two answers: of different ones those it takes for the same, and the other way round.
LABEL_ERRORS = (0.02, 0.10)
EXACT_ONLY = 1.0  # the score of the same words: where no threshold can be trusted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `eval cache` takes."""
    parser.add_argument("--pairs", type=Path, help="labelled pairs of questions: a, b, label (.csv, .jsonl, or .gz)")
    parser.add_argument("--conversations", type=Path, help="labelled pairs of conversations (.jsonl or .jsonl.gz)")
    parser.add_argument("--pool", action="store_true", help="store all first sides before a second one is asked")
    parser.add_argument(
        "--stream",
        type=Path,
        help="questions in order: question, answer_key, user (.csv, .jsonl, or .gz), or a .toml workload",
    )
    parser.add_argument(
        "--max-error",
        type=float,
        action="append",
        help="share of served answers that may be wrong (CHATLAB_CACHE_MAX_ERROR); several for --stream (.02, .05, .1)",
    )
    parser.add_argument("--seeds", type=int, default=10, help="runs of the stream")
    parser.add_argument("--questions", type=int, default=3_000, help="length of a stream that is made of a workload")
    parser.add_argument("--shuffle", action="store_true", help="another order of the stream's file for each seed")
    parser.add_argument("--scope", choices=["user", "global"], default="user", help="who shares answers in the stream")
    parser.add_argument(
        "--label-errors",
        type=float,
        nargs=2,
        default=LABEL_ERRORS,
        metavar=("FALSE_SAME", "FALSE_DIFFERENT"),
        help="errors of the labels in the stream's second line (0.02 0.1)",
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
    stream: Path | None = None
    max_errors: tuple[float, ...] = ()
    seeds: int = 10
    questions: int = 3_000
    shuffle: bool = False
    scope: Literal["user", "global"] = "user"
    label_errors: tuple[float, float] = LABEL_ERRORS
    json: Path | None = None
    verifier: str | None = None
    threshold: float | None = None

    def __post_init__(self) -> None:
        labelled = self.pairs is not None or self.conversations is not None
        if not labelled and self.stream is None:
            raise ConfigError("--pairs, --conversations or --stream: one of them is needed")
        if self.pool and self.pairs is None:
            raise ConfigError("--pool: is about --pairs")
        if wrong := [each for each in self.max_errors if not 0 < each < 1]:
            raise ConfigError(f"--max-error {wrong[0]:g}: must be between 0 and 1")
        if labelled and len(self.max_errors) > 1:
            raise ConfigError("--max-error: several are for --stream alone")
        if self.seeds < 1:
            raise ConfigError(f"--seeds {self.seeds}: must be 1 or more")
        if self.questions < 2:
            raise ConfigError(f"--questions {self.questions}: must be 2 or more")
        if min(self.label_errors) < 0 or sum(self.label_errors) >= 1:
            raise ConfigError("--label-errors: must be 0 or more each, and below 1 together")
        if self.threshold is not None and not 0 < self.threshold <= 1:
            raise ConfigError(f"--threshold {self.threshold:g}: must be above 0 and at most 1")
        check_file("--json", self.json)

    @classmethod
    def of(cls, given: argparse.Namespace) -> "Options":
        """From parsed arguments."""
        same, different = given.label_errors
        return cls(
            pairs=given.pairs,
            conversations=given.conversations,
            pool=given.pool,
            stream=given.stream,
            max_errors=tuple(given.max_error or ()),
            seeds=given.seeds,
            questions=given.questions,
            shuffle=given.shuffle,
            scope=given.scope,
            label_errors=(same, different),
            json=given.json,
            verifier=given.verifier,
            threshold=given.threshold,
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
    from chatlab.cache.recalibration import Comparator
    from chatlab.cache.verifier import calibrated_for
    from chatlab.cross_encoder import CrossEncoderVerifier
    from chatlab.embedding import Embedder
    from chatlab.evaluation.cache import evaluate_conversations, evaluate_pairs
    from chatlab.evaluation.readers.pairs import read_conversations, read_pairs
    from chatlab.evaluation.stream_study import BOUNDS, study

    pairs = None if options.pairs is None else read_pairs(options.pairs)
    conversations = None if options.conversations is None else read_conversations(options.conversations)
    streams = None if options.stream is None else streams_of(options)
    max_error = options.max_errors[0] if options.max_errors else settings.cache_max_error
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
        if streams is not None:
            bounds, labels = options.max_errors or BOUNDS, Comparator(*options.label_errors)
            result["streams"] = (await study(streams, embedder, options.scope, bounds, labels)).as_json()
    except ModelUnavailable as error:
        raise ConfigError(str(error)) from error
    finally:
        embedder.close()
        if verifier is not None:
            verifier.close()
    return result


def streams_of(options: Options) -> "list[list[Asked]]":
    """A stream a seed: of a workload one made anew, of a file the same questions.

    Raises:
        ConfigError: The file cannot be used.
    """
    from chatlab.evaluation.readers.streams import read_stream
    from chatlab.evaluation.workload import make_stream, read_words

    assert options.stream is not None
    if options.stream.suffix == ".toml":
        words = read_words(options.stream)
        return [make_stream(words, seed, options.questions) for seed in range(options.seeds)]
    stream = read_stream(options.stream)
    if len(stream) < 2:
        raise ConfigError(f"--stream {options.stream}: needs two questions or more")
    if not options.shuffle:
        return [stream] * options.seeds
    return [random.Random(seed).sample(stream, len(stream)) for seed in range(options.seeds)]


def table(result: Mapping[str, Any]) -> str:
    """The figures of a result as aligned lines."""
    from chatlab.evaluation.report import aligned
    from chatlab.evaluation.stream_study import table_of

    parts = [result[name] for name in ("pairs", "conversations") if name in result]
    lines = _pairs_table(result) if parts else []
    if "streams" in result:
        streams = result["streams"]
        lines += [*aligned(table_of(streams)), *streams["left_out"]]
        lines.append(f"{streams['n']} questions, {streams['seeds']} seeds, scope {streams['scope']}")
    return "\n".join(lines)


def _pairs_table(result: Mapping[str, Any]) -> list[str]:
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
    return [*aligned(rows), served, *pooled]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
