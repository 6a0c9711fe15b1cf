"""The first thing a person does, with the bundled model, over HTTP."""

from pathlib import Path

import httpx
import pytest

from tests.conftest import StartServer, ask, new_chat, text_of


@pytest.mark.live
def test_a_conversation_survives_a_restart_and_goes_when_deleted(
    start_server: StartServer, bundled_model: Path, tmp_path: Path
) -> None:
    # 1. Ask, and read the answer from the stream.
    server = start_server(engine="transformers", model=bundled_model)
    with httpx.Client(base_url=server.url, timeout=60) as client:
        chat_id = new_chat(client)  # as a person does: the model's own sampling
        sent = ask(client, chat_id, "What is the capital of France?")
        assert "Paris" in text_of(sent)
        assert [event.name for event in (sent[0], sent[-1])] == ["status", "done"]
        turn = sent[-1].data
        assert turn["assistantMessage"] == text_of(sent)
        assert turn["source"] == "model"
        assert turn["provenance"]["timing"]["ttftMs"] > 0

        # 2. The second turn knows the first, and does not compute it again.
        second = ask(client, chat_id, "And of Italy?")[-1].data
        assert "Rome" in second["assistantMessage"]
        assert second["parentTurnID"] == turn["turnID"]
        assert second["provenance"]["usage"]["reusedPrefixTokens"] >= turn["provenance"]["usage"]["promptTokens"]

    # 3. Restart: all is there.
    assert server.stop() == 0
    server = start_server(engine="transformers", model=bundled_model)
    with httpx.Client(base_url=server.url, timeout=60) as client:
        chat = client.get(f"/chat/{chat_id}").json()
        assert [t["assistantMessage"] for t in chat["turns"]] == [turn["assistantMessage"], second["assistantMessage"]]
        prompt = client.get(f"/chat/{chat_id}/turns/{second['turnID']}/prompt").json()
        assert prompt["rendered"].count("<|im_start|>assistant") == 2
        assert prompt["promptTokens"] == second["provenance"]["usage"]["promptTokens"]

        # 4. Delete: gone.
        assert client.delete(f"/chat/{chat_id}").status_code == 204
        assert client.get(f"/chat/{chat_id}").status_code == 404
        assert client.get(f"/completions/{turn['turnID']}").status_code == 404
        assert client.get("/chats").json() == {"chats": [], "nextCursor": None}
