"""`eval notes`: which facts outlive notes, which replaced values live on, ROUGE-1, the command."""

import json
from collections.abc import Awaitable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from chatlab.cli import main
from chatlab.evaluation.bootstrap import Estimate
from chatlab.evaluation.dialogues import Dialogue, Question, Said, Speaker, assemble
from chatlab.evaluation.facts import SegmentNotes, segments, survey
from chatlab.evaluation.likelihoods import SAME_WORDS, _stranger
from chatlab.evaluation.metrics import holds, rouge_1
from chatlab.evaluation.prompts import Made
from chatlab.evaluation.report import Cell, HistoryReport
from chatlab.evaluation.side_by_side import SHOWN_MESSAGES, side_by_side
from chatlab.evaluation.summaries import score_summaries
from chatlab.evaluation.verdict import Verdict, conclusion, verdicts
from chatlab.history import Judge, NoteWriter
from chatlab.messages import Message, Note, Turn
from tests.conftest import ROOT, ScriptedEngine

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Words:
    """Sizes of notes in words."""

    def note_tokens(self, text: str, first: bool) -> int:
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
    return SegmentNotes(ScriptedEngine(), NoteWriter(Words(), Judge()))


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


async def test_what_survives(writer: SegmentNotes) -> None:
    asked = [
        Question(0, "Dog?", "rex", ("m0",), "name"),
        Question(1, "Never said?", "Bello", ("m0",), "name"),
        Question(2, "Not cited?", "Rex", None, "name"),
        Question(3, "Small talk?", "day", ("m1",), "talk"),
        Question(4, "In both?", "dog", ("m0", "m3"), "two"),
        Question(5, "Car?", "blue", ("m4",), "possession"),
    ]
    made = chat("My dog is called Rex.", "What a day!", "Hm.", "The dog is asleep.", "My car is blue.", questions=asked)
    found = await survey([made], writer, segment_tokens=1, compactions=(1, 4, 6))
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


async def test_a_replaced_value_is_struck_or_stale(writer: SegmentNotes, monkeypatch: pytest.MonkeyPatch) -> None:
    made = chat_of_a_change()
    found = await survey([made], writer, segment_tokens=1, compactions=(1, 2))
    assert [(probe.compactions, probe.old, probe.new) for probe in found.stale_probes] == [
        (1, False, True),  # the turn after the note says it
        (2, False, True),
    ]
    assert [(probe.compactions, probe.kept) for probe in found.probes] == [(1, True), (2, True)]

    # If nothing is struck, both are said; the message of the change may name the old one.
    monkeypatch.setattr(writer._replaced, "in_note", lambda *_: frozenset[object]())
    found = await survey([made], writer, segment_tokens=1, compactions=(1, 2))
    assert [(probe.alone, probe.beside) for probe in found.stale_probes] == [(False, True), (False, True)]
    beside, alone = found.stale_beside(2), found.stale_alone(2)
    assert beside is not None
    assert alone is not None
    assert (beside.value, alone.value) == (1.0, 0.0)


async def test_an_old_value_without_the_new_one_is_stale(writer: SegmentNotes, monkeypatch: pytest.MonkeyPatch) -> None:
    made = chat_of_a_change()
    monkeypatch.setattr(writer._replaced, "in_note", lambda *_: frozenset[object]())
    forgetful = writer.note

    def note(turns: Sequence[Turn], before: Sequence[Note]) -> Awaitable[object]:
        return forgetful(made.turns[:1] if turns[0] is made.turns[0] else chat("Hello.").turns)

    monkeypatch.setattr(writer, "note", note)
    (probe,) = (await survey([made], writer, segment_tokens=1, compactions=(2,))).stale_probes
    assert (probe.alone, probe.beside) == (True, False)


async def test_a_report_as_json(writer: SegmentNotes) -> None:
    shown = (await survey([chat_of_a_change()], writer, segment_tokens=1, compactions=(1, 2))).as_json()
    assert shown["compactions"]["1"]["kept"] == {
        "value": 1.0,
        "interval": [pytest.approx(0.2065, abs=1e-4), 1.0],
        "n": 1,
    }
    assert shown["compactions"]["2"]["kept_by_category"].keys() == {"update"}
    assert shown["compression"] > 0
    empty = (await survey([], writer)).as_json()
    assert empty["compactions"]["5"]["kept"] is None
    assert empty["compression"] is None


