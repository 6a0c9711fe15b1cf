"""`eval history`: readers of every shape, metrics worked out by hand, intervals, dumps, likelihoods, the command."""

import gzip
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chatlab.cli import main
from chatlab.engines.echo import EchoEngine
from chatlab.engines.models import ModelSource
from chatlab.engines.template import load_template
from chatlab.errors import ConfigError, PromptTooLong
from chatlab.evaluation import bootstrap
from chatlab.evaluation.baselines import BM25, BM25Peer, with_neighbours
from chatlab.evaluation.datasets import read_dialogues
from chatlab.evaluation.dialogues import Dialogue, Question, Said, assemble
from chatlab.evaluation.history import evaluate_history
from chatlab.evaluation.likelihoods import next_turns, rank_answers
from chatlab.evaluation.metrics import PromptText, content_words, normalised
from chatlab.evaluation.parts import TemplateCounter
from chatlab.evaluation.prefixes import ChatMemory, WordTokens, common_prefix, longest
from chatlab.evaluation.prompts import PromptMaker
from chatlab.evaluation.scoring import MAX_CONTINUATION_TOKENS, Scorer, load_scorer
from chatlab.history import Prompt, PromptBuilder, PromptInput, Recall
from chatlab.messages import Chat, HistoryChoice, Message, SamplingParams, Turn
from chatlab.store import Store
from tests.conftest import ROOT, ScriptedEngine
from tools import make_history_data, make_notes_data

NOW = datetime(2026, 1, 1, tzinfo=UTC)

LOCOMO: list[dict[str, Any]] = [
    {
        "sample_id": "talk-1",
        "conversation": {
            "speaker_a": "Ann",
            "speaker_b": "Bob",
            "session_1_date_time": "1:56 pm on 8 May, 2023",
            "session_1": [
                {"speaker": "Ann", "dia_id": "D1:1", "text": "I bought a kite."},
                {"speaker": "Bob", "dia_id": "D1:2", "text": "Show me!"},
                {"speaker": "Ann", "dia_id": "D1:3", "text": "Look here.", "blip_caption": "a red kite"},
            ],
            "session_2_date_time": "9:05 am on 12 June, 2023",
            "session_2": [
                {"speaker": "Bob", "dia_id": "D2:1", "text": "Did it fly?"},
                {"speaker": "Ann", "dia_id": "D2:2", "text": "It flew to Oslo."},
            ],
        },
        "qa": [
            {"question": "What did Ann buy?", "answer": "a kite", "evidence": ["D1:1"], "category": 1},
            {"question": "Made up?", "adversarial_answer": "no", "evidence": ["D1:1"], "category": 5},
            {"question": "Audited?", "answer": "wrong", "evidence": ["D1:2"], "category": 4},
            {"question": "Which year?", "answer": 2023, "evidence": ["D1:1; D2:2"], "category": 2},
            {"question": "Cited wrongly?", "answer": "yes", "evidence": ["D9:9"], "category": 4},
            {"question": "Not cited?", "answer": "yes", "evidence": [], "category": 4},
        ],
    }
]
BEAM_CHAT = [
    {
        "batch_number": 1,
        "turns": [
            [
                {"role": "user", "id": 0, "content": "Plan a shed.", "time_anchor": "March-15-2024"},
                {"role": "assistant", "id": 1, "content": "Four posts first."},
                {"role": "user", "id": 2, "content": "And then?"},
                {"role": "assistant", "id": 3, "content": "A roof of tin."},
            ]
        ],
    }
]
BEAM_QUESTIONS = {
    "abstention": [{"question": "Who painted it?", "ideal_response": "Nobody says."}],
    "knowledge_update": [{"question": "Which roof?", "answer": "tin", "source_chat_ids": {"old": [1], "new": [3, 1]}}],
    "summarization": [{"question": "Sum up.", "ideal_summary": "posts, tin roof", "source_chat_ids": [1, 3]}],
    "preference_following": [{"question": "Colour?", "source_chat_ids": [2]}],
}
MSC = {
    "previous_dialogs": [
        {
            "dialog": [{"text": "I row."}, {"text": "I knit."}, {"text": "Bye then."}],
            "personas": [["I row on lakes."], ["I knit socks."]],
        }
    ],
    "dialog": [{"text": "Back again."}, {"text": "How was the lake?"}],
    "metadata": {"initial_data_id": "v7"},
}
DIALOGSUM = {
    "fname": "d-1",
    "dialogue": "#Person1#: Is it far?\n#Person2#: Two miles.\n#Person2#: Or three.\n#Person1#: Thanks.",
    "summary": "Somebody asks for the way.",
}
OWN = {
    "sample_id": "own-1",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "My key is under\nthe Blue pot.", "id": "a", "date": "2025-03-01T10:00:00"},
        {"role": "assistant", "content": "Noted.", "id": "b"},
        {"role": "user", "content": "The cat is called Miso.", "id": "c", "date": "2025-03-02T10:00:00+01:00"},
        {"role": "assistant", "content": "A fine name.", "id": "d"},
    ],
    "questions": [
        {"question": "Where is the key?", "answer": "Under the blue pot", "evidence": ["a"]},
        {"question": "Cat and key?", "answer": "Miso, pot", "evidence": ["c", "a"], "category": "two"},
    ],
}


