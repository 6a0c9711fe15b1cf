"""What the cache did, in numbers counted by hand; the curve of labels; `calibrate`; the routes and the lab's call."""

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import chatlab
from chatlab.cache.bound import CLOSED
from chatlab.cache.curve import curve_of, curve_of_log
from chatlab.cache.recalibration import Comparator, Label
from chatlab.cache.statistics import share_of, statistics
from chatlab.cli import main
from chatlab.messages import CacheLookup
from chatlab.settings import Settings
from chatlab.wiring import wire
from tests.conftest import StartServer, api_client, new_chat

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def lookup(n: int, outcome: Any, tier: Any = None, **more: Any) -> CacheLookup:
    saved = {"saved_tokens": 10, "saved_ms": 990.0} if outcome in ("hit", "shadow") else {}
    given: dict[str, Any] = {
        "turn_id": f"t{n}", "chat_id": "c", "user_id": "u", "created_at": NOON + timedelta(hours=8 * n),
        "scope": "user", "outcome": outcome, "tier": tier, "entry_id": "e", "similarity": 0.9, "score": 0.5,
        "threshold": 0.28, "guard": None, "lookup_ms": 10.0, "saved_tokens": 0, "saved_ms": 0.0, **saved, **more,
    }  # fmt: skip
    return CacheLookup(**given)


def test_traffic_by_hand() -> None:
    known = statistics(
        [
            lookup(0, "miss", guard="number", score=0.0),
            lookup(1, "hit", "exact"),
            lookup(2, "hit", "semantic", same=True, label_source="audit", label_weight=10.0),
            lookup(3, "hit", "semantic", same=False, label_source="person", label_weight=1.0),
            lookup(4, "bypass"),
            lookup(5, "hit", "semantic", scope="global", own=False),
            lookup(6, "hit", "exact", scope="global", own=True),
        ],
        Comparator(),
    )
    total = known.total
    assert (total.lookups, total.exact, total.semantic, total.refused) == (6, 2, 3, {"number": 1})
    assert total.hit_rate.value == pytest.approx(5 / 6)
    assert total.saved_tokens == 50
    assert total.saved_seconds == pytest.approx((5 * 1_000 - 6 * 10) / 1e3)
    assert total.break_even == pytest.approx(10 / 1_000)
    assert (total.lookup_ms_p50, total.lookup_ms_p95) == (10.0, 10.0)
    assert (total.precision.value, total.precision.n) == (1.0, 1.0), "what people say is no sample"
    assert set(known.by_scope) == {"user", "global"}
    assert (known.leaks.hits, known.leaks.from_others, known.leaks.share.value) == (2, 1, 0.5)
    assert [(day.lookups, day.hits) for day in known.days] == [(2, 1), (2, 2), (2, 2)]
    nothing = statistics([], Comparator())
    assert (nothing.total.lookups, nothing.total.break_even, nothing.total.hit_rate.value) == (0, None, None)


def test_what_would_have_been_served_is_told_apart() -> None:
    known = statistics(
        [lookup(0, "shadow", "semantic", same=False, label_source="audit", label_weight=1.0)], Comparator()
    )
    assert (known.total.shadow, known.total.semantic, known.total.hit_rate.value) == (1, 0, 0.0)
    assert known.total.precision.value == 0.0
    assert known.days[0].wrong.value == 1.0


def test_a_comparators_errors_are_taken_out_and_widen_the_interval() -> None:
    audits = [lookup(n, "hit", "semantic", same=n % 5 != 0, label_source="audit", label_weight=1.0) for n in range(100)]
    plain, corrected = (
        statistics(audits, each).total.precision for each in (Comparator(), Comparator(false_different=0.2))
    )
    assert plain.value == pytest.approx(0.8)
    assert corrected.value == pytest.approx(1.0)
    assert corrected.n < plain.n


def test_wilson() -> None:
    share = share_of(5, 100)
    assert (share.low, share.high) == (pytest.approx(0.0215, abs=1e-3), pytest.approx(0.1118, abs=1e-3))
    assert share_of(0, 0).value is None


def test_the_curve_counts_what_a_threshold_serves() -> None:
    labels = [Label(0.9, True)] * 100 + [Label(0.5, False)] * 10 + [Label(0.5, True)] * 10 + [Label(0.0, False)] * 5
    curve = curve_of(labels)
    at = {round(float(t), 2): i for i, t in enumerate(curve.thresholds)}
    assert (curve.served[at[0.4]], curve.wrong[at[0.4]], curve.lookups) == (120, 10, 125)
    assert (curve.served[at[0.6]], curve.wrong[at[0.6]]) == (100, 0)
    assert curve.threshold(0.05) == pytest.approx(0.51)
    assert curve.threshold(0.1) == pytest.approx(0.02)
    low, high = curve.interval(0.05)
    assert (low, high) == (pytest.approx(0.02), pytest.approx(0.51)), "10 of 120 may be less than 5 %"
    assert curve.threshold(0.001) == CLOSED, "a hundred labels do not show that"
    assert curve_of([]).threshold(0.5) == CLOSED


