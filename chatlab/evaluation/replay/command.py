"""`python -m chatlab replay`: stored turns through other configurations, and what would have been otherwise."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatlab.errors import ConfigError, ModelUnavailable
from chatlab.evaluation.output import check_file, publish
from chatlab.settings import Settings

if TYPE_CHECKING:
    from chatlab.evaluation.replay.comparison import Replayed
    from chatlab.evaluation.replay.configuration import Configuration
    from chatlab.evaluation.replay.log import Log


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `replay` takes."""
    parser.add_argument(
        "log", type=Path, help="a data dir that nothing has open, or exported chats: chatlab's, ChatGPT's and others"
    )
    parser.add_argument(
        "--config",
        type=Path,
        action="append",
        required=True,
        help="settings as in chatlab.toml, and tables [history], [cache], [params] over each chat's own; what it does "
        "not name is as in the log; given several times, the first is what the others are compared with",
    )
    parser.add_argument("--answers", action="store_true", help="let the model answer what the cache does not serve")
    parser.add_argument("--no-prompts", action="store_true", help="decide about the cache only, which is faster")
    parser.add_argument("--seed", type=int, default=0, help="of intervals, and of audits that the log does not know")
    parser.add_argument("--json", type=Path, help="write the result here, too")
    parser.add_argument("--html", type=Path, help="write the report here: one page that loads nothing")
    parser.add_argument("--data-dir", type=Path, help="where the model is looked for (CHATLAB_DATA_DIR)")


@dataclass(frozen=True, slots=True)
class Options:
    """The arguments, checked.

    Raises:
        ConfigError: One cannot be used; names it.
    """

    log: Path
    config: Sequence[Path]
    answers: bool = False
    prompts: bool = True
    seed: int = 0
    json: Path | None = None
    html: Path | None = None

    def __post_init__(self) -> None:
        if self.answers and not self.prompts:
            raise ConfigError("--answers and --no-prompts: an answer needs its prompt")
        if self.seed < 0:
            raise ConfigError(f"--seed {self.seed}: must be 0 or more")
        check_file("--json", self.json)
        check_file("--html", self.html)


def run(given: argparse.Namespace, settings: Settings) -> None:
    """Replay, print the table, write what was asked for.

    Raises:
        ConfigError: An argument, the log, a configuration or the model cannot be used.
    """
    from chatlab.evaluation.replay.comparison import result
    from chatlab.evaluation.replay.configuration import read_configurations
    from chatlab.evaluation.replay.log import read_log
    from chatlab.evaluation.replay.page import page
    from chatlab.evaluation.replay.report import table

    options = Options(given.log, given.config, given.answers, not given.no_prompts, given.seed, given.json, given.html)
    configurations = read_configurations(options.config, given.data_dir)
    log = read_log(options.log)
    if not log.turns:
        raise ConfigError(f"{options.log}: there are no turns in it")
    replayed = asyncio.run(_replayed(log, configurations, options))
    found: dict[str, Any] = result(log, replayed, options.seed)
    publish(found, table(found), options.json)
    if options.html is not None:
        try:
            options.html.write_text(page(found), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--html {options.html}: cannot be written: {error.strerror}") from error


async def _replayed(log: "Log", configurations: "Sequence[Configuration]", options: Options) -> "list[Replayed]":
    from chatlab.embedding import Embedder
    from chatlab.evaluation.parts import counting_for
    from chatlab.evaluation.replay.comparison import Replayed
    from chatlab.evaluation.replay.run import replay
    from chatlab.wiring import make_engine

    found: list[Replayed] = []
    for configuration in configurations:
        settings = configuration.settings
        with ExitStack() as opened:
            embedder = Embedder(settings.embedder)
            opened.callback(embedder.close)
            engine = None
            if options.answers:
                engine = make_engine(settings)
                opened.callback(engine.close)
            counting = counting_for(settings) if options.prompts else None
            tell = _progress(configuration.name)
            try:
                decisions, faults = await replay(log, configuration, embedder, counting, engine, options.seed, tell)
            except ModelUnavailable as error:
                raise ConfigError(str(error)) from error
            found.append(Replayed(configuration, decisions, faults))
    return found


def _progress(name: str) -> "_Progress | None":
    return _Progress(name) if sys.stderr.isatty() else None


class _Progress:
    """A line that counts, on a terminal."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._shown = -1

    def __call__(self, done: int, n: int) -> None:
        if (per_cent := 100 * done // max(1, n)) != self._shown:
            self._shown = per_cent
            sys.stderr.write(f"\r{self._name}: {per_cent} %" + ("\n" if done == n else ""))
            sys.stderr.flush()
