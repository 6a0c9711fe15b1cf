"""`verdict` on made-up exports: the live decision, exact prompts, resumed after a kill, sentences that agree."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from chatlab.cache.answers import AnswerCache
from chatlab.cache.lookup import Ask
from chatlab.cache.stored import CacheLimits
from chatlab.cli import main
from chatlab.embedding import Embedder
from chatlab.engines.template import load_template
from chatlab.errors import ConfigError
from chatlab.evaluation.dialogues import from_turns
from chatlab.evaluation.parts import TemplateCounter
from chatlab.evaluation.prompts import PromptMaker
from chatlab.evaluation.traffic.again import groups
from chatlab.evaluation.traffic.command import Options, verdict
from chatlab.evaluation.traffic.judgements import Judgements
from chatlab.evaluation.traffic.lookups import Cell, Lookups
from chatlab.evaluation.traffic.prices import Price, prices_for, read_prices
from chatlab.evaluation.traffic.progress import Progress
from chatlab.evaluation.traffic.requests import Requests, requests_of
from chatlab.evaluation.traffic.samples import as_chatgpt, asked_alone, sample_chats
from chatlab.evaluation.traffic.sentences import break_even, sentences, verdict_of
from chatlab.evaluation.traffic.sizes import MessageSizes
from chatlab.evaluation.traffic.state import State
from chatlab.evaluation.traffic.strategies import STRATEGIES, Strategies, open_words
from chatlab.evaluation.traffic.texts import Texts
from chatlab.evaluation.workload import read_words
from chatlab.history import PromptBuilder
from chatlab.messages import CacheScope, Chat, SamplingParams, Turn
from chatlab.settings import Settings
from chatlab.store import Store
from chatlab.store.recent import Conversation
from chatlab.telemetry import Metrics
from chatlab.vectors import QUESTIONS, Vectors

ROOT = Path(__file__).parents[1]
EXPORTS = ROOT / "data" / "exports"
WORDS = read_words(ROOT / "data" / "cache_workload.toml")
BEGIN = datetime(2026, 3, 1, tzinfo=UTC)


def quiet(done: int, of: int) -> None:
    """Nobody watches."""


def chat_of(*asked: tuple[str, str | None, str, str], chat_id: str = "c", user: str = "") -> Conversation:
    """A chat of turns: id, parent, question, answer; a minute apart."""
    turns = tuple(
        Turn(each, chat_id, user, parent, question, BEGIN + timedelta(minutes=i), answer, "done")
        for i, (each, parent, question, answer) in enumerate(asked)
    )
    return Conversation(Chat(chat_id, user, "A chat", BEGIN, BEGIN), turns)


def settings_for(folder: Path, model: Path) -> Settings:
    return Settings(data_dir=folder / "data", model=str(model))


def judged(file: Path, model: Path, **options: Any) -> dict[str, Any]:
    """The figures of a whole run."""
    out = file.with_suffix(".html")
    given = Options(file, out, json=file.with_suffix(".figures"), **options)
    verdict(given, settings_for(file.parent, model), Progress(io.StringIO()))
    assert given.json is not None
    return {**json.loads(given.json.read_text()), "page": out.read_text(encoding="utf-8")}


def export(file: Path, chats: Sequence[Conversation]) -> Path:
    file.write_text(json.dumps(as_chatgpt(chats), ensure_ascii=False), encoding="utf-8")
    return file


# What was asked


def test_a_turn_counts_once_whatever_branch_and_the_same_again_is_anew() -> None:
    chat = chat_of(
        ("a", None, "What is a hash?", "A digest."),
        ("b", "a", "And a salt?", "Random bytes."),
        ("b2", "a", "and a salt", "Bytes beside it."),
        ("c", "a", "And a key?", "A secret."),
        ("d", "b2", "Why?", "Because."),
    )
    found = requests_of([replace(chat, turns=tuple(reversed(chat.turns)))])
    assert [each.turn.turn_id for each in found.asked] == ["a", "b", "b2", "c", "d"]
    assert [each.anew for each in found.asked] == [False, False, True, False, False]
    assert found.path(4) == [0, 2]
    assert found.asked[1].said == found.asked[3].said != found.asked[4].said


def test_what_an_export_has_no_question_for_is_none() -> None:
    chat = chat_of(("a", None, "[The assistant wrote first]", "Welcome"), ("b", "a", "Which roof?", "Tin."))
    assert [each.anew for each in requests_of([chat]).asked] == [True, False]


def test_chats_are_told_apart_by_time_not_by_their_order_in_the_file() -> None:
    late = chat_of(("x", None, "Later?", "Yes."), chat_id="late")
    late = replace(late, turns=tuple(replace(t, created_at=t.created_at + timedelta(days=1)) for t in late.turns))
    found = requests_of([late, chat_of(("x", None, "Sooner?", "Yes."), chat_id="soon")])
    assert [each.turn.user_message for each in found.asked] == ["Sooner?", "Later?"]
    assert len(requests_of([late, chat_of()]).chats) == 1
    assert requests_of([late, chat_of()]).n_empty == 1


# The cache


@pytest.fixture(scope="module")
def made() -> Requests:
    """Two people's repeats, traps and follow-ups, each question in a chat of its own with what was said before."""
    chats = [
        replace(chat, chat=replace(chat.chat, user_id="ann" if chat.chat.user_id < "user-2" else "ben"))
        for chat in asked_alone(WORDS, 5, 200)
    ]
    return requests_of([*chats, *sample_chats(WORDS, 5, 60, users=("ann", "ben"))])


