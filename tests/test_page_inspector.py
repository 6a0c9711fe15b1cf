"""The inspector and the context meter in a real Chromium: what people open, read, and are warned of."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser import CHROMIUM, FLAGS, NARROW, ask, examine, new_context, open_chat_page
from tests.conftest import Server, server_starter

CALCULUS = "What is the derivative of x squared?"
WORDS = "And it rained on the way to the market, which was closed. " * 3

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
    """One for all tests, with the cache: each has a browser, so an identity, of its own."""
    with server_starter(tmp_path_factory.mktemp("server")) as start:
        yield start(echo_tokens_per_second=200, cache_scope="user")


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    with new_context(browser) as context:
        yield open_chat_page(context.new_page(), server.url)


def choose(page: Page, strategy: str, budget: int) -> None:
    page.get_by_label("Settings of this chat").click()
    page.get_by_label(strategy).check()
    page.get_by_label("Budget, in tokens").fill(str(budget))
    page.get_by_label("Budget, in tokens").blur()
    page.get_by_label("Close the settings").click()


def test_what_is_inside_an_answer(page: Page) -> None:
    choose(page, "Summarize", 400)
    for i in range(6):
        ask(page, f"My dog number {i} is called <b>Biscuit</b> and lives in Oslo. {WORDS}")
    latest = page.locator("#latest .inspector")
    summary = latest.locator("> summary")
    inside = latest.locator(".inside")
    expect(summary.locator(".badge")).to_have_text("echo")
    expect(inside).to_be_empty()  # a long chat carries a line a turn

    # By keyboard: the prompt in parts that add up, what stood for old turns, times, tokens, settings.
    summary.focus()
    page.keyboard.press("Enter")
    rows = inside.locator(".parts tbody tr")
    expect(rows.first).to_be_visible()
    assert "Free room" in inside.locator(".parts").inner_text()
    tokens = [int(text.replace(",", "")) for text in rows.locator("td:nth-child(2)").all_inner_texts()]
    assert sum(tokens) == 400
    assert rows.count() == inside.locator(".bar-of-parts .part").count()
    expect(inside.locator(".noted")).to_contain_text("is called <b>Biscuit</b>")
    expect(inside.locator(".times")).to_contain_text("Writing the answer")
    expect(inside).to_contain_text("summarize")
    expect(inside.locator(".exact pre")).to_have_count(0)
    inside.locator(".exact > summary").press("Enter")
    expect(inside.locator(".exact pre").first).to_contain_text("<notes>")
    expect(inside.locator(".exact pre").last).to_contain_text("lives in Oslo")
    summary.scroll_into_view_if_needed()
    examine(page, "inspector")

    # A turn of the prompt is shown; what was open is so still when the page is renewed.
    inside.get_by_role("button", name="turns 1–2").click()
    expect(page.locator("#conversation .turn").first).to_be_in_viewport()
    page.get_by_label("Good answer").last.click()
    expect(page.get_by_label("Good answer").last).to_have_attribute("aria-pressed", "true")
    expect(inside.locator(".parts")).to_be_visible()
    summary.press("Enter")
    expect(inside).to_be_hidden()


def test_a_wrong_answer_of_the_cache_is_one_click(page: Page) -> None:
    ask(page, CALCULUS)
    page.locator("[data-do=new]").first.click()
    ask(page, CALCULUS)
    latest = page.locator("#latest")
    expect(latest.locator(".badge")).to_have_text("from the cache")
    expect(latest.locator(".line")).to_contain_text("exact hit")
    latest.locator(".inspector > summary").click()
    expect(latest.locator(".inside")).to_contain_text("Saved by the cache")
    expect(latest.locator(".inside")).to_contain_text("the same words after the same conversation")
    examine(page, "inspector-hit")
    latest.get_by_role("button", name="Wrong answer: ask the model").click()
    expect(latest.locator(".badge")).to_have_text("echo")
    expect(latest.locator(".switch")).to_contain_text("2/2")
    latest.get_by_label("Previous version").click()
    expect(latest.get_by_label("Bad answer")).to_have_attribute("aria-pressed", "true")
    expect(latest.locator(".inside")).to_contain_text("It does not serve")  # it is open still, and renewed
    expect(latest.locator(".inside")).not_to_contain_text("expires")  # the entry is gone


def test_the_meter_warns_before_the_strategy_acts(page: Page) -> None:
    meter = page.locator("#meter [role=meter]")
    expect(meter).to_have_count(0)
    choose(page, "Truncate", 270)
    ask(page, f"Number 0. {WORDS}")
    expect(meter).to_have_attribute("aria-valuemax", "270")
    expect(page.locator("#meter")).to_contain_text("Everything fits")
    level = page.locator("#meter .meter")
    page.locator("#message textarea").fill("word " * 400)
    expect(level).to_have_attribute("data-level", "near")
    expect(page.locator("#meter")).to_contain_text("about")
    expect(page.locator("#meter")).to_contain_text("Soon the oldest turns will be left out")
    page.locator("#message textarea").fill("")
    expect(level).not_to_have_attribute("data-level", "near")
    ask(page, f"Number 1. {WORDS}")
    ask(page, f"Number 2. {WORDS}")
    expect(page.locator("#meter")).to_contain_text("Soon the oldest turns will be left out")
    examine(page, "meter")
    ask(page, f"Number 3. {WORDS}")
    expect(page.locator("#meter")).to_contain_text("2 old turns are left out")
    choose(page, "Direct", 270)
    expect(page.locator("#meter")).to_contain_text("will be refused")


def test_inspector_in_the_dark_and_narrow(browser: Browser, server: Server) -> None:
    for scheme, size, name in (("dark", None, "dark"), ("light", NARROW, "narrow"), ("dark", NARROW, "dark-narrow")):
        options = {"color_scheme": scheme, **({"viewport": size} if size else {})}
        with new_context(browser, **options) as context:
            page = open_chat_page(context.new_page(), server.url)
            ask(page, "What is the capital of France?")
            page.locator("#latest .inspector > summary").click()
            expect(page.locator("#latest .parts")).to_be_visible()
            page.locator("#latest .inspector > summary").scroll_into_view_if_needed()
            examine(page, f"inspector-{name}")
            if size:
                assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]


def test_what_mattered(browser: Browser, bundled_model: Path, tmp_path: Path) -> None:
    with server_starter(tmp_path) as start, new_context(browser) as context:
        page = open_chat_page(context.new_page(), start(engine="transformers", model=bundled_model).url)
        page.get_by_label("Settings of this chat").click()
        page.get_by_label("Temperature").fill("0")
        page.get_by_label("Longest answer, in tokens").fill("16")
        page.get_by_label("Longest answer, in tokens").blur()
        page.get_by_label("Close the settings").click()
        for question in ("My dog is called Biscuit.", "It rains in Oslo.", "Repeat: my dog is called Biscuit."):
            ask(page, question)
        page.locator("#latest .inspector > summary").click()
        fold = page.locator("#latest .mattered")
        fold.locator("summary").click()
        expect(fold).to_contain_text("scored again")
        rows = fold.locator(".effects tbody tr")
        expect(rows).to_have_count(2, timeout=60_000)
        assert rows.first.inner_text().startswith("turn 1")
        expect(rows.first).to_contain_text("likely")
        fold.scroll_into_view_if_needed()
        examine(page, "mattered")

        # A renewed page still has it; it is not measured twice.
        page.get_by_label("Good answer").last.click()
        expect(page.get_by_label("Good answer").last).to_have_attribute("aria-pressed", "true")
        expect(rows).to_have_count(2)
