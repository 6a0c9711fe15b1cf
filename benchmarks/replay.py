"""Whether a replay decides as the live cache did: traffic through a real chatlab, then its log through a replay.

Users, chats, branches, scopes, regenerated, edited, stopped and rated answers, questions asked at the same time, what
is similar taken or refused, entries that expire, audits and their labels. Once with chats deleted, too: what those had
stored is not in the log, and the turns that met it are counted apart.
"""

import asyncio
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import write
from chatlab.embedding import Embedder
from chatlab.evaluation.replay.configuration import Configuration, as_logged
from chatlab.evaluation.replay.decisions import Decision, differences
from chatlab.evaluation.replay.log import Log, read_log
from chatlab.evaluation.replay.run import replay
from chatlab.evaluation.replay.traffic import Traffic, make_traffic
from chatlab.evaluation.workload import read_words
from chatlab.settings import Settings
from chatlab.telemetry import configure_logging

WORDS = Path(__file__).parents[1] / "data/cache_workload.toml"
TURNS, WITH_DELETIONS = 10_000, 2_000
TTL_HOURS, AUDIT_SHARE = 24.0, 0.3


def main(json_file: Path | None = None) -> None:
    """Measure, print, and write the result."""
    configure_logging("warning", as_json=False)
    found = [asyncio.run(_measured(TURNS, deletes=False)), asyncio.run(_measured(WITH_DELETIONS, deletes=True))]
    write({"replay": found}, json_file)


async def _measured(n: int, deletes: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="bench-") as name:
        settings = Settings(
            data_dir=Path(name) / "data", engine="echo", cache_ttl_hours=TTL_HOURS, cache_audit_share=AUDIT_SHARE
        )
        began = time.perf_counter()
        traffic = await make_traffic(settings, read_words(WORDS), seed=0, n=n, deletes=deletes)
        live_seconds = time.perf_counter() - began
        log = read_log(settings.data_dir)
        _tell(log, traffic, live_seconds)
        named = frozenset({"cache_max_error"})
        configurations = [as_logged(settings), Configuration("thresholds found anew", settings, named)]
        return {
            "turns": len(log.turns),
            "deleted": traffic.n_deleted,
            "live_seconds": live_seconds,
            "configurations": [await _replayed(log, each) for each in configurations],
        }


async def _replayed(log: Log, configuration: Configuration) -> dict[str, Any]:
    embedder = Embedder(configuration.settings.embedder)
    began = time.perf_counter()
    try:
        decisions, faults = await replay(log, configuration, embedder)
    finally:
        embedder.close()
    seconds = time.perf_counter() - began
    inside = [each for each in decisions if not each.beyond]
    differ = [each for each in inside if differences(each)]
    outcome = [each for each in inside if "outcome" in differences(each)]
    print(
        f"  {configuration.name:24} {len(inside):,} turns: {len(differ)} differ ({len(outcome)} in the outcome), "
        f"{len(decisions) - len(inside)} met what is not in the log; {faults} faults; "
        f"{1e3 * seconds / max(1, len(decisions)):.1f} ms a turn",
        flush=True,
    )
    return {
        "name": configuration.name,
        "differ": len(differ),
        "outcome_differs": len(outcome),
        "by": _by(differ),
        "beyond": len(decisions) - len(inside),
        "faults": faults,
        "ms_a_turn": 1e3 * seconds / max(1, len(decisions)),
    }


def _by(differ: Sequence[Decision]) -> dict[str, int]:
    return dict(Counter(", ".join(differences(each)) for each in differ))


def _tell(log: Log, traffic: Traffic, seconds: float) -> None:
    lookups = [each.lookup for each in log.turns if each.lookup is not None]
    outcomes = Counter(f"{each.outcome} {each.tier or ''}".strip() for each in lookups)
    labels = Counter(each.label_source for each in lookups if each.label_source)
    print(
        f"{len(log.turns):,} turns in {len(log.conversations):,} chats, {traffic.n_deleted:,} deleted; "
        f"{dict(outcomes)}; labels {dict(labels)}; {seconds:.0f} s live, load {os.getloadavg()[0]:.1f}",
        flush=True,
    )
