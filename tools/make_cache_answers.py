"""Writes `data/cache_answers.jsonl`: what the bundled model answers to questions of the cache's data, greedily.

For `tools/train_comparator.py --anew`. Of some groups and topics a question, two that ask the same and one that does
not, as near as what the cache compares; and of some pairs that nothing is trained on both questions. Takes minutes.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from chatlab.cache.evidence import Question
from chatlab.cache.guards import refusal
from chatlab.engines.base import Engine, GenerationRequest, Piece
from chatlab.evaluation.readers.pairs import read_pairs
from chatlab.messages import SamplingParams
from chatlab.settings import Settings
from chatlab.wiring import make_engine
from tools.train_verifier import DATA, Pair, pairs, questions

FILE = DATA / "cache_answers.jsonl"
UNSEEN = DATA / "cache_test_pairs.jsonl"
GROUPS, TOPICS, UNSEEN_PAIRS = 250, 70, 130
MAX_TOKENS = 64
NEAR = 0.75  # similarity of questions that the cache compares
PARTNERS = {True: 2, False: 1}  # of a question: that ask the same, and that do not


def near(read: dict[str, Question], a: str, b: str) -> bool:
    """Whether two questions are near and no guard tells them apart."""
    similarity = float(read[a].embedded.vector @ read[b].embedded.vector)
    return similarity >= NEAR and refusal(read[a].reading, read[b].reading) is None


def sampled(known: Sequence[Pair], read: dict[str, Question], seed: int = 0) -> list[str]:
    """The questions to ask, in the order of their groups."""
    chance = Random(seed)
    by_group = defaultdict[int, list[Pair]](list)
    for pair in known:
        by_group[pair.group].append(pair)
    left = {True: TOPICS, False: GROUPS}
    texts: list[str] = []
    for group in chance.sample(sorted(by_group), len(by_group)):
        is_topic = by_group[group][0].kind == "topic"
        if left[is_topic] and (found := _one_of(by_group[group], read, chance)):
            left[is_topic] -= 1
            texts += found
    return texts


def _one_of(group: Sequence[Pair], read: dict[str, Question], chance: Random) -> list[str]:
    """A question of a group with its partners; of the topics few have one that does not ask the same."""
    base = chance.choice([pair.a for pair in group])
    texts = [base]
    for same, n in PARTNERS.items():
        others = [
            pair.b if pair.a == base else pair.a for pair in group if pair.same == same and base in (pair.a, pair.b)
        ]
        others = [text for text in others if near(read, base, text)]
        texts += chance.sample(others, min(n, len(others)))
    return texts if len(texts) > 1 else []


def unseen(read: dict[str, Question], seed: int = 0) -> Iterator[str]:
    """Questions of pairs that nothing is trained on."""
    found = [pair for pair in read_pairs(UNSEEN) if near(read, pair.a, pair.b)]
    for pair in Random(seed).sample(found, min(UNSEEN_PAIRS, len(found))):
        yield from (pair.a, pair.b)


def read_answers(file: Path) -> dict[str, str]:
    """The answers by question."""
    lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return {line["question"]: line["answer"] for line in lines}


async def answers(engine: Engine, texts: Sequence[str]) -> list[str]:
    """What the model says, in the order of the questions."""
    params = SamplingParams(temperature=0.0, max_new_tokens=MAX_TOKENS)

    async def answer(text: str) -> str:
        request = GenerationRequest([{"role": "user", "content": text}], params)
        async with aclosing(engine.stream(request)) as chunks:
            return "".join([chunk.text async for chunk in chunks if isinstance(chunk, Piece)]).strip()

    return list(await asyncio.gather(*map(answer, texts)))


def ask_anew() -> None:
    """Ask and write."""
    known = [*pairs()]
    in_test = [text for pair in read_pairs(UNSEEN) for text in (pair.a, pair.b)]
    read = asyncio.run(questions(sorted({text for pair in known for text in (pair.a, pair.b)} | {*in_test})))
    texts = [*dict.fromkeys([*sampled(known, read), *unseen(read)])]
    with TemporaryDirectory() as folder:
        engine = make_engine(Settings(data_dir=Path(folder), engine="transformers", model="bundled", device="cpu"))
        try:
            given = asyncio.run(answers(engine, texts))
        finally:
            engine.close()
    lines = [
        json.dumps({"question": text, "answer": answer}, ensure_ascii=False) + "\n"
        for text, answer in zip(texts, given, strict=True)
    ]
    FILE.write_text("".join(lines), encoding="utf-8")
    print(f"{len(lines)} answers, {FILE.stat().st_size // 1_000} kB")
