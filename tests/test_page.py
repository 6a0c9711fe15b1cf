"""The page in a real Chromium, one test a thing that people do with it."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from gradio_client import Client
from playwright.sync_api import Browser, BrowserContext, Dialog, Page, Playwright, expect, sync_playwright

from tests.browser import (
    CHROMIUM,
    FLAGS,
    NARROW,
    OpenPage,
    ask,
    examine,
    new_context,
    open_chat_page,
    send,
    shot,
    watched,
)
from tests.conftest import Server, StartServer, free_port, server_starter
from tests.test_markdown import ATTACKS

SLOW = " ".join(f"word{i}" for i in range(120))
LINE = re.compile(r"echo · \d+ → \d+ tokens · first token \d+ ms · \d+ tokens/s")
RICH = """Some **bold** text, `code`, a [link](https://example.org) and $x^2$.

| fruit | price |
|---|---|
| apple | 1 |

```python
def double(x):
    return 2 * x
```

$$\\int_0^1 x\\,dx = \\frac{1}{2}$$

1. one
2. two
"""

FACTS = [
    f"{fact} " + "And it rained on the way to the market, which was closed. " * 3
    for fact in (
        "My dog is called Biscuit and lives in Oslo.",
        "My sister Ada was born in 1984 in Rome.",
        "The deadline of the project is the 3rd of March.",
        "I am allergic to peanuts.",
    )
]

# Types in the moment in which the box opens, and goes on as soon as the answer begins; the stream of answers seems open
# for `late_ms` after the server has ended it.
QUICK = """(() => {
  const box = () => document.querySelector("#message textarea");
  const type = (text) => { box().value = text; box().dispatchEvent(new Event("input", {bubbles: true})); };
  new MutationObserver((changes, observer) => {
    if (!box() || box().disabled) return;
    observer.disconnect();
    type("Typed at once");
    const enter = {key: "Enter", code: "Enter", bubbles: true, cancelable: true};
    for (const each of ["keydown", "keypress"]) box().dispatchEvent(new KeyboardEvent(each, enter));
    let begun = false;
    window.addEventListener("chatlab:latest", () => {
      if (!begun && document.querySelector("#latest article")) queueMicrotask(() => type("And more"));
      begun ||= document.querySelector("#latest article");
    });
  }).observe(document, {subtree: true, childList: true, attributeFilter: ["disabled"]});
  const plain = window.fetch;
  window.fetch = async (...request) => {
    const response = await plain(...request);
    if (!(request[0].url ?? request[0]).includes("/queue/data")) return response;
    return new Response(response.body.pipeThrough(new TransformStream({async transform(chunk, stream) {
      const text = new TextDecoder().decode(chunk), at = text.indexOf('data: {"msg":"close_stream"');
      if (at < 0) return stream.enqueue(chunk);
      stream.enqueue(new TextEncoder().encode(text.slice(0, at)));
      await new Promise((go) => setTimeout(go, late_ms));
      stream.enqueue(new TextEncoder().encode(text.slice(at)));
    }})), response);
  };
})()"""

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    assert CHROMIUM is not None, "install a Chromium: `make browser`"
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One for all tests: each has a browser, so an identity, of its own."""
    with server_starter(tmp_path_factory.mktemp("server")) as start:
        yield start(echo_tokens_per_second=40)


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    with new_context(browser) as context:
        yield context


@pytest.fixture
def page(context: BrowserContext, server: Server) -> Page:
    return open_chat_page(context.new_page(), server.url)


@pytest.fixture
def open_page(browser: Browser, server: Server) -> Iterator[OpenPage]:
    """Opens pages in contexts of their own; keyword arguments are those of a context."""
    opened = []

    def open_(**options: object) -> Page:
        manager = new_context(browser, **options)
        opened.append(manager)
        return open_chat_page(manager.__enter__().new_page(), server.url)

    yield open_
    for manager in opened:
        manager.__exit__(None, None, None)


def menu(page: Page, title: str, choice: str) -> None:
    item = page.locator("#chats li", has_text=title)
    item.hover()
    item.locator(".menu-button").click()
    page.locator("#chat-menu").get_by_role("menuitem", name=choice, exact=True).click()


def noted_chat(page: Page) -> None:
    """Chat until notes stand for old turns."""
    page.get_by_label("Settings of this chat").click()
    page.get_by_label("Summarize").check()
    page.get_by_label("Budget, in tokens").fill("400")
    page.get_by_label("Budget, in tokens").blur()
    page.get_by_label("Close the settings").click()
    for fact in (*FACTS, FACTS[0]):
        ask(page, fact)


class TestStory:
    def test_ask_reload_stop_and_survive_a_crash(self, browser: Browser, start_server: StartServer) -> None:
        port = free_port()  # the browser keeps its identity by address
        server = start_server(port=port, echo_tokens_per_second=20)
        with new_context(browser) as context:
            page = open_chat_page(context.new_page(), server.url)
            answers = page.locator("#conversation .turn")

            # 1. Ask: the message is there at once, the answer streams, and ends with its honest line.
            send(page, "Hello there, **streaming** world")
            expect(page.locator(".said")).to_contain_text("Hello there")
            expect(page.locator("#stop")).to_be_visible()
            expect(answers.first).to_contain_text(LINE)
            expect(answers.first.locator("strong")).to_have_text("streaming")
            expect(page.locator("#send")).to_be_visible()
            expect(page.locator("#chats li")).to_have_count(1)

            # 2. Reload in the middle of an answer: it goes on; stop keeps what there is.
            send(page, SLOW)
            expect(answers.nth(1).locator(".text")).to_contain_text("word5")
            page.reload()
            expect(answers.nth(1).locator(".text")).to_contain_text("word25")
            page.locator("#stop").click()
            expect(answers.nth(1).locator(".line")).to_contain_text("stopped")
            assert "word119" not in answers.nth(1).locator(".text").inner_text()

            # 3. A new chat, then back to the first, while the second one answers.
            page.locator("[data-do=new]").first.click()
            expect(page.get_by_text("What would you like to know?")).to_be_visible()
            send(page, "Another chat. " + SLOW)
            expect(page.locator("#chats li")).to_have_count(2)
            expect(answers.first.locator(".text")).to_contain_text("word3")
            page.locator("#chats li a").last.click()
            expect(answers.first).to_contain_text("Hello there")
            page.wait_for_timeout(600)
            expect(answers).to_have_count(2)

            # 4. Kill the server in the middle: the page says so, and after a restart everything is there.
            server.kill()
            page.evaluate("window.dispatchEvent(new Event('online'))")
            expect(page.locator(".banner.lost")).to_be_visible()
            shot(page, "offline")
            server = start_server(port=port)
            expect(page.locator(".banner.lost")).to_be_hidden(timeout=15_000)
            open_chat_page(page, server.url)
            page.locator("#chats li a", has_text="Another chat").click()
            expect(page.locator("#message textarea")).to_have_value("")
            expect(answers.first.locator(".problem")).to_contain_text("Interrupted")
            expect(answers.first.locator(".text")).to_contain_text("word3")
            examine(page, "error")

            # 5. Another browser's user sees nothing of it.
            with new_context(browser) as other:
                stranger = open_chat_page(other.new_page(), page.url)
                expect(stranger.get_by_text("This chat is not here")).to_be_visible()
                expect(stranger.locator("#chats li")).to_have_count(0)
                shot(stranger, "missing")


class TestConversation:
    @pytest.mark.parametrize("late_ms", [0, 500])
    def test_who_types_the_moment_the_box_opens_loses_nothing(
        self, context: BrowserContext, server: Server, late_ms: int
    ) -> None:
        context.add_init_script(QUICK.replace("late_ms", str(late_ms)))
        page = context.new_page()
        page.goto(server.url)
        expect(page.locator("#latest .line")).to_contain_text("first token")
        expect(page.locator("#latest .said")).to_have_text("Typed at once")
        page.wait_for_url("**/?chat=*")
        expect(page.locator("#message textarea")).to_have_value("And more")

    def test_versions_by_regenerating_and_editing(self, page: Page) -> None:
        ask(page, "First question")
        ask(page, "Second question")
        page.locator("#latest [data-do=regenerate]").click()
        expect(page.locator("#latest .switch")).to_contain_text("2/2")
        page.locator("#latest").get_by_label("Previous version").click()
        expect(page.locator("#latest .switch")).to_contain_text("1/2")
        page.reload()  # the newest version is what a reload shows
        expect(page.locator("#latest .switch")).to_contain_text("2/2")

        page.locator("#earlier .question").hover()
        page.locator("#earlier [data-do=edit]").click()
        expect(page.locator("#message textarea")).to_have_value("First question")
        expect(page.locator(".banner.editing")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#message textarea")).to_have_value("")
        page.locator("#earlier [data-do=edit]").click(force=True)
        ask(page, "First question, better")
        expect(page.locator("#latest .switch")).to_contain_text("2/2")
        expect(page.locator("#conversation article")).to_have_count(1)
        expect(page.locator(".banner.editing")).to_be_hidden()
        page.locator("#latest").get_by_label("Previous version").click()
        expect(page.locator("#conversation article")).to_have_count(2)
        shot(page, "versions")

    def test_stop_and_continue(self, page: Page) -> None:
        send(page, SLOW)
        expect(page.locator("#latest .text")).to_contain_text("word3")
        examine(page, "streaming")
        page.keyboard.press("Escape")
        expect(page.locator("#latest .line")).to_contain_text("stopped")
        page.locator("#latest [data-do=continue]").click()
        expect(page.locator("#latest .said")).to_contain_text("Continue")
        expect(page.locator("#latest .line")).to_contain_text("first token")

    def test_markdown_code_tables_formulas_reasoning(self, context: BrowserContext, page: Page) -> None:
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        ask(page, "<think>First, think.</think>" + RICH)
        text = page.locator("#latest .text")
        expect(text.locator("strong")).to_have_text("bold")
        expect(text.locator("td").first).to_have_text("apple")
        expect(text.locator("math")).to_have_count(2)
        expect(text.locator(".code .k").first).to_have_text("def")
        fold = page.locator("#latest .reasoning")
        expect(fold.get_by_text("First, think.")).to_be_hidden()
        fold.locator("summary").click()
        expect(fold.get_by_text("First, think.")).to_be_visible()
        text.get_by_role("button", name="Copy").click()
        assert page.evaluate("navigator.clipboard.readText()") == "def double(x):\n    return 2 * x\n"
        page.get_by_label("Copy answer").click()
        assert page.evaluate("navigator.clipboard.readText()").strip().endswith(RICH.strip())
        examine(page, "rich")

    def test_a_thumb_with_a_reason(self, page: Page) -> None:
        ask(page, "Rate me")
        page.get_by_label("Bad answer").click()
        expect(page.get_by_text("What was wrong?")).to_be_visible()
        examine(page, "feedback")
        page.get_by_label("Something else").fill("It only repeats me")
        page.get_by_role("button", name="Send", exact=True).first.click()
        expect(page.locator(".verdict")).to_have_text("Noted: It only repeats me")
        page.reload()
        expect(page.locator(".verdict")).to_have_text("Noted: It only repeats me")
        expect(page.get_by_label("Bad answer")).to_have_attribute("aria-pressed", "true")

    def test_a_pinned_turn(self, page: Page) -> None:
        ask(page, "Keep this in mind")
        page.get_by_label("Pin: the model sees it").click()
        pinned = page.get_by_label("Let it go")
        expect(pinned).to_have_attribute("aria-pressed", "true")
        page.reload()
        pinned.click()
        expect(page.get_by_label("Pin: the model sees it")).to_have_attribute("aria-pressed", "false")

    def test_a_recalled_turn_is_shown(self, page: Page) -> None:
        page.get_by_label("Settings of this chat").click()
        page.get_by_label("Hybrid").check()
        page.get_by_label("Budget, in tokens").fill("400")
        page.get_by_label("Budget, in tokens").blur()
        page.get_by_label("Close the settings").click()
        ask(page, "I adopted a beagle called Biscuit")
        for i in range(6):
            ask(page, f"Message {i}. " + "Some more words. " * 12)
        ask(page, "Which beagle did I adopt?")
        expect(page.locator("#latest .line")).to_contain_text("recalled")
        examine(page, "recalled")

    def test_notes_of_old_turns(self, page: Page) -> None:
        noted_chat(page)
        panel = page.locator("#notes .notes")
        items = panel.locator("li")
        expect(panel.locator("summary")).to_have_text("Notes · 2")  # at once, without a reload
        expect(page.locator("#latest .line")).to_contain_text("2 turns as notes")
        expect(items.first).to_be_hidden()

        # By keyboard: unfolded, read, to the turns, and a correction.
        panel.locator("summary").focus()
        page.keyboard.press("Enter")
        expect(items.first).to_contain_text("Turns 1–2")
        expect(items.first).to_contain_text("My dog is called Biscuit")
        expect(items.first).to_contain_text("word for word · in the newest prompt")
        expect(items.last).to_contain_text("not in the newest prompt")
        examine(page, "notes")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.locator("#conversation .turn").first).to_be_in_viewport()
        expect(page.locator("#conversation .answer").first).to_be_focused()
        items.first.get_by_role("button", name="Edit").press("Enter")
        text = page.get_by_label("Text of the note of turns 1–2")
        expect(text).to_be_focused()
        expect(text).to_have_value(re.compile("^user: My dog is called Biscuit"))
        examine(page, "notes-edit")

        # What is refused, or renewed meanwhile, stays in the box.
        text.fill(" ")
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_text("must not be empty")).to_be_visible()
        expect(text).to_have_value(" ")
        text.fill("user: My dog is called <i>Bagel</i>.")
        ask(page, FACTS[3])
        expect(page.locator("#latest .line")).to_contain_text("as notes")
        expect(text).to_have_value("user: My dog is called <i>Bagel</i>.")
        page.get_by_role("button", name="Save").click()
        expect(text).to_have_count(0)
        expect(items.first.locator("dd")).to_have_text("My dog is called <i>Bagel</i>.")
        expect(items.first).to_contain_text("edited by you")
        expect(items.first.get_by_role("button", name="Edit")).to_be_focused()
        page.reload()
        panel.locator("summary").click()
        expect(items.first).to_contain_text("Bagel")

        # Deleted elsewhere while it is edited: what was written can still be copied.
        n_notes = items.count()
        items.first.get_by_role("button", name="Edit").click()
        text.fill("Do not lose me")
        with page.context.expect_page() as opened:
            page.evaluate("window.open(location.href)")
        other = opened.value
        other.locator("#notes summary").click()
        other.locator("#notes li").first.get_by_role("button", name="Delete").click()
        examine(other, "notes-delete")
        other.get_by_role("button", name="Cancel").click()
        expect(other.locator("#notes li")).to_have_count(n_notes)
        other.locator("#notes li").first.get_by_role("button", name="Delete").click()
        other.get_by_role("button", name="Delete", exact=True).click()
        expect(other.locator("#notes li")).to_have_count(n_notes - 1)
        expect(other.locator("#notes summary")).to_be_focused()
        expect(page.get_by_text("This note is gone")).to_be_visible()
        expect(text).to_have_value("Do not lose me")
        expect(page.get_by_role("button", name="Save")).to_be_hidden()
        examine(page, "notes-gone")
        page.get_by_role("button", name="Cancel").click()
        expect(text).to_have_count(0)
        page.locator("[data-do=new]").first.click()
        expect(panel).to_have_count(0)

    def test_a_long_chat_comes_by_page_and_stays_where_one_reads(self, page: Page) -> None:
        for i in range(25):
            ask(page, f"Message {i}. short")
        page.reload()
        expect(page.locator("#conversation article")).to_have_count(20)
        at_end = "document.querySelector('#conversation')"
        expect(page.locator("#latest .line")).to_be_in_viewport()

        # Reading further up: more above, and a growing answer below, leave the view where it is.
        page.locator("#conversation").hover()
        page.mouse.wheel(0, -100_000)
        page.locator("#earlier article").first.wait_for()
        top_before = page.locator("#earlier article", has_text="Message 5.").bounding_box()
        page.locator("[data-do=earlier]").click()
        expect(page.locator("#conversation article")).to_have_count(25)
        top_after = page.locator("#earlier article", has_text="Message 5.").bounding_box()
        assert top_before is not None
        assert top_after is not None
        assert abs(top_before["y"] - top_after["y"]) < 80
        shot(page, "long-chat")
        send(page, SLOW)
        expect(page.locator("#latest .text")).to_contain_text("word3")
        expect(page.locator("#latest .said")).to_be_in_viewport()  # one's own message is brought into view
        page.mouse.wheel(0, -500)
        page.wait_for_timeout(150)
        place = page.evaluate(f"{at_end}.scrollTop")
        expect(page.locator(".to-end")).to_be_visible()
        expect(page.locator("#latest .text")).to_contain_text("word60")
        assert abs(page.evaluate(f"{at_end}.scrollTop") - place) < 2
        page.locator(".to-end").click()
        expect(page.locator("#latest .line")).to_contain_text("first token")
        expect(page.locator("#latest .line")).to_be_in_viewport()

    def test_drafts_examples_and_text_files(self, page: Page, tmp_path: Path) -> None:
        page.get_by_text("Explain how photosynthesis").click()
        expect(page.locator("#message textarea")).to_have_value(re.compile("photosynthesis"))
        page.reload()
        expect(page.locator("#message textarea")).to_have_value(re.compile("photosynthesis"))
        page.locator("#message textarea").fill("")
        ask(page, "A chat")
        page.locator("#message textarea").fill("for this chat")
        page.locator("[data-do=new]").first.click()
        expect(page.locator("#message textarea")).to_have_value("")
        page.go_back()
        expect(page.locator("#message textarea")).to_have_value("for this chat")

        (tmp_path / "notes.txt").write_text("a note with ``` in it\n")
        (tmp_path / "data.bin").write_bytes(b"\x00\x01")
        page.locator("#attached").set_input_files([tmp_path / "notes.txt", tmp_path / "data.bin"])
        expect(page.locator("#message textarea")).to_have_value(
            "for this chat\n\nnotes.txt:\n````\na note with ``` in it\n````\n"
        )
        expect(page.get_by_text("only text files")).to_be_visible()
        page.locator("#message textarea").press("Enter")
        expect(page.locator("#latest .said")).to_contain_text("a note with")
        expect(page.locator("#message textarea")).to_have_value("")
        page.reload()
        expect(page.locator("#latest .said")).to_contain_text("a note with")
        expect(page.locator("#message textarea")).to_have_value("")