async def looked_up(requests: Requests, embedder: Embedder, folder: Path, cells: Sequence[Cell]) -> Texts:
    state = State(folder, {"of": "a test"})
    texts = Texts([*dict.fromkeys(each.turn.user_message for each in requests.asked)], embedder, state)
    await texts.embed(quiet)
    texts.find_neighbours()
    await Lookups(requests, texts, cells, timedelta(days=30), Judgements(texts, state)).run(quiet)
    return texts


@pytest.mark.parametrize("scope", ["user", "global"])
async def test_the_decision_is_the_live_caches(
    scope: CacheScope, made: Requests, embedder: Embedder, store: Store, tmp_path: Path
) -> None:
    cell = Cell(scope, 0.05)
    await looked_up(made, embedder, tmp_path / "state", [Cell(scope, 0.01), cell])
    now = [BEGIN - timedelta(days=3_650)]
    vectors = Vectors(str(tmp_path / "vectors"), embedder.name, QUESTIONS)
    cache = AnswerCache(store, embedder, vectors, Metrics(), lambda: now[0], CacheLimits(max_error=0.05))
    served = 0
    for place, (request, found) in enumerate(zip(made.asked, cell.found, strict=True)):
        now[0] = request.turn.created_at
        path = [made.asked[each].turn for each in made.path(place)]
        user = made.chats[request.chat].user_id
        params = SamplingParams()
        question = request.turn.user_message
        ask = Ask(user, "", str(place), scope, question, path, None, params, "m", bypass=request.anew)
        live = await cache.look_up(ask)
        outcome = live.tier if live.outcome == "hit" else {"miss": "miss", "bypass": "anew"}[live.outcome]
        entry = None if live.entry is None else int(live.entry.turn_id)
        assert (outcome, entry) == (found.outcome, found.entry if found.served else None), question
        served += found.served
        if live.nearest is not None and not found.served:
            assert live.nearest.guard == found.guard
            assert live.nearest.score == pytest.approx(found.score, abs=0.02)  # bf16, in other company
        if live.outcome != "hit":
            turn = replace(request.turn, turn_id=str(place), finish_reason="stop")
            if (kept := await cache.offer(live, turn)) is not None:
                await cache.index(live, kept)
    vectors.close()
    assert served > 30
    assert any(each.guard for each in cell.found)