# Notes beside what people wrote


async def test_notes_beside_what_people_wrote(writer: SegmentNotes) -> None:
    talk = chat("My dog is called Rex.", "Lovely weather.", "Bye.")
    whole = replace(talk, notes=("The dog is called Rex",), notes_turn=2)
    sessions = replace(talk, sample_id="sessions", notes=("user: My dog is called Rex.",), notes_turn=1)
    engine = ScriptedEngine(["Their dog is", " called Rex."])
    found = await score_summaries([talk, whole, sessions], writer, engine, n=1)
    assert [each.key for each in found.scored] == ["made", "sessions"], "the first has no notes by people"
    assert found.scored[1].ledger == 1.0
    assert found.scored[0].lead == pytest.approx(2 * 4 / (5 + 8))  # "… Rex. OK. Lovely weather."
    assert found.model is not None
    assert found.model.n == 1
    assert found.sound is not None
    assert found.sound.value == 1.0
    assert len(engine.seen) == 1
    assert engine.seen[0].params.temperature == 0
    shown = found.as_json()
    assert shown["ledger"]["n"] == 2
    assert shown["model_minus_ledger"]["n"] == 1

    without = await score_summaries([whole], writer)
    assert without.model is None
    assert without.as_json()["model_sound"] is None


# The next turn's control


def test_a_chat_that_says_the_answer_is_no_control() -> None:
    answer = "One two three four five six seven eight nine."

    def answering(sample_id: str, text: str) -> Dialogue:
        made = chat("Hello.")
        return replace(made, sample_id=sample_id, turns=tuple(replace(t, assistant_message=text) for t in made.turns))

    assert len(answer.split()) > SAME_WORDS
    mine, same, other = answering("a", answer), answering("b", f"Well: {answer} So!"), answering("c", "No idea.")
    assert _stranger([mine, same, other], 0, 1, answer) is other
    assert _stranger([mine, same, other], 0, 2, answer) is other
    assert _stranger([mine, same], 0, 1, answer) is None
    assert _stranger([mine], 0, 0, answer) is None
    assert _stranger([answering("a", "Noted."), answering("b", "Noted, of course.")], 0, 1, "Noted.") is None


# The rule


GOOD, BAD, NEITHER = Estimate(0.5, 0.3, 0.7, 9), Estimate(-0.5, -0.7, -0.3, 9), Estimate(0.1, -0.1, 0.3, 9)


@pytest.mark.parametrize(
    ("answers", "gain", "own", "stale", "worth_it", "reason"),
    [
        (GOOD, NEITHER, NEITHER, None, True, "more answers"),
        (None, GOOD, GOOD, None, True, "a likelier next turn"),
        (None, GOOD, NEITHER, None, False, "nothing shows"),  # another chat's notes do as well
        (GOOD, BAD, GOOD, None, False, "a less likely next turn"),
        (BAD, GOOD, GOOD, None, False, "fewer answers"),
        (GOOD, GOOD, GOOD, GOOD, False, "replaced values that live on"),
        (GOOD, GOOD, GOOD, NEITHER, True, "more answers in the prompt and a likelier next turn"),
        (NEITHER, NEITHER, None, None, False, "nothing shows"),
        (None, None, None, None, False, "nothing shows"),
    ],
)
def test_the_rule(
    answers: Estimate | None,
    gain: Estimate | None,
    own: Estimate | None,
    stale: Estimate | None,
    worth_it: bool,
    reason: str,
) -> None:
    verdict = Verdict("summarize", 1_024, answers, gain, own, stale)
    assert verdict.worth_it is worth_it
    assert str(verdict).startswith(f"summarize at 1,024 tokens: {'yes' if worth_it else 'no'}, ")
    assert reason in str(verdict)


def cell(strategy: str, budget: int, nll: float, covered: float) -> Cell:
    targets = [
        {"id": f"t{i}", "answer_tokens": 10, "prompt_tokens": {}, "nll": {"history": nll + i, "control": 50.0}}
        for i in range(4)
    ]
    sections = {"perplexity": {"n": 4, "targets": targets}}
    return Cell(strategy, budget, coverage={"q0": covered, "q1": covered}, sections=sections)


