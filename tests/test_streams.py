"""Streams of questions: the truth of made ones, the accounting of a run, each policy, `eval cache --stream`."""

import gzip
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from chatlab.cache.bound import CLOSED
from chatlab.cache.decision import Judgement
from chatlab.cache.recalibration import AUDIT_SHARE, MAX_WRONG_REQUESTS, Comparator
from chatlab.cli import main
from chatlab.embedding import Embedder
from chatlab.errors import ConfigError
from chatlab.evaluation.policies import Candidate, Chatlab, Choice, Curve, Threshold, VCache
from chatlab.evaluation.readers.streams import read_stream
from chatlab.evaluation.stream_study import OURS, PLAIN_KEYED, best_keeping, compare, table_of, tuned
from chatlab.evaluation.streams import Corpus, Keyed, Run, halves, prepare, simulate
from chatlab.evaluation.workload import ACTIONS, Asked, Words, make_stream, read_words
from chatlab.messages import CacheScope, Message

WORDS = Path(__file__).parents[1] / "data" / "cache_workload.toml"


@pytest.fixture(scope="module")
def words() -> Words:
    return read_words(WORDS)


@pytest.fixture(scope="module")
def embedder() -> Iterator[Embedder]:
    embedder = Embedder()
    yield embedder
    embedder.close()


# The workload


def test_a_seed_always_makes_the_same_stream(words: Words) -> None:
    stream = make_stream(words, 3, 500)
    assert stream == make_stream(words, 3, 500)
    assert stream != make_stream(words, 4, 500)
    assert stream[:300] == make_stream(words, 3, 300)


def test_every_family_can_be_asked(words: Words) -> None:
    for family in words.family:
        for pattern in (*family.asks, *family.twists):
            filled = pattern.replace("{a}", family.a[0]).replace("{b}", family.b[0])
            assert "{" not in filled
            assert "{a}" in pattern or pattern in family.twists
            assert ("{b}" in pattern) <= (family.b != [""])
        assert all(("{b}" in pattern) == (family.b != [""]) for pattern in family.asks)
        assert len({*family.asks}) == len(family.asks) >= 3
        assert len({*family.a}) == len(family.a) >= 2


def test_the_truth_of_a_stream(words: Words) -> None:
    stream = make_stream(words, 0, 3_000)
    kinds = Counter(asked.kind for asked in stream)
    assert kinds.keys() == ACTIONS.keys()
    assert min(kinds.values()) > 100
    known: dict[str, set[str]] = {}
    for asked in stream:
        before = known.setdefault(asked.user, set())
        if asked.kind in ("repeat", "paraphrase"):
            assert asked.answer_key in before
        elif asked.kind in ("first", "trap"):
            assert asked.answer_key not in before
        before.add(asked.answer_key)
        if asked.kind == "follow-up":
            assert asked.history[-1]["role"] == "assistant"
            assert asked.answer_key.endswith(f">{asked.question}")
        if asked.kind == "personal":
            assert asked.answer_key.endswith(asked.user)
    # The same words after the same conversation never have two answers.
    truth: dict[tuple[str, ...], str] = {}
    for asked in stream:
        if asked.kind != "personal":
            said = (asked.question, *(message["content"] for message in asked.history))
            assert truth.setdefault(said, asked.answer_key) == asked.answer_key
    assert len({asked.answer_key for asked in stream if asked.question == "Why is that?"}) > 5


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a = [", "no TOML"),
        ("[general]\nthen=['x']\nprefixes=['x']\nsuffixes=['x']\n[personal]\nasks=[['x']]", "family: Field required"),
        ("family = 1", "general: Field required"),
    ],
)
def test_a_bad_workload_is_named(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "w.toml").write_text(text)
    with pytest.raises(ConfigError, match=named):
        read_words(tmp_path / "w.toml")


# Files