def write(file: Path, value: Any) -> Path:
    lines = [json.dumps(each) for each in value] if file.suffix != ".json" else [json.dumps(value)]
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".gz":
        file.write_bytes(gzip.compress("\n".join(lines).encode()))
    else:
        file.write_text("\n".join(lines) + "\n")
    return file


def texts(dialogue: Dialogue) -> list[tuple[str, str | None]]:
    return [(turn.user_message, turn.assistant_message) for turn in dialogue.turns]


def made_chat(n_turns: int, sample_id: str = "chat", questions: Sequence[Question] = ()) -> Dialogue:
    said = [
        Said(f"u{i}", "assistant" if i % 2 else "user", f"word{i} alpha beta gamma", NOW, session=i // 4)
        for i in range(2 * n_turns)
    ]
    turns, utterances = assemble(sample_id, said)
    return Dialogue(sample_id, turns, utterances, tuple(questions))


# Readers


def test_locomo(tmp_path: Path) -> None:
    write(tmp_path / "locomo_errors.json", [{"question_id": "locomo_7_qa2", "question": "Audited?", "error_type": "X"}])
    (talk,) = read_dialogues(write(tmp_path / "talks.json", LOCOMO))
    assert texts(talk) == [
        ("Ann: I bought a kite.", "Bob: Show me!"),
        ("Ann: Look here. [image: a red kite]", "Bob: Did it fly?\nAnn: It flew to Oslo."),
    ]
    assert [turn.created_at for turn in talk.turns] == [datetime(2023, 5, 8, 13, 56, tzinfo=UTC)] * 2
    assert [(u.utterance_id, u.turn_index, u.role, u.session) for u in talk.utterances] == [
        ("D1:1", 0, "user", 0),
        ("D1:2", 0, "assistant", 0),
        ("D1:3", 1, "user", 0),
        ("D2:1", 1, "assistant", 1),
        ("D2:2", 1, "assistant", 1),
    ]
    assert talk.utterances[2].text == "Look here.", "evidence is looked for without the speaker and the caption"
    assert [(q.index, q.answer, q.evidence) for q in talk.questions] == [
        (0, "a kite", ("D1:1",)),
        (3, "2023", ("D1:1", "D2:2")),
        (4, "yes", None),
        (5, "yes", None),
    ]
    assert read_dialogues(tmp_path) == (talk,), "the audit file is no data of its own"


def test_beam(tmp_path: Path) -> None:
    write(tmp_path / "7/chat.json", BEAM_CHAT)
    write(tmp_path / "7/probing_questions.json", BEAM_QUESTIONS)
    (chat,) = read_dialogues(tmp_path)
    assert chat.sample_id == "7"
    assert texts(chat) == [("Plan a shed.", "Four posts first."), ("And then?", "A roof of tin.")]
    assert {turn.created_at for turn in chat.turns} == {datetime(2024, 3, 15, tzinfo=UTC)}
    assert [(q.index, q.answer, q.evidence, q.category) for q in chat.questions] == [
        (1, "tin", ("1", "3"), "knowledge_update"),
        (2, "posts, tin roof", ("1", "3"), "summarization"),
        (3, "", ("2",), "preference_following"),
    ]
    assert read_dialogues(tmp_path / "7/chat.json") == (chat,)


def test_talks_with_notes(tmp_path: Path) -> None:
    (talk,) = read_dialogues(write(tmp_path / "session.txt", [MSC]))
    assert texts(talk) == [("I row.", "I knit."), ("Bye then.\nBack again.", "How was the lake?")]
    assert talk.notes == ("user: I row on lakes.", "assistant: I knit socks.")
    assert (talk.sample_id, talk.notes_turn) == ("v7:1", 1)

    (talk,) = read_dialogues(write(tmp_path / "sums.jsonl", [DIALOGSUM]))
    assert texts(talk) == [("Is it far?", "Two miles.\nOr three."), ("Thanks.", None)]
    assert (talk.sample_id, talk.notes, talk.notes_turn) == ("d-1", ("Somebody asks for the way.",), 1)


@pytest.mark.parametrize("name", ["own.jsonl", "own.jsonl.gz"])
def test_our_question_files(tmp_path: Path, name: str) -> None:
    (chat,) = read_dialogues(write(tmp_path / name, [OWN]))
    assert chat.system_prompt == "Be brief."
    assert texts(chat) == [("My key is under\nthe Blue pot.", "Noted."), ("The cat is called Miso.", "A fine name.")]
    assert [turn.created_at.isoformat() for turn in chat.turns] == [
        "2025-03-01T10:00:00+00:00",
        "2025-03-02T10:00:00+01:00",
    ]
    assert [u.session for u in chat.utterances] == [0, 0, 1, 1]
    assert chat.questions[1] == Question(1, "Cat and key?", "Miso, pot", ("c", "a"), "two")
    changed = _changed(OWN, lambda v: v["questions"][0].update(stale=12))
    (chat,) = read_dialogues(write(tmp_path / name, [changed]))
    assert [question.stale for question in chat.questions] == ["12", None]


async def test_chatlabs_own_chats(tmp_path: Path) -> None:
    def turn(name: str, parent: str | None, second: int) -> Turn:
        at = NOW.replace(second=second)
        return Turn(name, "c1", "someone", parent, f"ask {name}", at, f"say {name}", "done", finished_at=at)

    branches = [turn("t1", None, 1), turn("t2", "t1", 2), turn("t3", "t1", 3)]
    with Store(tmp_path / "stored") as store:
        await store.add_chat(Chat("c1", "someone", None, NOW, NOW, system_prompt="Be kind."))
        await store.add_chat(Chat("empty", "other", None, NOW, NOW))
        for each in branches:
            await store.add_turn(each)
            await store.finish_turn(each)
    exported = {
        "chatID": "c1",
        "userID": "someone",
        "systemPrompt": "Be kind.",
        "turns": [
            {
                "turnID": each.turn_id,
                "parentTurnID": each.parent_turn_id,
                "userMessage": each.user_message,
                "assistantMessage": each.assistant_message,
                "status": "done",
                "createdAt": each.created_at.isoformat(),
            }
            for each in branches
        ],
    }
    for place in (
        tmp_path / "stored",
        write(tmp_path / "one.json", exported),
        write(tmp_path / "list.json", [exported, {"chatID": "empty", "turns": []}]),
    ):
        (chat,) = read_dialogues(place)
        assert texts(chat) == [("ask t1", "say t1"), ("ask t3", "say t3")], "the branch of the newest turn"
        assert (chat.sample_id, chat.system_prompt) == ("c1", "Be kind.")
        assert chat.utterances[3].utterance_id == "t3:assistant"


def test_a_folder_of_several(tmp_path: Path) -> None:
    write(tmp_path / "a/chat.json", BEAM_CHAT)
    write(tmp_path / "a/probing_questions.json", BEAM_QUESTIONS)
    write(tmp_path / "own.jsonl", [OWN])
    write(tmp_path / "pairs.jsonl", [{"a": "x", "b": "y", "label": 1}])
    (tmp_path / "README.md").write_text("# Not data")
    (tmp_path / "terms.txt").write_text("Not data either")
    assert [each.sample_id for each in read_dialogues(tmp_path)] == ["a", "own-1"]
    write(tmp_path / "again.jsonl", [OWN])
    with pytest.raises(ConfigError, match="two conversations have the id 'own-1'"):
        read_dialogues(tmp_path)


def _changed(value: Any, change: Callable[[Any], None]) -> Any:
    copied = json.loads(json.dumps(value))
    change(copied)
    return copied


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("a.json", {"what": 1}, "none of the shapes"),
        ("a.json", [], "none of the shapes"),
        ("a.json", _changed(LOCOMO, lambda v: v[0].pop("sample_id")), "entry 0: sample_id: Field required"),
        (
            "a.json",
            _changed(LOCOMO, lambda v: v[0]["conversation"].update(session_2_date_time="soon")),
            "talk-1: session_2_date_time: 'soon' is no date",
        ),
        (
            "a.json",
            _changed(LOCOMO, lambda v: v[0]["conversation"]["session_1"][1].pop("text")),
            r"talk-1, session_1: 1\.text: Field required",
        ),
        ("a.json", {"chatID": "c", "turns": [{"turnID": "t"}]}, r"chat 0: turns\.0\.userMessage: Field required"),
        ("a.jsonl", [OWN, {"sample_id": "x"}], "line 2: it has another shape"),
        (
            "a.jsonl",
            [_changed(OWN, lambda v: v["questions"][1].update(evidence=["z"]))],
            r"questions\.1\.evidence.*'z'",
        ),
        (
            "a.jsonl",
            [_changed(OWN, lambda v: v["questions"][1].update(stale="Miso, pot"))],
            r"questions\.1\.stale: 'Miso, pot' is the answer itself",
        ),
        ("a.jsonl", [_changed(OWN, lambda v: v["messages"][2].update(role="tool"))], r"line 1: messages\.2\.role"),
        ("a.jsonl", [_changed(OWN, lambda v: v["messages"][2].update(id="a"))], r"messages\.2\.id: 'a' is there twice"),
        ("a.jsonl", [_changed(DIALOGSUM, lambda v: v.update(dialogue="Hello"))], "line 1: dialogue: 'Hello'"),
        ("a.txt", [{"previous_dialogs": [], "dialog": [{}]}], r"line 1: dialog\.0\.text: Field required"),
    ],
)
def test_malformed_files_are_named(tmp_path: Path, name: str, value: Any, complaint: str) -> None:
    file = write(tmp_path / name, value)
    with pytest.raises(ConfigError, match=complaint) as refused:
        read_dialogues(file)
    assert str(refused.value).startswith(str(file))


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_text('{"chatID": ')
    (tmp_path / "cut.jsonl").write_text(json.dumps(OWN) + '\n{"sample_id": ')
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"{}" * 99)[:20])
    for name, complaint in (("cut.json", "no JSON"), ("cut.jsonl", "line 2: no JSON"), ("cut.jsonl.gz", "cannot be")):
        with pytest.raises(ConfigError, match=complaint):
            read_dialogues(tmp_path / name)
    with pytest.raises(ConfigError, match="no such file"):
        read_dialogues(tmp_path / "missing.json")