class TestChats:
    def test_search_rename_pin_archive_delete_undo(self, page: Page) -> None:
        ask(page, "About apples")
        page.locator("[data-do=new]").first.click()
        ask(page, "About pears & plums")
        expect(page.locator("#chats li a span")).to_have_text(["About pears & plums", "About apples"])

        page.locator("#search input, #search textarea").fill("APPLES")
        expect(page.locator("#chats mark")).to_have_text("apples")
        examine(page, "search")
        page.locator("#chats li a").click()
        expect(page.locator("#latest .said")).to_have_text("About apples")
        page.locator("#search input, #search textarea").fill("nowhere to be found")
        expect(page.locator("#chats")).to_contain_text("Nothing contains")
        page.locator("#search input, #search textarea").fill("")
        expect(page.locator("#chats li")).to_have_count(2)

        menu(page, "About apples", "Rename")
        page.get_by_label("Title of the chat").fill("Red fruit")
        page.keyboard.press("Enter")
        expect(page.locator("#chats li a", has_text="Red fruit")).to_be_visible()
        expect(page).to_have_title("Red fruit – chatlab")
        menu(page, "Red fruit", "Pin")
        expect(page.locator("#chats h3").first).to_have_text("Pinned")

        menu(page, "Red fruit", "Archive")
        expect(page.locator("#chats li")).to_have_count(1)
        expect(page.get_by_text("can only be read")).to_be_visible()
        examine(page, "read-only")
        page.get_by_role("button", name="Archived chats").click()
        expect(page.locator("#chats li")).to_have_text(re.compile("Red fruit"))
        page.get_by_role("button", name="Take it back").click()
        expect(page.locator("#message textarea")).to_be_visible()
        page.get_by_role("button", name="Back to the chats").click()
        expect(page.locator("#chats li")).to_have_count(2)

        menu(page, "Red fruit", "Delete")
        expect(page.locator("#chats li")).to_have_count(1)
        expect(page.get_by_text("What would you like to know?")).to_be_visible()
        examine(page, "deleted")
        page.get_by_role("button", name="Undo").click()
        expect(page.locator("#chats li")).to_have_count(2)

    def test_links_reload_and_back(self, page: Page, server: Server) -> None:
        ask(page, "One")
        page.wait_for_url("**/?chat=*")
        one = page.url
        page.locator("[data-do=new]").first.click()
        expect(page.get_by_text("What would you like to know?")).to_be_visible()
        page.wait_for_url(server.url + "/")
        ask(page, "Two")
        page.wait_for_url("**/?chat=*")
        page.locator("#chats li a", has_text="One").click()
        expect(page.locator("#latest .said")).to_have_text("One")
        page.wait_for_url(one)
        page.go_back()
        expect(page.locator("#latest .said")).to_have_text("Two")
        page.go_forward()
        expect(page.locator("#latest .said")).to_have_text("One")
        page.reload()
        expect(page.locator("#latest .said")).to_have_text("One")
        with page.context.expect_page() as opened:
            page.locator("#chats li a", has_text="Two").click(modifiers=["Control"])
        expect(opened.value.locator("#latest .said")).to_have_text("Two")

    def test_two_tabs_stay_in_step_in_the_middle_of_an_answer(self, context: BrowserContext, page: Page) -> None:
        ask(page, "Begin")
        other = open_chat_page(context.new_page(), page.url)
        expect(other.locator("#latest .said")).to_have_text("Begin")
        send(page, SLOW)
        expect(other.locator("#latest .text")).to_contain_text("word3")
        expect(other.locator("#latest article")).to_have_attribute("data-live", "true")
        other.locator("#stop").click()
        expect(page.locator("#latest .line")).to_contain_text("stopped")
        expect(other.locator("#latest .line")).to_contain_text("stopped")
        menu(page, "Begin", "Rename")
        page.get_by_label("Title of the chat").fill("Both see this")
        page.keyboard.press("Enter")
        expect(other.locator("#chats")).to_contain_text("Both see this")
        page.locator("[data-do=new]").first.click()
        send(page, "A second chat")
        expect(other.locator("#chats li")).to_have_count(2)
        expect(other.locator("#earlier .said")).to_have_text("Begin")


