"""`eval notes`: which facts outlive notes, which replaced values live on, ROUGE-1, the command."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from chatlab.evaluation.dialogues import Dialogue, Question, Said, Speaker, assemble
from chatlab.evaluation.facts import SegmentNotes, segments, survey
from chatlab.evaluation.metrics import holds, rouge_1
from chatlab.messages import Turn
from tests.conftest import ScriptedEngine

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Words:
    """Sizes of notes in words."""

    def note_tokens(self, text: str) -> int:
        return len(text.split())

    def line_tokens(self, text: str) -> int:
        return len(text.split())


def chat(*messages: str, questions: Sequence[Question] = ()) -> Dialogue:
    """What the user says, each answered with OK; the messages are cited as m0, m1 and so on."""
    said: list[Said] = []
    for i, message in enumerate(messages):
        sides: tuple[tuple[Speaker, str, str], ...] = (("user", f"m{i}", message), ("assistant", f"a{i}", "OK."))
        said += [Said(key, role, text, NOW) for role, key, text in sides]
    turns, utterances = assemble("made", said)
    return Dialogue("made", turns, utterances, tuple(questions))


def one_each(turn: Turn) -> int:
    return 1


@pytest.fixture
def writer() -> SegmentNotes:
    return SegmentNotes(ScriptedEngine(), Words())


def test_a_value_is_found_as_it_is() -> None:
    assert holds("Meet me at  Half\nPAST ten.", "half past ten")
    assert holds("It costs €12.50!", "€12.50")
    assert not holds("Room 1412", "14")
    assert not holds("The catalogue", "cat")


@pytest.mark.parametrize(
    ("candidate", "reference", "f1"),
    [
        ("The cat sat.", "the cat sat", 1.0),
        ("police killed the gunman", "police kill the gunman", 0.75),  # Lin 2004's example
        ("the the the", "the cat", 2 * 1 / (3 + 2)),  # as often as both have it
        ("no word", "in common", 0.0),
        ("", "cat", 0.0),
    ],
)
def test_rouge_1_by_hand(candidate: str, reference: str, f1: float) -> None:
    assert rouge_1(candidate, reference) == pytest.approx(f1)
    assert rouge_1(reference, candidate) == pytest.approx(f1)


def test_segments_end_once_they_are_full() -> None:
    turns = chat(*"abcdefg").turns
    assert segments(turns, one_each, 3) == [3, 6], "a third of a segment is none"
    assert segments(turns, one_each, 4) == [4, 7]
    assert segments(turns, one_each, 100) == []


def test_what_survives(writer: SegmentNotes) -> None:
    asked = [
        Question(0, "Dog?", "rex", ("m0",), "name"),
        Question(1, "Never said?", "Bello", ("m0",), "name"),
        Question(2, "Not cited?", "Rex", None, "name"),
        Question(3, "Small talk?", "day", ("m1",), "talk"),
        Question(4, "In both?", "dog", ("m0", "m3"), "two"),
        Question(5, "Car?", "blue", ("m4",), "possession"),
    ]
    made = chat("My dog is called Rex.", "What a day!", "Hm.", "The dog is asleep.", "My car is blue.", questions=asked)
    found = survey([made], writer, segment_tokens=1, compactions=(1, 4, 6))
    assert found.left_out == 2, "not said as it is, or not cited"
    assert {(probe.key, probe.compactions): probe.kept for probe in found.probes} == {
        ("made:0", 1): True,
        ("made:3", 1): False,
        ("made:5", 1): True,
        ("made:0", 4): True,  # four of the five turns have a note
        ("made:3", 4): False,
        ("made:4", 4): True,
    }
    assert found.categories == ("name", "possession", "talk", "two")
    kept = found.kept(1)
    assert kept is not None
    assert (kept.value, kept.n) == (pytest.approx(2 / 3), 3)
    assert found.kept(4, "possession") is None


def chat_of_a_change(*between: str) -> Dialogue:
    asked = [Question(0, "Which car?", "Kia", (f"m{len(between) + 1}",), "update", stale="Volvo")]
    return chat("I drive a Volvo.", *between, "I sold the Volvo and drive a Kia now.", questions=asked)


def test_a_replaced_value_is_struck_or_stale(writer: SegmentNotes, monkeypatch: pytest.MonkeyPatch) -> None:
    made = chat_of_a_change()
    found = survey([made], writer, segment_tokens=1, compactions=(1, 2))
    assert [(probe.compactions, probe.old, probe.new) for probe in found.stale_probes] == [
        (1, False, True),  # the turn after the note says it
        (2, False, True),
    ]
    assert [(probe.compactions, probe.kept) for probe in found.probes] == [(1, True), (2, True)]

    # If nothing is struck, both are said; the message of the change may name the old one.
    monkeypatch.setattr(writer._replaced, "in_note", lambda *_: frozenset[object]())
    found = survey([made], writer, segment_tokens=1, compactions=(1, 2))
    assert [(probe.alone, probe.beside) for probe in found.stale_probes] == [(False, True), (False, True)]
    beside, alone = found.stale_beside(2), found.stale_alone(2)
    assert beside is not None
    assert alone is not None
    assert (beside.value, alone.value) == (1.0, 0.0)


def test_an_old_value_without_the_new_one_is_stale(writer: SegmentNotes, monkeypatch: pytest.MonkeyPatch) -> None:
    made = chat_of_a_change()
    monkeypatch.setattr(writer._replaced, "in_note", lambda *_: frozenset[object]())
    forgetful = writer.note

    def note(turns: Sequence[Turn]) -> object:
        return forgetful(made.turns[:1] if turns[0] is made.turns[0] else chat("Hello.").turns)

    monkeypatch.setattr(writer, "note", note)
    (probe,) = survey([made], writer, segment_tokens=1, compactions=(2,)).stale_probes
    assert (probe.alone, probe.beside) == (True, False)


def test_a_report_as_json(writer: SegmentNotes) -> None:
    shown = survey([chat_of_a_change()], writer, segment_tokens=1, compactions=(1, 2)).as_json()
    assert shown["compactions"]["1"]["kept"] == {"value": 1.0, "interval": [1.0, 1.0], "n": 1}
    assert shown["compactions"]["2"]["kept_by_category"].keys() == {"update"}
    assert shown["compression"] > 0
    empty = survey([], writer).as_json()
    assert empty["compactions"]["5"]["kept"] is None
    assert empty["compression"] is None
