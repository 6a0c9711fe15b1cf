"""The machine stops at the worst moment: what was acknowledged is there, what was under way says so."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import duckdb
import httpx
import pytest

from chatlab.clock import Clock
from chatlab.problems import INTERRUPTED
from chatlab.store import Store
from chatlab.store.duckdb import FILE
from tests.conftest import StartServer, events, new_chat

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


# Eight clients that write turns as fast as they can, and say what was acknowledged.
WRITER = """
import asyncio, itertools, sys
from dataclasses import replace
from pathlib import Path
from chatlab.clock import Clock
from chatlab.messages import Chat, Turn
from chatlab.store import Store

async def client(store, clock, name):
    await store.add_chat(Chat(name, "u", None, clock(), clock()))
    for i in itertools.count():
        turn = Turn(f"{name}-{i}", name, "u", None, "question", clock(), status="running")
        await store.add_turn(turn)
        print("stored", turn.turn_id, flush=True)
        await store.save_partial(turn, "half")
        await store.finish_turn(replace(turn, status="done", assistant_message="whole", finished_at=clock()))
        print("done", turn.turn_id, flush=True)

async def main():
    with Store(Path(sys.argv[1])) as store:
        clock = Clock(store.latest_time())
        await asyncio.gather(*(client(store, clock, f"{sys.argv[2]}-{n}") for n in range(8)))

asyncio.run(main())
"""


def test_no_acknowledged_write_is_lost_in_twenty_kills(tmp_path: Path) -> None:
    acknowledged: dict[str, str] = {}  # turn -> the last that was acknowledged of it
    environment = {"PYTHONPATH": str(Path(__file__).parents[1])}
    for round_number in range(20):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), f"round{round_number}"],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert writer.stdout is not None
        first = writer.stdout.readline()  # it writes
        time.sleep(0.05 + 0.01 * round_number)  # another moment each time
        writer.kill()
        lines, _ = writer.communicate()
        for line in (first + lines).splitlines(keepends=True):
            if line.endswith("\n"):  # the last one may be cut
                state, turn_id = line.split()
                acknowledged[turn_id] = state
        with Store(tmp_path) as store:
            store.fail_live_turns(INTERRUPTED, Clock(store.latest_time())())
    with duckdb.connect(tmp_path / FILE) as connection:
        rows = connection.execute("SELECT turn_id, status, assistant_message FROM turns").fetchall()
    stored = {turn_id: (status, text) for turn_id, status, text in rows}
    assert len(acknowledged) > 500
    assert not acknowledged.keys() - stored.keys(), "an acknowledged message is gone"
    assert {stored[turn_id] for turn_id, state in acknowledged.items() if state == "done"} == {("done", "whole")}
    assert {status for status, _ in stored.values()} <= {"done", "failed"}
    assert {text for status, text in stored.values() if status == "failed"} <= {None, "half"}
