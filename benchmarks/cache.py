"""The answer cache with 100,000 entries: how long a hit takes, what a miss costs, and whether writes slow searches.

Twice, with the entries of many users in buckets of theirs, and with all in one bucket, as in the scope "global". Beside
it GPTCache with the same entries and the same embedder, where GPTCACHE_PYTHON names a Python that has `gptcache`,
`faiss-cpu` and `sentence-transformers`. Kinds take turns, so that what slows the machine down hits all.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.cache_entries import N_EMBEDDED, Entries, ask_of, fill, owners, unseen
from benchmarks.contenders.gptcache_process import GptCacheProcess
from benchmarks.report import p50, p95, write
from chatlab.chat import TurnRequest
from chatlab.embedding import Embedder
from chatlab.messages import CacheChoice, CacheScope, Turn
from chatlab.settings import Settings
from chatlab.vectors import QUESTIONS, Vector, Vectors
from chatlab.wiring import Parts, wire

ROUNDS, HITS, MISSES = 5, 20, 40  # a round, of each kind
PLACES: dict[str, CacheScope] = {"many buckets": "user", "one bucket": "global"}
WRITES, GROUPS, SEARCHES, SEARCHERS = 5_000, 50, 60, 2
TARGETS = {"hit, exact": ("p50", 15.0), "hit, semantic": ("p50", 15.0), "miss": ("p95", 25.0)}
SLOWER = 1.5  # at most, after the writes
PEER = "GPTCache"

Times = dict[tuple[str, str], list[list[float]]]  # milliseconds by who and what, a list a round


def main(json_file: Path | None = None) -> None:
    """Measure, print, and write the result."""
    threads = torch.get_num_threads()
    print(f"embedder on 1 thread, LanceDB on {os.cpu_count()}, GPTCache on {threads}; load {os.getloadavg()[0]:.1f}")
    with ExitStack() as opened, tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="bench-") as name:
        folder = Path(name)
        entries, users = asyncio.run(_entries()), owners()
        settings: dict[str, Settings] = {}
        for place, scope in PLACES.items():
            settings[place] = Settings(data_dir=folder / scope, engine="echo", cache_max_entries=1_000_000)
            fill(settings[place], entries, scope, users)
        peer = GptCacheProcess.started(folder / "gptcache", entries.questions, entries.vectors)
        if peer is None:
            print("GPTCache does not take part: GPTCACHE_PYTHON names no Python")
        else:
            opened.callback(peer.close)
        parts = {place: opened.enter_context(wire(each)) for place, each in settings.items()}
        times = asyncio.run(_rounds(parts, entries, users, peer))
        figures = _figures(times)
        for (who, what), found in figures.items():
            key, target = TARGETS[what]
            reached = "" if who == PEER else f"   target: {key} {target:g} ms, {_verdict(found[key], target)}"
            print(f"{who:14} {what:14} p50 {found['p50']:7.1f} ms   p95 {found['p95']:7.1f} ms{reached}", flush=True)
        ratios = asyncio.run(_after_writes(folder / "writes", entries.vectors))
    print(
        f"search after {WRITES:,} single writes over a fresh table with the same rows: "
        f"{p50(ratios):.2f} times the p95, target {SLOWER:g}, {_verdict(p50(ratios), SLOWER)}"
    )
    result = {
        "ms": [{"who": who, "what": what, **found} for (who, what), found in figures.items()],
        "search_p95_after_writes_over_fresh": p50(ratios),
        "load_average": os.getloadavg()[0],
        "threads": {"embedder": 1, "gptcache": threads},
    }
    write({"cache": result}, json_file)


def _figures(times: Times) -> dict[tuple[str, str], dict[str, float]]:
    """Of each kind the medians over the rounds."""
    return {
        kind: {name: p50([of(values) for values in rounds]) for name, of in (("p50", p50), ("p95", p95))}
        for kind, rounds in times.items()
    }


def _verdict(value: float, target: float) -> str:
    return "reached" if value <= target else "not reached"


async def _entries() -> Entries:
    embedder = Embedder()
    try:
        return await Entries.made(embedder)
    finally:
        embedder.close()


# Hits and misses


async def _rounds(
    parts: Mapping[str, Parts], entries: Entries, users: Sequence[str], peer: GptCacheProcess | None
) -> Times:
    times: Times = {}
    for place, each in parts.items():  # the embedder is loaded, the files are opened
        await _turn(each, PLACES[place], users[0], entries.paraphrased(0))
    for number in range(ROUNDS):
        for place, each in parts.items():
            for what, values in (await _round(each, PLACES[place], entries, users, number)).items():
                times.setdefault((place, what), []).append(values)
        if peer is not None:
            hits = [entries.paraphrased(n) for n in _places(number)]
            times.setdefault((PEER, "hit, semantic"), []).append(peer.ask(hits).ms)
            times.setdefault((PEER, "miss"), []).append(peer.ask([unseen(n) for n in _unseen_numbers(number)]).ms)
        print(f"round {number + 1} of {ROUNDS}, load {os.getloadavg()[0]:.1f}", flush=True)
    for each in parts.values():
        await each.jobs.close()
    return times


async def _round(
    parts: Parts, scope: CacheScope, entries: Entries, users: Sequence[str], number: int
) -> dict[str, list[float]]:
    """Whole turns of hits; of misses what the lookup adds."""
    times: dict[str, list[float]] = {what: [] for what in TARGETS}
    for n in _places(number):
        for what, text in (("hit, exact", entries.questions[n]), ("hit, semantic", entries.paraphrased(n))):
            turn, took = await _turn(parts, scope, users[n], text)
            if turn.provenance.cache.tier != what.removeprefix("hit, "):
                raise RuntimeError(f"{text!r} was {turn.provenance.cache}")
            times[what].append(took)
    for n in _unseen_numbers(number):
        ask = ask_of(users[n], scope, unseen(n), parts)
        started = time.perf_counter()
        lookup = await parts.answers.look_up(ask)
        if lookup.outcome == "miss":  # else the verifier takes it for something that is stored
            times["miss"].append((time.perf_counter() - started) * 1e3)
    return times


def _places(number: int) -> list[int]:
    """Of the stored questions that are asked again in a round."""
    return [int(n) for n in np.random.default_rng(number).choice(N_EMBEDDED, HITS, replace=False)]


def _unseen_numbers(number: int) -> range:
    return range(number * MISSES, (number + 1) * MISSES)


async def _turn(parts: Parts, scope: CacheScope, user_id: str, text: str) -> tuple[Turn, float]:
    chat = await parts.chats.create_chat(lambda made: replace(made, cache=CacheChoice(scope)), user_id)
    started = time.perf_counter()
    begun = await parts.chats.begin(user_id, chat.chat_id, TurnRequest(text))
    turn = await parts.chats.wait(user_id, begun.turn_id)
    return turn, (time.perf_counter() - started) * 1e3


# Searches after writes


async def _after_writes(folder: Path, rows: Vector) -> list[float]:
    """The p95 of searches after single writes, over that of a table written at once, by round."""
    groups = [f"group {i % GROUPS}" for i in range(WRITES)]
    written, fresh = (Vectors(str(folder / name), "bench", QUESTIONS) for name in ("written", "fresh"))
    writing = asyncio.create_task(_write(written, groups, rows))
    await asyncio.gather(*(_search_until(written, groups, rows, writing) for _ in range(SEARCHERS)))
    await writing
    for group in {*groups}:
        places = [i for i in range(WRITES) if groups[i] == group]
        await fresh.add(group, [f"{i}" for i in places], rows[places])
    await fresh.flush()
    await fresh.tidy()
    ratios: list[float] = []
    for number in range(ROUNDS):
        after, before = [
            p95([await _search(vectors, groups, rows, number * SEARCHES + i) for i in range(SEARCHES)])
            for vectors in (written, fresh)
        ]
        ratios.append(after / before)
    written.close()
    fresh.close()
    return ratios


async def _write(vectors: Vectors, groups: Sequence[str], rows: Vector) -> None:
    for i in range(WRITES):
        await vectors.add(groups[i], [f"{i}"], rows[i : i + 1])
        await asyncio.sleep(0)


async def _search_until(vectors: Vectors, groups: Sequence[str], rows: Vector, writing: asyncio.Task[None]) -> None:
    """Ask one thing after the other while rows are written."""
    number = 0
    while not writing.done():
        await _search(vectors, groups, rows, number)
        await asyncio.sleep(0)  # before the first write a search waits for nothing
        number += 1


async def _search(vectors: Vectors, groups: Sequence[str], rows: Vector, number: int) -> float:
    number = number * 31 % WRITES
    started = time.perf_counter()
    await vectors.nearest(groups[number], rows[number], 5)
    return (time.perf_counter() - started) * 1e3
