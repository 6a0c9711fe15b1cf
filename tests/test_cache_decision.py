"""The cache's decision: what is read of a question, guards, the verifier, the threshold, context, `eval cache`."""

import gzip
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from chatlab.cache.bound import CLOSED, MIX, Calibration, shipped
from chatlab.cache.context import needs_context
from chatlab.cache.decision import Judgement, best, judge
from chatlab.cache.evidence import FEATURES, Question, evidence
from chatlab.cache.guards import GUARDS, doubt, refusal
from chatlab.cache.key import digest, history_key
from chatlab.cache.reading import exclusions, normalised, read
from chatlab.cli import main
from chatlab.embedding import Embedder
from chatlab.errors import ConfigError
from chatlab.evaluation.readers.pairs import read_conversations, read_pairs
from chatlab.messages import Message


@pytest.fixture(scope="module")
def embedder() -> Iterator[Embedder]:
    embedder = Embedder()
    yield embedder
    embedder.close()


async def asked(embedder: Embedder, *texts: str) -> list[Question]:
    found = await embedder.embed_tokens(texts)
    return [Question(text, embedded) for text, embedded in zip(texts, found, strict=True)]


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("What is 1,000 + 2.5?", [(2.5, ""), (1000.0, "")]),
        ("a 16GB stick", [(16.0, "gb")]),
        ("twenty five dollars", [(25.0, "$")]),
        ("$25", [(25.0, "$")]),
        ("two million people", [(2e6, "")]),
        ("I was charged twice", [(2.0, "")]),
        ("which one is it?", []),
        ("the 3rd of May", [(3.0, "")]),
        ("the second season", [(2.0, "")]),
        ("wait a second", []),
    ],
)
def test_numbers_are_read_as_they_are_meant(text: str, numbers: list[tuple[float, str]]) -> None:
    assert [*read(text).numbers] == numbers


def test_what_is_written_differently_is_read_the_same() -> None:
    assert normalised(" What’s  UP?! ") == normalised("what's up")
    for a, b in (
        ("10⁵", "105"),
        ("What is 5!", "What is 5?"),
        ("run `curl -o`", "run `curl -O`"),
        ("if a:\n  b", "if a:\nb"),
    ):
        assert normalised(a) != normalised(b)
    assert refusal(read("What does `ls -s` do?"), read("What does `ls -S` do?")) == "code or quotation"
    assert read("I can't do it").n_negations == read("I cannot do it").n_negations == 1
    assert read("No, it is not there").n_negations == 1
    assert [word.text for word in read("Ask O'Brien in Cork").words if word.named] == ["obrien", "cork"]


@pytest.mark.parametrize(
    ("a", "b", "guard"),
    [
        ("How do I lose 5 kilos?", "How do I lose 15 kilos?", "number"),
        ("Is 5 kg a lot?", "Is 5 lb a lot?", "unit"),
        ("How many euros is it?", "How many dollars is it?", "unit"),
        ("Is it open in May?", "Is it open in June?", "date"),
        ("Is it open?", "Is it open on Sundays?", "date on one side"),
        ("What is on?", "What is off?", "direction"),
        ("Who dies in the second season?", "Who dies in the third season?", "number"),
        ("How do I tune a ukulele to D?", "How do I tune a ukulele to C?", "name"),
        ("Should I eat before a run?", "Should I not eat before a run?", "negation"),
        ("Should I eat before a run?", "Should I eat after a run?", "opposite"),
        ("Can I give my dog a carrot?", "Can I give my goat a carrot?", "alternative"),
        ("Is she a nurse or a pilot?", "Is she both a nurse and a pilot?", "conjunction"),
        ("Is Anna Bell a judge?", "Did Anna Bell use to be a judge?", "time"),
        ("Who was Marie Curie?", "Who was Ada Lovelace?", "name"),
        ("Would he leave her?", "Would she leave him?", "person"),
        ("Convert miles to kilometres", "Convert kilometres to miles", "role"),
        ("Did Ruth call Paul?", "Was Ruth called by Paul?", "role"),
        ("What does `ls -a` do?", "What does `ls -l` do?", "code or quotation"),
        ("Wie alt ist Rom?", "Сколько лет Риму?", "language"),
        ("Fix error 0x80070005", "Fix error 0x80070057", "number"),
        ("I have a beagle called Rex.", "What is my beagle called?", "statement"),
        ("Tell me a joke", "Tell me another joke", "another"),
    ],
)
def test_a_guard_refuses_and_says_which(a: str, b: str, guard: str) -> None:
    assert refusal(read(a), read(b)) == guard
    assert refusal(read(b), read(a)) == guard


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("How do I lose 5 kilos?", "how do i lose five kilos"),
        ("Is it 1,000 dollars?", "Is it $1000?"),
        ("Did Ruth call Paul?", "Was Paul called by Ruth?"),
        ("Are Ruth and Paul siblings?", "Are Paul and Ruth siblings?"),
        ("What is cheaper, gold or silver?", "Is silver or gold cheaper?"),
        ("How can I become a person who is not poor?", "How can I become a rich person?"),
        ("In Python, how do I sort a list?", "How do I sort a list in Python?"),
        ("Don't you like it?", "Do you not like it?"),
        ("Why do cats purr?", "Why do cats purr, actually?"),
        ("How long may I stay?", "How long can I stay?"),
        ("Is it open on Mondays?", "Is it open on a Monday?"),
        ("Is astrology true or not?", "Is astrology true?"),
        ("How do I get paint off a brick wall?", "someone put paint on our brick wall, how do we remove it?"),
        ("Are tulips poisonous to rabbits?", "my rabbit ate a tulip, is that poisonous"),
        ("How do I move it to another folder?", "How do I move it to a different folder?"),
        ("Why does this fail?\n```\nx = 1 +\n```", "Why does this fail?\nx = 1 +"),
        ("What does a blinking light mean?", "What does it mean when a light blinks?"),
    ],
)
def test_guards_let_the_same_pass(a: str, b: str) -> None:
    assert refusal(read(a), read(b)) is None


