"""Faults of the answer cache's files and clock: the model answers, the fault is counted and said, nothing is lost.

The cache's other faults (its embedder, its store, a question of 100 kB) are in `test_cache`.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatlab.cache.answers import CacheLimits
from chatlab.clock import Clock
from chatlab.messages import Turn
from chatlab.settings import Settings
from chatlab.vectors import QUESTIONS, Vectors
from chatlab.wiring import Parts, wire
from tests.conftest import ScriptedEngine
from tests.test_cache import fresh

WINE, WINE_TOO = "How do I get a wine stain out of a white shirt?", "How can I get a wine stain out of a white shirt"
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing goes by how fast a machine loads the embedder."""
    monkeypatch.setattr("chatlab.cache.answers.LOADING_SECONDS", 60.0)
    monkeypatch.setattr("chatlab.cache.answers.SECONDS", 60.0)


@pytest.fixture
async def cached(tmp_path: Path) -> AsyncIterator[Parts]:
    """With an answer stored, and its question's vector on disk."""
    with wire(Settings(data_dir=tmp_path / "data", engine="echo"), ScriptedEngine(["Soak ", "it."])) as parts:
        await fresh(parts, WINE)
        await parts.answers._vectors.flush()
        yield parts
        await parts.jobs.close()


def faults(parts: Parts) -> float:
    """Of the cache, so far."""
    lines = parts.metrics.prometheus().decode().splitlines()
    return sum(
        float(line.split()[-1]) for line in lines if line.startswith('chatlab_faults_total{chatlab_part="cache"')
    )


async def answered_by_the_model(parts: Parts, text: str) -> Turn:
    """A turn whose lookup fails: the fault is counted, and said."""
    before = faults(parts)
    turn = await fresh(parts, text)
    assert (turn.status, turn.source, turn.assistant_message) == ("done", "model", "Soak it.")
    assert turn.provenance.cache.reason == "the cache does not answer"
    assert faults(parts) > before
    return turn


async def serves_the_same_words(parts: Parts) -> None:
    """What is stored is not lost, whatever became of the vectors."""
    turn = await fresh(parts, WINE)
    assert (turn.source, turn.provenance.cache.tier) == ("cache", "exact")


async def test_a_folder_that_is_gone(cached: Parts, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "data" / "vectors")
    cached.answers._vectors._table = None
    await answered_by_the_model(cached, WINE_TOO)
    await serves_the_same_words(cached)
    await cached.answers._vectors.flush()
    again = await fresh(cached, "Please, how can I get a wine stain out of a white shirt?")
    assert again.provenance.cache.tier == "semantic", "what was stored meanwhile is found"


async def test_files_that_are_gone_one_by_one(cached: Parts, tmp_path: Path) -> None:
    for file in (tmp_path / "data" / "vectors").rglob("*.lance"):
        if file.is_file():
            file.unlink()
    cached.answers._vectors._table = None
    await answered_by_the_model(cached, WINE_TOO)
    await serves_the_same_words(cached)


@contextmanager
def no_larger_files(n_bytes: int) -> Generator[None]:
    """No file of this process grows beyond, as if the disk were full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk(cached: Parts) -> None:
    vectors = cached.answers._vectors
    rows = np.eye(400, 384, dtype=np.float32)
    vectors._waiting += [("others", f"row {i}", row) for i, row in enumerate(rows)]  # 0.6 MB
    with no_larger_files(400_000):
        with pytest.raises(Exception, match="LanceDB cannot write"):
            await vectors.flush()
        await answered_by_the_model(cached, WINE_TOO)
        await serves_the_same_words(cached)
    other = await fresh(cached, "Please, how can I get a wine stain out of a white shirt?")
    assert other.provenance.cache.tier == "semantic", "there is room again"
    assert len(await vectors.keys("others")) == 400, "what could not be written was kept"


READ_ONLY = """
import asyncio, os, sys
from pathlib import Path
from chatlab.settings import Settings
from chatlab.wiring import wire
from tests import test_cache_faults as t
from tests.conftest import ScriptedEngine

import chatlab.cache.answers as answers
answers.LOADING_SECONDS = answers.SECONDS = 60.0

