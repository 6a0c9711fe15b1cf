"""Whether notes make anybody wait: the time to first token of turns whose prompt got a new note, beside all others.

Chats of a long made-up conversation with the real engine, one after the other, under `summarize` at 1,024 tokens; the
person reads for two seconds. After a turn, notes are written and the next prompt's beginning is computed meanwhile.
Follows CHATLAB_MODEL, CHATLAB_DEVICE and CHATLAB_THREADS.
"""

import asyncio
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.report import p50, p95, write
from chatlab.chat import TurnRequest
from chatlab.evaluation.datasets import read_dialogues
from chatlab.messages import CacheChoice, Chat, HistoryChoice, SamplingParams
from chatlab.settings import load_settings
from chatlab.wiring import Parts, wire

DATA = Path(__file__).parent.parent / "data" / "notes_dev.jsonl"
CHATS, TURNS = 4, 34
HISTORY, ANSWER_TOKENS = HistoryChoice("summarize", 1_024), 24
MESSAGES, CHARACTERS = 2, 200  # of the conversation, sent together and cut: else their length decides, not the notes
READING_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Told:
    """A turn: milliseconds to its first token, whether a note was swapped in, turns that it went without."""

    ttft_ms: float
    swapped: bool
    dropped: int


def main(json_file: Path | None = None) -> None:
    """Measure, print, and write the result."""
    with tempfile.TemporaryDirectory(prefix="chatlab-bench-") as folder:
        settings = load_settings()
        with wire(settings.model_copy(update={"data_dir": Path(folder), "notes": "ledger"})) as parts:
            told = asyncio.run(_measure(parts))
    swaps = [turn.ttft_ms for turn in told if turn.swapped]
    others = [turn.ttft_ms for turn in told if not turn.swapped]
    everything = [turn.ttft_ms for turn in told]
    figures = {
        "turns": len(told),
        "swaps": len(swaps),
        "ttft_ms_p50": p50(everything),
        "ttft_ms_p95": p95(everything),
        "swap_ttft_ms_p50": p50(swaps),
        "swap_ttft_ms_p95": p95(swaps),
        "swap_p95_over_median": p95(swaps) / p50(everything),
        "other_p95_over_median": p95(others) / p50(everything),
        "turns_without_a_note_in_time": sum(turn.dropped > 0 for turn in told),
    }
    for name, value in figures.items():
        print(f"{name:30} {value:8.2f}")
    write({"notes": figures}, json_file)


def _chosen(made: Chat) -> Chat:
    return replace(made, history=HISTORY, cache=CacheChoice("off"))


async def _measure(parts: Parts) -> list[Told]:
    found: list[Told] = []
    for dialogue in read_dialogues(DATA)[:CHATS]:
        chat = await parts.chats.create_chat(_chosen, "bench")
        noted: set[str] = set()
        said = [turn.user_message for turn in dialogue.turns]
        for i in range(TURNS):
            message = " ".join(said[MESSAGES * i :])[:CHARACTERS]
            params = SamplingParams(temperature=0.0, max_new_tokens=ANSWER_TOKENS)
            begun = await parts.chats.begin("bench", chat.chat_id, TurnRequest(message, params=params))
            turn = await parts.chats.wait("bench", begun.turn_id)
            await asyncio.sleep(READING_SECONDS)
            prompt, ttft_ms = turn.provenance.prompt, turn.provenance.timing.ttft_ms
            if prompt is None or ttft_ms is None:
                raise RuntimeError(f"a turn failed: {turn.error}")
            before, noted = noted, {*prompt.turn_ids_in("summary")}
            found.append(Told(ttft_ms, not noted <= before, len(prompt.dropped_turn_ids)))
    return found