async def test_an_old_answer_is_not_served_and_a_wider_bound_serves_more(embedder: Embedder, tmp_path: Path) -> None:
    first = chat_of(("a", None, "What is the capital of Kenya?", "Nairobi."), chat_id="1")
    again = chat_of(("b", None, "what is the capital of kenya", "Nairobi."), chat_id="2")
    old = replace(again, turns=tuple(replace(t, created_at=t.created_at + timedelta(days=31)) for t in again.turns))
    for chats, outcome in (([first, again], "exact"), ([first, old], "miss")):
        cell = Cell("user", 0.05)
        await looked_up(requests_of(chats), embedder, tmp_path / outcome, [cell])
        assert cell.found[1].outcome == outcome
    cells = [Cell("user", bound) for bound in (0.01, 0.05, 0.1)]
    requests = requests_of(sample_chats(WORDS, 1, 200))
    await looked_up(requests, embedder, tmp_path / "bounds", cells)
    hits = [sum(each.served for each in cell.found) for cell in cells]
    assert hits == sorted(hits)
    assert hits[0] < hits[-1]


async def test_what_is_asked_again_is_grouped_whoever_asks_in_whatever_words(
    embedder: Embedder, tmp_path: Path
) -> None:
    asked = ["What is the capital of Kenya?", "capital city of Kenya", "Continue", "What is the capital of Oman?"]
    chats = [
        chat_of(("a", None, text, "…"), chat_id=str(i), user=f"u{i}") for i, text in enumerate([*asked, "continue"])
    ]
    requests = requests_of(chats)
    texts = await looked_up(requests, embedder, tmp_path / "state", [cell := Cell("user", 0.05)])
    judgements = Judgements(texts, State(tmp_path / "other", {}))
    found = await groups(requests, texts, judgements, cell.threshold, quiet)
    said = [{requests.asked[place].turn.user_message for place in group.requests} for group in found]
    assert sorted(said, key=min) == [
        {"Continue", "continue"},
        {"What is the capital of Kenya?", "capital city of Kenya"},
    ]


# The prompts


async def test_prompts_are_those_of_the_builder(bundled_model: Path) -> None:
    budget = 900
    template, _ = load_template(str(bundled_model))
    counter = TemplateCounter(template, "bundled", 8_192)
    chat = max(sample_chats(WORDS, 2, 150), key=lambda each: len(each.turns))
    linear = tuple(
        replace(t, parent_turn_id=chat.turns[i - 1].turn_id if i else None) for i, t in enumerate(chat.turns)
    )
    chat = replace(chat, chat=replace(chat.chat, system_prompt="Be brief."), turns=linear[:60])
    requests = requests_of([chat])
    with open_words("auto") as recall:
        sizes = MessageSizes(counter)
        strategies = Strategies(sizes, recall, [budget])
        maker = PromptMaker(counter, PromptBuilder(counter, recall))
        dialogue = from_turns("c", chat.turns, "Be brief.")
        kinds: dict[str, tuple[int, int, int]] = {}
        for strategy in STRATEGIES:
            sent = await strategies.sent(requests.chats[0], requests.asked, strategy, budget)
            path: list[Turn] = []
            for turn, ours in zip(chat.turns, sent, strict=True):
                theirs = await maker.make(strategy, budget, dialogue, path, turn.user_message)
                if theirs is None:
                    assert ours.refused, turn.turn_id
                    path.append(turn)
                    continue
                assert theirs.provenance is not None
                assert ours.tokens == counter.count(theirs.messages) <= budget
                assert ours.dropped == len(theirs.provenance.dropped_turn_ids)
                assert ours.noted == len(theirs.provenance.turn_ids_in("summary"))
                path.append(replace(turn, provenance=replace(turn.provenance, prompt=theirs.provenance)))
            kinds[strategy] = (sum(s.refused for s in sent), sum(s.dropped for s in sent), sum(s.noted for s in sent))
        assert sizes.n_checked > 0
        assert sizes.largest_error == 0
    assert kinds["direct"][0] > 0 < kinds["truncate"][1]
    assert kinds["summarize"][2] > 0 < kinds["hybrid"][2]
    assert not kinds["truncate"][2] + kinds["direct"][1]


