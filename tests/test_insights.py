"""A person's turns summed up, and their stored answers: counted by hand, and theirs alone."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import cast

import gradio as gr
from fastapi.testclient import TestClient

from chatlab.cache.answers import AnswerCache
from chatlab.cache.comparator import shipped
from chatlab.cache.statistics import CacheStatistics, statistics
from chatlab.clock import last_days
from chatlab.messages import (
    CacheEntry,
    CacheProvenance,
    Chat,
    Feedback,
    PromptProvenance,
    Provenance,
    Timing,
    Turn,
    Usage,
)
from chatlab.store import EntryPage, Store
from chatlab.store.insights import Figures, Insights
from chatlab.ui.cache_tab import CachePage, entries_html
from chatlab.ui.charts import Axis, Bars, Chart, Line, chart_html, counts
from chatlab.ui.identity import Identities
from chatlab.ui.insights import insights_html
from tests.conftest import ask, new_chat

LATE = datetime(2026, 3, 1, 23, 30, tzinfo=UTC)
MISS = Provenance(
    CacheProvenance("miss"),
    PromptProvenance("hybrid", 900, 40, ()),
    Usage(40, 10),
    Timing(ttft_ms=100.0, total_ms=300.0),
    "m",
)
HIT = Provenance(CacheProvenance("hit", "exact"), None, Usage(saved_tokens=50), Timing(ttft_ms=2.0, total_ms=3.0), "m")


async def keep(store: Store, turn: Turn) -> None:
    await store.add_turn(replace(turn, finished_at=turn.created_at, assistant_message="Yes."))


async def test_turns_are_summed_up_by_the_days_of_the_person(store: Store) -> None:
    for chat_id, user_id in (("c", "ada"), ("gone", "ada"), ("b", "bob")):
        await store.add_chat(Chat(chat_id, user_id, "", LATE, LATE))
    one = Turn("1", "c", "ada", None, "Why?", LATE, status="done", source="model", provenance=MISS)
    await keep(store, one)
    await keep(store, replace(one, turn_id="2", source="cache", provenance=HIT, created_at=LATE + timedelta(hours=2)))
    off = Provenance(timing=Timing(ttft_ms=200.0, total_ms=500.0), model="m")
    await keep(store, replace(one, turn_id="3", status="failed", provenance=off))
    await keep(store, replace(one, turn_id="4", chat_id="gone"))
    await keep(store, replace(one, turn_id="5", chat_id="b", user_id="bob"))
    await keep(store, replace(one, turn_id="6", created_at=LATE - timedelta(days=9)))
    await store.rate(one, 1, None, LATE)
    await store.rate(replace(one, feedback=Feedback(1, None)), -1, "no", LATE)  # a person may think again
    await store.discard_chat("gone", LATE)

    since = LATE - timedelta(days=1)
    known = await store.insights.since("ada", since)
    total = known.total
    assert (total.answers, total.failed, total.lookups, total.hits) == (3, 1, 2, 1)
    assert (total.tokens_in, total.tokens_out, total.tokens_saved) == (40, 10, 50)
    assert (total.up, total.down) == (0, 1)
    assert total.first_ms is not None
    assert (total.first_ms.p50, round(total.first_ms.p95)) == (100.0, 190)
    assert {day: of.answers for day, of in known.days.items()} == {date(2026, 3, 1): 2, date(2026, 3, 2): 1}
    assert (known.by("source"), known.by("strategy")) == ({"model": 2, "cache": 1}, {"hybrid": 1})
    eastern = await store.insights.since("ada", since, utc_offset_minutes=60)
    assert [*eastern.days] == [date(2026, 3, 2)]
    assert (await store.insights.since("eve", since)).total.answers == 0
    assert "Start a chat" in insights_html(await store.insights.since("eve", since), [date(2026, 3, 1)])


def test_insights_over_rest_are_the_callers_alone(client: TestClient) -> None:
    ask(client, new_chat(client), "Hello you")
    known = client.get("/insights/statistics", params={"days": 7}).json()
    assert known["total"]["answers"] == 1
    assert known["total"]["firstMs"]["p50"] > 0
    assert (len(known["days"]), known["sources"]) == (1, {"model": 1})
    other = client.get("/insights/statistics", headers={"X-User-ID": "eve"}).json()
    assert other["total"]["answers"] == 0
    assert client.get("/insights/statistics?days=0").json()["errors"][0]["field"] == "days"


def test_stored_answers_are_listed_found_and_evicted_by_their_owner_only(client: TestClient) -> None:
    for question in ("What is a fjord?", "What is a delta?", "What is a lagoon?"):
        ask(client, new_chat(client, cache={"scope": "user"}), question)
    page = client.get("/cache/entries?limit=2").json()
    assert ([each["question"] for each in page["entries"]], page["n"]) == (["What is a lagoon?", "What is a delta?"], 3)
    rest = client.get("/cache/entries", params={"limit": 2, "cursor": page["nextCursor"]}).json()
    assert ([each["question"] for each in rest["entries"]], rest["nextCursor"]) == (["What is a fjord?"], None)
    (found,) = client.get("/cache/entries?q=DELTA").json()["entries"]
    path, eve = f"/cache/entries/{found['entryID']}", {"X-User-ID": "eve"}
    assert client.get("/cache/entries", headers=eve).json()["entries"] == []
    assert client.delete(path, headers=eve).status_code == 404
    assert client.delete("/cache/entries", headers=eve).status_code == 204
    assert client.get("/cache/entries").json()["n"] == 3
    assert client.delete(path).status_code == 204
    assert client.delete(path).status_code == 404
    again = ask(client, new_chat(client, cache={"scope": "user"}), "What is a delta?")[-1].data
    assert again["provenance"]["cache"]["outcome"] == "miss"
    assert client.delete("/cache/entries").status_code == 204
    assert client.get("/cache/entries").json()["n"] == 0
    assert client.get("/cache/entries?cursor=nonsense").json()["errors"][0]["field"] == "cursor"


def test_the_last_days_are_whole_ones_of_the_person() -> None:
    assert last_days(LATE, 2) == (datetime(2026, 2, 28, tzinfo=UTC), (date(2026, 2, 28), date(2026, 3, 1)))
    begin, days = last_days(LATE, 1, 60)
    assert (begin, days) == (datetime(2026, 3, 1, 23, tzinfo=UTC), (date(2026, 3, 2),))


def test_failed_and_stopped_answers_are_bars_of_their_own() -> None:
    figures = Figures(7, 2, 1, 3, 1, None, None, 0, 0, 0, 0, 0)
    html = insights_html(Insights(figures, {LATE.date(): figures}, ()), [LATE.date()])
    traffic = html[html.index('id="traffic"') : html.index('id="first-wait"')]
    assert "Failed or stopped" in traffic
    assert "Computed" not in traffic


async def test_the_cache_page_sums_up_what_it_draws_and_keeps_its_list_as_long() -> None:
    asked: list[int] = []
    since: list[datetime] = []

    class Answers:
        async def evict_entry(self, user_id: str, entry_id: str) -> None:
            """Gone."""

        async def statistics(self, at: datetime, user_id: str) -> CacheStatistics:
            since.append(at)
            return statistics([], shipped())

        async def entries(self, user_id: str, limit: int, cursor: str | None, q: str | None) -> EntryPage:
            asked.append(limit)
            return EntryPage((), None, 0)

    with gr.Blocks() as ui:
        page = CachePage(ui, Identities("key"), cast(AnswerCache, Answers()), lambda: LATE)
    await page.change("ada", "evict", "e", "", 60)
    await page.change("ada", "more", "60", "")
    assert asked == [60, 60]
    assert "last 7 days" in await page.done_html("ada", 7)
    assert since == [datetime(2026, 2, 23, tzinfo=UTC)]


def test_recalibrating_reads_the_labels_that_are_stored(client: TestClient) -> None:
    before = client.get("/cache/calibration").json()
    assert client.post("/cache/calibration").json() == before


def test_a_chart_says_what_it_shows_and_escapes_it() -> None:
    line = Line("p <b>", [0, 1, 2, 3], [1.0, None, 2.0, 3.0], [0.5, None, 1.0, 2.0], [1.5, None, 3.0, 4.0])
    x = Axis(-0.5, 3.5, [(0, "1 Mar")])
    chart = Chart("waits", "Wait <now>", "Long & slow", x, counts(4), [line, Bars("n", [1, 0, 2, 0])], [("Day", "n")])
    html = chart_html(chart)
    assert '<svg viewBox="0 0 360 200" role="img" aria-labelledby="waits-title waits-about">' in html
    assert '<title id="waits-title">Wait &lt;now&gt;</title>' in html
    assert '<desc id="waits-about">Long &amp; slow</desc>' in html
    assert (html.count("<polyline"), html.count('class="dot'), html.count("<polygon")) == (1, 1, 2)
    assert html.count('<rect class="bars-1" x="') == 3  # two bars, and the key
    assert "<b>" not in html


def test_an_axis_has_few_round_numbers_and_room_for_all() -> None:
    for high in (1.0, 3.0, 7.0, 99.0, 101.0, 123_456.0):
        axis = counts(high)
        assert axis.high >= high
        assert 3 <= len(axis.ticks) <= 6
    assert [text for _, text in counts(8).ticks] == ["0", "2", "4", "6", "8"]


def test_an_entry_is_text() -> None:
    entry = CacheEntry("e", "b", "<i>Q</i>", "<script>", "u", "c", "t", 10, 1.0, LATE, LATE + timedelta(days=2), 3)
    html = entries_html(EntryPage((entry,), None, 1), "", LATE + timedelta(hours=1))
    assert "&lt;i&gt;Q&lt;/i&gt;" in html
    assert "<script>" not in html
    assert "1 hour ago</time> · 3 hits · 30 tokens saved · for another 1 day" in html