class TestSettings:
    def test_settings_of_a_chat_and_presets(self, page: Page) -> None:
        page.get_by_label("Settings of this chat").first.click()
        panel = page.locator("#panel")
        expect(panel.get_by_text("Said to the model before every question")).to_be_visible()
        examine(page, "settings")
        panel.get_by_label("System prompt").fill("Be kind.")
        panel.get_by_label("Longest answer, in tokens").fill("3")
        panel.get_by_label("Longest answer, in tokens").press("Tab")
        ask(page, "one two three four five")
        expect(page.locator("#latest .line")).to_contain_text("cut at the token limit")
        panel.get_by_placeholder("Keep these settings as").fill("Short and kind")
        panel.get_by_role("button", name="Keep").click()
        expect(panel.get_by_placeholder("Keep these settings as")).to_have_value("")

        # A change of a chat's settings is stored at once; a new chat begins with the defaults, or a preset.
        panel.get_by_label("Longest answer, in tokens").fill("4")
        panel.get_by_label("Longest answer, in tokens").press("Tab")
        page.wait_for_timeout(300)
        page.reload()
        expect(panel.get_by_label("Longest answer, in tokens")).to_have_value("4")
        page.locator("[data-do=new]").first.click()
        expect(panel.get_by_label("Longest answer, in tokens")).to_have_value("")
        page.get_by_label("Settings of this chat").first.click()
        panel.locator("#preset input").click()
        page.get_by_role("option", name="Short and kind").click()
        expect(panel.get_by_label("Longest answer, in tokens")).to_have_value("3")
        expect(panel.get_by_label("System prompt")).to_have_value("Be kind.")
        ask(page, "one two three four five")
        expect(page.locator("#latest .line")).to_contain_text("cut at the token limit")

        panel.get_by_label("Temperature").fill("9")
        panel.get_by_label("Temperature").press("Tab")
        expect(page.get_by_text("must be between 0 and 2")).to_be_visible()
        shot(page, "refused")