# Metrics


def test_coverage_and_evidence_by_hand() -> None:
    assert content_words("The Blue pot, isn't it? 42!") == ["blue", "pot", "isn", "42"]
    prompt = PromptText([{"role": "user", "content": "A  blue\nPOT"}, {"role": "assistant", "content": "of 42 fish"}])
    assert prompt.coverage("blue pots, 42") == pytest.approx(2 / 3)
    assert prompt.coverage("Blue blue pot") == 1.0
    assert prompt.coverage("it is the") is None
    assert prompt.has_all([normalised("Blue   pot"), normalised("42 FISH")])
    assert not prompt.has_all([normalised("blue pot"), normalised("no fish")])


def test_the_means_of_intervals_that_are_known() -> None:
    same = bootstrap.mean([0.5] * 20, seed=1)
    assert same == bootstrap.Estimate(0.5, 0.5, 0.5, 20)
    assert bootstrap.mean([], seed=1) is None
    assert bootstrap.ratio([1.0], [0.0], seed=1) is None

    values = np.random.default_rng(3).normal(2.0, 1.0, 400).tolist()
    found = bootstrap.mean(values, seed=1)
    assert found is not None
    half = 1.96 * float(np.std(values)) / math.sqrt(400)
    assert found.value == pytest.approx(np.mean(values))
    assert found.high - found.value == pytest.approx(half, rel=0.15)
    assert found.value - found.low == pytest.approx(half, rel=0.15)
    assert bootstrap.mean(values, seed=1) == found, "the same seed, the same interval"
    assert bootstrap.mean(values, seed=2) != found

    halves = bootstrap.ratio([1.0, 3.0, 2.0], [2.0, 6.0, 4.0], seed=1)
    assert halves == bootstrap.Estimate(0.5, 0.5, 0.5, 3)