async def test_verdicts_are_paired_at_equal_budgets(writer: SegmentNotes) -> None:
    facts = await survey([chat_of_a_change()], writer, segment_tokens=1, compactions=(1, 2))
    cells = [cell("truncate", 300, 20, 0.5), cell("summarize", 300, 10, 0.5), cell("summarize", 900, 10, 1.0)]
    (only,) = verdicts(HistoryReport(cells, {}, 0, "bm25"), facts)
    assert only.gain is not None
    assert (only.gain.value, only.gain.low, only.gain.high) == (pytest.approx(1.0),) * 3  # 10 nats over 10 tokens
    assert only.answers is not None
    assert only.answers.value == 0.0
    assert only.own is not None
    assert only.own.value > 3
    assert only.stale is not None
    assert only.stale.value == 0.0
    assert only.worth_it
    no = replace(only, budget=900, gain=None, answers=None)
    assert conclusion([only, no]) == "summarize: use it at 300 tokens, do not at 900 tokens"


def test_prompts_side_by_side_are_only_text() -> None:
    noted: tuple[Message, ...] = (
        {"role": "user", "content": "<notes>\n<script>alert(1)</script>\n</notes>"},
        {"role": "assistant", "content": "Noted."},
        {"role": "user", "content": "And?"},
    )
    long: tuple[Message, ...] = tuple({"role": "user", "content": f"no. {i}"} for i in range(SHOWN_MESSAGES + 5))
    shown = side_by_side({"summarize": Made(noted, 1_234, 0.1), "<b>": Made(long, 9, 0.1)})
    assert "<script>" not in shown
    assert "&lt;b&gt;" in shown
    assert "1,234 tokens" in shown
    assert shown.count('class="user notes"') == shown.count('class="assistant notes"') == 1
    assert "… 5 messages …" in shown


# The command


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATLAB_ENGINE", "echo")


@pytest.mark.usefixtures("echo")
def test_the_command_on_a_shipped_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = tmp_path / "result.json"
    options = ["--data", str(ROOT / "data/notes_dev.jsonl"), "--segment-tokens", "500", "--json", str(result)]
    assert main(["eval", "notes", *options]) == 0
    shown = capsys.readouterr().out
    found: dict[str, Any] = json.loads(result.read_text())
    facts = found["facts"]
    assert (facts["left_out"], found["segment_tokens"], found["dialogues"]) == (0, 500, 8)
    assert 6 < facts["compression"] < 9
    for n in ("1", "5"):
        kept = facts["compactions"][n]["kept"]
        assert kept["interval"][0] <= kept["value"] <= kept["interval"][1]
        assert f"{kept['value']:.3f} [" in shown
    assert facts["compactions"]["1"]["kept"]["n"] > 200
    assert facts["compactions"]["1"]["stale_alone"]["n"] > 40
    assert all(each is None for each in found["rouge_1"].values())
    assert "only the replaced value" in shown

    strict = tmp_path / "strict.json"
    assert main(["eval", "notes", *options[:-1], str(strict), "--compression", "30"]) == 0
    less = json.loads(strict.read_text())["facts"]["compactions"]["1"]["kept"]
    assert less["value"] < facts["compactions"]["1"]["kept"]["value"], "less room, fewer facts"


@pytest.mark.usefixtures("echo")
def test_the_command_on_talks_with_summaries(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    talk = {"dialogue": "#Person1#: My dog is called Rex.\n#Person2#: Nice.", "summary": "#Person1#'s dog is Rex."}
    data = tmp_path / "talks.jsonl"
    data.write_text(json.dumps(talk))
    assert main(["eval", "notes", "--data", str(data)]) == 0
    shown = capsys.readouterr().out
    assert "no facts were covered by notes" in shown
    assert "lead_3" in shown


@pytest.mark.usefixtures("echo")
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--data", "missing"], "missing: there is no such file"),
        (["--compression", "0.5"], "--compression 0.5: must be 1 or more"),
        (["--compression", "nan"], "--compression nan: must be 1 or more"),
        (["--segment-tokens", "0"], "--segment-tokens 0: must be 1 or more"),
        (["--summaries", "-1"], "--summaries -1: must be 0 or more"),
        (["--summaries", "3"], "--summaries: needs a model that writes, not CHATLAB_ENGINE=echo"),
        (["--seed", "-1"], "--seed -1: must be 0 or more"),
        (["--json", "no/file"], "--json no/file: there is no folder no"),
        (["--json", "."], "--json .: is a folder"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "notes", "--data", str(ROOT / "data/notes_dev.jsonl"), *arguments]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1
