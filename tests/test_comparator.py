"""Whether two answers say the same, as the cache's labels need it."""

import time
from itertools import pairwise

import numpy as np
import pytest

from chatlab.cache.comparator import (
    ANSWER_FEATURES,
    OPENING_CHARS,
    Answered,
    agree,
    compared,
    opening,
    shipped,
    weights,
)
from chatlab.cache.evidence import Question
from chatlab.embedding import Embedder
from tools.make_cache_answers import FILE, MAX_TOKENS, UNSEEN_PAIRS, read_answers
from tools.train_comparator import SURE, compare, errors
from tools.train_verifier import pairs

BRIDGE = "How long is the bridge to the island?"


async def answered(embedder: Embedder, *turns: tuple[str, str]) -> list[Answered]:
    texts = [text for question, answer in turns for text in (question, opening(answer))]
    found = [Question(text, each) for text, each in zip(texts, await embedder.embed_tokens(texts), strict=True)]
    return [Answered(*found[i : i + 2]) for i in range(0, len(found), 2)]


async def test_the_same_text_agrees_whatever_was_asked(embedder: Embedder) -> None:
    a, b = await answered(
        embedder, (BRIDGE, "It is 12 km long."), ("what's the length of the island bridge", "it is 12 km  long")
    )
    assert agree(a, b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((BRIDGE, "It is 12 km long."), ("How long is the tunnel to the island?", "It is 15 km long.")),
        ((BRIDGE, "It is 12 km long."), (BRIDGE, "It is 15 km long.")),
        ((BRIDGE, "It is open to cars."), (BRIDGE, "It is not open to cars.")),
        (
            ("Can dogs eat grapes?", "No, grapes are toxic to dogs, and even a few can damage their kidneys."),
            ("Can dogs eat carrots?", "Yes, carrots are a healthy snack for dogs, raw or cooked."),
        ),
    ],
)
async def test_another_number_a_negation_another_thing_do_not(
    embedder: Embedder, a: tuple[str, str], b: tuple[str, str]
) -> None:
    first, second = await answered(embedder, a, b)
    assert not agree(first, second)


async def test_it_is_the_same_whichever_comes_first(embedder: Embedder) -> None:
    turns = [*read_answers(FILE).items()][:40]
    for a, b in pairwise(await answered(embedder, *turns)):
        assert np.allclose(compared(a, b), compared(b, a), atol=1e-6)
        assert agree(a, b) == agree(b, a)


async def test_nothing_said_and_a_very_long_answer(embedder: Embedder) -> None:
    long = "Bread rises because yeast makes gas. " * 3_000
    empty, filled, unbroken = await answered(embedder, ("Why?", ""), ("Why does bread rise?", long), ("x", "x" * 5_000))
    assert opening(long).endswith(("Bread", "rises", "because", "yeast", "makes", "gas."))
    assert len(opening(long)) <= OPENING_CHARS == len(unbroken.answer.text)
    assert not agree(empty, filled)
    assert not agree(filled, unbroken)


def test_the_shipped_errors_are_those_of_a_comparison_that_says_something() -> None:
    rates = shipped()
    assert rates.false_same > 0
    assert 0 < rates.false_different < 0.5
    assert rates.false_same + rates.false_different < 0.9, "with 1 a coin says as much"
    assert 0 < rates.worth(0.05) < 1
    assert weights().coefficients.shape == (len(ANSWER_FEATURES),)


async def test_on_answers_it_knows_it_errs_about_as_often(embedder: Embedder) -> None:
    """Of the file that the tool writes: its questions are those of the pairs, its answers as long as was asked."""
    answers = read_answers(FILE)
    in_pairs = {text for pair in pairs() for text in (pair.a, pair.b)}
    assert len(answers.keys() - in_pairs) <= 2 * UNSEEN_PAIRS
    assert all(answers.values())
    assert max(map(len, answers.values())) < 12 * MAX_TOKENS
    some = {text: answers[text] for text in [*answers][:300]}
    texts = [*{*some, *map(opening, some.values())}]
    read = {text: Question(text, each) for text, each in zip(texts, await embedder.embed_tokens(texts), strict=True)}
    found = compare([*pairs()], some, read)
    decisive = found.near & (found.scores >= SURE)
    measured, rates = errors(found.odds(weights())[decisive], found.same[decisive], float(weights().cut)), shipped()
    assert measured.false_same == pytest.approx(rates.false_same, abs=0.15)
    assert measured.false_different == pytest.approx(rates.false_different, abs=0.15)


async def test_a_comparison_takes_little(embedder: Embedder) -> None:
    turns = [*read_answers(FILE).items()][:40]
    each = await answered(embedder, *turns)
    started = time.process_time()
    for a, b in pairwise(each):
        agree(a, b)
    assert (time.process_time() - started) / len(each) < 0.02