def test_streams_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("question,answer_key,user\nHow old is Rome?,1,ann\nrome age,1,\n")
    assert read_stream(tmp_path / "a.csv") == [Asked("How old is Rome?", "1", "ann"), Asked("rome age", "1")]
    history = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write(json.dumps({"question": "Why?", "answer_key": 7, "history": history, "kind": "follow-up"}) + "\n")
    (asked,) = read_stream(tmp_path / "a.jsonl.gz")
    assert (asked.answer_key, asked.kind, len(asked.history)) == ("7", "follow-up", 2)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ({"question": "Why?"}, "line 1: needs answer_key"),
        ({"answer_key": "1", "question": " "}, "line 1: needs question"),
        ({"answer_key": "1", "question": "Why?", "history": "x"}, "history must be a list"),
        ({"answer_key": "1", "question": "Why?", "history": [{"role": "x"}]}, "history: a message needs role"),
    ],
)
def test_a_bad_stream_is_named(tmp_path: Path, line: dict[str, object], named: str) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(line))
    with pytest.raises(ConfigError, match=named):
        read_stream(tmp_path / "a.jsonl")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "--pairs, --conversations or --stream"),
        (["--stream", "x.csv", "--seeds", "0"], "--seeds 0"),
        (["--stream", "x.csv", "--questions", "1"], "--questions 1"),
        (["--stream", "x.csv", "--max-error", "0.1", "--max-error", "2"], "--max-error 2"),
        (["--stream", "x.csv", "--label-errors", "0.5", "0.5"], "--label-errors"),
        (["--pairs", "x.csv", "--max-error", "0.1", "--max-error", "0.2"], "several are for --stream"),
        (["--stream", "missing.csv"], "missing.csv: cannot be read"),
    ],
)
def test_bad_arguments_are_named(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "cache", *arguments]) != 0
    assert named in capsys.readouterr().err


# The accounting of a run


class Scripted:
    """Serves what it is told to by the text of the question; remembers labels."""

    keyed = True
    exact = True
    n_candidates = 1
    keeps_all = True

    def __init__(self, served: set[int], audit_share: float = 0.0) -> None:
        self.audit_share = audit_share
        self._served = served
        self.labels: list[tuple[bool, bool]] = []
        self.n_exact = 0

    def choose(self, text: int, candidates: Sequence[Candidate]) -> Choice:
        return Choice(candidates[0], text in self._served, 0.5) if candidates else Choice(None)

    def served_exactly(self) -> None:
        self.n_exact += 1

    def learn(self, choice: Choice, same: bool, audited: bool) -> None:
        self.labels.append((same, audited))


async def prepared(
    embedder: Embedder, stream: Sequence[Asked], scope: CacheScope = "user"
) -> tuple[Corpus, list[Keyed]]:
    corpus, (keyed,) = await prepare([stream], embedder, scope)
    return corpus, keyed


async def test_the_accounting_of_a_run(embedder: Embedder) -> None:
    stream = [
        Asked("How old is Rome?", "age"),  # nothing is stored
        Asked("how old is rome", "age"),  # exact
        Asked("What is the age of Rome?", "age"),  # served, right
        Asked("How big is Rome?", "size"),  # served, wrong, and not stored
        Asked("How big is Rome really?", "size"),  # a miss whose nearest has another answer
        Asked("How old is Rome?", "changed"),  # exact, and wrong
    ]
    corpus, keyed = await prepared(embedder, stream)
    policy = Scripted({2, 3}, audit_share=1.0)
    run = simulate(keyed, corpus, policy, seed=0)
    places = {asked.question: corpus.place_of[asked.question] for asked in stream}
    assert places["What is the age of Rome?"] == 2
    assert run.served.tolist() == [False, True, True, True, False, True]
    assert run.wrong.tolist() == [False, False, False, True, False, True]
    assert run.exact.tolist() == [False, True, False, False, False, True]
    assert policy.labels == [(True, True), (False, True), (False, False)]
    assert policy.n_exact == 2
    assert run.wrong_share() == pytest.approx(2 / 4)
    assert [run.wrong_share(half) for half in halves(6)] == [0.0, 1.0]
    assert not run.keeps(0.9)
    assert run.keeps(1.0)


async def test_labels_err_as_often_as_asked(embedder: Embedder) -> None:
    stream = [Asked(f"Is {i} a prime?", "same") for i in range(400)]
    corpus, keyed = await prepared(embedder, stream)
    policy = Scripted(set())
    simulate(keyed, corpus, policy, 0, Comparator(false_different=0.25))
    assert len(policy.labels) == 399
    assert np.mean([not same for same, _ in policy.labels]) == pytest.approx(0.25, abs=0.06)


