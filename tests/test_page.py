"""The page in a real Chromium: ask, watch it stream, stop, reload in the middle, come back after a restart."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.conftest import StartServer, free_port

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
SLOW = " ".join(f"word{i}" for i in range(120))


@pytest.fixture
def browser_page(tmp_path: Path) -> Iterator[Page]:
    """A page of a browser with a profile of its own; a script error fails the test."""
    assert CHROMIUM is not None, "install a Chromium: `make browser`"
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path / "profile", executable_path=CHROMIUM, args=FLAGS, viewport={"width": 1100, "height": 750}
        )
        page = context.pages[0]
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page
        context.close()
    assert errors == []


def send(page: Page, message: str) -> None:
    box = page.locator("#message textarea")
    box.fill(message)
    box.press("Enter")


@pytest.mark.live
def test_a_conversation_in_the_browser(start_server: StartServer, browser_page: Page, tmp_path: Path) -> None:
    page = browser_page
    port = free_port()  # the browser keeps its identity by address
    server = start_server(port=port, echo_tokens_per_second=20)
    answers = page.locator("#conversation .bot.message")
    line = re.compile(r"echo · \d+ → \d+ tokens · first token \d+ ms · \d+ tokens/s")

    # 1. Ask: the message is there at once, the answer streams, and ends with its honest line.
    page.goto(server.url)
    expect(page.get_by_text("What would you like to know?")).to_be_visible()
    send(page, "Hello there, **streaming** world")
    expect(page.locator("#conversation .user.message")).to_contain_text("Hello there")
    expect(page.locator("#stop")).to_be_visible()
    expect(answers.first).to_contain_text(line)
    expect(answers.first.locator("strong")).to_have_text("streaming")
    expect(page.locator("#send")).to_be_visible()
    expect(page.locator("#chats label")).to_have_count(1)

    # 2. Reload in the middle of an answer: it goes on; stop keeps what there is.
    send(page, SLOW)
    expect(answers.nth(1)).to_contain_text("word5")
    page.reload()
    expect(answers.nth(1)).to_contain_text("word25")
    page.locator("#stop button, button#stop").first.click()
    expect(answers.nth(1)).to_contain_text("· stopped")
    assert "word119" not in answers.nth(1).inner_text()

    # 3. A new chat, then back to the first, while the second one answers.
    page.locator("button#new").click()
    expect(page.get_by_text("What would you like to know?")).to_be_visible()
    send(page, "Another chat. " + SLOW)
    expect(page.locator("#chats label")).to_have_count(2)
    expect(answers.first).to_contain_text("word3")
    page.locator("#chats label").last.click()
    expect(answers.first).to_contain_text("Hello there")
    page.wait_for_timeout(600)
    expect(answers).to_have_count(2)

    # 4. Kill the server in the middle: after a restart everything is there, and says what happened.
    server.kill()
    server = start_server(port=port)
    page.goto(server.url)
    expect(page.locator("#chats label")).to_have_count(2)
    page.locator("#chats label").filter(has_text="Another chat").click()
    expect(answers.first).to_contain_text("Interrupted")
    expect(answers.first).to_contain_text("word3")

    # 5. Another browser's user sees nothing of it.
    page.evaluate("localStorage.clear()")
    page.goto(server.url)
    expect(page.get_by_text("What would you like to know?")).to_be_visible()
    expect(page.locator("#chats label")).to_have_count(0)


@pytest.mark.live
def test_the_page_gives_nothing_away(start_server: StartServer, browser_page: Page) -> None:
    server = start_server(secret_key="do-not-tell-anyone")
    request = browser_page.request
    for path in ("/", "/config", "/gradio_api/info"):
        assert "do-not-tell-anyone" not in request.get(server.url + path).text()
    assert request.get(server.url + "/gradio_api/info").json()["named_endpoints"] == {}
    upload = request.post(
        server.url + "/gradio_api/upload",
        multipart={"files": {"name": "x.bin", "mimeType": "application/octet-stream", "buffer": b"x" * 10_000}},
    )
    assert upload.status >= 400, "the page takes no files"
    # The same document for our own routes alone, and a page for it that needs no network.
    assert not [path for path in request.get(server.url + "/openapi.json").json()["paths"] if "gradio" in path]
    browser_page.goto(server.url + "/docs")
    expect(browser_page.get_by_text("/chat/{chatID}/completion")).to_be_visible()
