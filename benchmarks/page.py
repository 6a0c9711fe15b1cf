"""What a person waits for on the page, in a real Chromium, beside Gradio's own ChatInterface in the same run.

Times are taken inside the page, from the key or click to the frame that shows the result. "Usable" is from a fresh
browser's navigation to a message box that takes letters. CPU is that of the browser's renderer process.
"""

import asyncio
import json
import multiprocessing
import os
import random
import re
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import psutil
from gradio_client import Client
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from benchmarks.report import p50, p95, write
from benchmarks.server import server, wait_until_up
from tests.browser import CHROMIUM, FLAGS

ROUNDS = 9
LOADS = 5
TURNS = 200
INSPECTED = 60  # answers opened, one after the other
CLIENTS = 48
MESSAGES = 6  # of a client
THINKING_SECONDS = (0.5, 2.0)  # between two messages
TOKENS_PER_SECOND = 200
STREAMED_WORDS = 2_000
PEER_WORDS_A_YIELD = (
    10  # as often as our page is renewed; with a yield a word, as its guide has it, its page stands still
)
PORT, PEER_PORT = 7881, 7882
# Waits frame by frame until a condition holds; gives the milliseconds since the start.
UNTIL = """const until = async (condition) => { const began = performance.now();
  while (!condition()) await new Promise(requestAnimationFrame); return performance.now() - began; };"""


def main(json_file: Path | None = None) -> None:
    """Measure, print, and write the result."""
    result: dict[str, Any] = {}
    with server(PORT, TOKENS_PER_SECOND) as url, _chat_interface() as peer, sync_playwright() as playwright:
        result["usable_ms"] = _usable(playwright, {"chatlab": url, "ChatInterface": peer})
        print(result, flush=True)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page, token = _page(browser, url)
        chat = _long_chat(url, token)
        result |= _waits(page, url, chat)
        result["inspector_on_200_turns"] = _inspecting(page, chat)
        print(result, flush=True)
        result["streaming"] = {
            "chatlab": _streaming(page, "#message textarea", "#latest .text"),
            "ChatInterface": _streaming(_peer_page(browser, peer), "textarea", ".bot.message >> nth=-1"),
        }
        result["crowd"] = _crowd(browser, url)
        browser.close()
    for name, values in result.items():
        print(f"{name}: {values}")
    write({"page": result}, json_file)


@contextmanager
def _chat_interface() -> Generator[str]:
    """Gradio's ChatInterface with as long a chat, answering at the same pace."""
    process = multiprocessing.get_context("spawn").Process(target=_serve_chat_interface)
    process.start()
    try:
        wait_until_up(f"http://127.0.0.1:{PEER_PORT}/")
        yield f"http://127.0.0.1:{PEER_PORT}"
    finally:
        process.terminate()
        process.join()


def _serve_chat_interface() -> None:
    def answer(message: str, history: list[Any]) -> Generator[str]:
        words, begun, said = message.split(" "), time.perf_counter(), ""
        for number, word in enumerate(words):
            time.sleep(max(0.0, begun + number / TOKENS_PER_SECOND - time.perf_counter()))
            said += word + " "
            if number % PEER_WORDS_A_YIELD == 0 or number == len(words) - 1:
                yield said

    roles = ("user", "assistant")
    history: list[Any] = [{"role": role, "content": f"Message number {i}."} for i in range(TURNS) for role in roles]
    chatbot = gr.Chatbot(value=history)
    gr.ChatInterface(answer, chatbot=chatbot).launch(server_port=PEER_PORT, quiet=True, run_history=False)


def _usable(playwright: Playwright, urls: dict[str, str]) -> dict[str, float]:
    """Milliseconds to a box one can write in, a fresh browser each time."""
    times: dict[str, list[float]] = {name: [] for name in urls}
    for _ in range(LOADS):
        for name, url in urls.items():
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = browser.new_page()
            began = time.perf_counter()
            page.goto(url, wait_until="commit")
            page.locator("textarea:not([disabled])[placeholder]:visible").first.wait_for()
            times[name].append((time.perf_counter() - began) * 1e3)
            browser.close()
    return {name: round(p50(values)) for name, values in times.items()}


def _page(browser: Browser, url: str) -> tuple[Page, str]:
    """An open page, and the token that it sends."""
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    page.goto(url)
    page.locator("#message textarea:not([disabled])").wait_for()
    with page.expect_request(lambda request: "queue/join" in request.url) as sent:
        page.evaluate("chatlab.tell('renew', {})")
    found = re.search(r'"token":\s*"([0-9a-f]+\.[0-9a-f]+)"', sent.value.post_data or "")
    assert found is not None
    return page, found[1]