async def test_who_shares_with_whom(embedder: Embedder) -> None:
    stream = [Asked("How old is Rome?", "age", "ann"), Asked("How old is Rome?", "age", "bob")]
    corpus, keyed = await prepared(embedder, stream)
    assert not simulate(keyed, corpus, Threshold(0.0), 0).served.any()
    corpus, keyed = await prepared(embedder, stream, "global")
    assert simulate(keyed, corpus, Threshold(0.0), 0).served.tolist() == [False, True]
    private = [Asked("I earn 4000, what is left?", "ann", "ann"), Asked("I earn 4000, what is left?", "bob", "bob")]
    corpus, keyed = await prepared(embedder, private, "global")
    assert not simulate(keyed, corpus, Threshold(0.0, keyed=True, exact=True), 0).served.any()
    assert simulate(keyed, corpus, Threshold(0.0), 0).wrong.any(), "without the keys it is another's answer"


async def test_a_follow_up_needs_its_conversation(embedder: Embedder) -> None:
    def said(question: str) -> tuple[Message, ...]:
        return Message(role="user", content=question), Message(role="assistant", content="So it is.")

    stream = [
        Asked("Why is that?", "rome", history=said("Rome was not built in a day.")),
        Asked("Why is that?", "sky", history=said("The sky is blue.")),
        Asked("Why is that?", "rome", history=said("Rome was not built in a day.")),
        Asked("How do I sort a list in Python?", "sort"),
        Asked("How do I sort a list in Python?", "sort", history=said("Rome was not built in a day.")),
    ]
    corpus, keyed = await prepared(embedder, stream)
    run = simulate(keyed, corpus, Threshold(0.9, keyed=True, exact=True), 0)
    assert run.served.tolist() == [False, False, True, False, True]
    assert not run.wrong.any()
    assert simulate(keyed, corpus, Threshold(0.9), 0).wrong.tolist() == [False, True, False, False, False]


async def test_the_search_is_exact(embedder: Embedder, words: Words) -> None:
    """With many stored questions the neighbours that are known beforehand give what comparing all does."""
    stream = [Asked(asked.question, asked.answer_key) for asked in make_stream(words, 1, 900) if not asked.history]
    corpus, keyed = await prepared(embedder, stream)
    run = simulate(keyed, corpus, Threshold(0.85), 0)
    stored: list[int] = []
    for each, served in zip(keyed, run.served, strict=True):
        nearest = max((float(corpus.vectors[i] @ corpus.vectors[each.text]) for i in stored), default=0.0)
        assert served == (nearest >= 0.85)
        if not served:
            stored.append(each.text)
    assert len(stored) > 300


# The policies


def test_chatlab_serves_what_is_judged_well_and_learns() -> None:
    scores = {1: 0.95, 2: 0.1, 3: 0.0}

    def judge(text: int, candidates: Sequence[Candidate]) -> list[Judgement]:
        return [
            Judgement(i, each.similarity, scores[each.text], None, scores[each.text])
            for i, each in enumerate(candidates)
        ]

    policy = Chatlab(judge, 0.05)
    assert policy.choose(0, []) == Choice(None)
    assert policy.choose(0, [Candidate(2, 0.9), Candidate(1, 0.8)]) == Choice(Candidate(1, 0.8), True, 0.95)
    refused = policy.choose(0, [Candidate(3, 0.9)])
    policy.learn(refused, False, audited=False)
    assert policy.recalibration.n_labels == 0, "a guard's refusal says nothing about scores"
    for _ in range(500):
        policy.learn(policy.choose(0, [Candidate(1, 0.8)]), False, audited=False)
    assert not policy.choose(0, [Candidate(1, 0.8)]).served
    fixed = Chatlab(judge, 0.05, learns=False)
    fixed.learn(Choice(Candidate(1, 0.8), False, 0.95), False, audited=True)
    assert fixed.recalibration.n_labels == 0