def test_common_prefixes() -> None:
    def tokens(*values: int) -> Any:
        return np.array(values, np.int64)

    assert common_prefix(tokens(1, 2, 3), tokens(1, 2, 4, 5)) == 2
    assert common_prefix(tokens(1, 2), tokens(1, 2, 3)) == 2
    assert common_prefix(tokens(), tokens(1)) == 0
    assert longest(tokens(1, 2, 3, 4), [tokens(1, 2, 3, 9), tokens(1, 2), tokens(9, 2, 3, 4)]) == 3
    assert longest(tokens(1), []) == 0


def test_reuse_by_hand() -> None:
    def render(messages: Sequence[Message]) -> str:
        return "".join(f" <{m['role']}> {m['content']}" for m in messages) + " <assistant>"

    memory = ChatMemory(render, WordTokens())
    first: list[Message] = [{"role": "user", "content": "found here q1"}]
    assert memory.measure(first) is None
    memory.remember(first, "a1")
    begins: list[Message] = [{"role": "user", "content": "q1"}, {"role": "assistant", "content": "a1"}]
    second: list[Message] = [*begins, {"role": "user", "content": "found there q2"}]
    # <user> q1 <assistant> a1 <user> | found there q2 <assistant>
    cold = memory.measure(second)
    assert cold is not None
    assert (cold.prompt, cold.reusable, cold.cold, cold.warmed) == (9, 5, 1, 1), "what was retrieved stood in the way"
    memory.warm(begins)
    warmed = memory.measure(second)
    assert warmed is not None
    assert (warmed.cold, warmed.warmed) == (1, 5)
    assert (warmed.prefix_reuse, warmed.prefix_reuse_cold, warmed.prompt_reuse) == (1.0, 1 / 5, 1 / 9)