def _long_chat(url: str, token: str) -> str:
    client = Client(url, verbose=False)
    first = client.predict("Message number 0.", "", token, api_name="/ask")
    for i in range(1, TURNS):
        client.predict(f"Message number {i}.", first["chat_id"], token, api_name="/ask")
    return first["chat_id"]


def _waits(page: Page, url: str, chat: str) -> dict[str, Any]:
    """Switching to the long chat; from Enter to the message and to the first token, beside the API."""
    page.reload()
    page.locator(f'#chats li[data-chat="{chat}"]').wait_for()
    switches: list[float] = []
    shown: list[float] = []
    first: list[float] = []
    api: list[float] = []
    with httpx.Client(base_url=url) as client:
        own = client.post("/chat", json={}).json()["chatID"]  # as long a chat, for the API
        for number in range(TURNS):
            client.post(f"/chat/{own}/completion", json={"userMessage": f"Message number {number}."})
        for number in range(ROUNDS):
            page.evaluate("chatlab.open('')")
            page.locator("#latest .welcome").wait_for()
            page.wait_for_timeout(200)
            switches.append(
                page.evaluate(
                    f"async (chat) => {{ {UNTIL} document.querySelector(`#chats a[data-chat='${{chat}}']`).click();"
                    "return until(() => document.querySelectorAll('#conversation article').length >= 20) }",
                    chat,
                )
            )
            page.wait_for_timeout(300)
            message = f"Question {number} and some more words"
            times = page.evaluate(
                f"async (message) => {{ {UNTIL} const box = document.querySelector('#message textarea');"
                "chatlab.write('message', message); await new Promise(requestAnimationFrame);"
                "const began = performance.now();"
                "box.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', code: 'Enter', bubbles: true}));"
                "box.dispatchEvent(new KeyboardEvent('keypress', {key: 'Enter', code: 'Enter', bubbles: true}));"
                "const said = () => [...document.querySelectorAll('#conversation .said')].at(-1)?.textContent;"
                "await until(() => said() === message);"
                "const shown = performance.now() - began;"
                "const latest = (part) => document.querySelector(`#latest ${part}`)?.textContent ?? '';"
                "await until(() => latest('.said') === message && latest('.text').startsWith('Question'));"
                "return [shown, performance.now() - began] }",
                message,
            )
            shown.append(times[0])
            first.append(times[1])
            page.locator('#latest article[data-live="false"]').wait_for()
            api.append(_api_ttft_ms(client, own, message))
            page.wait_for_timeout(200)
    return {
        "switch_to_200_turns_ms": {"p50": round(p50(switches)), "p95": round(p95(switches))},
        "enter_to_message_ms": {"p50": round(p50(shown)), "p95": round(p95(shown))},
        "first_token_added_ms": {
            "page": round(p50(first)),
            "api": round(p50(api)),
            "added": round(p50(first) - p50(api)),
        },
    }


def _inspecting(page: Page, chat: str) -> dict[str, Any]:
    """From a click on an answer's line to the frame in which what is inside it stands, on the long chat."""
    page.evaluate("(chat) => chatlab.open(chat)", chat)
    page.wait_for_function("document.querySelectorAll('#conversation article').length >= 20")
    while page.locator("[data-do=earlier]").count():
        before = page.locator("#conversation article").count()
        page.locator("[data-do=earlier]").click()
        page.wait_for_function("(n) => document.querySelectorAll('#conversation article').length > n", arg=before)
    folded = page.evaluate("document.querySelectorAll('#conversation *').length")
    times: list[float] = []
    for number in range(INSPECTED):
        page.wait_for_timeout(100)
        times.append(
            page.evaluate(
                f"async (at) => {{ {UNTIL} const all = document.querySelectorAll('#conversation .inspector');"
                "const inspector = all[at % all.length]; inspector.scrollIntoView({block: 'center'});"
                "await new Promise(requestAnimationFrame); const began = performance.now();"
                "inspector.querySelector('summary').click();"
                "await until(() => inspector.querySelector('.facts')?.checkVisibility());"
                "const took = performance.now() - began; inspector.open = false; return took }",
                number * 7,
            )
        )
    return {
        "p50_ms": round(p50(times)),
        "p95_ms": round(p95(times)),
        "turns_shown": page.locator("#conversation article").count(),
        "elements_a_turn": round(folded / page.locator("#conversation article").count(), 1),
    }


def _api_ttft_ms(client: httpx.Client, chat: str, message: str) -> float:
    began = time.perf_counter()
    ttft = 0.0
    body = {"userMessage": message, "stream": True}
    with client.stream("POST", f"/chat/{chat}/completion", json=body) as response:
        for line in response.iter_lines():
            if line == "event: delta" and not ttft:
                ttft = (time.perf_counter() - began) * 1e3
    return ttft