def test_a_log_is_what_was_labelled_by_meaning() -> None:
    log = [
        lookup(0, "miss", same=True, label_weight=2.0, label_source="miss"),
        lookup(1, "hit", "exact", same=False, label_source="person", score=1.0),
        lookup(2, "miss", guard="negation", score=0.0),
        lookup(3, "miss"),
    ]
    curve = curve_of_log(log, Comparator())
    assert (curve.served[0], curve.wrong[0], curve.lookups) == (2.0, 0.0, 3.0)


def pairs_file(folder: Path) -> Path:
    file = folder / "pairs.jsonl"
    rows = [
        ("How do I get a wine stain out of a white shirt?", "How can I get a wine stain out of a white shirt", 1),
        ("How do I get a wine stain out of a white shirt?", "How do I get a wine stain out of a black shirt?", 0),
    ] * 40
    file.write_text("".join(json.dumps({"a": a, "b": b, "label": label}) + "\n" for a, b, label in rows))
    return file


def test_calibrate_on_a_labelled_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, plot = tmp_path / "out.json", tmp_path / "curve.svg"
    arguments = ["calibrate", "--pairs", str(pairs_file(tmp_path)), "--json", str(out), "--plot", str(plot)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "at most 0.05 wrong of what is served: from 0.02" in printed
    found = json.loads(out.read_text())
    assert found["threshold"] == pytest.approx(0.02)
    assert found["threshold_interval"][0] <= found["threshold"]
    assert found["curve"][0]["served"] == pytest.approx(0.5), "a guard refuses the others"
    assert found["curve"][0]["wrong"] == 0.0
    assert plot.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--pairs", "missing.csv"], "missing.csv"),
        (["--pairs", "a.csv", "--url", "http://x"], "only one of them"),
        (["--max-error", "0"], "--max-error 0: must be between 0 and 1"),
        (["--plot", "curve.txt"], "must end in .svg, .png or .pdf"),
        (["--url", "http://127.0.0.1:9"], "no chatlab answers there"),
        ([], "there is nothing stored there"),
    ],
)
def test_what_calibrate_cannot_do_it_says(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_calibrate_asks_a_running_server(
    tmp_path: Path, start_server: StartServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with wire(Settings(data_dir=tmp_path / "held", engine="echo")):
        assert main(["calibrate", "--data-dir", str(tmp_path / "held")]) == 2
    assert "--url" in capsys.readouterr().err
    server = start_server(engine="echo")
    assert main(["calibrate", "--url", server.url]) == 0
    assert "in force, with the shipped calibration: 0." in capsys.readouterr().out


def test_statistics_over_rest_are_the_callers(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", engine="echo", cache_scope="user")
    with wire(settings) as parts, api_client(parts) as client:
        for _ in range(3):
            client.post(f"/chat/{new_chat(client)}/completion", json={"userMessage": "How do I reset my router?"})
        found = client.get("/cache/statistics").json()
        for _ in range(200):  # a lookup is noted beside its answer
            if found["total"]["lookups"] == 3:
                break
            time.sleep(0.02)
            found = client.get("/cache/statistics").json()
        assert (found["total"]["lookups"], found["total"]["exact"]) == (3, 2)
        assert found["byScope"]["user"]["hitRate"]["value"] == pytest.approx(2 / 3)
        assert found["leaks"] == {
            "hits": 0, "fromOthers": 0, "share": {"value": None, "low": 0.0, "high": 1.0, "n": 0.0},
            "personalAtMost": 0.0,
        }  # fmt: skip
        others = client.get("/cache/statistics", headers={"X-User-ID": "another"}).json()
        assert others["total"]["lookups"] == 0
        assert client.get("/cache/statistics?days=0").status_code == 422
        calibration = client.get("/cache/calibration").json()
        assert calibration["maxError"] == 0.05
        assert len(calibration["thresholds"]) == len(calibration["served"])


def test_statistics_from_python(tmp_path: Path) -> None:
    with chatlab.open(tmp_path / "lab", engine="echo", cache_scope="user") as lab:
        for user_id in ("ada", "ada", "bob"):
            lab.chat(user_id=user_id).ask("How do I reset my router?")
        for _ in range(200):
            if lab.cache_statistics().total.lookups == 3:
                break
            time.sleep(0.02)
        assert lab.cache_statistics(user_id="ada").total.exact == 1
        assert lab.cache_statistics().total.lookups == 3
        assert np.isfinite(lab.cache_statistics(days=1).total.saved_seconds)