# The peer


def test_bm25_by_hand() -> None:
    index = BM25([["red", "kite"], ["blue", "kite"], ["sky", "sea"]])
    scores = index.scores(["red", "kite", "moon"])
    rare, common = math.log(1 + 2.5 / 1.5), math.log(1 + 1.5 / 2.5)  # all texts are of the mean length
    assert scores.tolist() == pytest.approx([rare + common, common, 0.0])
    near = with_neighbours(np.array([4.0, 0.0, 0.0, 2.0]), np.array([0, 0, 1, 1]))
    assert near.tolist() == [4.0, 2.0, 1.0, 2.0]


def test_the_peer_fills_the_budget_and_keeps_the_order() -> None:
    engine, chat = EchoEngine(), made_chat(10)
    peer = BM25Peer(chat.utterances, engine)
    question = "What about word3 and word15?"
    for budget in (7, 20, 40, 60, 500):
        prompt = peer.prompt(question, budget)
        assert prompt.tokens == engine.count(prompt.messages) <= budget
        assert prompt.messages[-1]["content"].endswith(question)
        lines = [line.split("] ")[1] for line in prompt.messages[0]["content"].splitlines() if "] " in line]
        places = [int(line.split()[0].removeprefix("word")) for line in lines]
        assert places == sorted(places)
        if 40 <= budget < 500:
            assert {3, 15} <= set(places)
            assert budget - prompt.tokens < 9, "another line would have fitted"
        assert budget < 500 or places == list(range(20))
    with pytest.raises(PromptTooLong):
        peer.prompt(question, 6)


# The passes


class WrongBuilder(PromptBuilder):
    """Claims three tokens too many, and keeps everything whatever the budget."""

    async def build(self, given: PromptInput, choice: HistoryChoice, params: SamplingParams) -> Prompt:
        prompt = await super().build(given, HistoryChoice("truncate"), params)
        claimed = prompt.provenance.prompt_tokens + 3
        return replace(prompt, provenance=replace(prompt.provenance, prompt_tokens=claimed))


async def test_faults_of_a_builder_are_found(recall: Recall) -> None:
    engine = ScriptedEngine(context_tokens=2_000)
    chat = made_chat(6, questions=[Question(0, "word0?", "word0", ("u0",))])
    good = await evaluate_history([chat], engine, PromptBuilder(engine, recall), ["truncate"], [150])
    assert (good.cells[0].over_limit, good.cells[0].count_error) == (0, 0)
    assert (good.cells[0].n, good.cells[0].replayed) == (1, 6)
    bad = await evaluate_history([chat], engine, WrongBuilder(engine, recall), ["truncate"], [150])
    # A turn is 65 characters or so: the fourth to sixth turn of the replay, and the question.
    assert bad.cells[0].count_error == 3
    assert bad.cells[0].over_limit == sum(
        engine.count(_all_of(chat.turns[:i], chat.turns[i].user_message)) > 150 for i in range(6)
    ) + (engine.count(_all_of(chat.turns, "word0?")) > 150)
    assert bad.cells[0].over_limit > 1


def _all_of(turns: Sequence[Turn], question: str) -> list[Message]:
    messages: list[Message] = []
    for turn in turns:
        messages.append({"role": "user", "content": turn.user_message})
        messages.append({"role": "assistant", "content": turn.assistant_message or ""})
    return [*messages, {"role": "user", "content": question}]