class TestCraft:
    def test_light_and_dark_wide_and_narrow(self, open_page: OpenPage) -> None:
        for scheme in ("light", "dark"):
            for name, size in (("wide", {"width": 1200, "height": 800}), ("360px", NARROW)):
                page = open_page(color_scheme=scheme, viewport=size)
                examine(page, f"empty-{scheme}-{name}")
                ask(page, RICH)
                examine(page, f"answer-{scheme}-{name}")
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"
                page.locator("#header [data-do=panel]").click()
                examine(page, f"settings-{scheme}-{name}")
                page.keyboard.press("Escape")
                if name == "360px":
                    page.locator("#header [data-do=sidebar]").click()
                    expect(page.locator("#chats li a")).to_be_in_viewport()
                    examine(page, f"chats-{scheme}-{name}")
                    page.locator("#chats li a").click()
                    expect(page.locator("#chats li a")).to_be_hidden()
                page.locator("[data-do=new]").first.evaluate("button => button.click()")
                noted_chat(page)
                page.locator("#notes summary").click()
                examine(page, f"notes-{scheme}-{name}")
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out"

    def test_everything_by_keyboard(self, page: Page) -> None:
        ask(page, "One")
        ask(page, "Two")
        page.keyboard.press("Alt+ArrowUp")
        expect(page.locator("#latest .answer")).to_be_focused()
        page.keyboard.press("Alt+ArrowUp")
        expect(page.locator("#earlier .answer")).to_be_focused()
        page.keyboard.press("Shift+Escape")
        expect(page.locator("#message textarea")).to_be_focused()
        page.keyboard.press("Control+k")
        expect(page.locator("#search input, #search textarea")).to_be_focused()
        page.keyboard.press("Control+Slash")
        expect(page.locator("#help")).to_be_visible()
        examine(page, "help")
        page.keyboard.press("Escape")
        expect(page.locator("#help")).to_be_hidden()
        page.keyboard.press("Alt+e")
        expect(page.locator("#message textarea")).to_have_value("Two")
        page.keyboard.press("Escape")
        page.keyboard.press("Control+Shift+O")
        expect(page.get_by_text("What would you like to know?")).to_be_visible()
        expect(page.locator("#message textarea")).to_be_focused()
        page.keyboard.press("Control+b")
        expect(page.locator("#sidebar")).to_be_hidden()

    def test_streaming_is_announced_once_and_moves_nothing(self, page: Page) -> None:
        ask(page, "Before")
        page.evaluate(
            "() => { window.said = []; window.shifts = 0;"
            "new MutationObserver(() => said.push(document.querySelector('#announcer').textContent))"
            ".observe(document.querySelector('#announcer'), {childList: true, characterData: true, subtree: true});"
            "new PerformanceObserver(list => {"
            "for (const e of list.getEntries()) if (!e.hadRecentInput) shifts += e.value })"
            ".observe({type: 'layout-shift'}); }"
        )
        ask(page, "A longer answer. " + SLOW[:300])
        assert page.evaluate("said")[0] == "Answering"
        assert page.evaluate("said.length") == 2
        assert page.evaluate("said")[1].startswith("Answer: A longer answer.")
        assert page.evaluate("shifts") < 0.05

    def test_reduced_motion(self, open_page: OpenPage) -> None:
        page = open_page(reduced_motion="reduce")
        send(page, SLOW)
        dots = page.evaluate(
            "getComputedStyle(Object.assign(document.querySelector('#latest').appendChild(document.createElement('span')),"
            "{className: 'dots', innerHTML: '<i></i>'}).firstChild).animationName"
        )
        assert dots == "none"


