"""`python -m chatlab eval notes`: its arguments, the run, and where the result goes."""

import argparse
import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatlab.errors import ConfigError
from chatlab.evaluation.output import check_file, publish
from chatlab.history.notes import COMPRESSION
from chatlab.settings import Settings, variable

DEFAULT_SEGMENT_TOKENS = 1_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What `eval notes` takes."""
    parser.add_argument("--data", type=Path, required=True, help="file or folder of conversations")
    parser.add_argument(
        "--compression", type=float, default=COMPRESSION, help="tokens of turns for a token of a note, at least"
    )
    parser.add_argument(
        "--segment-tokens", type=int, default=DEFAULT_SEGMENT_TOKENS, help="of the turns that become a note, about"
    )
    parser.add_argument(
        "--summaries", type=int, default=0, help="chats with a human summary that the model sums up, too; minutes"
    )
    parser.add_argument("--json", type=Path, help="write the result here, too")
    parser.add_argument("--seed", type=int, default=0, help="of draws and intervals")
    parser.add_argument("--data-dir", type=Path, help="folder of everything stored (CHATLAB_DATA_DIR)")


@dataclass(frozen=True, slots=True)
class Options:
    """The arguments, checked.

    Raises:
        ConfigError: One cannot be used; names it.
    """

    data: Path
    compression: float = COMPRESSION
    segment_tokens: int = DEFAULT_SEGMENT_TOKENS
    summaries: int = 0
    json: Path | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.compression < float("inf"):
            raise ConfigError(f"--compression {self.compression:g}: must be 1 or more")
        if self.segment_tokens < 1:
            raise ConfigError(f"--segment-tokens {self.segment_tokens}: must be 1 or more")
        for name in ("summaries", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"--{name} {getattr(self, name)}: must be 0 or more")
        check_file("--json", self.json)

    @classmethod
    def of(cls, given: argparse.Namespace) -> "Options":
        """From parsed arguments."""
        names = ("data", "compression", "segment_tokens", "summaries", "json", "seed")
        return cls(**{name: getattr(given, name) for name in names})


def run(given: argparse.Namespace, settings: Settings) -> None:
    """Measure, print the table, write the result where it was asked for.

    Raises:
        ConfigError: An argument, the data or the model cannot be used.
    """
    options = Options.of(given)
    result = asyncio.run(measure(options, settings))
    publish(result, table(result), options.json)


async def measure(options: Options, settings: Settings) -> dict[str, Any]:
    """The result in the documented shape.

    Args:
        options: What and how.
        settings: Whose model counts, and writes.

    Raises:
        ConfigError: The data or the model cannot be used.
    """
    from chatlab.evaluation.datasets import read_dialogues
    from chatlab.evaluation.facts import SegmentNotes, survey
    from chatlab.evaluation.parts import counting_for, open_recall
    from chatlab.evaluation.summaries import score_summaries
    from chatlab.history import PromptBuilder
    from chatlab.wiring import make_engine

    if options.summaries and settings.engine == "echo":
        raise ConfigError(f"--summaries: needs a model that writes, not {variable('engine')}=echo")
    dialogues = read_dialogues(options.data)
    counting = counting_for(settings)
    engine = make_engine(settings) if options.summaries else None
    try:
        with open_recall(settings) as recall:
            builder = PromptBuilder(counting.engine, recall, patient=True)
            writer = SegmentNotes(counting.engine, builder.writer, options.compression)
            facts = await survey(dialogues, writer, options.segment_tokens, seed=options.seed)
            summaries = await score_summaries(dialogues, writer, engine, options.summaries, options.seed)
    finally:
        if engine is not None:
            engine.close()
    return {
        "data": str(options.data),
        "model": counting.engine.facts.model,
        "dialogues": len(dialogues),
        "turns": sum(len(each.turns) for each in dialogues),
        "questions": sum(len(each.questions) for each in dialogues),
        "compression": options.compression,
        "segment_tokens": options.segment_tokens,
        "seed": options.seed,
        "facts": facts.as_json(),
        "rouge_1": summaries.as_json(),
    }


def table(result: Mapping[str, Any]) -> str:
    """The figures of a result as aligned lines; the brackets hold 95 % intervals."""
    from chatlab.evaluation.report import aligned, shown

    facts, rouge = result["facts"], result["rouge_1"]
    by_n: Mapping[str, Mapping[str, Any]] = facts["compactions"]
    rows = [["compactions", *by_n], ["facts kept", *(shown(each["kept"]) for each in by_n.values())]]
    categories = next(iter(by_n.values()))["kept_by_category"]
    rows += [[f"  {name}", *(shown(each["kept_by_category"][name]) for each in by_n.values())] for name in categories]
    rows += [
        ["facts", *(_n(each["kept"]) for each in by_n.values())],
        ["only the replaced value", *(shown(each["stale_alone"]) for each in by_n.values())],
        ["both values", *(shown(each["stale_beside"]) for each in by_n.values())],
        ["replaced values", *(_n(each["stale_alone"]) for each in by_n.values())],
    ]
    lines = aligned(rows) if any(each["kept"] for each in by_n.values()) else ["no facts were covered by notes"]
    if facts["compression"] is not None:
        lines += [f"compression {facts['compression']:.1f}, {facts['note_ms_mean']:.0f} ms a note"]
    if scored := [[name, shown(each), _n(each)] for name, each in rouge.items() if each is not None]:
        lines += ["", *aligned([["ROUGE-1 with people's", "F1", "n"], *scored])]
    return "\n".join(lines)


def _n(estimate: Mapping[str, Any] | None) -> str:
    return str(estimate["n"]) if estimate else "0"