async def test_what_a_report_says(recall: Recall) -> None:
    engine = ScriptedEngine(context_tokens=5_000)
    questions = [
        Question(0, "Early?", "word0 word99", ("u0",)),
        Question(3, "Late?", "word11", ("u11", "u10")),
        Question(4, "Uncited?", "the", None),
    ]
    chat = made_chat(6, questions=questions)
    lines: list[Any] = []
    asked: list[Any] = []

    class Told:
        async def index(self, chat_id: str, turns: Sequence[Turn]) -> None:
            asked.append((chat_id, len(turns)))

    report = await evaluate_history(
        [chat],
        engine,
        PromptBuilder(engine, recall),
        ["direct", "truncate", "bm25"],
        [200, 3_000],
        recall=Told(),
        dump=lines.append,
    )
    assert asked == [("chat", 6)]
    result = json.loads(json.dumps(report.as_json()))["strategies"]
    whole, tail = result["direct"]["3000"], result["truncate"]["200"]
    assert (whole["n"], whole["refused"], whole["over_limit_prompts"], whole["token_count_error"]) == (3, 0, 0, 0)
    assert (whole["answer_word_coverage"], whole["evidence_recall"], whole["blocked_turns"]) == (0.75, 1.0, 0)
    assert (result["direct"]["200"]["refused"], result["direct"]["200"]["answer_word_coverage"]) == (3, None)
    assert (tail["answer_word_coverage"], tail["evidence_recall"]) == (0.5, 0.5)
    assert whole["prefix_reuse"] > 0.95, "nothing before the question changes"
    assert tail["prefix_reuse"] < whole["prefix_reuse"]
    assert whole["replayed_turns"] == 6
    assert result["bm25"]["3000"]["prefix_reuse"] is None
    assert whole["minus_bm25"]["evidence_recall"] == {"value": 0.0, "interval": [0.0, 0.0], "n": 2}
    assert "minus_bm25" not in result["bm25"]["200"]
    assert whole["build_ms"]["p50"] <= whole["build_ms"]["p95"]

    assert {line["id"] for line in lines} == {"chat:0", "chat:3", "chat:4"}
    assert len(lines) == 3 * 6 - 3
    for line in lines:
        assert line.keys() == {"id", "strategy", "budget", "messages", "prompt_tokens"}
        assert line["prompt_tokens"] == engine.count(line["messages"]) <= line["budget"]


async def test_dialogues_without_questions_are_dumped_by_turn(recall: Recall) -> None:
    engine, lines = ScriptedEngine(context_tokens=5_000), list[Any]()
    report = await evaluate_history(
        [made_chat(4)],
        engine,
        PromptBuilder(engine, recall),
        ["truncate", "bm25"],
        [500],
        dump=lines.append,
        max_turns=3,
    )
    assert [line["id"] for line in lines] == ["chat:t0", "chat:t1", "chat:t2"] * 2
    assert [cell.n for cell in report.cells] == [3, 3]
    assert report.as_json()["strategies"]["truncate"]["500"]["answer_word_coverage"] is None


# Likelihoods


@pytest.fixture(scope="module")
def source(bundled_model: Path) -> ModelSource:
    return ModelSource("bundled", str(bundled_model), on_hub=False)


@pytest.fixture(scope="module")
def scorer(source: ModelSource) -> Scorer:
    return load_scorer(source, "cpu")


def test_likelihoods_are_those_of_the_plain_computation(source: ModelSource, scorer: Scorer) -> None:
    import torch

    from chatlab.engines.runtime.loading import load

    template, _ = load_template(source.location)
    messages: list[Message] = [{"role": "user", "content": "Name the capital of France, and say why."}]
    answers = ["Paris.", "The capital of France is Paris, since it was chosen long ago.", " no"]
    _, model = load(source, torch.device("cpu"))
    prompt = template.encode(template.render(messages))
    for answer, scored in zip(answers, scorer.score(messages, answers), strict=True):
        ids = template.encode(answer)
        with torch.inference_mode():
            logits = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].float()
        plain = logits.log_softmax(1)[range(len(ids)), ids].sum().item()
        assert scored.tokens == len(ids)
        assert scored.log_likelihood == pytest.approx(plain, rel=0.03), answer  # bf16, other shapes
        assert scored.nll_per_token == pytest.approx(-scored.log_likelihood / len(ids))
    assert scorer.score(messages, ["word " * 999])[0].tokens == MAX_CONTINUATION_TOKENS
    with pytest.raises(ValueError, match="empty"):
        scorer.score(messages, [""])