# The command


@pytest.fixture(scope="module")
def chats() -> list[Conversation]:
    return [*sample_chats(WORDS, 3, 150)]


def test_a_killed_run_goes_on_where_it_was(chats: list[Conversation], bundled_model: Path, tmp_path: Path) -> None:
    file = export(tmp_path / "conversations.json", chats)
    whole = judged(export(tmp_path / "whole.json", chats), bundled_model, budgets=(700,))
    command = [sys.executable, "-m", "chatlab", "verdict", str(file), "--budget", "700", "--json", str(tmp_path / "f")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CHATLAB_MODEL": str(bundled_model)}
    environment["CHATLAB_DATA_DIR"] = str(tmp_path / "data")
    state = tmp_path / "conversations.verdict.html.state"

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    def wait_for(pattern: str, process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + 120
        while not [*state.glob(pattern)]:
            assert process.poll() is None, "it ended before"
            assert time.monotonic() < deadline
            time.sleep(0.01)

    # 1. Killed as soon as something was computed.
    process = start()
    wait_for("tokens.npz", process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / "conversations.verdict.html").exists()
    # 2. Interrupted later: it says how to go on.
    process = start()
    wait_for("vectors-*.npz", process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Going on from where an earlier run was" in said
    assert re.search(r"Stopped\. The same command goes on from here", said)
    assert "Traceback" not in said
    # 3. To the end, as if nothing had happened.
    process = start()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert "Going on from where an earlier run was" in said
    assert not state.exists()
    assert [*tmp_path.glob("*.partial*")] == []
    found = json.loads((tmp_path / "f").read_text())
    same = ("turns", "tokens", "cache", "again", "history")
    for each in (found, whole):
        del each["tokens"]["counted_whole"]  # of the prompts that were built in this run
    assert {name: found[name] for name in same} == {name: whole[name] for name in same}


def test_sentences_agree_with_the_figures(chats: list[Conversation], bundled_model: Path, tmp_path: Path) -> None:
    found = judged(
        export(tmp_path / "e.json", chats), bundled_model, budgets=(700, 100_000), price_in=2.0, price_out=8.0
    )
    said = {each["about"]: each for each in found["sentences"]}
    assert [*said] == ["cache", "scope", "asked again", "700 tokens", "100,000 tokens", "cost"]
    cell = found["cache"]["cells"][found["cache"]["main"]]
    assert (cell["scope"], cell["max_error"]) == ("user", 0.05)
    assert f"answered {cell['hits']:,} of {cell['lookups']:,} questions" in said["cache"]["text"]
    assert cell["lookups"] + found["asked_anew"] == found["turns"] == 150
    assert cell["hits"] == cell["exact"] + cell["semantic"]
    low, high = cell["hit_rate"]["interval"]
    assert low <= cell["hit_rate"]["value"] == cell["hits"] / cell["lookups"] <= high
    direct = next(each for each in found["history"] if (each["strategy"], each["budget"]) == ("direct", 700))
    assert f"{direct['refused']:,} of 150 questions" in said["700 tokens"]["text"]
    assert (said["700 tokens"]["answer"], said["100,000 tokens"]["answer"]) == ("yes", "no")
    for each in (each for each in found["history"] if each["budget"] == 100_000):
        assert each["tokens"] == found["tokens"]["prompts_whole"]
        assert (each["dropped"], each["refused"]) == (0, 0)
    money = (found["tokens"]["prompts_whole"] * 2 + found["tokens"]["answers"] * 8) / 1e6
    assert f"{money:,.2f}" in said["cost"]["text"]
    assert "examples" not in said["cost"]["text"]
    for each in found["sentences"]:
        assert each["rule"]
        escaped = each["text"].replace("&", "&amp;").replace("'", "&#x27;")
        assert escaped in found["page"]
    served = [pair for pair in found["cache"]["pairs"] if found["cache"]["main"] in pair["cells"]]
    assert len(served) == cell["semantic"], "few enough to be shown all"
    assert sum(group["count"] - 1 for group in found["again"]["shown"]) == found["again"]["repeats"]


def test_the_verdict_follows_its_rule() -> None:
    price = Price("p", 1, 1, 1_000, 100)
    tokens = {"prompts_whole": 100_000, "answers": 10_000}
    found = {"turns": 100, "tokens": tokens, "cache": {"lookup_seconds": 0.03}}
    even = break_even(found, price)
    assert even == pytest.approx(0.03 / 2)

    def said(low: float, high: float, wrong_from: float | None = None) -> str:
        compared = None if wrong_from is None else {"interval": [wrong_from, 1.0], "n": 9}
        rate = {"value": low, "interval": [low, high]}
        return verdict_of({"hit_rate": rate, "compared": compared, "max_error": 0.05}, found, price)

    assert said(0.02, 0.04) == said(0.02, 0.04, 0.04) == "yes"
    assert said(0.001, 0.015) == "no"
    assert said(0.01, 0.04) == said(0.02, 0.04, 0.06) == "open"
    assert [each.answer for each in sentences({"turns": 0}, price)] == ["open"]


@pytest.mark.parametrize("name", sorted(each.name for each in EXPORTS.iterdir() if each.suffix in (".json", ".jsonl")))
def test_every_format_gets_a_page(name: str, bundled_model: Path, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes((EXPORTS / name).read_bytes())
    found = judged(file, bundled_model)
    assert found["turns"] > 0
    assert found["chats"] >= 1
    assert f"verdict on {name}" in found["page"]


def test_an_export_without_chats_says_so(bundled_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "empty.json"
    file.write_text("[]")
    found = judged(file, bundled_model)
    assert (found["turns"], found["chats"]) == (0, 0)
    assert "This export holds no question" in found["page"]


def test_the_newest_chats_alone(chats: list[Conversation], bundled_model: Path, tmp_path: Path) -> None:
    found = judged(export(tmp_path / "e.json", chats), bundled_model, max_chats=2)
    newest = sorted(chats, key=lambda each: each.chat.updated_at)[-2:]
    assert (found["chats"], found["turns"]) == (2, sum(len(each.turns) for each in newest))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.json"], "nowhere.json: there is no such file"),
        (["e.json", "--budget", "5"], "--budget 5: must be between"),
        (["e.json", "--max-error", "2"], "--max-error 2: must be between 0 and 1"),
        (["e.json", "--max-chats", "0"], "--max-chats 0"),
        (["e.json", "--out", "e.json"], "--out e.json: is the export itself"),
        (["e.json", "--out", "no/where.html"], "--out no/where.html: there is no folder no"),
        (["e.json", "--price-in", "-1"], "--price-in -1"),
        (["e.json", "--prices", "p.toml", "--price-in", "1"], "only one of them"),
        (["e.json", "--prices", "p.toml"], "p.toml: the prices: row.0.input_per_million"),
        (["e.json"], "conversations[0]"),
    ],
)
def test_bad_input_is_named(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "e.json").write_text('[{"mapping": 3}]')
    (tmp_path / "p.toml").write_text(
        'as_of = 2026-01-01\ncurrency = "$"\n[[row]]\nname = "x"\ninput_per_million = -1\noutput_per_million = 1\n'
        "prompt_tokens_per_second = 1\nanswer_tokens_per_second = 1\n"
    )
    assert main(["verdict", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert [*tmp_path.glob("*.html*")] == []


def test_shipped_prices_are_examples_with_a_date() -> None:
    shipped = read_prices(ROOT / "data" / "prices.toml")
    assert shipped.as_of is not None
    assert all(row.example or row.input_per_million == row.output_per_million == 0 for row in shipped.rows)
    assert prices_for(None, None, None) == shipped
    own = prices_for(None, 3.0, None)
    assert own.rows[0].money(2_000_000, 5) == 6.0
    with pytest.raises(ConfigError, match="no TOML"):
        read_prices(ROOT / "README.md")