def test_where_much_differs_a_difference_is_the_verifiers() -> None:
    a, b = "How do I get red wine out of a silk tie?", "What removes 3 old stains from carpets in winter, like coffee?"
    assert doubt(read(a), read(b)) is not None
    assert refusal(read(a), read(b)) is None


def test_every_guard_has_a_name_of_its_own_and_every_word_excludes_another() -> None:
    assert len({guard.name for guard in GUARDS}) == len(GUARDS)
    found = exclusions()
    for words in (found.opposites, found.alternatives):
        assert all(others and word not in others for word, others in words.items())
        assert all(word in words[other] for word, others in words.items() for other in others)


async def test_repeats_score_high_and_others_low(embedder: Embedder) -> None:
    same, lightly, paraphrase, other, far = await asked(
        embedder,
        "How do I reset my router?",
        "how can I reset my router",
        "What is the way to restart my router?",
        "How do I choose a router?",
        "Who painted the Night Watch?",
    )
    judged = judge(same, [lightly, paraphrase, other, far])
    scores = [each.score for each in judged]
    assert scores == sorted(scores, reverse=True)
    threshold = shipped().threshold(0.05)
    assert scores[1] > threshold > scores[2]
    assert best(judged) is judged[0]


async def test_evidence_has_no_order(embedder: Embedder) -> None:
    a, b, empty = await asked(embedder, "Is 5 kg of Rice cheap in May?", "How much does rice cost?", "?!")
    assert len(evidence(a, b)) == len(FEATURES)
    np.testing.assert_allclose(evidence(a, b), evidence(b, a), atol=1e-5)
    assert np.isfinite(evidence(a, empty)).all()


async def test_the_same_words_are_served_whatever_the_verifier_says(embedder: Embedder) -> None:
    a, b = await asked(embedder, "ok?", "OK ?")
    (found,) = judge(a, [b])
    assert found.score == 1.0


def test_of_those_that_no_guard_refused_the_closest_is_chosen() -> None:
    def judgement(place: int, score: float, closeness: float) -> Judgement:
        return Judgement(place, 0.9, score, None, closeness)

    judged = [judgement(0, 0.9, 1.0), judgement(1, 0.5, 2.0), judgement(2, 0.2, 3.0)]
    assert best(judged) is judged[2]
    refused = Judgement(3, 0.99, 0.0, "number", 9.0)
    assert best([*judged, refused]) is judged[2]
    assert best([refused]) is refused
    assert best([]) is None