def _peer_page(browser: Browser, peer: str) -> Page:
    page = browser.new_page(viewport={"width": 1200, "height": 800})
    page.goto(peer)
    page.set_default_timeout(120_000)
    page.locator("textarea:visible").first.wait_for()
    return page


def _streaming(page: Page, box: str, answer: str) -> dict[str, Any]:
    """The renderer's share of a core while a long answer streams into a long chat, and what of it has come by its end.

    `words_behind` were sent but not on the screen when the last one was due, `words_missing` never came.
    """
    text = " ".join(f"word{i}." if i % 12 else f"word{i}.\n\n" for i in range(STREAMED_WORDS))
    due = time.perf_counter() + STREAMED_WORDS / TOKENS_PER_SECOND
    page.bring_to_front()
    page.locator(box).first.fill(text)
    page.locator(box).first.press("Enter")
    page.wait_for_timeout(1_000)
    cpu, began = _renderer_seconds(), time.perf_counter()
    page.wait_for_timeout((due - began - 1.0) * 1e3)
    share = (_renderer_seconds() - cpu) / (time.perf_counter() - began)
    page.wait_for_timeout(1_500)
    behind = STREAMED_WORDS - _n_words(page, answer)
    deadline = time.perf_counter() + 30
    while (missing := STREAMED_WORDS - _n_words(page, answer)) and time.perf_counter() < deadline:
        page.wait_for_timeout(1_000)
    return {"renderer_share_of_a_core": round(share, 2), "words_behind": behind, "words_missing": missing}


def _n_words(page: Page, answer: str) -> int:
    return len(set(re.findall(r"word\d+\.", page.locator(answer).first.inner_text())))


def _renderer_seconds() -> float:
    """CPU seconds of all renderer processes so far; only the page measured is busy."""
    mine = psutil.Process(os.getpid()).children(recursive=True)
    alive = [process for process in mine if process.status() != psutil.STATUS_ZOMBIE]
    return sum(sum(process.cpu_times()[:2]) for process in alive if "--type=renderer" in process.cmdline())


def _crowd(browser: Browser, url: str) -> dict[str, Any]:
    """Gradio clients and two browsers at once: is every answer the own one, and what does the page's way add?"""
    pages = [_page(browser, url)[0] for _ in range(2)]  # each in a context of its own
    added: list[float] = []
    wrong = 0
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: asyncio.run(_clients(url)))
        for i in range(MESSAGES):
            for number, page in enumerate(pages):
                message = f"browser {number} message {i} " + "and so on " * 20
                page.locator("#message textarea").fill(message)
                page.locator("#message textarea").press("Enter")
            for number, page in enumerate(pages):
                page.locator('#latest article[data-live="false"]', has_text=f"browser {number} message {i}").wait_for()
                page.wait_for_timeout(500)
        for page in pages:
            said = page.locator("#conversation .said").all_inner_texts()
            answers = page.locator("#conversation .text").all_inner_texts()
            wrong += [text.strip() for text in said] != [text.strip() for text in answers] or len(answers) != MESSAGES
        for times, mixed in running.result():
            added += times
            wrong += mixed
    return {
        "answers": len(added) + 2 * MESSAGES,
        "lost_or_mixed": wrong,
        "added_ms_p50": round(p50(added)),
        "added_ms_p95": round(p95(added)),
    }


async def _clients(url: str) -> list[tuple[list[float], int]]:
    """Many people, each with a chat and a moment of thought between messages, over Gradio's protocol."""
    async with httpx.AsyncClient(base_url=url, limits=httpx.Limits(max_connections=2 * CLIENTS), timeout=60) as http:
        return await asyncio.gather(*(_person(http, number) for number in range(CLIENTS)))


async def _person(http: httpx.AsyncClient, number: int) -> tuple[list[float], int]:
    """Milliseconds that the way to the first text took beyond the turn's own first token; answers not one's own."""
    chance = random.Random(number)
    chat = token = ""
    times: list[float] = []
    mixed = 0
    for i in range(MESSAGES):
        await asyncio.sleep(chance.uniform(*THINKING_SECONDS))
        message = f"client {number} message {i} " + "and so on " * 20
        began = time.perf_counter()
        joined = await http.post("/gradio_api/call/ask", json={"data": [message, chat, token]})
        ttft, answer = 0.0, {}
        async with http.stream("GET", f"/gradio_api/call/ask/{joined.json()['event_id']}") as events:
            async for line in events.aiter_lines():
                if line.startswith("data: [{"):
                    ttft = ttft or (time.perf_counter() - began) * 1e3
                    answer = json.loads(line.removeprefix("data: "))[0]
        chat, token = answer["chat_id"], answer["token"]
        mixed += answer["answer"].strip() != message.strip()
        served = re.search(r"first token (\d+) ms", answer["line"])
        times.append(ttft - float(served[1] if served else 0))
    return times, mixed
