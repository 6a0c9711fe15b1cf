"""`python -m chatlab eval history`: its arguments, the run, and where the result goes."""

import argparse
import asyncio
import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import structlog

from chatlab.errors import ConfigError
from chatlab.evaluation.output import check_file, publish
from chatlab.settings import Settings

RECALLING = "hybrid"  # the strategy that searches
DEFAULT_BUDGETS = (512, 1_024, 2_048, 4_096)

log = structlog.get_logger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `eval history` takes."""
    parser.add_argument("--data", type=Path, required=True, help="file or folder of conversations")
    parser.add_argument(
        "--strategies", default="truncate,hybrid,bm25", help="names with commas between; bm25 is a peer"
    )
    parser.add_argument("--budget", type=int, action="append", help="tokens of a prompt; may be given several times")
    parser.add_argument("--dump", type=Path, help="write each prompt as sent here, a JSON line each")
    parser.add_argument("--json", type=Path, help="write the result here, too")
    parser.add_argument("--max-turns", type=int, help="replay no more turns of a conversation than these")
    parser.add_argument("--rank", type=int, default=0, help="questions whose gold answer the model ranks among ten")
    parser.add_argument("--perplexity", type=int, default=0, help="turns whose true answer the model scores")
    parser.add_argument(
        "--history-alone",
        action="store_true",
        help="with --perplexity: budgets are of the history, beside the question",
    )
    parser.add_argument("--seed", type=int, default=0, help="of draws and intervals")
    parser.add_argument("--data-dir", type=Path, help="folder of everything stored (CHATLAB_DATA_DIR)")


@dataclass(frozen=True, slots=True)
class Options:
    """The arguments, checked.

    Raises:
        ConfigError: One cannot be used; names it.
    """

    data: Path
    strategies: tuple[str, ...]
    budgets: tuple[int, ...]
    dump: Path | None = None
    json: Path | None = None
    max_turns: int | None = None
    rank: int = 0
    perplexity: int = 0
    history_alone: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        from chatlab.evaluation.prompts import check_strategies

        if not self.strategies:
            raise ConfigError("--strategies: name one at least")
        check_strategies(self.strategies)
        if wrong := [budget for budget in self.budgets if budget < 1]:
            raise ConfigError(f"--budget {wrong[0]}: must be 1 or more")
        check_file("--dump", self.dump)
        check_file("--json", self.json)
        for name in ("max_turns", "rank", "perplexity", "seed"):
            if (getattr(self, name) or 0) < 0:
                raise ConfigError(f"--{name.replace('_', '-')} {getattr(self, name)}: must be 0 or more")

    @classmethod
    def of(cls, given: argparse.Namespace) -> "Options":
        """From parsed arguments."""
        return cls(
            data=given.data,
            strategies=_names(given.strategies),
            budgets=tuple(given.budget or DEFAULT_BUDGETS),
            dump=given.dump,
            json=given.json,
            max_turns=given.max_turns,
            rank=given.rank,
            perplexity=given.perplexity,
            history_alone=given.history_alone,
            seed=given.seed,
        )


def run(given: argparse.Namespace, settings: Settings) -> None:
    """Measure, print the table, write what was asked for.

    Raises:
        ConfigError: An argument, the data or the model cannot be used.
    """
    from chatlab.evaluation.report import table

    options = Options.of(given)
    result = asyncio.run(measure(options, settings))
    publish(result, table(result, result["peer"]), options.json)


async def measure(options: Options, settings: Settings) -> dict[str, Any]:
    """The result in the documented shape.

    Args:
        options: What and how.
        settings: Whose model counts, and scores.

    Raises:
        ConfigError: The data or the model cannot be used.
    """
    from chatlab.evaluation.datasets import read_dialogues
    from chatlab.evaluation.history import evaluate_history
    from chatlab.evaluation.likelihoods import next_turns, rank_answers
    from chatlab.evaluation.parts import counting_for, open_recall
    from chatlab.evaluation.prompts import PEER, PromptMaker
    from chatlab.evaluation.scoring import load_scorer
    from chatlab.history import PromptBuilder

    dialogues = read_dialogues(options.data)
    counting = counting_for(settings)
    scored = bool(options.rank or options.perplexity)
    if scored and counting.source is None:
        raise ConfigError(f"--rank and --perplexity need a model in this process, not CHATLAB_ENGINE={settings.engine}")
    with ExitStack() as opened:
        dump = None if options.dump is None else opened.enter_context(_writable(options.dump, "--dump"))
        recall = opened.enter_context(open_recall(settings))
        builder = PromptBuilder(counting.engine, recall, patient=True)
        report = await evaluate_history(
            dialogues,
            counting.engine,
            builder,
            options.strategies,
            options.budgets,
            recall=recall if RECALLING in options.strategies else None,
            tokenize=counting.tokenize,
            dump=None if dump is None else lambda line: _write_line(dump, line),
            max_turns=options.max_turns,
            seed=options.seed,
        )
        if scored and counting.source is not None:
            scorer, maker = load_scorer(counting.source, settings.device), PromptMaker(counting.engine, builder)
            if options.rank:
                await rank_answers(report, dialogues, maker, scorer, options.rank, options.seed)
            if options.perplexity:
                await next_turns(
                    report,
                    dialogues,
                    maker,
                    scorer,
                    options.perplexity,
                    options.seed,
                    history_alone=options.history_alone,
                )
    return report.with_about(data=str(options.data), peer=PEER).as_json()


def _names(listed: str) -> tuple[str, ...]:
    return tuple(filter(None, (name.strip() for name in listed.split(","))))


def _write_line(file: TextIO, line: Mapping[str, Any]) -> None:
    file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _writable(file: Path, option: str) -> TextIO:
    try:
        return file.open("w", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{option} {file}: cannot be written: {error.strerror}") from error