async def main(data_dir):
    with wire(Settings(data_dir=data_dir, engine="echo"), ScriptedEngine(["Soak ", "it."])) as parts:
        await t.fresh(parts, t.WINE)
        vectors = parts.answers._vectors
        await vectors.flush()
        for path in [data_dir / "vectors", *(data_dir / "vectors").rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        if os.geteuid() == 0:  # whom no rights bind
            os.chown(data_dir, 65_534, -1)
            os.seteuid(65_534)
        found = await t.fresh(parts, t.WINE_TOO)
        assert found.provenance.cache.tier == "semantic", "it is read"
        await t.fresh(parts, "Who painted the Night Watch?")
        try:
            await vectors.flush()
        except Exception as error:
            assert "LanceDB cannot write" in str(error), error
        else:
            raise AssertionError("it was written")
        await t.answered_by_the_model(parts, "Who was it that painted the Night Watch?")
        await t.serves_the_same_words(parts)
        if os.getuid() == 0:
            os.seteuid(0)
        await parts.jobs.close()
    print("all is well")

asyncio.run(main(Path(sys.argv[1])))
"""


def test_a_folder_that_is_read_only() -> None:
    with tempfile.TemporaryDirectory() as folder:  # `tmp_path` is in a folder that only its owner may enter
        Path(folder).chmod(0o755)
        ran = _python(READ_ONLY, Path(folder) / "data")
    assert "all is well" in ran.stdout, ran.stderr


def _python(code: str, *arguments: object) -> Any:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True,
        text=True,
        timeout=300,
    )


# Adds rows, writes, merges and indexes as fast as it can, and says what was acknowledged.
WRITER = """
import asyncio, itertools, sys
import numpy as np
from chatlab import vectors as module
from chatlab.vectors import QUESTIONS, Vectors

module.INDEX_ROWS, module.PARTITION_ROWS = 50, 25

async def main():
    vectors = Vectors(sys.argv[1], "e", QUESTIONS)
    rng = np.random.default_rng(int(sys.argv[2]))
    for i in itertools.count():
        rows = rng.normal(size=(10, 16)).astype(np.float32)
        keys = [f"{sys.argv[2]}-{i}-{n}" for n in range(10)]
        await vectors.add("bucket", keys, rows / np.linalg.norm(rows, axis=1, keepdims=True))
        await vectors.flush()
        print(*keys, flush=True)
        if i % 3 == 2:
            await vectors.tidy()

asyncio.run(main())
"""


async def test_kill_in_the_middle_of_writes_merges_and_indexing(tmp_path: Path) -> None:
    acknowledged: set[str] = set()
    for round_number in range(8):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "vectors"), str(round_number)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        first = writer.stdout.readline()  # it writes
        time.sleep(0.1 + 0.07 * round_number)  # another moment each time
        writer.kill()
        lines, _ = writer.communicate()
        for line in (first + lines).splitlines(keepends=True):
            if line.endswith("\n"):
                acknowledged.update(line.split())
        vectors = Vectors(str(tmp_path / "vectors"), "e", QUESTIONS)
        assert acknowledged <= await vectors.keys("bucket")
        some = np.eye(1, 16, dtype=np.float32)[0]
        assert len(await vectors.nearest("bucket", some, 5)) == 5
        vectors.close()
    assert len(acknowledged) > 100


async def test_a_clock_that_goes_back(cached: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process's clock stands still until the time is as late again; entries are from the future without it."""
    past = datetime.now(UTC) - timedelta(days=90)
    for clock in (Clock(datetime.now(UTC)), lambda: past):
        monkeypatch.setattr(cached.answers, "_clock", clock)
        await serves_the_same_words(cached)
        assert (await fresh(cached, WINE_TOO)).provenance.cache.tier == "semantic"
    cached.answers._limits = CacheLimits(writes_an_hour=2)
    for text in ("Who painted the Night Watch?", "What is the capital of Mongolia?"):
        assert (await fresh(cached, text)).source == "model"
        assert (await fresh(cached, text)).source == "cache", "what was stored later does not count against now"
    await cached.answers._make_room()
    await serves_the_same_words(cached)
    assert faults(cached) == 0