class TestSafety:
    def test_nothing_that_a_model_writes_runs_or_loads(self, context: BrowserContext, server: Server) -> None:
        requested: list[str] = []
        context.on("request", lambda request: requested.append(request.url))
        page = context.new_page()
        dialogs: list[str] = []

        def dismiss(dialog: Dialog) -> None:
            dialogs.append(dialog.message)
            dialog.dismiss()

        page.on("dialog", dismiss)
        open_chat_page(page, server.url)
        for attack in ATTACKS:
            ask(page, attack)
        page.reload()
        expect(page.locator("#conversation article")).to_have_count(min(20, len(ATTACKS)))
        for link in page.locator("#conversation .text a").all():
            assert (link.get_attribute("href") or "").startswith(("https://", "http://", "mailto:"))
        assert page.locator("#conversation :is(script, iframe, img, style, object, embed)").count() == 0
        assert dialogs == []
        assert [url for url in requested if not url.startswith((server.url, "data:"))] == []

    def test_what_got_in_anyway_could_not_call_home(self, page: Page) -> None:
        blocked = page.evaluate(
            "() => new Promise(done => {"
            "document.addEventListener('securitypolicyviolation', e => done(e.effectiveDirective));"
            "document.body.append(Object.assign(new Image(), {src: 'https://evil.example/a.png'})) })"
        )
        assert blocked == "img-src"

    def test_the_page_gives_nothing_away(self, start_server: StartServer, page: Page) -> None:
        server = start_server(secret_key="do-not-tell-anyone")
        request = page.request
        for path in ("/", "/config", "/gradio_api/info"):
            assert "do-not-tell-anyone" not in request.get(server.url + path).text()
        assert list(request.get(server.url + "/gradio_api/info").json()["named_endpoints"]) == ["/ask"]
        head = request.get(server.url + "/")
        assert "img-src 'self' data: blob:" in head.headers["content-security-policy"]
        assert head.text().index("localStorage.getItem") < head.text().index("gradio_config")
        upload = request.post(
            server.url + "/gradio_api/upload",
            multipart={"files": {"name": "x.bin", "mimeType": "application/octet-stream", "buffer": b"x" * 10_000}},
        )
        assert upload.status == 404, "the page takes no files"
        assert request.post(server.url + "/gradio_api/run/predict", data="{}").status == 404
        # The same document for our own routes alone, and a page for it that needs no network.
        assert not [path for path in request.get(server.url + "/openapi.json").json()["paths"] if "gradio" in path]
        page.goto(server.url + "/docs")
        expect(page.get_by_text("/chat/{chatID}/completion")).to_be_visible()

    def test_the_named_endpoint(self, server: Server) -> None:
        client = Client(server.url, verbose=False)
        first = client.predict("Hello", api_name="/ask")
        assert (first["answer"], first["status"]) == ("Hello", "done")
        assert "first token" in first["line"]
        second = client.predict("again", first["chat_id"], first["token"], api_name="/ask")
        assert (second["chat_id"], second["token"]) == (first["chat_id"], first["token"])
        with pytest.raises(Exception, match="no longer here"):
            client.predict("mine?", first["chat_id"], "", api_name="/ask")
        with pytest.raises(Exception, match="leave it empty"):
            client.predict("mine?", first["chat_id"], "forged", api_name="/ask")
        with pytest.raises(Exception, match="Your message"):
            client.predict(" ", api_name="/ask")


