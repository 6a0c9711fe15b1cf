"""A real Chromium for the tests of the page: contexts that fail on script errors, screenshots, axe-core."""

import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, expect

ROOT = Path(__file__).parents[1]
SCREENSHOTS = ROOT / "test-artifacts" / "screenshots"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDE = {"width": 1200, "height": 800}
NARROW = {"width": 360, "height": 740}

OpenPage = Callable[..., Page]


@contextmanager
def watched(context: BrowserContext, allow: Callable[[str], bool] = lambda error: False) -> Generator[BrowserContext]:
    """A context in which a script error, on whatever page, fails the test."""
    errors: list[str] = []

    def watch(page: Page) -> None:
        page.on("pageerror", lambda error: errors.append(str(error)))

    context.on("page", watch)
    for page in context.pages:
        watch(page)
    yield context
    context.close()
    assert [error for error in errors if not allow(error)] == []


@contextmanager
def new_context(browser: Browser, **options: Any) -> Generator[BrowserContext]:
    """A person's browser: its own storage, so its own identity."""
    given: dict[str, Any] = {"viewport": WIDE, **options}
    with watched(browser.new_context(**given)) as context:
        yield context


def shot(page: Page, name: str) -> None:
    """Keep what the page looks like, for people to look at."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def check_accessible(page: Page) -> None:
    """Fail on a serious or critical finding of axe-core (https://github.com/dequelabs/axe-core)."""
    spec = find_spec("axe_playwright_python")
    assert spec is not None
    assert spec.origin is not None
    page.evaluate((Path(spec.origin).parent / "axe.min.js").read_text())
    result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    found = [
        f"{each['id']} ({each['impact']}): {[node['target'] for node in each['nodes']][:5]} "
        f"{each['nodes'][0].get('failureSummary', '')}"
        for each in result["violations"]
        if each["impact"] in ("serious", "critical")
    ]
    assert found == [], "\n".join(found)


def examine(page: Page, name: str) -> None:
    """Keep what the page looks like, and fail where somebody could not use it."""
    shot(page, name)
    check_accessible(page)


def open_chat_page(page: Page, url: str) -> Page:
    """Go there and wait until one can write."""
    page.goto(url)
    expect(page.locator("#latest .welcome h2, #latest article").first).to_be_visible()
    expect(page.locator("#chats :is(.empty, li)").first).to_be_attached()
    return page


def send(page: Page, message: str) -> None:
    """Write and press Enter."""
    box = page.locator("#message textarea")
    box.fill(message)
    box.press("Enter")


def ask(page: Page, message: str) -> None:
    """Send and wait for the whole answer."""
    before = page.evaluate("document.querySelector('#latest article')?.dataset.turn || ''")
    send(page, message)
    expect(page.locator(f'#latest article[data-live="false"]:not([data-turn="{before}"])')).to_be_visible()
    page.wait_for_function("location.search.includes('chat=')")
