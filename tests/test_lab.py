"""chatlab from Python: the same from a script, a coroutine and several threads; what is shown never runs."""

import asyncio
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
import structlog
from playwright.sync_api import expect, sync_playwright

import chatlab
from chatlab.errors import ConfigError, DataDirHeld, InvalidInput, NotFound
from chatlab.history.budget import prompt_budget
from chatlab.lab import Lab, LabChat, LabTurn, TurnFailed
from chatlab.messages import (
    CacheChoice,
    DeltaEvent,
    DoneEvent,
    ErrorEvent,
    HistoryChoice,
    SamplingParams,
    StatusEvent,
    path_to,
)
from chatlab.settings import Settings
from chatlab.wiring import wire
from tests.conftest import ScriptedEngine, StartServer, free_port
from tests.test_markdown import ATTACKS, Inspector
from tests.test_page import CHROMIUM, FLAGS

MakeLab = Callable[[ScriptedEngine], Lab]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with chatlab.open(tmp_path / "data", engine="echo") as lab:
        yield lab
    structlog.reset_defaults()


@pytest.fixture
def scripted(settings: Settings) -> Iterator[MakeLab]:
    labs: list[Lab] = []

    def make(engine: ScriptedEngine) -> Lab:
        labs.append(Lab(wire(settings, engine)))
        return labs[-1]

    yield make
    for lab in labs:
        lab.close()


def endless() -> ScriptedEngine:
    return ScriptedEngine(["word "] * 10_000, pause=lambda: asyncio.sleep(0.005))


# The story


def test_a_conversation_from_python(tmp_path: Path) -> None:
    with chatlab.open(tmp_path / "data", engine="echo") as lab:
        assert lab.model.model == "echo"
        chat = lab.chat(user_id="ada", title="First", system_prompt="Be brief.", history="direct")
        turn = chat.ask("Hello there")
        assert (turn.assistant_message, turn.status, turn.source) == ("Hello there", "done", "model")
        assert turn.provenance.prompt is not None
        assert turn.provenance.prompt.strategy == "direct"

        first, *deltas, end = chat.stream("And again")
        assert isinstance(first, StatusEvent)
        assert "".join(event.text for event in deltas if isinstance(event, DeltaEvent)) == "And again"
        assert isinstance(end, DoneEvent)
        assert isinstance(end.turn, LabTurn)
        assert end.turn.parent_turn_id == turn.turn_id

        other = chat.ask("A new beginning", parent_turn_id=None)
        assert other.parent_turn_id is None
        assert [each.user_message for each in path_to(chat.turns, end.turn.turn_id)] == ["Hello there", "And again"]
        assert len(chat.turns) == 3

        seen = chat.prompt(end.turn)
        assert [message["role"] for message in seen.messages] == ["system", "user", "assistant", "user"]
        assert seen.rendered is not None
        chat.rate(turn, -1, "it only <repeats>")
        assert "-1 it only &lt;repeats&gt;" in chat.turns[0]._repr_html_()

    with chatlab.open(tmp_path / "data", engine="echo") as lab:  # closed and opened again: all is there
        (found,) = lab.chats(user_id="ada")
        assert [each.assistant_message for each in found.turns] == ["Hello there", "And again", "A new beginning"]
        assert found.stored.title == "First"
        same = lab.chat(found.chat_id, user_id="ada", title="Renamed")
        assert same.stored.title == "Renamed"
        assert same.stored.system_prompt == "Be brief."
        same.delete()
        assert lab.chats(user_id="ada") == []
        with pytest.raises(NotFound):
            same.ask("Still there?")
    structlog.reset_defaults()


def test_importing_is_light_and_opening_needs_no_web_framework(tmp_path: Path) -> None:
    script = (
        "import sys, chatlab; assert 'pydantic' not in sys.modules; "
        f"lab = chatlab.open({str(tmp_path / 'd')!r}, engine='echo'); lab.chat().ask('hi'); "
        "assert not {'gradio', 'torch', 'transformers', 'uvicorn'} & set(sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", script], cwd=Path(__file__).parents[1], capture_output=True
    )
    assert ended.returncode == 0, ended.stderr.decode()
    assert ended.stdout + ended.stderr == b""  # closed at exit, in silence


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="opne"):
        _ = chatlab.opne  # pyright: ignore[reportAttributeAccessIssue]


# Whoever calls


async def test_it_works_where_an_event_loop_runs(lab: Lab) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(tick())
    await asyncio.sleep(0)
    chat = lab.chat()
    assert chat.ask("In a coroutine").assistant_message == "In a coroutine"
    assert [type(event) for event in chat.stream("word")] == [StatusEvent, DeltaEvent, DoneEvent]
    assert ticks == 1  # the cell waits, as a synchronous call does
    other = await asyncio.to_thread(chat.ask, "In a thread")
    assert other.assistant_message == "In a thread"
    assert ticks > 1
    task.cancel()


