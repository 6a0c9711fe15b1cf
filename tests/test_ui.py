"""The page without a browser: what its handlers do, what its HTML says, what is closed."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import gradio as gr
import pytest

from chatlab.errors import EngineError, InvalidInput
from chatlab.messages import (
    CacheChoice,
    Chat,
    ChatSettings,
    Feedback,
    HistoryChoice,
    Note,
    Problem,
    PromptPart,
    PromptProvenance,
    Provenance,
    SamplingParams,
    Turn,
)
from chatlab.settings import Settings
from chatlab.store import SearchHit
from chatlab.ui import conversation
from chatlab.ui.chat_list import MAX_CHATS, PAGE_CHATS, Shelf, found, group_name, listing, undo_notice
from chatlab.ui.endpoint import Endpoint
from chatlab.ui.guard import closed
from chatlab.ui.handlers import PageHandlers
from chatlab.ui.identity import Identities, Kept
from chatlab.ui.inspecting import Inspecting
from chatlab.ui.library import Library, Managed
from chatlab.ui.notes import notes_html
from chatlab.ui.panel import chosen_from, values_of
from chatlab.ui.presets import Presets
from chatlab.ui.refusal import Refused
from chatlab.ui.tickets import Tickets
from chatlab.ui.view import Place, View, branch_to, place_in, title_of
from chatlab.wiring import Parts, wire
from tests.conftest import ScriptedEngine
from tests.test_markdown import ATTACKS, harm

NOW = datetime(2026, 5, 20, 12, tzinfo=UTC)
CHAT = Chat("c", "u", "A chat", NOW, NOW)
FACTS = ("My dog is called Biscuit.", "My sister Ada was born in 1984 in Rome.", "I am allergic to peanuts.")
NOTED = ChatSettings(history=HistoryChoice("summarize", 400))


def turn(turn_id: str, parent: str | None = None, **fields: Any) -> Turn:
    made = Turn(
        turn_id, "c", "u", parent, f"question {turn_id}", NOW, assistant_message=f"answer {turn_id}", status="done"
    )
    return replace(made, **fields)


def note(note_id: str, *turn_ids: str, **fields: Any) -> Note:
    made = Note(note_id, "c", "u", turn_ids, "", f"user: {note_id}", (), "ledger", 1_234, 56, "echo", 1, 1.0, NOW, NOW)
    return replace(made, **fields)


def noted(*turn_ids: str) -> Provenance:
    """Of a prompt in which notes stood for these turns."""
    return Provenance(prompt=PromptProvenance("summarize", 99, 20, (PromptPart("summary", turn_ids, 5),)))


class Page:
    """An open page of a browser."""

    def __init__(self, parts: Parts, session: str = "page") -> None:
        identities = Identities("key")
        self.handlers = PageHandlers(parts.chats, identities, "scripted", ChatSettings())
        self.inspecting = Inspecting(parts.chats, identities, self.handlers)
        self.library = Library(parts.chats, identities, Tickets(parts.secret_key))
        self.presets = Presets(parts.chats, identities)
        self.kept: Kept = self.handlers.identify({})
        self.session = session
        self.place = Place()
        self.parts = parts
        self.views: list[View] = []  # of the last message

    @property
    def user_id(self) -> str:
        return Identities("key").require(self.kept)

    def take(self, view: View) -> View:
        self.place = view.place or self.place
        return view

    async def all(self, views: AsyncGenerator[View]) -> list[View]:
        return [self.take(view) async for view in views]

    def ask(self, message: str, editing: str = "", chosen: ChatSettings | None = None) -> AsyncGenerator[View]:
        return self.handlers.ask(self.kept, self.session, self.place, message, editing, chosen or ChatSettings())

    async def manage(self, do: str, chat_id: str = "", title: str = "", shelf: Shelf | None = None) -> Managed:
        return await self.library.manage(self.kept, self.place, shelf or Shelf(), "", do, chat_id, title)


@asynccontextmanager
async def slow_page(settings: Settings, words: int) -> AsyncGenerator[Page]:
    """A page whose model takes its time."""

    async def pause() -> None:
        await asyncio.sleep(0.01)

    with wire(settings, engine=ScriptedEngine(["word "] * words, pause)) as parts:
        yield Page(parts)
        await parts.jobs.close()


@pytest.fixture
async def noting(settings: Settings) -> AsyncGenerator[Page]:
    """A page on a chat so long that notes stand for its first turns; echoed, in words."""
    with wire(settings) as parts:
        page = Page(parts)
        for fact in FACTS:
            page.views = await page.all(page.ask(long(fact), chosen=NOTED))
        yield page
        await parts.jobs.close()


def long(fact: str) -> str:
    return f"{fact} " + "And it rained on the way to the market, which was closed. " * 3


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine(["Hello", " there"])


@pytest.fixture
def parts(settings: Settings, engine: ScriptedEngine) -> Iterator[Parts]:
    with wire(settings, engine=engine) as parts:
        yield parts


@pytest.fixture
async def page(parts: Parts) -> AsyncGenerator[Page]:
    yield Page(parts)
    await parts.jobs.close()


class TestConversation:
    async def test_a_message_makes_a_chat_and_the_answer_grows_into_it(self, page: Page) -> None:
        views = await page.all(page.ask("Hello you"))
        first = views[0]
        assert "article" not in (first.earlier or "")
        assert 'data-live="true"' in (first.latest or "")
        assert first.place is not None
        assert first.place.title == "Hello you"
        assert "Hello you" in (first.latest or "")
        ended = next(view for view in views if 'data-live="false"' in (view.latest or ""))
        assert "Hello there" in (ended.latest or "")
        shown = await page.all(page.handlers.show(page.kept, "other page", Place(page.place.chat)))
        assert "Hello there" in (shown[0].latest or "")
        assert 'data-live="false"' in (shown[0].latest or "")

    async def test_an_empty_message_does_nothing(self, page: Page) -> None:
        assert await page.all(page.ask("  \n ")) == []

    async def test_the_settings_of_a_new_chat_go_with_its_first_message(self, page: Page, parts: Parts) -> None:
        chosen = ChatSettings("Be kind.", HistoryChoice("direct", 500), CacheChoice("off"), SamplingParams(seed=7))
        await page.all(page.ask("Hello", chosen=chosen))
        user_id = Identities("key").user_of(page.kept) or ""
        chat = (await parts.chats.conversation(user_id, page.place.chat)).chat
        assert ChatSettings.of(chat) == chosen
        await page.handlers.configure(page.kept, page.place, replace(chosen, system_prompt=None))
        assert (await parts.chats.conversation(user_id, page.place.chat)).chat.system_prompt is None
        shown = await page.all(page.handlers.show(page.kept, "p", Place(page.place.chat)))
        assert shown[0].chosen == replace(chosen, system_prompt=None)

    async def test_regenerate_and_edit_make_versions(self, page: Page) -> None:
        await page.all(page.ask("one"))
        await page.all(page.ask("two"))
        first_leaf = page.place.leaf
        await page.all(page.handlers.again(page.kept, page.session, page.place, first_leaf))
        assert page.place.leaf != first_leaf
        view = await page.handlers.as_is(page.kept, page.session, page.place)
        assert ">2/2<" in (view.latest or "")
        assert "one" in (view.earlier or "")

        back = (await page.all(page.handlers.show(page.kept, page.session, Place(page.place.chat, first_leaf))))[0]
        assert ">1/2<" in (back.latest or "")
        assert page.place.leaf == first_leaf

        await page.all(page.ask("two, said otherwise", editing=first_leaf))
        view = await page.handlers.as_is(page.kept, page.session, page.place)
        assert ">3/3<" in (view.latest or "")
        assert "two, said otherwise" in (view.latest or "")

    async def test_continue_follows_the_answer(self, page: Page) -> None:
        await page.all(page.ask("one"))
        leaf = page.place.leaf
        await page.all(page.handlers.again(page.kept, page.session, page.place, leaf, on_with_it=True))
        view = await page.handlers.as_is(page.kept, page.session, page.place)
        assert "Continue exactly" in (view.latest or "")
        assert leaf in (view.earlier or "")

    async def test_a_thumb_and_its_reason_are_shown(self, page: Page) -> None:
        await page.all(page.ask("one"))
        view = await page.handlers.rate(page.kept, page.session, page.place, page.place.leaf, -1, None)
        assert "What was wrong?" in (view.latest or "")
        view = await page.handlers.rate(page.kept, page.session, page.place, page.place.leaf, -1, "Too long")
        assert "Noted: Too long" in (view.latest or "")
        view = await page.handlers.rate(page.kept, page.session, page.place, page.place.leaf, 1, None)
        assert 'data-rating="1" aria-pressed="true"' in (view.latest or "")

    async def test_only_an_answer_from_the_cache_is_wrong_of_the_cache(self, page: Page, parts: Parts) -> None:
        await page.all(page.ask("Hello"))
        with pytest.raises(Refused, match="not from the cache"):
            await page.all(page.inspecting.wrong(page.kept, page.session, page.place, page.place.leaf))
        (turn,) = (await parts.chats.conversation(page.user_id, page.place.chat)).turns
        assert turn.feedback is None

    async def test_what_cannot_be_looked_into_says_why(
        self, page: Page, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        await page.all(page.ask("Hello"))

        def gone(messages: object) -> str:
            raise EngineError("the model <b>went</b> away")

        monkeypatch.setattr(engine, "render", gone)  # counting renders, too
        seen = await page.inspecting.inspect(page.kept, page.place, page.place.leaf, "exact")
        assert 'data-part="exact"' in seen
        assert "the model &lt;b&gt;went&lt;/b&gt; away" in seen
        assert "went" in await page.inspecting.measure(page.kept, page.place)

    async def test_a_pinned_turn_is_shown_as_one(self, page: Page) -> None:
        await page.all(page.ask("one"))
        for pinned in (True, False):
            view = await page.handlers.pin(page.kept, page.session, page.place, page.place.leaf, pinned)
            assert f'data-do="pin-turn" data-turn="{page.place.leaf}"' in (view.latest or "")
            assert ("Let it go" in (view.latest or "")) == pinned

    def test_the_line_says_what_the_model_saw_of_the_chat(self) -> None:
        parts = (PromptPart("verbatim", ("c",), 5), PromptPart("retrieved", ("a", "b"), 9))
        seen = PromptProvenance("hybrid", 99, 20, parts, ("d", "e", "f"), "hybrid: no disk")
        line = conversation.line_of(turn("t", provenance=Provenance(prompt=seen)))
        assert "as notes" not in line
        assert "2 earlier turns recalled · 3 not seen · earlier turns could not be searched (hybrid: no disk)" in line

    def test_the_line_counts_the_turns_that_notes_stood_for(self) -> None:
        assert "8 turns as notes" in conversation.line_of(turn("t", provenance=noted(*"abcdefgh")))
        assert "1 turn as notes" in conversation.line_of(turn("t", provenance=noted("a")))

    async def test_a_long_chat_comes_by_page(self, page: Page) -> None:
        for i in range(25):
            await page.all(page.ask(f"message number {i}."))
        view = (await page.all(page.handlers.show(page.kept, "p", Place(page.place.chat))))[0]
        assert "(5 more)" in (view.earlier or "")
        assert "message number 4." not in (view.earlier or "")
        more = (await page.all(page.handlers.show(page.kept, "p", Place(page.place.chat, turns=60))))[0]
        assert "message number 0." in (more.earlier or "")
        assert "more)" not in (more.earlier or "")

    async def test_looking_elsewhere_ends_what_was_followed(self, settings: Settings) -> None:
        async with slow_page(settings, words=400) as page:
            asking = page.ask("go")
            page.take(await anext(asking))
            await anext(asking)
            assert "What would you like" in (
                (await anext(page.handlers.show(page.kept, "page", Place("")))).latest or ""
            )
            assert [view async for view in asking] == [View()], (
                "the answer left behind must not come back to the screen"
            )
            back = page.handlers.show(page.kept, "page", Place(page.place.chat))
            assert 'data-live="true"' in ((await anext(back)).latest or ""), (
                "the turn belongs to the server: it is still under way"
            )
            await page.handlers.stop(page.kept, page.place)
            views = [view async for view in back]
            assert "stopped" in "".join(view.latest or "" for view in views)

    async def test_a_refused_message_leaves_no_chat_behind(self, page: Page, parts: Parts) -> None:
        for _ in range(parts.settings.queue_limit):
            parts.jobs.take_slot()
        with pytest.raises(Refused, match="under way"):
            await page.all(page.ask("hello"))
        for _ in range(parts.settings.queue_limit):
            parts.jobs.free_slot()
        listed = await page.library.listed(page.kept, Shelf(), "", "")
        assert "will be listed here" in listed.html

    async def test_a_refused_message_leaves_what_is_followed(self, settings: Settings) -> None:
        async with slow_page(settings, words=20) as page:
            asking = page.ask("go")
            page.take(await anext(asking))
            with pytest.raises(Refused, match="still answering"):
                await page.all(page.ask("and this"))
            views = [view async for view in asking]
            assert any('data-live="false"' in (view.latest or "") for view in views), (
                "its end still comes to the screen"
            )

    async def test_a_double_click_makes_one_chat(self, page: Page) -> None:
        first, second = page.ask("hello"), page.ask("hello")
        await asyncio.gather(page.all(first), page.all(second))
        assert (await page.library.listed(page.kept, Shelf(), "", "")).html.count("<li") == 1

    async def test_who_looks_elsewhere_while_a_message_is_stored_stays_there(self, page: Page) -> None:
        await page.all(page.ask("one"))
        elsewhere = page.place
        page.place = Place()
        await page.all(page.ask("two"))
        asking = page.ask("and three")
        began = asyncio.ensure_future(anext(asking))
        await asyncio.sleep(0)
        shown = await page.all(page.handlers.show(page.kept, page.session, elsewhere))
        assert "one" in (shown[0].latest or "")
        assert await began == View()

    async def test_an_archived_chat_is_only_read(self, page: Page) -> None:
        await page.all(page.ask("one"))
        await page.manage("archive", page.place.chat)
        with pytest.raises(Refused, match="archived"):
            await page.all(page.ask("two"))
        with pytest.raises(Refused, match="archived"):
            await page.all(page.handlers.again(page.kept, page.session, page.place, page.place.leaf))
        shown = (await page.all(page.handlers.show(page.kept, page.session, page.place)))[0]
        for what in ("regenerate", "edit", "rate"):
            assert f'data-do="{what}"' not in (shown.latest or "")

    async def test_a_program_is_refused_what_the_page_is(self, page: Page, parts: Parts) -> None:
        identities = Identities("key")
        endpoint = Endpoint(page.handlers, identities)
        (*_, answer) = [answer async for answer in endpoint.ask("one")]
        chat_id, token = answer["chat_id"], answer["token"]
        page.kept = {"token": token}
        await page.manage("archive", chat_id)
        for asked, why in ((chat_id, "archived"), ("nothing", "no longer here")):
            with pytest.raises(gr.Error, match=why):
                await anext(endpoint.ask("two", asked, token))
        known = await parts.chats.conversation(identities.require(page.kept), chat_id)
        assert [turn.user_message for turn in known.turns] == ["one"]

    async def test_what_is_edited_is_in_this_chat(self, page: Page) -> None:
        await page.all(page.ask("one"))
        with pytest.raises(Refused, match="editing is not in this chat"):
            await page.all(page.ask("two", editing="of another chat"))

    async def test_a_search_hit_far_back_is_shown(self, page: Page) -> None:
        await page.all(page.ask("the first one"))
        first = page.place.leaf
        for i in range(30):
            await page.all(page.ask(f"message {i}"))
        view = (await page.all(page.handlers.show(page.kept, "p", Place(page.place.chat, first))))[0]
        assert "the first one" in (view.earlier or "")

    async def test_settings_that_are_the_same_are_not_stored_again(self, page: Page, parts: Parts) -> None:
        await page.all(page.ask("one"))
        user_id = Identities("key").user_of(page.kept) or ""
        before = (await parts.chats.conversation(user_id, page.place.chat)).chat
        await page.handlers.configure(page.kept, page.place, ChatSettings.of(before))
        assert (await parts.chats.conversation(user_id, page.place.chat)).chat == before

    async def test_what_is_not_there_says_so(self, page: Page, parts: Parts) -> None:
        view = (await page.all(page.handlers.show(page.kept, "p", Place("nothing"))))[0]
        assert "not here" in (view.latest or "")
        with pytest.raises(Refused, match="no longer here"):
            await page.handlers.as_is(page.kept, page.session, Place("nothing"))
        await page.all(page.ask("mine"))
        other = Page(parts)
        view = (await other.all(other.handlers.show(other.kept, "p", Place(page.place.chat))))[0]
        assert "not here" in (view.latest or ""), "another browser's chat"
        with pytest.raises(Refused):
            await other.library.rename(other.kept, page.place.chat, "stolen")

    async def test_a_forged_identity_is_refused_everywhere(self, page: Page) -> None:
        forged: Kept = {"token": "forged"}
        for call in (
            lambda: anext(page.handlers.show(forged, "p", Place(""))),
            lambda: anext(page.handlers.ask(forged, "p", Place(), "hi", "", ChatSettings())),
            lambda: page.handlers.stop(forged, Place("c")),
            lambda: page.handlers.rate(forged, "p", Place("c"), "t", 1, None),
            lambda: page.handlers.notes(forged, "p", Place("c")),
            lambda: page.handlers.edit_note(forged, "p", Place("c"), "n", "text"),
            lambda: page.handlers.delete_note(forged, "p", Place("c"), "n"),
            lambda: page.handlers.configure(forged, Place("c"), ChatSettings()),
            lambda: page.library.listed(forged, Shelf(), "", ""),
            lambda: page.library.discard(forged, "c"),
            lambda: page.library.restore(forged, "c"),
            lambda: page.presets.names(forged),
        ):
            with pytest.raises(Refused, match="reload"):
                await call()
        assert page.handlers.identify(forged) != forged


class TestList:
    async def test_the_list_and_what_is_done_with_it(self, page: Page) -> None:
        await page.all(page.ask("about apples"))
        apples = page.place.chat
        page.place = Place()
        await page.all(page.ask("about pears"))
        pears = page.place.chat
        html = (await page.library.listed(page.kept, Shelf(), "", pears)).html
        assert html.index(pears) < html.index(apples)
        assert html.count('aria-current="page"') == 1

        done = await page.manage("rename", apples, "  Red\nfruit ")
        assert "Red fruit" in done.listed.html
        assert done.changed == apples
        with pytest.raises(Refused, match="at least one letter"):
            await page.manage("rename", apples, " ")
        assert "Pinned" in (await page.manage("pin", apples)).listed.html
        assert "Pinned" not in (await page.manage("pin", apples)).listed.html

        assert apples not in (await page.manage("archive", apples)).listed.html
        archived = await page.manage("shelf")
        assert apples in archived.listed.html
        assert pears not in archived.listed.html
        assert apples in (await page.manage("archive", apples, shelf=Shelf())).listed.html

        done = await page.manage("discard", pears)
        assert done.gone
        assert "Undo" in (done.notice or "")
        assert pears not in done.listed.html
        assert pears in (await page.manage("undo", pears)).listed.html
        with pytest.raises(Refused, match="no longer be brought back"):
            await page.manage("undo", "never there")

    async def test_search_marks_what_matched(self, page: Page) -> None:
        await page.all(page.ask("about <b>apples</b> & pears"))
        html = (await page.library.listed(page.kept, Shelf(), "APPLES", "")).html
        assert "<mark>apples</mark>" in html
        assert set(harm(html)) <= {f"a href=?chat={page.place.chat}", "mark", "small"}
        assert "Nothing contains “&lt;i&gt;”" in (await page.library.listed(page.kept, Shelf(), "<i>", "")).html

    def test_groups_by_date(self) -> None:
        today = NOW.date()
        names = [group_name(today - timedelta(days=days), today) for days in (-1, 0, 1, 6, 7, 29, 60)]
        assert names == ["Today", "Today", "Yesterday", "Last 7 days", "Last 30 days", "Last 30 days", "March 2026"]
        late = replace(CHAT, updated_at=NOW.replace(hour=23))
        html = listing([late], False, Shelf(utc_offset_minutes=120), "", NOW.replace(day=21, hour=1))
        assert "Today" in html, "in the browser's time zone it is the same day"

    def test_more_are_on_request(self) -> None:
        assert 'data-do="more"' in listing([CHAT], True, Shelf(), "", NOW)
        assert 'data-do="more"' not in listing([CHAT], False, Shelf(), "", NOW)

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_a_title_never_runs(self, attack: str) -> None:
        chat = replace(CHAT, title=attack)
        for html in (
            listing([chat], False, Shelf(), "", NOW),
            undo_notice(chat),
            found([SearchHit(chat, None, attack, 0, len(attack))], attack, ""),
        ):
            assert set(harm(html)) <= {"a href=?chat=c", "mark"}

    @pytest.mark.parametrize("text", ["", "{}", "[]", "nonsense", '{"chats": -5}', '{"chats": 1e9}', '{"chat": 7}'])
    def test_what_a_browser_sends_is_not_trusted(self, text: str) -> None:
        assert PAGE_CHATS <= Shelf.of(text).chats <= MAX_CHATS
        assert Place.of(text).chat == ""


class TestTurns:
    def test_a_branch_goes_on_to_its_newest_turn(self) -> None:
        turns = [turn("a"), turn("b", "a"), turn("c", "a"), turn("d", "b"), turn("e", "b")]
        assert [t.turn_id for t in branch_to(turns, "").turns] == ["a", "b", "e"]
        assert [t.turn_id for t in branch_to(turns, "c").turns] == ["a", "c"]
        assert [t.turn_id for t in branch_to(turns, "d").turns] == ["a", "b", "d"]
        assert [t.turn_id for t in branch_to(turns, "a").turns] == ["a", "c"]
        assert branch_to(turns, "d").siblings == (("a",), ("b", "c"), ("d", "e"))
        assert branch_to([], "x").turns == ()

    def test_another_chat_begins_with_its_last_turns(self) -> None:
        branch = branch_to([turn("a")], "")
        assert place_in(Place("c", turns=90), CHAT, branch).turns == 90
        assert place_in(Place("other", turns=90), CHAT, branch).turns == 20

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_no_part_of_a_turn_runs(self, attack: str) -> None:
        problem = Problem("urn:x", attack, 500, attack)
        bad = turn("a", user_message=attack * 60, assistant_message=attack, error=problem, status="failed")
        bad = replace(bad, feedback=Feedback(-1, attack))
        worse = replace(bad, user_message=attack, feedback=Feedback(-1, None), assistant_message=f"<think>{attack}")
        for each in (bad, worse):
            html = conversation.latest(branch_to([each], ""))
            assert set(harm(html)) <= {"article", "b", "details", "footer", "form", "i", "input", "summary", "textarea"}

    def test_a_failed_turn_says_what_to_do(self) -> None:
        for kind in ("interrupted", "engine-failed", "internal"):
            problem = Problem(f"urn:chatlab:problem:{kind}", "It failed", 500, "Because.")
            html = conversation.latest(branch_to([turn("a", status="failed", error=problem)], ""))
            assert "egenerate" in html
            assert 'data-do="regenerate"' in html

    def test_reasoning_is_folded(self) -> None:
        html = conversation.latest(branch_to([turn("a", assistant_message="<think>hm</think>So.")], ""))
        assert '<details class="reasoning"><summary>Reasoning</summary>' in html
        live = turn("a", assistant_message="<think>hm", status="running")
        assert "Thinking…" in conversation.latest(branch_to([live], ""))

    def test_continue_is_offered_where_it_makes_sense(self) -> None:
        cut = turn("a", finish_reason="length")
        assert 'data-do="continue"' in conversation.latest(branch_to([cut], ""))
        assert 'data-do="continue"' not in conversation.latest(branch_to([turn("a")], ""))

    def test_titles(self) -> None:
        assert title_of("  Hello\nworld") == "Hello"
        assert title_of("# What is **C#** and `f_x`?") == "What is C# and f_x?"
        assert len(title_of("x" * 300)) == 60


class TestNotes:
    """The panel of notes: seen soon after they are written, corrected, deleted."""

    async def note_id(self, page: Page) -> str:
        return (await page.parts.chats.notes(page.user_id, page.place.chat))[0].note_id

    async def test_they_are_shown_as_soon_as_they_are_written(self, noting: Page) -> None:
        assert noting.views[0].notes == "", "an answer under way, and none yet"
        after = next(at for at, view in enumerate(noting.views) if 'data-live="false"' in (view.latest or ""))
        (panel,) = [view.notes or "" for view in noting.views[after + 1 :] if view.notes]
        assert ">Notes · 1<" in panel
        assert "<dt>You</dt><dd>My dog is called Biscuit</dd>" in panel
        assert ">Turns 1–2</button>" in panel
        assert "word for word · not in the newest prompt" in panel
        assert (await noting.all(noting.handlers.show(noting.kept, "p", Place(noting.place.chat))))[0].notes == panel

    async def test_a_chat_without_notes_has_no_panel(self, page: Page) -> None:
        views = await page.all(page.ask("one"))
        assert [view.notes for view in views if view.notes is not None] == [""]
        assert (await page.all(page.handlers.show(page.kept, "p", Place())))[0].notes == ""
        assert (await page.all(page.handlers.show(page.kept, "p", Place("nothing"))))[0].notes == ""

    async def test_one_is_edited_and_deleted(self, noting: Page) -> None:
        note_id, here = await self.note_id(noting), (noting.kept, noting.session, noting.place)
        view = await noting.handlers.edit_note(*here, note_id, "user: My dog is <b>Bagel</b>.\nBoth laughed.")
        assert (view.place, view.latest) == (None, None)
        assert "<dd>My dog is &lt;b&gt;Bagel&lt;/b&gt;.</dd><dt>Summary</dt><dd>Both laughed.</dd>" in (
            view.notes or ""
        )
        assert "edited by you" in (view.notes or "")
        view = await noting.handlers.delete_note(*here, note_id)
        assert view.notes == ""
        assert (await noting.handlers.notes(*here)).notes == ""

    async def test_what_cannot_be_done_is_said(self, noting: Page) -> None:
        note_id, here = await self.note_id(noting), (noting.kept, noting.session, noting.place)
        with pytest.raises(Refused, match="The note: must not be empty"):
            await noting.handlers.edit_note(*here, note_id, " \n")
        with pytest.raises(Refused, match="The note: has 20001 characters"):
            await noting.handlers.edit_note(*here, note_id, "x" * 20_001)
        with pytest.raises(Refused, match="gone: it was merged"):
            await noting.handlers.edit_note(*here, "merged since", "text")
        await noting.handlers.delete_note(*here, note_id)
        with pytest.raises(Refused, match="gone: it was merged"):
            await noting.handlers.delete_note(*here, note_id)

    async def test_another_browsers_note_is_not_found(self, noting: Page) -> None:
        note_id, stranger = await self.note_id(noting), Page(noting.parts)
        with pytest.raises(Refused, match="no longer here"):
            await stranger.handlers.edit_note(stranger.kept, "p", noting.place, note_id, "mine")
        await stranger.all(stranger.ask("a chat of my own"))
        with pytest.raises(Refused, match="gone"):
            await stranger.handlers.delete_note(stranger.kept, "p", stranger.place, note_id)
        assert "Biscuit" in ((await noting.handlers.notes(noting.kept, "page", noting.place)).notes or "")

    async def test_those_of_an_archived_chat_are_only_read(self, noting: Page) -> None:
        note_id, here = await self.note_id(noting), (noting.kept, noting.session, noting.place)
        await noting.manage("archive", noting.place.chat)
        panel = (await noting.handlers.notes(*here)).notes or ""
        assert "Biscuit" in panel
        assert 'data-do="edit-note"' not in panel
        assert 'data-do="delete-note"' not in panel
        with pytest.raises(Refused, match="archived"):
            await noting.handlers.delete_note(*here, note_id)

    async def test_who_looks_elsewhere_is_shown_no_panel_of_before(self, noting: Page) -> None:
        note_id, here = await self.note_id(noting), (noting.kept, noting.session, noting.place)
        editing = asyncio.ensure_future(noting.handlers.edit_note(*here, note_id, "said otherwise"))
        await asyncio.sleep(0)
        noting.handlers.leave(noting.session, noting.place)
        assert await editing == View()
        assert "said otherwise" in ((await noting.handlers.notes(*here)).notes or "")

    def test_those_of_the_branch_oldest_first(self) -> None:
        turns = [turn("a"), turn("b", "a"), turn("c", "b"), turn("d", "c"), turn("e", "b")]
        notes = [note("late", "c"), note("early", "a", "b"), note("other", "e"), note("gone", "d", kind="deleted")]
        panel = notes_html(notes, branch_to(turns, "d"))
        assert ">Notes · 2<" in panel
        assert panel.index(">early<") < panel.index(">late<")
        assert ">Turns 1–2<" in panel
        assert ">Turn 3<" in panel
        assert ">other<" not in panel
        assert ">other<" in notes_html(notes, branch_to(turns, "e"))
        assert notes_html(notes, branch_to([turn("x")], "")) == ""

    def test_what_the_newest_prompt_had_of_them(self) -> None:
        turns = [turn("a"), turn("b", "a", provenance=noted("a"))]
        for each, said in (
            (note("n", "a"), "· in the newest prompt"),
            (note("n", "a", updated_at=NOW + timedelta(seconds=1)), "· changed since the newest prompt"),
            (note("n", "a", "b"), "· not in the newest prompt"),
        ):
            assert said in notes_html([each], branch_to(turns, ""))

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_no_part_of_one_runs(self, attack: str) -> None:
        bad = note("a", "a", text=f"{attack}\nuser: {attack}\nassistant: {attack}", model=attack)
        html = notes_html([replace(bad, note_id=attack)], branch_to([turn("a")], ""))
        assert set(harm(html)) <= {"button", "dd", "details", "div", "dl", "dt", "li", "summary", "textarea", "time"}


class TestPanel:
    def test_settings_go_through_the_panel_unchanged(self) -> None:
        full = ChatSettings(
            "Be kind.",
            HistoryChoice("direct", 900),
            CacheChoice("global"),
            SamplingParams(0.5, 0.9, 40, 100, ("END", "###"), 7, 1.1),
        )
        for chosen in (ChatSettings(), full):
            assert chosen_from(values_of(chosen)) == chosen

    def test_bad_values_name_the_field(self) -> None:
        values = values_of(ChatSettings())
        values[2] = 0
        with pytest.raises(InvalidInput, match="budgetTokens"):
            chosen_from(values)
        for at, value, field in (
            (1, None, "strategy"), (1, {}, "strategy"), (2, 10**400, "budgetTokens"), (2, "7", "budgetTokens"),
            (3, None, "scope"), (5, 9, "temperature"), (5, float("nan"), "temperature"), (5, True, "temperature"),
            (7, 10**400, "top_k"), (7, 1.5, "top_k"), (0, "x" * 200_000, "systemPrompt"),
        ):  # fmt: skip
            values = values_of(ChatSettings())
            values[at] = value
            with pytest.raises(InvalidInput, match=field):
                chosen_from(values)
        values = values_of(ChatSettings())
        values[0] = "a\x00b\ud800"
        assert chosen_from(values).system_prompt == "ab?"

    async def test_presets(self, page: Page) -> None:
        kind = ChatSettings("Be kind.")
        assert await page.presets.keep(page.kept, " Kind ", kind) == "Kind"
        assert await page.presets.names(page.kept) == ["Kind"]
        assert await page.presets.chosen(page.kept, "Kind") == kind
        await page.presets.drop(page.kept, "Kind")
        assert await page.presets.names(page.kept) == []
        with pytest.raises(Refused, match="The name"):
            await page.presets.keep(page.kept, "", kind)
        with pytest.raises(Refused, match="Choose a preset"):
            await page.presets.chosen(page.kept, "Kind")


class TestGuard:
    @pytest.mark.parametrize(
        "path",
        [
            "/gradio_api/file=/etc/passwd", "/gradio_api/upload", "/gradio_api/upload_progress",
            "/gradio_api/proxy=http://x", "/gradio_api/stream/x", "/gradio_api/component_server",
            "/gradio_api/run/predict", "/gradio_api/api/ask", "/gradio_api/call/_open", "/gradio_api/call/v2/_ask",
            "/gradio_api/runs", "/gradio_api/run-history/records",
            "/gradio_api/deep_link", "/gradio_api/process_recording", "/gradio_api/vibe-code", "/gradio_api/dev/reload",
            "/gradio_api/openapi.json", "/gradio_api/queue/status", "/gradio_api/custom_component/x/client/y/a.js",
            "/gradio_api/file/x", "/gradio_api/", "/gradio_api", "/gradio_api/call/../upload", "/monitoring",
            "/monitoring/summary", "/svelte/x.js", "/login", "/pwa_icon",
        ],
    )  # fmt: skip
    def test_closed(self, path: str) -> None:
        assert closed(path)

    @pytest.mark.parametrize(
        "path",
        [
            "/", "/config", "/assets/index.js", "/static/x.css", "/theme.css", "/favicon.ico", "/chat", "/v1/models",
            "/gradio_api/info", "/gradio_api/queue/join", "/gradio_api/queue/data", "/gradio_api/call/ask",
            "/gradio_api/call/v2/ask", "/gradio_api/call/ask/0123abc", "/gradio_api/cancel",
        ],
    )  # fmt: skip
    def test_open(self, path: str) -> None:
        assert not closed(path)
