"""The vector store: what is added is found, at once and after a restart; what is deleted is gone from the disk."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatlab import vectors as module
from chatlab.errors import VectorsUnavailable
from chatlab.vectors import Vector, Vectors

DIM = 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "vectors"


@pytest.fixture
def vectors(folder: Path) -> Iterator[Vectors]:
    vectors = Vectors(str(folder), "an embedder")
    yield vectors
    vectors.close()


def unit(*seeds: int) -> Vector:
    """Random directions, (n, DIM)."""
    rows = np.stack([np.random.default_rng(seed).normal(size=DIM) for seed in seeds]).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def refs(*names: str) -> list[str]:
    return [f"{name}/user/0" for name in names]


async def similarities(vectors: Vectors, chat_id: str, seed: int, limit: int = 10) -> dict[str, float]:
    found = await vectors.nearest(chat_id, unit(seed)[0], limit)
    return {key.removesuffix("/user/0"): similarity for key, similarity in found.items()}


async def test_what_is_added_is_found_before_and_after_it_is_written(vectors: Vectors, folder: Path) -> None:
    assert await similarities(vectors, "a", 1) == {}
    assert not folder.exists(), "a folder comes with the first write"
    await vectors.add("a", refs("t1", "t2"), unit(1, 2))
    await vectors.add("b", refs("t3"), unit(1))
    before = await similarities(vectors, "a", 1)
    assert not folder.exists()
    await vectors.flush()
    after = await similarities(vectors, "a", 1)
    assert before == pytest.approx(after, abs=1e-6)
    assert after == pytest.approx({"t1": 1.0, "t2": float(unit(1)[0] @ unit(2)[0])}, abs=1e-6)
    again = Vectors(str(folder), "an embedder")
    assert await similarities(again, "a", 1, limit=1) == pytest.approx({"t1": 1.0}, abs=1e-6)
    assert await again.keys("a") == {"t1/user/0", "t2/user/0"}
    again.close()


async def test_rows_are_written_together(vectors: Vectors, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(module.WRITE_ROWS - 1):
        await vectors.add("a", refs(f"t{i}"), unit(i))
    assert not folder.exists()
    await vectors.add("a", refs("last"), unit(99))
    assert folder.exists()
    monkeypatch.setattr(module, "WRITE_SECONDS", 0.01)
    await vectors.add("a", refs("later"), unit(100))
    async with asyncio.timeout(5):
        while vectors._waiting:
            await asyncio.sleep(0.01)
    assert len(await vectors.keys("a")) == module.WRITE_ROWS + 1


async def test_many_writes_are_merged(vectors: Vectors, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIDY_WRITES", 10)
    monkeypatch.setattr(module, "TIDY_SECONDS", 0.01)
    for i in range(12):
        await vectors.add("a", refs(f"t{i}"), unit(i))
        await vectors.flush()
    async with asyncio.timeout(5):
        while vectors._n_writes >= 10:
            await asyncio.sleep(0.01)
    assert len(await similarities(vectors, "a", 1, limit=50)) == 12


@pytest.fixture
async def indexed(vectors: Vectors, monkeypatch: pytest.MonkeyPatch) -> Vectors:
    """A table with an index: a large group of 600 and a small one of 20."""
    for name, value in {"INDEX_ROWS": 500, "PARTITION_ROWS": 20, "LARGE_GROUP": 100, "PARTITIONS_READ": 15}.items():
        monkeypatch.setattr(module, name, value)
    await vectors.add("large", refs(*(f"l{i}" for i in range(600))), unit(*range(600)))
    await vectors.add("small", refs(*(f"s{i}" for i in range(20))), unit(*range(1_000, 1_020)))
    await vectors.flush()
    await vectors.tidy()
    return vectors


async def test_a_large_table_has_an_index_that_misses_little(indexed: Vectors) -> None:
    assert (indexed._partitions, indexed._large) == (31, {"large"})
    await indexed.add("large", refs("later"), unit(7_000))
    await indexed.flush()
    assert list(await similarities(indexed, "large", 7_000, limit=1)) == ["later"], "what the index does not have yet"
    shares = {"large": 0.0, "small": 0.0}
    for group, stored in (("large", unit(*range(600), 7_000)), ("small", unit(*range(1_000, 1_020)))):
        for seed in range(8_000, 8_050):
            found = await similarities(indexed, group, seed, limit=5)
            best = np.sort(stored @ unit(seed)[0])[-5:]
            shares[group] += sum(similarity >= best[0] - 1e-5 for similarity in found.values()) / 250
    assert shares["large"] > 0.9
    assert shares["small"] == pytest.approx(1), "nothing is missed in a small group"


async def test_an_index_outlives_a_restart_and_a_deletion(indexed: Vectors, folder: Path) -> None:
    again = Vectors(str(folder), "an embedder")
    assert await similarities(again, "small", 1_000, limit=1) == pytest.approx({"s0": 1.0}, abs=1e-6)
    assert (again._partitions, again._large, again._tidying) == (31, {"large"}, None)
    await again.delete_group("small")
    assert (again._partitions, again._tidying is not None) == (0, True), "it is made again by and by"
    await again.tidy()
    assert again._partitions == 30
    assert len(await similarities(again, "large", 3, limit=5)) == 5
    again.close()


async def test_writes_that_come_fast_are_merged_before_there_are_many(
    vectors: Vectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_WRITES", 5)
    for i in range(12):
        await vectors.add("a", refs(f"t{i}"), unit(i))
        await vectors.flush()
    assert vectors._n_writes == 2
    assert len(await similarities(vectors, "a", 1, limit=50)) == 12


@pytest.mark.parametrize("by_key", [True, False])
async def test_what_is_added_while_others_are_swept_stays(vectors: Vectors, by_key: bool) -> None:
    await vectors.add("a", refs("t1"), unit(1))
    await vectors.add("gone", refs("t2"), unit(2))
    await vectors.flush()

    async def known() -> set[str]:
        await vectors.add("new", refs("t3"), unit(3))
        writing = asyncio.ensure_future(vectors.flush())
        await asyncio.sleep(0.05)
        assert not writing.done(), "what is not known yet is not written either"
        return set(refs("t1")) if by_key else {"a"}

    assert await (vectors.keep_only_keys if by_key else vectors.keep_only)(known) == 1
    await vectors.flush()
    assert [await vectors.keys(group) for group in ("a", "gone", "new")] == [set(refs("t1")), set(), set(refs("t3"))]


async def test_a_deleted_chat_is_gone_from_the_disk(vectors: Vectors, folder: Path) -> None:
    await vectors.add("keep", refs("kept turn"), unit(1))
    await vectors.add("chat's", refs("secret turn"), unit(2))
    await vectors.flush()
    assert mentions(folder, "secret turn")
    await vectors.add("chat's", refs("another"), unit(3))
    await vectors.delete_group("chat's")
    assert await similarities(vectors, "chat's", 2) == {}
    assert not mentions(folder, "secret turn")
    assert await similarities(vectors, "keep", 1) == pytest.approx({"kept turn": 1.0}, abs=1e-6)


async def test_few_rows_of_a_large_table_are_gone_from_the_disk_too(vectors: Vectors, folder: Path) -> None:
    await vectors.add("keep", refs(*(f"kept {i}" for i in range(2_000))), np.repeat(unit(1), 2_000, axis=0))
    await vectors.add("go", refs(*(f"secret {i}" for i in range(20))), unit(*range(100, 120)))
    await vectors.flush()
    await vectors.tidy()
    assert mentions(folder, "secret 7")
    await vectors.delete_group("go")
    assert not mentions(folder, "secret 7")
    assert len(await vectors.keys("keep")) == 2_000
    await vectors.add("keep", refs("later"), unit(5))
    await vectors.flush()
    assert len(await similarities(vectors, "keep", 1, limit=3_000)) == 2_001


async def test_readers_at_the_same_time_open_it_together(vectors: Vectors, folder: Path) -> None:
    await vectors.add("a", refs("t1"), unit(1))
    await vectors.flush()
    other = Vectors(str(folder), "another one")
    assert await asyncio.gather(*(other.keys("a") for _ in range(5))) == [set()] * 5
    other.close()


def mentions(folder: Path, text: str) -> bool:
    return any(text.encode() in file.read_bytes() for file in folder.rglob("*") if file.is_file())


async def test_what_an_interrupted_deletion_left_is_swept(vectors: Vectors) -> None:
    await vectors.add("here", refs("t1"), unit(1))
    await vectors.add("gone", refs("t2"), unit(2))
    await vectors.flush()

    async def known() -> set[str]:
        return {"here", "never indexed"}

    assert await vectors.keep_only(known) == 1
    assert await vectors.keys("gone") == set()
    assert await vectors.keys("here") == {"t1/user/0"}


async def test_vectors_of_another_embedder_are_dropped(vectors: Vectors, folder: Path) -> None:
    await vectors.add("a", refs("t1"), unit(1))
    await vectors.flush()
    other = Vectors(str(folder), "another one")
    assert await other.keys("a") == set()
    assert len(list(folder.iterdir())) == 0
    other.close()


class TestFaults:
    async def test_a_corrupt_table(self, vectors: Vectors, folder: Path) -> None:
        await vectors.add("a", refs("t1"), unit(1))
        await vectors.flush()
        for file in folder.rglob("*"):
            if file.is_file():
                file.write_bytes(b"not what LanceDB wrote")
        vectors._table = None
        with pytest.raises(VectorsUnavailable, match="LanceDB cannot search"):
            await similarities(vectors, "a", 1)

    async def test_a_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        """Without asking for rights, which do not bind an administrator: a file stands where the folder would."""
        (tmp_path / "file").write_text("")
        vectors = Vectors(str(tmp_path / "file" / "vectors"), "an embedder")
        await vectors.add("a", refs("t1"), unit(1))
        with pytest.raises(VectorsUnavailable, match="cannot write"):
            await vectors.flush()
        with pytest.raises(VectorsUnavailable, match="cannot write"):
            await similarities(vectors, "a", 1)
        (tmp_path / "file").unlink()
        assert await similarities(vectors, "a", 1) == pytest.approx({"t1": 1.0}, abs=1e-6), "nothing was lost"
        vectors.close()

    def test_without_the_package(self, tmp_path: Path) -> None:
        (tmp_path / "lancedb.py").write_text("raise ModuleNotFoundError('lancedb')")
        code = (
            "import asyncio, sys, numpy as np\n"
            "from chatlab.vectors import Vectors\n"
            "v = Vectors(sys.argv[1], 'e')\n"
            "async def main():\n"
            "    await v.add('a', ['t'], np.ones((1, 4), np.float32))\n"
            "    await v.flush()\n"
            "asyncio.run(main())\n"
        )
        path = os.pathsep.join([str(tmp_path), str(Path(module.__file__).parents[1]), *sys.path])
        ran: Any = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "vectors")],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "VectorsUnavailable: the package lancedb is not installed" in ran.stderr