def test_several_threads_at_once(lab: Lab) -> None:
    def talk(n: int) -> list[str | None]:
        chat = lab.chat(user_id=f"user{n}")
        return [chat.ask(f"{n}: {i}").assistant_message for i in range(5)]

    with ThreadPoolExecutor(8) as threads:
        said = list(threads.map(talk, range(8)))
    assert said == [[f"{n}: {i}" for i in range(5)] for n in range(8)]
    assert all(len(lab.chats(user_id=f"user{n}")) == 1 for n in range(8))


def test_users_never_meet(lab: Lab) -> None:
    ada, bob = lab.chat(user_id="ada"), lab.chat(user_id="bob")
    turn = ada.ask("Ada's secret")
    assert [chat.chat_id for chat in lab.chats(user_id="bob")] == [bob.chat_id]
    assert lab.chats(user_id="bob", q="secret") == []
    assert [chat.chat_id for chat in lab.chats(user_id="ada", q="secret")] == [ada.chat_id]
    for refused in (
        lambda: lab.chat(ada.chat_id, user_id="bob"),
        lambda: lab.chat(ada.chat_id, user_id="bob", title="Bob's now"),
        lambda: bob.prompt(turn),
        lambda: bob.rate(turn, 1),
    ):
        with pytest.raises(NotFound):
            refused()


def test_more_chats_than_a_page(lab: Lab) -> None:
    made = [lab.chat().chat_id for _ in range(103)]
    assert [chat.chat_id for chat in lab.chats()] == made[::-1]


# Leaving early


def test_leaving_a_stream_stops_the_turn(scripted: MakeLab) -> None:
    engine = endless()
    chat = scripted(engine).chat()
    for event in chat.stream("Go on"):
        if isinstance(event, DeltaEvent):
            break
    (turn,) = chat.turns
    assert turn.status == "stopped"
    assert (turn.assistant_message or "").startswith("word ")
    assert engine.n_open == 0
    engine.pieces = ["fine"]
    assert chat.ask("Free again?").status == "done"


def test_a_stream_never_read_sends_nothing(lab: Lab) -> None:
    chat = lab.chat()
    chat.stream("Not sent").close()
    assert chat.turns == []


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Whatever started the tests: a shell's background jobs ignore interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("inside_a_loop", [False, True])
def test_an_interrupt_stops_the_turn_and_keeps_its_text(
    scripted: MakeLab, inside_a_loop: bool, interruptible: None
) -> None:
    engine = endless()
    chat = scripted(engine).chat()

    def interrupt() -> None:
        while not engine.n_open:
            time.sleep(0.01)
        time.sleep(0.1)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    async def cell() -> None:
        chat.ask("Go on")

    def run_cell() -> None:
        asyncio.run(cell())

    run = run_cell if inside_a_loop else lambda: chat.ask("Go on")
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run()
    thread.join()
    assert signal.getsignal(signal.SIGINT) is before
    (turn,) = chat.turns
    assert turn.status == "stopped"
    assert turn.assistant_message
    assert engine.n_open == 0


def test_a_failed_turn_is_raised_with_its_text(scripted: MakeLab, failing_engine: ScriptedEngine) -> None:
    chat = scripted(failing_engine).chat()
    with pytest.raises(TurnFailed, match="the model went away") as failed:
        chat.ask("Hello")
    assert failed.value.turn.assistant_message == "Half"
    assert failed.value.turn.error is not None
    assert "the model went away" in failed.value.turn._repr_html_()
    *_, end = chat.stream("Again")  # a stream tells it as an event
    assert isinstance(end, ErrorEvent)
    assert isinstance(end.turn, LabTurn)


# Opening and closing


def test_closing_twice_and_calling_afterwards(tmp_path: Path, lab: Lab) -> None:
    chat = lab.chat()
    lab.close()
    lab.close()
    for call in (lambda: chat.ask("Hello"), lab.chats, lab.app):
        with pytest.raises(RuntimeError, match="this lab is closed"):
            call()
    assert "closed" in repr(lab)
    assert "closed" in lab._repr_html_()
    with chatlab.open(tmp_path / "data", engine="echo") as again:
        assert len(again.chats()) == 1