def test_the_threshold_keeps_the_bound() -> None:
    calibration = shipped()
    thresholds = [calibration.threshold(error) for error in (0.2, 0.1, 0.05, 0.02, 0.01)]
    assert thresholds == sorted(thresholds)
    for error, threshold in zip((0.2, 0.1, 0.05, 0.02, 0.01), thresholds, strict=True):
        above = calibration.thresholds >= threshold
        enough = calibration.same >= 0.005
        assert (calibration.wrong <= error * calibration.served)[above & enough].all()
    assert abs(sum(MIX.values()) - 1) < 1e-9


def test_a_bound_that_cannot_be_shown_closes_the_cache() -> None:
    ones = np.ones(3)
    never = Calibration(np.array([0.1, 0.5, 0.9]), ones, ones, ones)
    assert never.threshold(0.05) == CLOSED


async def test_what_the_embedder_does_not_see_is_not_compared(embedder: Embedder) -> None:
    long = "Please say of this list which word is odd: " + "apple " * 400
    nonsense = "x" * 300
    smiles = ("What does 🤗 mean?", "What does 🎃 mean?")
    for a, b in ((long + "anvil", long + "lantern"), (nonsense, "y" * 300), smiles):
        first, second = await asked(embedder, a, b)
        (found,) = judge(first, [second])
        assert (found.score, found.guard) == (0.0, "what the embedder does not see")
    with_smile, without = await asked(embedder, "How do I load a 🤗 dataset?", "How do I load a dataset?")
    (lightly,) = judge(with_smile, [without])
    assert lightly.guard is None
    (same,) = judge((await asked(embedder, long))[0], await asked(embedder, long))
    assert same.score == 1.0


FOLLOW_UPS = [
    "What about the second one?",
    "continue",
    "yes",
    "?",
    "Why?",
    "Make it shorter",
    "How much does it cost?",
    "Who was he?",
    "And in winter?",
]


@pytest.mark.parametrize("text", FOLLOW_UPS)
async def test_a_follow_up_needs_its_conversation(embedder: Embedder, text: str) -> None:
    vectors = (await embedder.embed([text, "Tell me of the moons of Jupiter.", "Which router should I buy?"])).vectors
    assert needs_context(text, vectors[0], [vectors[1]])
    assert needs_context(text, vectors[0], [*vectors[1:]])
    assert not needs_context(text, vectors[0], [])


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("Always answer in French.", "What is the capital of Hungary?"),
        ("From now on you're a pirate.", "How do magnets work?"),
        ("I am vegan.", "What should one cook for twelve guests?"),
        ("What is a wadi?", "Sort the list by length."),
        ("What is a wadi?", "When is the best time of year?"),
    ],
)
async def test_what_was_agreed_on_or_given_needs_its_conversation(embedder: Embedder, said: str, text: str) -> None:
    asked, before = (await embedder.embed([text, said])).vectors
    assert needs_context(text, asked, [before], [said])


@pytest.mark.parametrize(
    "text",
    ["What is the capital of Australia?", "who wrote the opera carmen", "what is the tallest mountain in africa"],
)
async def test_a_question_that_says_it_all_does_not(embedder: Embedder, text: str) -> None:
    vectors = (await embedder.embed([text, "Which router should I buy?"])).vectors
    assert not needs_context(text, vectors[0], [*vectors[1:]])


def test_keys_tell_apart_what_is_different() -> None:
    assert history_key([]) == ""
    hi, ho = Message(role="user", content="hi"), Message(role="user", content="ho")
    assert history_key([hi]) == history_key([Message(role="user", content=" HI. ")])
    assert len({history_key([hi]), history_key([ho]), history_key([hi, ho]), history_key([ho, hi])}) == 4
    assert history_key([hi]) != history_key([Message(role="assistant", content="hi")])
    assert digest("a", "b") != digest("ab", "") != digest(["a", "b"])


# `eval cache`


def write_lines(file: Path, lines: Sequence[object]) -> Path:
    file.write_text("\n".join(json.dumps(line) for line in lines))
    return file


