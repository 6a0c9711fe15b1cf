"""Replay: decides as the live cache did; other configurations differ as they must; its report says what it rests on."""

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from chatlab.cache.reading import normalised
from chatlab.cli import main
from chatlab.embedding import Embedder
from chatlab.errors import ConfigError
from chatlab.evaluation import bootstrap
from chatlab.evaluation.parts import Counting
from chatlab.evaluation.prefixes import WordTokens
from chatlab.evaluation.replay.comparison import Replayed, result
from chatlab.evaluation.replay.configuration import Configuration, as_logged, read_configuration
from chatlab.evaluation.replay.decisions import differences
from chatlab.evaluation.replay.log import Log, read_log
from chatlab.evaluation.replay.page import page
from chatlab.evaluation.replay.report import table
from chatlab.evaluation.replay.run import replay
from chatlab.evaluation.replay.traffic import ScriptedEngine, answer_to, make_traffic
from chatlab.evaluation.workload import read_words
from chatlab.exchange.exported import ExportedChat
from chatlab.exchange.own import write
from chatlab.messages import Chat, Turn
from chatlab.settings import Settings
from chatlab.store.recent import Conversation
from tests.conftest import ROOT

WORDS = ROOT / "data/cache_workload.toml"
AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
ATTACK = "<script src=https://evil.example/x.js></script>"


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A data dir with traffic of many users, its entries short-lived and its hits audited often."""
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("live") / "data",
        engine="echo",
        cache_scope="user",
        cache_ttl_hours=2,
        cache_audit_share=0.5,
    )
    asyncio.run(make_traffic(settings, read_words(WORDS), seed=5, n=300))
    return settings


def replayed(
    log: Log, *configurations: Configuration, counting: Counting | None = None, engine: ScriptedEngine | None = None
) -> list[Replayed]:
    async def run() -> list[Replayed]:
        embedder = Embedder()
        try:
            return [Replayed(each, *await replay(log, each, embedder, counting, engine)) for each in configurations]
        finally:
            embedder.close()

    return asyncio.run(run())


def test_the_live_decisions_are_reproduced(live: Settings) -> None:
    log = read_log(live.data_dir)
    lookups = [each.lookup for each in log.turns if each.lookup is not None]
    kinds = {(each.outcome, each.tier) for each in lookups}
    assert kinds >= {("hit", "exact"), ("hit", "semantic"), ("miss", None), ("bypass", None)}
    assert {each.label_source for each in lookups} >= {"miss", "audit", "person"}
    assert any(each.turn.feedback is not None and each.turn.feedback.rating < 0 for each in log.turns)

    (one,) = replayed(log, as_logged(live))
    assert one.faults == 0
    assert [(each.cache, differences(each)) for each in one.decisions if differences(each)] == []
    assert not any(each.beyond for each in one.decisions)


def test_an_export_replays_as_its_data_dir(live: Settings, tmp_path: Path) -> None:
    log = read_log(live.data_dir)
    file = tmp_path / "chats.json"
    chats = [
        ExportedChat(known, tuple(log.lookups[turn.turn_id] for turn in known.turns if turn.turn_id in log.lookups))
        for known in log.conversations
    ]
    file.write_text("".join(write(chats, AT)))
    again = read_log(file)
    assert again.lookups == log.lookups
    assert [each.turn.turn_id for each in again.turns] == [each.turn.turn_id for each in log.turns]
    (one,) = replayed(again, as_logged(live))
    assert [each for each in one.decisions if differences(each)] == []


def test_what_the_log_cannot_know_is_counted_apart(live: Settings) -> None:
    log = read_log(live.data_dir)
    for hit in (each for each in log.turns if each.turn.provenance.cache.tier == "semantic"):
        matched = normalised(hit.turn.provenance.cache.matched_question or "")
        kept = [
            known
            for known in log.conversations
            if matched not in {normalised(turn.user_message) for turn in known.turns}
        ]
        if hit.chat in [known.chat for known in kept]:
            break
    else:
        pytest.fail("no question was served from another chat")
    turn_ids = {turn.turn_id for known in kept for turn in known.turns}
    lookups = [lookup for turn_id, lookup in log.lookups.items() if turn_id in turn_ids]
    (one,) = replayed(Log.of(kept, lookups), as_logged(live))
    decided = {each.logged.turn.turn_id: each for each in one.decisions}
    assert decided[hit.turn.turn_id].beyond
    then = result(Log.of(kept), [one])["configurations"][0]["as_logged"]
    assert then["beyond"] == sum(each.beyond for each in one.decisions) > 0
    assert then["same"] + then["different"] + then["beyond"] == then["known"]


def test_other_configurations_decide_otherwise(live: Settings) -> None:
    log = read_log(live.data_dir)
    base = as_logged(live)
    settings = live.model_copy(update={"cache_ttl_hours": 1e-6})
    nothing = Configuration("nothing lives", settings, frozenset({"cache_ttl_hours"}))
    off, everybody = replace(base, name="off", scope="off"), replace(base, name="global", scope="global")
    baseline, *others = replayed(log, base, off, nothing, everybody)
    served = {each.name: sum(decision.served for decision in each.decisions) for each in others}
    assert served["off"] == 0
    assert served["nothing lives"] <= sum(each.logged.taken for each in baseline.decisions) + 5  # those asked at once
    assert served["global"] > 0

    found = result(log, [baseline, *others])
    (difference, *_) = found["differences"]
    n = sum(each.served for each in baseline.decisions)
    assert (difference["served_less"], difference["served_more"]) == (n, 0)
    estimate = difference["estimates"]["served"]
    assert estimate["value"] == pytest.approx(-n / len(log.turns))
    assert estimate["interval"][0] < estimate["value"] < estimate["interval"][1] < 0
    assert "less as logged, a turn" in table(found)
    assert found["configurations"][1]["answers_assumed"] == n, "what the model would have said is not known"


def chat(chat_id: str, turns: Sequence[tuple[str, str]], at: datetime = AT, user: str = "u") -> Conversation:
    """A chat of another tool: a turn a minute, and nothing about how it was answered."""
    made: list[Turn] = []
    for i, (asked, answer) in enumerate(turns):
        begun = at + timedelta(minutes=i)
        parent = made[-1].turn_id if made else None
        made.append(
            Turn(
                f"{chat_id}{i}", chat_id, user, parent, asked, begun, answer, "done", finished_at=begun, source="model"
            )
        )
    return Conversation(Chat(chat_id, user, None, at, at), tuple(made))


def test_prompts_of_strategies_and_budgets(settings: Settings) -> None:
    said = [(f"question {i} about the harbour", f"answer {i} " + "word " * 30) for i in range(12)]
    log = Log.of([chat("a", said)])
    base = replace(as_logged(settings), scope="off")
    narrow = replace(base, name="narrow", strategy="truncate", budget_tokens=160)
    direct = replace(base, name="direct", strategy="direct", budget_tokens=160)
    engine = ScriptedEngine()
    whole, tail, refusing = replayed(log, base, narrow, direct, counting=Counting(engine, WordTokens()))
    assert [each.dropped_turns for each in whole.decisions] == [0] * 12
    assert [each.prompt_tokens for each in whole.decisions] == sorted(each.prompt_tokens for each in whole.decisions)
    assert all(each.prompt_tokens <= 160 for each in tail.decisions)
    assert tail.decisions[-1].dropped_turns > 5
    assert whole.decisions[-1].computed_tokens < whole.decisions[-1].prompt_tokens / 5, "all but the last turn is kept"
    refused = [each.refused for each in refusing.decisions]
    assert not refused[0]
    assert all(refused[5:])
    found = result(log, [whole, tail])
    assert found["differences"][0]["estimates"]["dropped_turns"]["value"] > 0


def test_answers_are_asked_of_the_model_where_the_cache_does_not_serve(settings: Settings) -> None:
    question = "What is the capital of Kenya?"
    chats = [chat(name, [(question, "Nairobi.")], AT + timedelta(hours=i)) for i, name in enumerate("abc")]
    engine = ScriptedEngine()
    engine.says["u", question] = "The capital is Nairobi.", False
    found = replayed(Log.of(chats), as_logged(settings), counting=Counting(engine, WordTokens()), engine=engine)
    decisions = found[0].decisions
    assert [each.served for each in decisions] == [False, True, True]
    assert [each.answer for each in decisions] == ["The capital is Nairobi."] * 3
    assert decisions[2].cache.matched_question == question


def test_a_configuration_is_a_chatlab_toml_with_tables(tmp_path: Path) -> None:
    file = tmp_path / "wide.toml"
    file.write_text(
        'port = 9\ncache_max_error = 0.1\n[history]\nstrategy = "hybrid"\nbudget_tokens = 512\n'
        '[cache]\nscope = "global"\n[params]\ntemperature = 0.0\n'
    )
    found = read_configuration(file)
    assert (found.name, found.scope, found.strategy, found.budget_tokens) == ("wide", "global", "hybrid", 512)
    assert (found.settings.cache_max_error, found.params.temperature, found.own_threshold) == (0.1, 0.0, True)
    file.write_text("cache_ttl_hours = 3\n")
    plain = read_configuration(file)
    assert (plain.scope, plain.strategy, plain.own_threshold, plain.own_prompts) == (None, None, False, False)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("cache_max_eror = 0.1", "cache_max_eror: no setting of this version; did you mean cache_max_error?"),
        ("[history]\nbudget = 5", "history.budget: no setting of this version; did you mean history.budget_tokens?"),
        ("[history]\nstrategy = 'best'", "history.strategy='best'"),
        ("[params]\ntemperature = 9", "params.temperature: must be between 0 and 2"),
        ("cache_max_error = 7", "CHATLAB_CACHE_MAX_ERROR=7"),
        ("cache_scope = 'user'\n[cache]\nscope = 'off'", "cache_scope and cache.scope: only one"),
        ("history = 5", "history: must be a table, [history]"),
        ("a = ", "no TOML"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused_by_name(tmp_path: Path, text: str, fault: str) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(fault)) as refused:
        read_configuration(file)
    assert str(file) in str(refused.value)


def test_the_command_writes_json_and_a_page_that_loads_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHATLAB_ENGINE", "echo")
    asked = f"What does {ATTACK} mean in a page?"
    lines = [
        {"conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": f"It {ATTACK} loads."}]}
        for _ in range(3)
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(json.dumps(each) for each in lines))
    one, other = tmp_path / "as-logged.toml", tmp_path / "off.toml"
    one.write_text("")
    other.write_text('cache_scope = "off"')
    html, found = tmp_path / "out.html", tmp_path / "out.json"
    files = ["--json", str(found), "--html", str(html)]
    assert main(["replay", str(log), "--config", str(one), "--config", str(other), *files]) == 0
    assert "off less as-logged, a turn" in capsys.readouterr().out
    report = json.loads(found.read_text())
    assert [each["name"] for each in report["configurations"]] == ["as-logged", "off"]
    assert report["differences"][0]["served_less"] == len(report["changed"]) == 2
    text = html.read_text()
    assert "&lt;script src=https://evil.example" in text
    assert not re.search(r"<script|<link|<img|<iframe|(?:src|href)\s*=\s*[\"']|url\(|@import", text)
    assert "prefers-color-scheme: dark" in text


def test_a_log_that_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "a.toml"
    config.write_text("")
    empty = tmp_path / "empty.json"
    empty.write_text("[]")
    for log, fault in ((tmp_path / "none", "there is no such file or folder"), (empty, "there are no turns in it")):
        assert main(["replay", str(log), "--config", str(config), "--no-prompts"]) == 2
        assert fault in capsys.readouterr().err


def test_names_in_a_page_are_text(settings: Settings) -> None:
    log = Log.of([chat("a", [("hi", "hello")])], source=ATTACK)
    base = replace(as_logged(settings), scope="off")
    found = result(log, replayed(log, base, replace(base, name=ATTACK)))
    assert ATTACK not in page(found)


def test_intervals_hold_the_truth() -> None:
    """Of skewed tokens in 30 chats of different lengths, where percentiles hold 88 %."""
    generator = np.random.default_rng(7)
    held = 0
    for number in range(400):
        turns = (1 + generator.geometric(0.2, 30)).astype(np.float64)
        found = bootstrap.ratio(turns * generator.lognormal(0, 0.7, 30), turns, number, resamples=1_000)
        held += found is not None and found.low <= np.exp(0.245) <= found.high
    assert 0.92 <= held / 400 <= 0.975


def test_a_share_of_equal_answers_is_not_certain() -> None:
    found = bootstrap.share([1.0] * 20)
    assert found is not None
    assert (found.value, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(0.839, abs=0.001)
    assert bootstrap.share([]) is None


def test_answers_of_made_up_traffic_tell_their_question() -> None:
    assert answer_to("1-0-0") == answer_to("1-0-0") != answer_to("1-0-1")
