"""`python -m chatlab verdict FILE`: its arguments, the run step by step, and the page."""

import argparse
import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatlab.errors import ConfigError, InvalidInput, ModelUnavailable
from chatlab.evaluation.output import check_file
from chatlab.evaluation.traffic.progress import Progress
from chatlab.evaluation.traffic.state import State, content_hash, write_whole
from chatlab.settings import Settings, variable

if TYPE_CHECKING:
    from chatlab.evaluation.traffic.figures import Study
    from chatlab.evaluation.traffic.prices import Prices
    from chatlab.evaluation.traffic.requests import Requests

BOUNDS = (0.01, 0.02, 0.05, 0.10)
BUDGETS = (4_096, 16_384)
SEED = 0
MAX_BUDGET = 2_000_000

Step = Callable[[int, int], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `verdict` takes."""
    parser.add_argument("file", type=Path, help="an export of ChatGPT, Open WebUI, LibreChat, ShareGPT's form, chatlab")
    parser.add_argument("--out", type=Path, help="the page (beside the export: NAME.verdict.html)")
    parser.add_argument(
        "--budget", type=int, nargs="+", default=list(BUDGETS), help="tokens that a prompt may have (4096 16384)"
    )
    parser.add_argument(
        "--max-error", type=float, help="share of cached answers that may be wrong (CHATLAB_CACHE_MAX_ERROR)"
    )
    parser.add_argument("--max-chats", type=int, help="look at the newest so many chats alone")
    parser.add_argument("--prices", type=Path, help="what tokens cost: a file like data/prices.toml")
    parser.add_argument("--price-in", type=float, help="instead: money for a million tokens of prompts")
    parser.add_argument("--price-out", type=float, help="and for a million tokens of answers")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    parser.add_argument("--fresh", action="store_true", help="do not go on from where a stopped run was")
    parser.add_argument("--data-dir", type=Path, help="where the converted model lies (CHATLAB_DATA_DIR)")


@dataclass(frozen=True, slots=True)
class Options:
    """The arguments, checked.

    Raises:
        ConfigError: One cannot be used; names it.
    """

    file: Path
    out: Path
    budgets: tuple[int, ...] = BUDGETS
    max_error: float | None = None
    max_chats: int | None = None
    prices: Path | None = None
    price_in: float | None = None
    price_out: float | None = None
    json: Path | None = None
    fresh: bool = False

    def __post_init__(self) -> None:
        if not self.file.is_file():
            raise ConfigError(f"{self.file}: there is no such file")
        if wrong := [each for each in self.budgets if not 64 <= each <= MAX_BUDGET]:
            raise ConfigError(f"--budget {wrong[0]}: must be between 64 and {MAX_BUDGET:,}")
        if self.max_error is not None and not 0 < self.max_error < 1:
            raise ConfigError(f"--max-error {self.max_error:g}: must be between 0 and 1")
        if self.max_chats is not None and self.max_chats < 1:
            raise ConfigError(f"--max-chats {self.max_chats}: must be 1 or more")
        for name, value in (("--price-in", self.price_in), ("--price-out", self.price_out)):
            if value is not None and not 0 <= value < float("inf"):
                raise ConfigError(f"{name} {value:g}: must be 0 or more")
        if self.prices is not None and (self.price_in is not None or self.price_out is not None):
            raise ConfigError("--prices and --price-in, --price-out: only one of them can be given")
        check_file("--out", self.out)
        check_file("--json", self.json)
        for name, file in (("--out", self.out), ("--json", self.json)):
            if file is not None and file.exists() and file.samefile(self.file):
                raise ConfigError(f"{name} {file}: is the export itself")

    @classmethod
    def of(cls, given: argparse.Namespace) -> "Options":
        """From parsed arguments."""
        name = given.file.name.removesuffix(".gz")
        return cls(
            file=given.file,
            out=given.out or given.file.with_name(f"{name.removesuffix(Path(name).suffix)}.verdict.html"),
            budgets=tuple(dict.fromkeys(sorted(given.budget))),
            max_error=given.max_error,
            max_chats=given.max_chats,
            prices=given.prices,
            price_in=given.price_in,
            price_out=given.price_out,
            json=given.json,
            fresh=given.fresh,
        )

    @property
    def state(self) -> Path:
        """Where a run keeps what it has so far."""
        return self.out.with_name(self.out.name + ".state")


def run(given: argparse.Namespace, settings: Settings) -> None:
    """Read the export, compute, write the page, say what it says.

    Raises:
        ConfigError: An argument, the export, the model or the embedder cannot be used.
    """
    options = Options.of(given)
    progress = Progress()
    try:
        say = verdict(options, settings, progress)
    except KeyboardInterrupt:
        if options.state.is_dir():
            progress.say(f"Stopped. The same command goes on from here; {options.state} has what is done.")
        raise
    finally:
        progress.close()
    print(say)  # noqa: T201 - a command's own words


def verdict(options: Options, settings: Settings, progress: Progress) -> str:
    """The whole run.

    Returns:
        The verdict in a few lines, and where the page is.

    Raises:
        ConfigError: The export, the model or the embedder cannot be used.
    """
    from chatlab.evaluation.traffic.figures import figures
    from chatlab.evaluation.traffic.page import page
    from chatlab.evaluation.traffic.prices import prices_for
    from chatlab.evaluation.traffic.sentences import headline, second_line, sentences

    prices = prices_for(options.prices, options.price_in, options.price_out)
    # 1. The export, and what an earlier run left of it.
    content = content_hash(options.file, lambda done, of: progress("reading", done, max(1, 2 * of)))
    requests = _read(options, progress)
    max_error = settings.cache_max_error if options.max_error is None else options.max_error
    bounds = tuple(sorted({*BOUNDS, max_error}))
    key = {
        "content": content,
        "max_chats": options.max_chats,
        "budgets": options.budgets,
        "bounds": bounds,
        "main": max_error,
        "ttl": settings.cache_ttl_hours,
        "embedder": settings.embedder,
        "model": settings.model,
    }
    state = State(options.state, key, options.fresh)
    if state.resumed:
        progress.say("Going on from where an earlier run was; --fresh begins anew.")
    # 2. What is computed of it.
    try:
        study = asyncio.run(_study(options, settings, requests, bounds, max_error, prices, state, progress))
    except ModelUnavailable as error:
        raise ConfigError(str(error)) from error
    # 3. The page.
    found = figures(study)
    written = sentences(found, prices.rows[0])
    made = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    _write("--out", options.out, page(found, written, prices, content[:16], made))
    if options.json is not None:
        result = {
            **found,
            "headline": headline(found, prices.rows[0]),
            "sentences": [each.as_json() for each in written],
        }
        _write("--json", options.json, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    state.delete()
    second = [second_line(found)] if found["turns"] else []
    return "\n".join([headline(found, prices.rows[0]), *second, f"Written: {options.out}"])


def _read(options: Options, progress: Progress) -> "Requests":
    from chatlab.evaluation.traffic.requests import requests_of
    from chatlab.exchange import read_chats

    def read(done: int, of: int) -> None:
        progress("reading", min(done, of) + of, max(1, 2 * of))

    try:
        requests = requests_of(read_chats(options.file, read), options.max_chats)
    except InvalidInput as error:
        raise ConfigError(f"{options.file}: {error}") from error
    progress("reading", 1, 1)
    return requests


async def _study(
    options: Options,
    settings: Settings,
    requests: "Requests",
    bounds: Sequence[float],
    max_error: float,
    prices: "Prices",
    state: State,
    progress: Progress,
) -> "Study":
    from chatlab.cache.verifier import calibrated_for
    from chatlab.embedding import Embedder
    from chatlab.evaluation.parts import counting_for
    from chatlab.evaluation.traffic import again, pairs
    from chatlab.evaluation.traffic.figures import Study
    from chatlab.evaluation.traffic.judgements import Judgements
    from chatlab.evaluation.traffic.lookups import Cell, Lookups
    from chatlab.evaluation.traffic.prompts import PromptStudy
    from chatlab.evaluation.traffic.sizes import MessageSizes
    from chatlab.evaluation.traffic.strategies import ANSWER_TOKENS, Strategies, open_words
    from chatlab.evaluation.traffic.texts import Texts

    embedder = Embedder(settings.embedder)
    if not calibrated_for(embedder.name):
        raise ConfigError(f"{variable('embedder')}={embedder.name!r}: the cache is calibrated for all-MiniLM-L6-v2")

    def step(name: str) -> Step:
        return lambda done, of: progress(name, done, of)

    engine = counting_for(settings).engine
    sizes = MessageSizes(_Widened(engine, max(options.budgets) + ANSWER_TOKENS))
    texts = Texts([*dict.fromkeys(each.turn.user_message for each in requests.asked)], embedder, state)
    cells = [Cell(scope, bound) for scope in ("user", "global") for bound in bounds]
    main = next(i for i, cell in enumerate(cells) if cell.max_error == max_error)
    with open_words(settings.embedder) as recall:
        prompts = PromptStudy(requests, Strategies(sizes, recall, options.budgets), state)
        # The embedder computes in its own thread, beside everything that counts and compares words.
        embedding = asyncio.ensure_future(texts.embed(step("embedding")))
        try:
            tokens = await asyncio.to_thread(prompts.tokens, step("counting"))
            strategies = asyncio.ensure_future(prompts.run(tokens, step("history")))
            await embedding
            texts.find_neighbours()
            judgements = Judgements(texts, state)
            ttl = timedelta(hours=settings.cache_ttl_hours)
            await Lookups(requests, texts, cells, ttl, judgements).run(step("cache"))
            asked_again = await again.groups(requests, texts, judgements, cells[main].threshold, step("repeats"))
            chosen = await pairs.compared(pairs.sample(cells, SEED), requests, texts, embedder, state)
            sent = await strategies
        finally:
            embedder.close()
    return Study(
        name=options.file.name,
        requests=requests,
        cells=cells,
        main=main,
        pairs=chosen,
        groups=asked_again,
        prompts=sent,
        tokens=tokens,
        prices=prices,
        model=sizes.facts.model,
        ttl_hours=settings.cache_ttl_hours,
        count_error=sizes.largest_error,
        n_counted=sizes.n_checked,
    )


class _Widened:
    """An engine that counts, as if its window held more.

    Args:
        engine: Counts.
        context_tokens: Of the window.
    """

    def __init__(self, engine: Any, context_tokens: int) -> None:
        self.count = engine.count
        self.facts = replace(engine.facts, context_tokens=context_tokens)


def _write(option: str, file: Path, content: str) -> None:
    try:
        write_whole(file, content.encode())
    except OSError as error:
        raise ConfigError(f"{option} {file}: cannot be written: {error.strerror}") from error