class TestFrames:
    """The page inside another site's page, as on Hugging Face: third-party cookies blocked, storage denied."""

    @pytest.fixture
    def outer(self) -> Iterator[str]:
        """The address of an embedding page on another origin; `?src=` is what it embeds."""

        class Outer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                source = self.path.partition("?src=")[2]
                body = f'<!doctype html><title>outer</title><iframe src="{source}" style="width:900px;height:700px">'
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, format: str, *args: object) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Outer) as web:
            thread = threading.Thread(target=web.serve_forever)
            thread.start()
            yield f"http://outer.test:{web.server_port}/?src="
            web.shutdown()
            thread.join()

    @pytest.fixture
    def strict(self, playwright: Playwright, tmp_path: Path) -> Iterator[Callable[..., BrowserContext]]:
        """A browser without third-party cookies, `no_storage` without storage for third parties either.

        It knows two sites, both on this machine.
        """
        contexts = ExitStack()

        def open_(no_storage: bool = False) -> BrowserContext:
            preferences = tmp_path / "profile" / "Default" / "Preferences"
            preferences.parent.mkdir(parents=True)
            preferences.write_text(json.dumps({"profile": {"cookie_controls_mode": int(no_storage)}}))
            flags = ["--host-resolver-rules=MAP *.test 127.0.0.1", "--test-third-party-cookie-phaseout"]
            context = playwright.chromium.launch_persistent_context(
                tmp_path / "profile", executable_path=CHROMIUM, args=[*FLAGS, *flags[: 1 if no_storage else 2]]
            )
            return contexts.enter_context(watched(context))

        with contexts:
            yield open_

    def test_identity_holds_in_a_frame(self, strict: Callable[..., BrowserContext], outer: str, server: Server) -> None:
        inner = server.url.replace("127.0.0.1", "chat.test")
        context = strict()
        page = context.new_page()
        page.goto(outer + inner)
        frame = page.frame_locator("iframe")
        box = frame.locator("#message textarea")
        box.fill("Remember me")
        box.press("Enter")
        expect(frame.locator("#latest .line")).to_contain_text("first token")
        inside = page.frames[1]
        inside.evaluate("document.cookie = 'third=party; SameSite=None'")
        assert inside.evaluate("document.cookie") == "", "third-party cookies are blocked here"
        page.reload()
        expect(frame.locator("#chats li")).to_have_text(re.compile("Remember me"))
        expect(frame.locator(".banner.denied")).to_be_hidden()

    def test_storage_denied(self, strict: Callable[..., BrowserContext], outer: str, server: Server) -> None:
        page = strict(no_storage=True).new_page()
        page.goto(outer + server.url.replace("127.0.0.1", "chat.test"))
        frame = page.frame_locator("iframe")
        for i, message in enumerate(("First", "Second")):
            frame.locator("#message textarea").fill(message)
            frame.locator("#message textarea").press("Enter")
            expect(frame.locator("#latest .said")).to_have_text(message)
            expect(frame.locator("#latest .line")).to_contain_text("first token")
            expect(frame.locator("#conversation article")).to_have_count(i + 1)
        expect(frame.locator("#chats li")).to_have_count(1)
        expect(frame.locator(".banner.denied")).to_contain_text("only as long as this page")
        shot(page, "storage-denied")