def test_vcache_explores_until_it_is_sure() -> None:
    sure = Curve.fitted([(0.0, False), *[(0.5, False)] * 20, *[(0.95, True)] * 20, (1.0, True)])
    assert 0.5 < sure.middle < 0.95
    unsure = Curve.fitted([(0.0, False), (0.5, False), (0.95, True), (1.0, True)])
    assert sure.variance < unsure.variance
    assert sure.exploring(0.99, 0.1) < unsure.exploring(0.99, 0.1) <= 1.0
    assert sure.exploring(0.99, 0.1) < sure.exploring(0.7, 0.1)
    assert sure.exploring(0.99, 0.1) < sure.exploring(0.99, 0.01)
    mixed = Curve.fitted([(0.0, False), (0.9, True), (0.8, False), (0.7, True), (0.85, False), (1.0, True)])
    assert mixed.variance > 0

    policy = VCache(0.2, random.Random(0))
    for _ in range(4):
        choice = policy.choose(0, [Candidate(1, 0.95)])
        assert not choice.served, "too few labels"
        policy.learn(choice, True, audited=False)
    for _ in range(60):
        if not (choice := policy.choose(0, [Candidate(1, 0.95)])).served:
            policy.learn(choice, True, audited=False)
    served = [policy.choose(0, [Candidate(1, 0.98)]).served for _ in range(200)]
    assert sum(served) > 100


def run_of(served: str, wrong: str) -> Run:
    flags = [np.array([c == "x" for c in each]) for each in (served, wrong)]
    return Run(flags[0], flags[1], np.zeros(len(served), dtype=bool), [None] * len(served), 1.0)


def test_a_threshold_is_tuned_on_the_first_half() -> None:
    runs = {
        0.7: [run_of("xxxx" + "xxxx", "x..." + "....")],
        0.8: [run_of("xxx." + "xxxx", "...." + "xxxx")],
        0.9: [run_of("x..." + "x...", "...." + "....")],
        CLOSED: [run_of("...." + "....", "...." + "....")],
    }
    assert tuned(runs, 0.1) == runs[0.8]
    assert tuned(runs, 0.3) == runs[0.7]
    assert tuned(runs, 0.3, max_wrong_requests=0.2) == runs[0.8]
    assert best_keeping(runs, 0.1) == runs[0.9]
    assert best_keeping(runs, 0.3) == runs[0.7]


async def test_methods_are_compared(embedder: Embedder, words: Words) -> None:
    streams = [make_stream(words, seed, 240) for seed in range(2)]
    corpus, keyed = await prepare(streams, embedder, "user")
    report = compare(corpus, keyed, bounds=(0.1,))
    found = report.as_json()
    ours = found["methods"][OURS]["0.1"]
    assert (found["n"], found["seeds"], len(ours["seeds"])) == (240, 2, 2)
    assert 0 <= ours["exact_rate"] <= ours["hit_rate"] <= 1
    assert sum(kind["n"] for kind in ours["by_kind"].values()) == 480
    assert ours["by_kind"]["repeat"]["served"] > ours["by_kind"]["trap"]["served"]
    again = report.cells[OURS][0.1].runs[0]
    assert (simulate(keyed[0], corpus, Chatlab(corpus.judge, 0.1), 0).served == again.served).all()
    assert found["hits_over"][PLAIN_KEYED]["0.1"] == pytest.approx(
        report.cells[OURS][0.1].hits(1) / report.cells[PLAIN_KEYED][0.1].hits(1)
    )
    curve = found["curves"]["plain"]
    assert [point["hit_rate"] for point in curve] == sorted((point["hit_rate"] for point in curve), reverse=True)
    rows = table_of(found)
    assert len({len(row) for row in rows}) == 1
    assert 0 < AUDIT_SHARE < 1
    assert 0 < MAX_WRONG_REQUESTS < 1


def test_eval_cache_runs_a_stream(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "s.csv", tmp_path / "o.json"
    file.write_text("question,answer_key\n" + "How old is Rome?,1\nHow old is Rome?,1\nWhat is love?,2\n" * 3)
    given = ["--stream", str(file), "--seeds", "2", "--max-error", "0.05", "--json", str(out)]
    assert main(["eval", "cache", *given, "--data-dir", str(tmp_path / "d")]) == 0
    streams = json.loads(out.read_text())["streams"]
    assert streams["methods"][OURS]["0.05"]["hit_rate"] == pytest.approx(7 / 9)
    assert streams["max_errors"] == [0.05]
    assert "9 questions, 2 seeds, scope user" in capsys.readouterr().out
