"""Import and export on the page, in a real Chromium."""

import json
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from playwright.sync_api import BrowserContext, Page, expect

from chatlab.exchange import read_chats
from chatlab.ui import files_router
from chatlab.ui.tickets import SECONDS, Tickets
from chatlab.wiring import Parts
from tests import test_page
from tests.browser import NARROW, OpenPage, examine
from tests.test_page import menu

playwright, browser, server = test_page.playwright, test_page.browser, test_page.server
context, page, open_page = test_page.context, test_page.page, test_page.open_page
EXPORTS = Path(__file__).parents[1] / "data" / "exports"


def bring(page: Page, file: Path) -> None:
    page.locator("#import-file").set_input_files(file)


def export(page: Page, choice: str, folder: Path) -> Path:
    page.get_by_role("button", name="Export", exact=True).click()
    with page.expect_download() as coming:
        page.get_by_role("menuitem", name=choice).click()
    file = folder / coming.value.suggested_filename
    coming.value.save_as(file)
    return file


def test_chats_come_in_and_go_out(page: Page, open_page: OpenPage, tmp_path: Path) -> None:
    bring(page, EXPORTS / "chatgpt.json")
    dialog = page.locator("#transfer")
    expect(dialog).to_contain_text("2 chats with 6 turns.")
    expect(dialog.locator("li")).to_have_text(["reasoning: 1", "calls of tools: 1", "messages of tools: 1"])
    examine(page, "import-done")
    dialog.get_by_role("button", name="Close").click()
    expect(page.locator("#chats li")).to_have_count(2)
    page.get_by_role("button", name="Export", exact=True).click()
    examine(page, "export-menu")
    page.keyboard.press("Escape")

    file = export(page, "chatlab (everything)", tmp_path)
    assert file.name == "chatlab-json.json"
    assert sorted(known.chat.title or "" for known in read_chats(file)) == ["Moving average", "富士山"]
    page.locator("#chats li a", has_text="Moving average").click()
    expect(page.locator("#conversation")).to_contain_text("How do I compute a moving average")
    with page.expect_download() as coming:
        menu(page, "富士山", "Export as Markdown")
    assert coming.value.suggested_filename.endswith("-markdown.md")
    assert "富士山の高さは3,776メートルです。" in Path(coming.value.path()).read_text()

    stranger = open_page(viewport=NARROW, color_scheme="dark")
    stranger.get_by_label("Show or hide the list of chats").click()
    assert list(read_chats(export(stranger, "Open WebUI", tmp_path))) == []
    bring(stranger, file)
    expect(stranger.locator("#transfer")).to_contain_text("2 chats with 6 turns.")
    examine(stranger, "import-done-narrow")
    stranger.locator("#transfer").get_by_role("button", name="Close").click()
    stranger.get_by_role("button", name="Export", exact=True).click()
    examine(stranger, "export-menu-narrow")


def test_a_file_that_cannot_be_used_says_why(context: BrowserContext, page: Page, tmp_path: Path) -> None:
    page.emulate_media(color_scheme="dark")
    entries = json.loads((EXPORTS / "chatgpt.json").read_bytes())
    entries[1]["mapping"]["v1"]["message"]["content"]["parts"] = [["<img src=x onerror=alert(1)>"]]
    entries[1]["title"] = "<b>Fuji</b>"
    bad = tmp_path / "conversations.json"
    bad.write_text(json.dumps(entries))
    bring(page, bad)
    dialog = page.locator("#transfer")
    expect(dialog.get_by_role("heading")).to_have_text("Nothing was imported")
    expect(dialog).to_contain_text('conversations[1].mapping["v1"].message.content.parts[0]: must be a text')
    expect(dialog).to_contain_text('(entry 2, "<b>Fuji</b>")')
    examine(page, "import-refused-dark")
    dialog.get_by_role("button", name="Close").click()
    expect(page.locator("#chats li")).to_have_count(0)


def test_a_ticket_is_one_users_and_for_a_moment(parts: Parts) -> None:
    now = [1_000.0]
    tickets = Tickets(parts.secret_key, lambda: now[0])
    ticket = tickets.new("ui:abc")
    assert tickets.user_id(ticket) == "ui:abc"
    assert tickets.user_id(ticket.replace("abc", "abd")) is None
    assert tickets.user_id("") is None
    assert Tickets("another key").user_id(ticket) is None
    now[0] += SECONDS + 1
    assert tickets.user_id(ticket) is None


@pytest.mark.parametrize("ticket", ["", "ui:abc|9999999999|00|00", "ü|1|2|3"])
def test_without_a_ticket_nothing_moves(parts: Parts, ticket: str) -> None:
    app = FastAPI()
    app.include_router(files_router(parts))
    with TestClient(app) as client:
        sent = client.post("/page/import", params={"ticket": ticket}, content=(EXPORTS / "chatgpt.json").read_bytes())
        assert sent.status_code == client.get("/page/export", params={"ticket": ticket}).status_code == 403
        good = Tickets(parts.secret_key).new("ui:abc")
        assert client.get("/page/export", params={"ticket": good, "format": "doc"}).status_code == 422
        assert client.get("/page/export", params={"ticket": good, "chat": "x"}).status_code == 404