class TestSimilarQuestion:
    def test_the_answer_to_a_similar_question_is_offered(self, browser: Browser, start_server: StartServer) -> None:
        asked = "How do I get a wine stain out of a white shirt?"
        near = "What removes red wine from a white shirt?"
        server = start_server(echo_tokens_per_second=1, cache_scope="user", cache_max_error=0.005)
        with new_context(browser) as context:
            page = open_chat_page(context.new_page(), server.url)
            send(page, asked)
            expect(page.locator("#latest .line")).to_contain_text("tokens/s", timeout=30_000)
            similar = page.locator(".similar")

            def again() -> None:
                open_chat_page(page, server.url)
                send(page, near)
                live = page.locator('#latest article[data-live="true"]:not([data-turn=""])')
                expect(live).to_be_visible(timeout=30_000)

            again()
            for _ in range(10):  # the embedder is being loaded
                if similar.is_visible():
                    break
                page.locator("#stop").click()
                page.wait_for_timeout(3_000)
                again()
            expect(similar).to_contain_text(f"The answer to a similar question: {asked}")
            examine(page, "similar")
            similar.get_by_role("button", name="Not this").click()
            expect(similar).to_have_count(0)
            expect(page.locator("#latest .answer .text")).to_contain_text("red")
            expect(similar).to_have_count(0)
            page.locator("#stop").click()
            expect(page.locator("#latest .line")).to_contain_text("stopped")

            page.set_viewport_size({"width": 360, "height": 740})
            page.emulate_media(color_scheme="dark")
            again()
            expect(similar).to_be_visible()
            examine(page, "similar-dark-narrow")
            similar.get_by_role("button", name="That’s it").click()
            expect(page.locator("#latest .line")).to_contain_text("from the cache")
            expect(page.locator("#latest .answer .text")).to_have_text(asked)