def test_pairs_are_read_in_every_documented_shape(tmp_path: Path) -> None:
    csv = tmp_path / "p.csv"
    csv.write_text('text_a,text_b,label,category\n"a, ""b""",c,1,x\nd,e,0,\n')
    first, second = read_pairs(csv)
    assert (first.a, first.b, first.same, first.category, first.pair_id) == ('a, "b"', "c", True, "x", "0")
    assert (second.same, second.category) == (False, None)
    gz = tmp_path / "p.jsonl.gz"
    gz.write_bytes(
        gzip.compress(b'{"origin": "a", "similar": "b"}\n\n{"a": "x", "b": "y", "same_answer": false, "id": 7}')
    )
    assert [(pair.same, pair.pair_id) for pair in read_pairs(gz)] == [(True, "0"), (False, "7")]


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("p.txt", "x", "must end in"),
        ("p.csv", "a,b\n1,2\n", "line 2: label (or same_answer) must be 1 or 0"),
        ("p.csv", "a,c\n1,2\n", "needs a, b, label"),
        ("p.csv", "a,b,label\n", "has no entries"),
        ("p.jsonl", "[1]", "line 1: must be an object"),
        ("p.jsonl", '{"a": "x", "b": 3, "label": 1}', "line 1: b must be text"),
        ("p.jsonl", "{", "line 1: no JSON"),
        ("gone.csv", None, "cannot be read"),
    ],
)
def test_a_pairs_file_that_cannot_be_used_says_why(tmp_path: Path, name: str, text: str | None, says: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=re.escape(says)):
        read_pairs(tmp_path / name)


def test_a_conversation_must_end_in_a_question(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    file = write_lines(tmp_path / "c.jsonl", [{"a": said, "b": said, "same_answer": True}])
    with pytest.raises(ConfigError, match="line 1: a must end in a user's message"):
        read_conversations(file)


def test_eval_cache_scores_pairs_and_conversations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [
        {"a": "How do I reset my router?", "b": "how can I reset my router", "label": 1, "category": "repeat"},
        {"a": "How do I lose 5 kilos?", "b": "How do I lose 15 kilos?", "label": 0, "category": "trap"},
        {"a": "Who wrote Carmen?", "b": "Who wrote Carmen?", "label": 1, "category": "repeat"},
    ]
    one = [{"role": "user", "content": "Phones?"}, {"role": "assistant", "content": "A, B."}]
    two = [{"role": "user", "content": "Books?"}, {"role": "assistant", "content": "C, D."}]
    asking = {"role": "user", "content": "What about the second one?"}
    talks = [
        {"a": [*one, asking], "b": [*two, asking], "same_answer": False},
        {"a": [*one, asking], "b": [*one, asking], "same_answer": True},
    ]
    found = tmp_path / "found.json"
    arguments = ["--pairs", str(write_lines(tmp_path / "p.jsonl", pairs))]
    arguments += ["--conversations", str(write_lines(tmp_path / "c.jsonl", talks)), "--json", str(found)]
    assert main(["eval", "cache", *arguments]) == 0
    assert "repeats served" in capsys.readouterr().out
    result = json.loads(found.read_text())
    scored = result["pairs"]
    assert (scored["n"], scored["hit_rate"], scored["false_hit_rate"], scored["precision"]) == (3, 1.0, 0.0, 1.0)
    assert scored["by_category"]["trap"] == {"n": 1, "hit_rate": None, "false_hit_rate": 0.0}
    assert [set(item) for item in scored["items"]] == [{"id", "label", "served", "score", "reason"}] * 3
    assert [(item["score"] == 0, item["reason"]) for item in scored["items"][1:]] == [
        (True, "number differs"),
        (False, "exact"),
    ]
    assert scored["latency_ms"]["p95"] >= scored["latency_ms"]["p50"] > 0
    assert (result["conversations"]["hit_rate"], result["conversations"]["false_hit_rate"]) == (1.0, 0.0)


def test_a_pool_serves_what_was_stored_for_the_pair(tmp_path: Path) -> None:
    pairs = [
        {"origin": "How do I reset my router?", "similar": "how can I reset my router"},
        {"origin": "Who wrote the opera Carmen?", "similar": "who wrote the opera carmen"},
    ]
    found = tmp_path / "found.json"
    file = write_lines(tmp_path / "p.jsonl", pairs)
    assert main(["eval", "cache", "--pairs", str(file), "--pool", "--json", str(found)]) == 0
    scored = json.loads(found.read_text())["pairs"]
    assert (scored["right"], scored["wrong"]) == (2, 0)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--pairs, --conversations or --stream"),
        (["--pairs", "p.csv", "--max-error", "1.5"], "--max-error 1.5: must be between 0 and 1"),
        (["--conversations", "c.jsonl", "--pool"], "--pool: is about --pairs"),
        (["--pairs", "p.csv", "--json", "gone/x.json"], "--json gone/x.json"),
    ],
)
def test_what_eval_cache_cannot_do_it_says(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "cache", *arguments]) == 2
    assert says in capsys.readouterr().err
