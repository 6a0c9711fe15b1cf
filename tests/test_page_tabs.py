"""The pages Compare, Cache and Insights in a real Chromium."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, expect, sync_playwright

from tests.browser import CHROMIUM, FLAGS, NARROW, WIDE, ask, examine, new_context, open_chat_page
from tests.conftest import Server, server_starter

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM is not None, "install a Chromium: `make browser`"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server_starter(tmp_path_factory.mktemp("server")) as start:
        yield start(cache_scope="user")


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    with new_context(browser) as context:
        yield open_chat_page(context.new_page(), server.url)


def turn_to(page: Page, name: str) -> None:
    """By the link, with the keyboard."""
    link = page.locator("nav.pages").get_by_role("link", name=name)
    link.focus()
    link.press("Enter")
    expect(page.locator("nav.pages [aria-current=page]")).to_have_text(name)
    if name != "Chat":
        expect(page.get_by_role("heading", name=name, exact=True, level=1)).to_be_visible()


def looks(page: Page, name: str) -> None:
    """In light, in dark, and at 360 px."""
    page.emulate_media(reduced_motion="reduce")  # colours change at once
    examine(page, name)
    page.evaluate("document.body.classList.add('dark')")
    examine(page, f"{name}-dark")
    page.evaluate("document.body.classList.remove('dark')")
    page.set_viewport_size(ViewportSize(width=NARROW["width"], height=NARROW["height"]))
    assert page.evaluate("document.documentElement.scrollWidth") <= NARROW["width"]
    examine(page, f"{name}-narrow")


def test_the_same_person_and_chat_on_every_page(page: Page, server: Server) -> None:
    ask(page, "Where is Oslo?")
    chat = page.url
    turn_to(page, "Insights")
    expect(page.locator(".figures").get_by_text("Answers", exact=True).locator("..")).to_contain_text("1")
    expect(page.get_by_role("img", name="Answers a day")).to_be_visible()
    page.locator("#traffic summary").click()
    expect(page.locator("#traffic td").filter(has_text="1").first).to_be_visible()
    page.get_by_label("7 days").check()
    expect(page.get_by_role("img", name="Answers a day")).to_be_visible()
    turn_to(page, "Chat")
    expect(page.locator("#latest .said")).to_have_text("Where is Oslo?")
    assert page.url == chat
    turn_to(page, "Insights")
    looks(page, "insights")


def test_what_is_empty_says_what_to_do(page: Page) -> None:
    turn_to(page, "Insights")
    expect(page.get_by_text("No answers in the last 30 days")).to_be_visible()
    examine(page, "insights-empty")
    turn_to(page, "Cache")
    expect(page.get_by_text("No questions were looked up")).to_be_visible()
    expect(page.get_by_text("Nothing of yours is stored")).to_be_visible()
    expect(page.get_by_role("img", name="Calibration")).to_be_visible()
    examine(page, "cache-empty")


def test_stored_answers_are_searched_and_evicted(page: Page, browser: Browser, server: Server) -> None:
    for question in ("What is a fjord?", "What is a delta?", "What is a fjord?"):
        page.locator("[data-do=new]").first.click()
        ask(page, question)
    expect(page.locator("#latest .line")).to_contain_text("from the cache")
    turn_to(page, "Cache")
    entries = page.locator(".entries li")
    expect(entries).to_have_count(2)
    expect(entries.filter(has_text="fjord")).to_contain_text("1 hit")
    expect(page.locator(".figures")).to_contain_text("33 %")
    page.get_by_label("Search questions and answers").fill("delta")
    expect(entries).to_have_count(1)
    page.get_by_label("Evict the answer to: What is a delta?").click()
    expect(page.locator(".said[role=status]")).to_contain_text("Evicted")
    page.get_by_label("Search questions and answers").fill("")
    expect(entries).to_have_count(1)
    with new_context(browser) as other:
        stranger = open_chat_page(other.new_page(), server.url)
        turn_to(stranger, "Cache")
        expect(stranger.get_by_text("Nothing of yours is stored")).to_be_visible()
    page.get_by_role("button", name="Recalibrate now").click()
    expect(page.get_by_text("Recalibrated from what is stored now.")).to_be_visible()
    looks(page, "cache")
    page.get_by_role("button", name="Evict all").click()
    page.locator("#evict-everything").get_by_role("button", name="Evict all").click()
    expect(page.get_by_text("Nothing of yours is stored")).to_be_visible()


def test_where_storage_is_denied_the_person_stays_who_they_are(browser: Browser, server: Server) -> None:
    denied = "{get() { throw new DOMException('denied'); }, configurable: true}"
    deny = f"Object.defineProperty(window, 'localStorage', {denied})"
    with new_context(browser) as context:
        context.add_init_script(deny)
        page = open_chat_page(context.new_page(), server.url)
        ask(page, "Where is Oslo?")
        page.locator("nav.pages").get_by_role("link", name="Insights").click()
        expect(page.locator(".figures")).to_contain_text("Answers")
        page.locator("nav.pages").get_by_role("link", name="Chat").click()
        expect(page.locator("#latest .said")).to_have_text("Where is Oslo?")
        assert page.evaluate("window.name") == ""


def test_compare_two_configurations_and_vote_blind(page: Page) -> None:
    ask(page, "Where is Oslo?")
    turn_to(page, "Compare")
    expect(page.get_by_text("No votes yet")).to_be_visible()
    expect(page.get_by_label("Conversation")).to_have_value("Where is Oslo?")
    looks(page, "compare-empty")
    page.set_viewport_size(ViewportSize(width=WIDE["width"], height=WIDE["height"]))
    second = page.locator("#configurations > .column").nth(1)
    second.get_by_label("System prompt").fill("Be terse.")
    second.get_by_label("Temperature").fill("7")
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_text("Configuration 2: Temperature")).to_be_visible()
    second.get_by_label("Temperature").fill("1")
    page.get_by_label("Question", exact=True).fill("And where is Bergen?")
    page.get_by_label("Price of a million prompt tokens").fill("2")
    page.get_by_role("button", name="Compare", exact=True).click()
    sides = page.locator(".side")
    expect(sides).to_have_count(2)
    expect(page.get_by_role("button", name="A is better")).to_be_visible()
    expect(sides.first.locator(".text")).to_contain_text("And where is Bergen?")
    expect(page.locator("#sides")).not_to_contain_text("configuration")
    examine(page, "compare-blind")
    page.get_by_role("button", name="A is better").click()
    expect(page.get_by_text("Your vote is stored.")).to_be_visible()
    expect(page.locator(".side.better")).to_contain_text("your choice")
    expect(page.locator(".compared")).to_contain_text("First token")
    expect(page.locator("#wins")).to_contain_text("100 %")
    page.locator(".diff summary").click()
    expect(page.locator(".diff")).to_contain_text("System prompt")
    looks(page, "compare")
