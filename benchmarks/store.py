"""Turns a second, acknowledged and durable, with concurrent clients: the store beside one commit a turn.

A turn of ours is two acknowledgements: the user's message is on disk, then its answer is. The peer writes the same
rows in one transaction a turn, on the same DuckDB, behind a lock.
"""

import asyncio
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import duckdb

from benchmarks.report import p50, write
from chatlab.clock import Clock
from chatlab.messages import Chat, Turn
from chatlab.store import Store
from chatlab.store.duckdb import FILE
from chatlab.store.migrate import migrate, migrations
from chatlab.store.rows import TURN_COLUMNS, turn_row

CLIENTS = (1, 16, 64)
ROUNDS = 5
SECONDS = 2.0
ANSWER = "Paris is the capital of France. " * 12

clock = Clock()


def main(json_file: Path | None = None) -> None:
    """Measure, print, and write the result."""
    rates: dict[str, dict[int, list[float]]] = {"chatlab": {}, "one commit a turn": {}}
    peers: dict[str, Callable[[Path, int], float]] = {"chatlab": _ours, "one commit a turn": _one_commit_a_turn}
    for _ in range(ROUNDS):
        for clients in CLIENTS:
            for name, measure in peers.items():  # interleaved: noise hits both
                with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
                    rates[name].setdefault(clients, []).append(measure(Path(folder), clients))
    print(f"turns a second, durable, median of {ROUNDS} rounds of {SECONDS:g} s")
    for name, by_clients in rates.items():
        print(f"  {name:20}", *(f"{clients:3} clients {p50(values):7.0f}" for clients, values in by_clients.items()))
    write({"turns_per_second": {name: {n: p50(v) for n, v in by.items()} for name, by in rates.items()}}, json_file)


def _turn(number: int, client: int) -> Turn:
    return Turn(f"{client}-{number}", f"chat{client}", "user", None, "What is the capital of France?", clock())


def _ours(folder: Path, clients: int) -> float:
    async def client(store: Store, number: int, until: float) -> int:
        await store.add_chat(Chat(f"chat{number}", "user", None, clock(), clock()))
        n_turns = 0
        while time.perf_counter() < until:
            turn = _turn(n_turns, number)
            await store.add_turn(turn)
            await store.finish_turn(replace(turn, assistant_message=ANSWER, status="done", finished_at=clock()))
            n_turns += 1
        return n_turns

    async def run() -> float:
        with Store(folder) as store:
            started = time.perf_counter()
            counts = await asyncio.gather(*(client(store, number, started + SECONDS) for number in range(clients)))
            return sum(counts) / (time.perf_counter() - started)

    return asyncio.run(run())


def _one_commit_a_turn(folder: Path, clients: int) -> float:
    marks = ", ".join(f"${i + 1}" for i in range(len(TURN_COLUMNS)))
    lock = threading.Lock()
    with duckdb.connect(folder / FILE) as connection:
        migrate(connection, migrations())

        def client(number: int, until: float) -> int:
            n_turns = 0
            while time.perf_counter() < until:
                turn = _turn(n_turns, number)
                done = replace(turn, assistant_message=ANSWER, status="done", finished_at=clock())
                with lock:
                    connection.execute("BEGIN")
                    connection.execute(f"INSERT INTO turns VALUES ({marks})", turn_row(turn))
                    connection.execute(
                        "UPDATE turns SET assistant_message = $2, status = $3, finished_at = $4 WHERE turn_id = $1",
                        [turn.turn_id, ANSWER, "done", turn_row(done)[10]],
                    )
                    connection.execute("COMMIT")
                n_turns += 1
            return n_turns

        with ThreadPoolExecutor(clients) as pool:
            started = time.perf_counter()
            counts = list(pool.map(lambda number: client(number, started + SECONDS), range(clients)))
            return sum(counts) / (time.perf_counter() - started)
