"""What is kept of old turns: taken apart word for word, chosen within the room, without what was replaced."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from chatlab.embedding import Embedded, Embedder
from chatlab.evaluation.datasets import read_dialogues
from chatlab.history.judge import WEIGHTS, Judge, Weights
from chatlab.history.ledger import Replacement, Said, choose, replacements, statements, superseded
from chatlab.history.sentences import clauses
from chatlab.messages import UNKNOWN_TIME, Statement, Turn

HELD_OUT = Path(__file__).parent.parent / "data" / "notes_test.jsonl"
SEGMENT_TOKENS, RATIO = 1_000, 7
SURVIVAL = {True: 0.68, False: 0.6}  # judged by more than the rules or not


def size(text: str) -> int:
    """Tokens, nearly: longer words are several."""
    return sum(1 + len(word) // 7 for word in text.split()) + 1


def said(*texts: str) -> list[Said]:
    return [Said(f"t{place}", "user", text) for place, text in enumerate(texts)]


async def chosen_of(found: Sequence[Said], room: int, judge: Judge | None = None) -> tuple[Statement, ...]:
    """By the rules alone, unless somebody else judges."""
    places = choose(found, [*await (judge or Judge()).likelihoods(found)], room, size)
    return tuple(found[i] for i in places)


def parts(message: str) -> list[str]:
    return [each.text for each in clauses(message)]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("My vet is Dr. Okafor. Prof. A. Lind is away.", ["My vet is Dr. Okafor", "Prof. A. Lind is away"]),
        ("Look:\n```\nx = 1\n```\nIt prints one.", ["It prints one"]),
        ("To remember:\n- the code is 4711\n- milk, please", ["the code is 4711", "milk, please"]),
        ("Did I mention that I live in Oslo?", ["I live in Oslo"]),
        ("just so you know, my dog is called Rex", ["my dog is called Rex"]),
        ("My cat is Tom, and my sister lives in Bonn.", ["My cat is Tom", "my sister lives in Bonn"]),
        ("Ich wohne in Köln. Où est-il ?", ["Ich wohne in Köln", "Où est-il ?"]),
        ("私の猫はタマです。電話は0312345678です。", ["私の猫はタマです。", "電話は0312345678です。"]),
        ("As I may have said, my desk is on pier 57, if that helps.", ["my desk is on pier 57"]),
        ("Small update from my side: rent is 900!", ["rent is 900"]),
        ("(Context: they upped me to 83 mg, sadly.)", ["they upped me to 83 mg"]),
        ("New garage code: 1234.", ["New garage code: 1234"]),
        ("No more night shifts for me. My right knee aches.", ["No more night shifts for me", "My right knee aches"]),
        (
            "We open at 7 p.m. and I am off on New Year's. It rained.",
            ["We open at 7 p.m.", "I am off on New Year's", "It rained"],
        ),
        ("You need 171 grams of flour and keep the soda as it is.", ["You need 171 grams of flour"]),
        ("The code is 1234, and my PIN is 99.", ["The code is 1234", "my PIN is 99"]),
        ("", []),
    ],
)
def test_a_message_is_taken_apart(message: str, expected: list[str]) -> None:
    assert parts(message) == expected


def test_statements_stand_word_for_word_in_their_message() -> None:
    for turn in read_dialogues(HELD_OUT)[0].turns:
        for each in statements(turn):
            assert each.text in (turn.user_message if each.role == "user" else turn.assistant_message or "")


@pytest.mark.parametrize("judged", [True, False])
async def test_facts_are_chosen_before_small_talk_within_the_room_and_in_order(
    judged: bool, embedder: Embedder
) -> None:
    judge = Judge(embedder if judged else None, patient=True)
    found = said("It rained again last night.", "I am allergic to peanuts.", "lol that was fun", "My PIN is 4711.")
    chosen = await chosen_of(found, 14, judge)
    assert chosen == (found[1], found[3])
    assert sum(size(each.text) for each in chosen) <= 14
    assert await chosen_of(found, 0, judge) == ()


async def test_the_same_said_twice_takes_no_room() -> None:
    assert len(await chosen_of(said("My PIN is 4711.", "My PIN is 4711."), 100)) == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("the code of the locker is 4711", "the locker at the pool opens with 1862 now, the old code is dead"),
        ("We drive an old pickup.", "we sold the pickup and got a hatchback"),
        ("I always drink mint tea", "I used to drink mint tea but I prefer cocoa by now"),
        ("My favorite band is Wilco.", "my favorite band is Khruangbin"),
        ("I live in Columbus, Ohio", "I just moved to Portland"),
        ("The meeting with the landlord is on Tuesday", "The meeting with the landlord got pushed to Friday"),
    ],
)
async def test_a_later_statement_replaces_an_earlier_one(old: str, new: str) -> None:
    before, after = said(old), [Said("later", "user", new)]
    assert superseded(before, after) == frozenset(before)
    assert await chosen_of([*before, *after], 100) == tuple(after)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("my sister's birthday is on 4 July", "actually my brother's birthday is on 25 June now"),
        ("the code of the locker is 4711", "I changed the code of the bike lock to 1862"),
        ("the Monday appointment begins at 9:15", "they moved the Thursday appointment to 10:30"),
        ("the gas meter reads 4411", "the water meter reads 9822 now"),
        ("I am allergic to nuts", "I have a new job now"),
    ],
)
def test_near_facts_do_not_replace_each_other(old: str, new: str) -> None:
    assert not superseded(said(old), said(new))


async def test_what_shares_few_words_replaces_by_its_meaning(embedder: Embedder) -> None:
    judge = Judge(embedder, patient=True)
    old, new = said("I take the number 12 bus to the office"), said("my bus to work is the 45 now")
    other = said("my flight to the wedding is at 9:15", "the office has three floors")
    assert not [*replacements(old, new)]
    await judge.remember([*old, *new, *other])
    assert [*replacements(old, new, judge.likeness(old, new))] == [Replacement(0, 0)]
    assert not [*replacements(other, new, judge.likeness(other, new))]
    assert Judge().likeness(old, new) is None


@pytest.mark.parametrize(
    "piece", [" ", "a", "!", ".", ";", "。", "-", "1", "`", "\n", "a ", "A. ", "so that ", "and i "]
)
async def test_any_text_is_taken_apart(piece: str) -> None:
    text = f"x{piece * 30_000}y"[:30_000]
    turn = Turn("t", "c", "u", None, text, UNKNOWN_TIME, text)
    assert sum(size(each.text) for each in await chosen_of(list(statements(turn)), 50)) <= 50


@pytest.mark.parametrize(("judged", "survival"), SURVIVAL.items())
async def test_facts_outlive_compression_on_chats_held_out(judged: bool, survival: float, embedder: Embedder) -> None:
    judge = Judge(embedder if judged else None, patient=True)
    kept = asked = 0
    for dialogue in read_dialogues(HELD_OUT):
        turn_of_message = {each.utterance_id: each.turn_index for each in dialogue.utterances}
        notes: dict[int, str] = {}
        for segment in segments(dialogue.turns):
            turns = [dialogue.turns[place] for place in segment]
            room = sum(map(turn_size, turns)) // RATIO
            chosen = await chosen_of([each for turn in turns for each in statements(turn)], room, judge)
            notes.update(dict.fromkeys(segment, "\n".join(each.text for each in chosen)))
        for question in dialogue.questions:
            assert question.evidence
            place = turn_of_message[question.evidence[0]]
            asked += 1
            kept += question.answer in notes[place]
    assert kept / asked >= survival


def turn_size(turn: Turn) -> int:
    return size(turn.user_message) + size(turn.assistant_message or "")


def segments(turns: Sequence[Turn]) -> Iterator[list[int]]:
    places: list[int] = []
    for place, turn in enumerate(turns):
        places.append(place)
        if sum(turn_size(turns[each]) for each in places) >= SEGMENT_TOKENS or turn is turns[-1]:
            yield places
            places = []


# The judge


async def test_what_no_rule_knows_is_judged_by_its_meaning(embedder: Embedder) -> None:
    kept, passing = "the spare charger sits behind the flour", "the pigeons were at it all over"
    worth = {True: Judge(embedder, patient=True), False: Judge()}
    odds = {judged: await judge.likelihoods(said(kept, passing)) for judged, judge in worth.items()}
    assert odds[True][0] > 3 * odds[True][1]
    assert odds[True].shape == (2,)
    assert ((odds[True] > 0) & (odds[True] < 1)).all()


async def test_another_embedder_or_none_leaves_it_to_the_rules() -> None:
    found = said("My PIN is 4711.")
    rules = await Judge().likelihoods(found)
    for embedder in (Embedder("another/embedder"), Embedder("/nowhere/all-MiniLM-L6-v2")):
        assert (await Judge(embedder, patient=True).likelihoods(found) == rules).all()
        embedder.close()
    assert (await Judge().likelihoods([])).shape == (0,)


async def test_an_embedder_that_fails_leaves_it_to_the_rules(
    embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(texts: Sequence[str]) -> Embedded:
        raise RuntimeError("out of memory")

    found = said("My PIN is 4711.")
    monkeypatch.setattr(embedder, "embed", fails)
    assert (await Judge(embedder, patient=True).likelihoods(found) == await Judge().likelihoods(found)).all()


def test_weights_are_written_and_read_again(tmp_path: Path) -> None:
    weights = Weights.read(WEIGHTS)
    weights.write(tmp_path / "again.npz")
    again = Weights.read(tmp_path / "again.npz")
    assert again.vectors.shape == (2, 384)
    assert (again.vectors == weights.vectors).all()
    assert (again.bias == weights.bias).all()