def test_it_may_be_closed_in_another_thread_in_the_middle_of_an_answer(scripted: MakeLab, settings: Settings) -> None:
    lab = scripted(endless())
    chat = lab.chat()
    stream = chat.stream("Go on")
    assert isinstance(next(stream), StatusEvent)
    closing = threading.Thread(target=lab.close)
    closing.start()
    *_, end = stream
    closing.join()
    assert isinstance(end, ErrorEvent)
    assert end.problem.title == "Interrupted"
    with Lab(wire(settings)) as again:  # the data dir is free, and the text is there
        (turn,) = again.chat(chat.chat_id).turns
        assert turn.status == "failed"
        assert turn.assistant_message == end.turn.assistant_message


def test_a_held_data_dir_says_by_whom(tmp_path: Path, lab: Lab, start_server: StartServer) -> None:
    with pytest.raises(DataDirHeld, match="open in this process already"):
        chatlab.open(tmp_path / "data", engine="echo")
    server = start_server(tmp_path / "served")
    with pytest.raises(DataDirHeld, match=f"held by process {server.process.pid}"):
        chatlab.open(tmp_path / "served", engine="echo")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"modle": "x"}, "no such setting: modle"), ({"engine": "magic"}, "CHATLAB_ENGINE='magic'")],
)
def test_a_wrong_setting_is_named(tmp_path: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        chatlab.open(tmp_path / "data", **settings)


# What is given


def test_choices_in_every_form(lab: Lab) -> None:
    for history in ("direct", {"strategy": "direct"}, HistoryChoice("direct")):
        assert lab.chat(history=history).stored.history == HistoryChoice("direct")
    assert lab.chat(history={"budget_tokens": 50}).stored.history == HistoryChoice("truncate", 50)
    for cache in ("off", {"scope": "off"}, CacheChoice("off")):
        assert lab.chat(cache=cache).stored.cache == CacheChoice("off")
    assert lab.chat(cache="user").stored.cache == CacheChoice("user")
    assert lab.chat().stored.cache == CacheChoice("off"), "as the settings say"
    chosen = SamplingParams(temperature=0.5, stop=("END",))
    for params in ({"temperature": 0.5, "stop": ["END"]}, chosen):
        assert lab.chat(params=params).stored.params == chosen


def test_a_turn_may_differ_from_its_chat(lab: Lab) -> None:
    chat = lab.chat(history="truncate")
    turn = chat.ask("one two three", history="direct", params={"max_new_tokens": 2}, cache="off", bypass_cache=True)
    assert turn.provenance.prompt is not None
    assert turn.provenance.prompt.strategy == "direct"
    assert turn.provenance.prompt.budget_tokens == prompt_budget(lab.model, SamplingParams(max_new_tokens=2), None)
    assert turn.finish_reason == "length"
    assert turn.provenance.cache.outcome == "bypass"
    for cache in (CacheChoice("off"), {"scope": "off"}, None):
        assert chat.ask("again", cache=cache, bypass_cache=True).provenance.cache.outcome == "bypass"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"history": "forget"}, r"history\.strategy: .*'direct'.* got 'forget'"),
        ({"history": {"budget": 3}}, r"history\.budget: no such field: use strategy, budget_tokens"),
        ({"history": {"budgetTokens": 3}}, r"history\.budgetTokens: no such field"),
        ({"history": {"strategy": "direct", "budget_tokens": 0}}, r"history\.budget_tokens: .*greater"),
        ({"history": 3}, "history: must be a dict with strategy, budget_tokens or a name, got 3"),
        ({"cache": "world"}, r"cache\.scope: .*'user'"),
        ({"params": {"top_p": 7}}, r"params\.top_p: .*less than or equal to 1"),
        ({"params": "hot"}, "params: must be a dict with temperature"),
        ({"title": 3}, "title: .*string"),
        ({"user_id": "ui:somebody"}, "user_id: must be 1 to 64 of the characters"),
        ({"user_id": None}, "user_id"),
    ],
)
def test_a_wrong_choice_names_the_field_and_the_fix(lab: Lab, wrong: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        lab.chat(**wrong)  # pyright: ignore[reportArgumentType]
    assert lab.chats() == []


def test_a_wrong_message_names_itself(lab: Lab) -> None:
    chat = lab.chat()
    with pytest.raises(InvalidInput, match="message: must not be empty"):
        chat.ask("  ")
    with pytest.raises(InvalidInput, match="rating: Input should be 1 or -1"):
        chat.rate("some turn", 5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(InvalidInput, match="no turn 'elsewhere'"):
        chat.ask("Hello", parent_turn_id="elsewhere")
    assert chat.turns == []


# What is shown


class NotebookInspector(Inspector):
    """Our own elements and the width of a bar are no harm."""

    OURS = {"style", "details", "summary"}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        rest = [(name, value) for name, value in attrs if not (name == "style" and _is_width(value))]
        super().handle_starttag("p" if tag in self.OURS and not rest else tag, rest)


def _is_width(style: str | None) -> bool:
    return re.fullmatch(r"width: \d{1,3}\.\d\d%", style or "") is not None


def harm(html: str) -> list[str]:
    inspector = NotebookInspector()
    inspector.feed(html)
    inspector.close()
    return inspector.harm


class Texts(HTMLParser):
    """What a person reads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_data(self, data: str) -> None:
        self.found.append(data)


def text_of(html: str) -> str:
    texts = Texts()
    texts.feed(html)
    return " ".join(texts.found)


@pytest.mark.parametrize("text", ATTACKS)
def test_what_is_said_never_runs(lab: Lab, text: str) -> None:
    chat = lab.chat(title=text[:200])
    turn = chat.ask(text)
    for html in (turn._repr_html_(), chat._repr_html_()):
        assert harm(html) == []
        assert html.count("<style>") == 1
    assert harm('<p style="background:url(//evil.example)">')
    assert harm('<details ontoggle="alert(1)">')


def test_a_turn_shows_where_it_came_from(scripted: MakeLab) -> None:
    lab = scripted(ScriptedEngine(["<think>Is 1 < 2?</think>", "**Yes**, 1 < 2."]))
    chat = lab.chat(system_prompt="You count.")
    chat.ask("First")
    turn = chat.ask("Is 1 < 2?")
    html = turn._repr_html_()
    assert "<strong>Yes</strong>, 1 &lt; 2." in html
    assert "<details><summary>Reasoning</summary><p>Is 1 &lt; 2?</p>" in html
    assert turn.provenance.prompt is not None
    shown = text_of(html)
    for part in turn.provenance.prompt.parts:
        assert f"{part.kind} {part.tokens}" in shown
    assert f"{turn.provenance.prompt.prompt_tokens} of {turn.provenance.prompt.budget_tokens} tokens" in shown
    assert "truncate" in shown
    assert "scripted" in shown
    assert "off" in shown
    assert repr(turn).startswith("<turn, done: 'Is 1 < 2?' -> ")
    assert "2 turns" in text_of(chat._repr_html_())
    assert "scripted (scripted) on cpu" in text_of(lab._repr_html_())


# The page


@pytest.mark.live
def test_the_page_shares_the_chats_of_the_lab(lab: Lab) -> None:
    chat: LabChat = lab.chat(title="From Python")
    chat.ask("Hello")
    page = lab.app()
    assert lab.app(height=300) is page
    assert 'height="300"' in page._repr_html_()
    with httpx.Client(base_url=page.url, timeout=20) as client:
        assert client.get("/").status_code == 200
        assert client.get("/readyz").status_code == 200
        (listed,) = client.get("/chats").json()["chats"]
        assert listed["title"] == "From Python"
        body = {"userMessage": "Over HTTP"}
        assert client.post(f"/chat/{chat.chat_id}/completion", json=body).json()["assistantMessage"] == "Over HTTP"
        assert [turn.user_message for turn in chat.turns] == ["Hello", "Over HTTP"]
        assert client.get("/chats", headers={"X-User-ID": "somebody"}).json()["chats"] == []
    with pytest.raises(ConfigError, match="already on"):
        lab.app(port=free_port())
    page.close()
    page.close()
    with pytest.raises(httpx.ConnectError):
        httpx.get(page.url)
    assert "closed" in page._repr_html_()
    assert chat.ask("Still here").status == "done"
    assert httpx.get(lab.app().url + "/healthz").status_code == 200  # and once more; closing the lab closes it


@pytest.mark.live
def test_a_taken_port_is_named(lab: Lab, start_server: StartServer, tmp_path: Path) -> None:
    port = free_port()
    start_server(tmp_path / "served", port=port)
    with pytest.raises(ConfigError, match=f"port={port}: cannot listen there"):
        lab.app(port=port)
    assert httpx.get(lab.app().url + "/healthz").status_code == 200


@pytest.mark.live
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_the_page_works_in_a_frame_of_a_notebooks_page(lab: Lab, tmp_path: Path, host: str) -> None:
    assert CHROMIUM is not None, "install a Chromium: `make browser`"
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text(f"<!doctype html><body>{lab.app()._repr_html_()}</body>")
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", "site"]
    notebook = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = browser.new_page()
            page.goto(f"http://{host}:{port}/")
            frame = page.frame_locator("iframe")
            box = frame.locator("#message textarea")
            box.fill("Hello from a frame")
            box.press("Enter")
            expect(frame.get_by_text("Hello from a frame").nth(1)).to_be_attached(timeout=15_000)
            browser.close()
    finally:
        notebook.terminate()
        notebook.wait()
