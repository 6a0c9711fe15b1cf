"""Building a prompt of 4,096 tokens from a chat of 2,000 turns: question embedded, evicted turns searched, counted.

The chat is made up of recurring subjects in varied words, so that every question finds more than fits. Its vectors are
in LanceDB on disk. Nothing is generated: the time is from the question to the message list that an engine is given.
"""

import asyncio
import random
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from benchmarks.report import p50, p95, write
from chatlab.evaluation.parts import counting_for, open_recall
from chatlab.history import PromptBuilder, PromptInput
from chatlab.messages import HistoryChoice, SamplingParams, StrategyName, Turn
from chatlab.settings import load_settings
from chatlab.vectors import TIDY_SECONDS, WRITE_SECONDS

TURNS, BUDGET = 2_000, 4_096
QUESTIONS = 60
STRATEGIES: tuple[StrategyName, ...] = ("truncate", "hybrid")
SUBJECTS = [
    "the leaking kitchen tap",
    "my sister's wedding in June",
    "the train to Porto",
    "a beagle called Biscuit",
    "the fence",
    "Portuguese lessons",
    "the marathon in autumn",
    "an old Volvo",
    "the dentist",
    "a job interview",
    "the neighbour's piano",
    "sourdough bread",
    "the tax return",
    "a broken phone",
    "camping by the lake",
    "the school play",
    "my knee",
    "a recipe for lentil soup",
]
SAYINGS = [
    "I have been thinking about {} again since {}.",
    "Did I tell you that {} took me the whole of {}?",
    "Somebody asked me about {} on {} and I did not know what to say.",
    "What would you do about {} if it were {}?",
]


def main(json_file: Path | None = None) -> None:
    """Measure, print, and write the result."""
    result = asyncio.run(_measure())
    for name, times in result.items():
        print(f"{name:9} p50 {times['ms_p50']:6.1f} ms, p95 {times['ms_p95']:6.1f} ms, {times['tokens']:.0f} tokens")
    write({"prompt_building": result}, json_file)


async def _measure() -> dict[str, dict[str, float]]:
    chance = random.Random(7)
    begun = datetime(2026, 1, 1, tzinfo=UTC)
    path = [_turn(i, chance, begun + timedelta(hours=3 * i)) for i in range(TURNS)]
    settings = load_settings()
    result: dict[str, dict[str, float]] = {}
    with open_recall(settings) as recall:
        await recall.index("chat", path)
        await asyncio.sleep(TIDY_SECONDS + 2 * WRITE_SECONDS)  # until all is written and its files are merged
        builder = PromptBuilder(counting_for(settings).engine, recall)
        for strategy in STRATEGIES:
            choice = HistoryChoice(strategy, BUDGET)
            times: list[float] = []
            sizes: list[int] = []
            given = PromptInput("You are helpful.", path, "", "new", "chat")
            first = await builder.build(replace(given, question="Well?"), choice, SamplingParams())
            seen = replace(path[-1].provenance, prompt=first.provenance)  # as the stored turn before has it
            given = replace(given, path=[*path[:-1], replace(path[-1], provenance=seen)])
            for i in range(QUESTIONS + 5):
                question = f"What did I say about {chance.choice(SUBJECTS)} and {chance.choice(SUBJECTS)} in week {i}?"
                started = time.perf_counter()
                prompt = await builder.build(replace(given, question=question), choice, SamplingParams())
                if i >= 5:
                    times.append((time.perf_counter() - started) * 1e3)
                    sizes.append(prompt.provenance.prompt_tokens)
            result[strategy] = {
                "ms_p50": p50(times), "ms_p95": p95(times), "tokens": sum(sizes) / len(sizes), "n": len(times)
            }  # fmt: skip
    return result


def _turn(number: int, chance: random.Random, at: datetime) -> Turn:
    asked, answered = (
        " ".join(
            chance.choice(SAYINGS).format(chance.choice(SUBJECTS), f"week {chance.randrange(60)}") for _ in range(n)
        )
        for n in (2, 4)
    )
    return Turn(f"t{number}", "chat", "user", None, asked, at, assistant_message=answered, status="done")