async def test_what_history_is_worth_to_the_model(source: ModelSource, scorer: Scorer, recall: Recall) -> None:
    """A copied answer is likely with the history that holds it, and not with another."""
    template, _ = load_template(source.location)
    counter = TemplateCounter(template, "bundled", 8_192)
    builder = PromptBuilder(counter, recall)
    colours = ["crimson", "teal", "amber", "olive", "ivory", "violet", "cobalt", "maroon", "beige", "lilac"]

    def chat(name: str, key: int) -> Dialogue:
        said: list[Said] = []
        for i, colour in enumerate(colours):
            said.append(Said(f"{i}a", "user", f"Which colour has box {i + key}?", NOW))
            said.append(Said(f"{i}b", "assistant", f"Box {i + key} is {colour} {key}.", NOW))
        turns, utterances = assemble(name, said)
        questions = tuple(
            Question(i, f"Which colour has box {i + key}?", f"Box {i + key} is {colour} {key}.", (f"{i}b",))
            for i, colour in enumerate(colours)
        )
        return Dialogue(name, turns, utterances, questions, ("Every box has a colour.",), notes_turn=8)

    chats = [chat("one", 300), chat("two", 700)]
    maker = PromptMaker(counter, builder)
    report = await evaluate_history(chats, counter, builder, ["truncate", "bm25"], [250], max_turns=0)
    await rank_answers(report, chats, maker, scorer, 2, seed=5)
    await next_turns(report, chats, maker, scorer, 2, seed=5)
    cell = report.as_json()["strategies"]["truncate"]["250"]
    assert cell["rank"]["n"] == 2
    assert cell["rank"]["nll_per_token"]["value"] < cell["rank"]["none"]["nll_per_token"]["value"]
    assert cell["rank"]["first"]["value"] >= cell["rank"]["none"]["first"]["value"]
    assert cell["rank"]["minus_bm25"]["first"]["n"] == 2
    per_token, recovered = cell["perplexity"]["nll_per_token"], cell["perplexity"]["recovered"]
    assert per_token["full"]["value"] < per_token["none"]["value"]
    assert recovered["history"]["value"] > recovered["control"]["value"], "another's chat helps less"
    assert recovered["notes"]["n"] == cell["perplexity"]["n"] == 2

    # Budgets of the history alone, where the question by itself takes more.
    report = await evaluate_history(chats, counter, builder, ["truncate"], [38], max_turns=0)
    for history_alone, n in ((False, 0), (True, 2)):
        await next_turns(report, chats, maker, scorer, 2, seed=5, history_alone=history_alone)
        found = report.as_json()["strategies"]["truncate"]["38"]["perplexity"]
        assert found["n"] == n
        for size in (target["prompt_tokens"] for target in found["targets"]):
            assert 38 < size["none"] < size["history"] <= size["none"] + 38


# The command


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATLAB_ENGINE", "echo")


@pytest.mark.usefixtures("echo")
def test_the_command_on_the_shipped_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, result, dump = ROOT / "data/history_questions.jsonl", tmp_path / "result.json", tmp_path / "dump.jsonl"
    options = [
        "--strategies",
        "direct,truncate,summarize,bm25",
        "--budget",
        "300",
        "--budget",
        "900",
        "--max-turns",
        "12",
    ]
    arguments = ["eval", "history", "--data", str(data), *options, "--json", str(result), "--dump", str(dump)]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "truncate   900" in shown
    assert "less bm25" in shown
    found = json.loads(result.read_text())
    cells = found["strategies"]
    assert {name: list(by_budget) for name, by_budget in cells.items()} == {
        name: ["300", "900"] for name in ("direct", "truncate", "summarize", "bm25")
    }
    for by_budget in cells.values():
        for cell in by_budget.values():
            assert (cell["n"], cell["over_limit_prompts"], cell["token_count_error"]) == (found["questions"], 0, 0)
    assert cells["direct"]["300"]["refused"] == found["questions"]
    assert cells["bm25"]["300"]["evidence_recall"] > cells["truncate"]["300"]["evidence_recall"] + 0.3
    assert cells["truncate"]["900"]["evidence_recall"] > cells["truncate"]["300"]["evidence_recall"]

    # Whoever has the dump finds the same.
    questions = {f"{d.sample_id}:{q.index}": q for d in read_dialogues(data) for q in d.questions}
    lines = [json.loads(line) for line in dump.read_text().splitlines()]
    mine = [
        PromptText(line["messages"]).coverage(questions[line["id"]].answer)
        for line in lines
        if (line["strategy"], line["budget"]) == ("bm25", 300)
    ]
    assert np.mean([each for each in mine if each is not None]) == cells["bm25"]["300"]["answer_word_coverage"]

    again = tmp_path / "again.json"
    assert main([*arguments[:-4], "--json", str(again)]) == 0
    repeated = json.loads(again.read_text())["strategies"]
    for by_budget in (*cells.values(), *repeated.values()):
        for cell in by_budget.values():
            del cell["build_ms"], cell["note_ms"]
    assert repeated == cells, "but for the times, a run is repeatable"


