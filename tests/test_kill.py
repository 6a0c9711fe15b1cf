"""The machine stops at the worst moment: what was acknowledged is there, what was under way says so."""

import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.conftest import Server, StartServer, events, new_chat

MESSAGE = " ".join(f"word{i}" for i in range(200))


@pytest.mark.live
def test_a_turn_killed_in_the_middle_is_failed_with_its_text_kept(start_server: StartServer) -> None:
    server = start_server(echo_tokens_per_second=20)
    with httpx.Client(base_url=server.url, timeout=20) as client:
        chat_id = new_chat(client)
        body = {"userMessage": MESSAGE, "stream": True}
        seen = ""
        with client.stream("POST", f"/chat/{chat_id}/completion", json=body) as response:
            for event in events(response.iter_lines()):
                seen += event.data.get("text", "")
                if event.id == 30:
                    break
            server.kill()

    server = start_server(echo_tokens_per_second=20)
    with httpx.Client(base_url=server.url, timeout=20) as client:
        (turn,) = client.get(f"/chat/{chat_id}").json()["turns"]
        assert turn["status"] == "failed"
        assert turn["error"]["type"].endswith("interrupted")
        assert turn["userMessage"] == MESSAGE
        kept = turn["assistantMessage"]
        assert MESSAGE.startswith(kept)
        assert len(kept.split()) >= len(seen.split()) - 6, "more than 0.3 s of text was lost"
        # The chat goes on, and a client that comes back for the events is told to begin again.
        assert client.post(f"/chat/{chat_id}/completion", json={"userMessage": "go on"}).status_code == 200
        headers = {"Last-Event-ID": "30"}
        with client.stream("GET", f"/completions/{turn['turnID']}/events", headers=headers) as response:
            replay = list(events(response.iter_lines()))
        assert [(event.id, event.name) for event in replay] == [(31, "restart"), (32, "delta"), (33, "error")]


@pytest.mark.live
def test_an_orderly_stop_keeps_the_text_and_says_so(start_server: StartServer) -> None:
    server = start_server(echo_tokens_per_second=20)
    with httpx.Client(base_url=server.url, timeout=20) as client:
        chat_id = new_chat(client)
        body = {"userMessage": MESSAGE, "stream": True}
        with client.stream("POST", f"/chat/{chat_id}/completion", json=body) as response:
            sent = []
            for event in events(response.iter_lines()):
                sent.append(event)
                if event.id == 10:
                    threading.Thread(target=server.stop).start()
        assert sent[-1].name == "error"
        assert sent[-1].data["type"].endswith("interrupted")
    server.process.wait(timeout=30)
    server = start_server()
    with httpx.Client(base_url=server.url) as client:
        (turn,) = client.get(f"/chat/{chat_id}").json()["turns"]
        assert turn["assistantMessage"] == "".join(event.data.get("text", "") for event in sent)


def _write_until_killed(server: Server, acknowledged: list[str], stop: threading.Event) -> None:
    with httpx.Client(base_url=server.url, timeout=10) as client:
        try:
            chat_id = new_chat(client)
            while not stop.is_set():
                answer = client.post(f"/chat/{chat_id}/completion", json={"userMessage": "keep this"})
                if answer.status_code == 200:
                    acknowledged.append(answer.json()["turnID"])
        except httpx.TransportError:
            return


@pytest.mark.live
def test_no_acknowledged_turn_is_lost_in_twenty_kills(start_server: StartServer, tmp_path: Path) -> None:
    acknowledged: list[str] = []
    for round_number in range(20):
        server = start_server()
        stop = threading.Event()
        writers = [threading.Thread(target=_write_until_killed, args=(server, acknowledged, stop)) for _ in range(4)]
        for writer in writers:
            writer.start()
        time.sleep(0.15 + 0.02 * round_number)  # another moment each time
        server.kill()
        stop.set()
        for writer in writers:
            writer.join()
    server = start_server()
    with httpx.Client(base_url=server.url, timeout=20) as client:
        stored: dict[str, str] = {}
        cursor = None
        while True:
            page = client.get("/chats", params={"limit": 100, **({"cursor": cursor} if cursor else {})}).json()
            for chat in page["chats"]:
                for turn in client.get(f"/chat/{chat['chatID']}").json()["turns"]:
                    stored[turn["turnID"]] = turn["status"]
            if (cursor := page["nextCursor"]) is None:
                break
    assert len(acknowledged) > 100
    assert {turn_id: stored.get(turn_id) for turn_id in acknowledged} == dict.fromkeys(acknowledged, "done")
    assert set(stored.values()) <= {"done", "failed"}