def test_the_command_counts_with_the_models_tokenizer(
    source: ModelSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATLAB_MODEL", source.location)
    data, result = write(tmp_path / "own.jsonl", [OWN]), tmp_path / "result.json"
    assert main(["eval", "history", "--data", str(data), "--budget", "100", "--json", str(result)]) == 0
    found = json.loads(result.read_text())
    assert found["strategies"].keys() == {"truncate", "hybrid", "bm25"}
    assert found["strategies"]["truncate"]["100"]["evidence_recall"] == 1.0
    assert found["strategies"]["hybrid"]["100"]["faults"] == 0
    assert 40 < found["strategies"]["truncate"]["100"]["prompt_tokens_mean"] < 100, "tokens, not words"


@pytest.mark.usefixtures("echo")
@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--data", "missing"], "missing: there is no such file"),
        (["--data", "own.jsonl", "--strategies", "magic"], "--strategies: 'magic' is none of direct"),
        (["--data", "own.jsonl", "--strategies", ","], "--strategies: name one"),
        (["--data", "own.jsonl", "--budget", "0"], "--budget 0: must be"),
        (["--data", "own.jsonl", "--max-turns", "-1"], "--max-turns -1: must be"),
        (["--data", "own.jsonl", "--rank", "3"], "--rank and --perplexity need a model"),
        (["--data", "own.jsonl", "--dump", "no/such/folder"], "--dump no/such/folder: there is no folder no/such"),
        (["--data", "own.jsonl", "--json", "no/file"], "--json no/file: there is no folder no"),
        (["--data", "own.jsonl", "--dump", "."], "--dump .: is a folder"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    arguments: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "own.jsonl", [OWN])
    assert main(["eval", "history", *arguments]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert error.count("\n") == 1


def test_the_shipped_file_is_what_the_generator_writes(tmp_path: Path) -> None:
    assert make_history_data.main(tmp_path / "made.jsonl") == 0
    shipped = make_history_data.TARGET.read_bytes()
    assert (tmp_path / "made.jsonl").read_bytes() == shipped
    assert len(shipped) < 300_000


def test_the_shipped_notes_are_what_the_generator_writes(tmp_path: Path) -> None:
    assert make_notes_data.main(tmp_path) == 0
    for split in make_notes_data.SPLITS:
        name = f"notes_{split}.jsonl"
        assert (tmp_path / name).read_bytes() == (make_notes_data.TARGET / name).read_bytes()


@pytest.mark.parametrize("split", make_notes_data.SPLITS)
def test_a_noted_fact_stands_in_its_evidence_only(split: str) -> None:
    dialogues = read_dialogues(make_notes_data.TARGET / f"notes_{split}.jsonl")
    for dialogue in dialogues:
        for question in dialogue.questions:
            assert question.evidence is not None
            said = [each for each in dialogue.utterances if question.answer.casefold() in each.content.casefold()]
            assert [each.utterance_id for each in said] == [*question.evidence]
            assert question.answer in said[0].content
            if question.stale is not None:
                places = [u for u in dialogue.utterances if question.stale.casefold() in u.content.casefold()]
                assert {u.utterance_id for u in places[1:]} <= {*question.evidence}
                assert places[0].turn_index < said[0].turn_index
    updates = sum(question.stale is not None for dialogue in dialogues for question in dialogue.questions)
    assert updates == make_notes_data.N_CHATS * make_notes_data.UPDATES


def test_the_files_of_notes_share_no_words() -> None:
    lines = [{*_lines(make_notes_data.read_words(split).model_dump())} for split in make_notes_data.SPLITS]
    for one, other in combinations(lines, 2):
        alike = {"", "{c}.", "{a}. {b}.", "{name}", "dev", "tuesday", "wednesday", "friday"}
        assert one & other <= alike, "only slots and days are alike"


def _lines(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value.casefold()
    elif isinstance(value, dict):
        for key, each in value.items():
            if key != "category":
                yield from _lines(each)
    elif isinstance(value, list):
        for each in value:
            yield from _lines(each)
