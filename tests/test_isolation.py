"""Several users over every route: nobody ever sees, changes or learns of what is another's."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatlab.settings import Settings
from chatlab.wiring import wire
from tests.conftest import ScriptedEngine, api_client

USERS = ("ann", "bob", "local")

# A route with the placeholders of the owner's ids; whoever is not the owner must get 404.
OWNED: tuple[tuple[str, str, Any], ...] = (
    ("GET", "/chat/{chat}", None),
    ("PATCH", "/chat/{chat}", {"title": "mine now"}),
    ("PATCH", "/chat/{chat}", {"archived": True}),
    ("DELETE", "/chat/{chat}", None),
    ("POST", "/chat/{chat}/completion", {"userMessage": "hello"}),
    ("POST", "/chat/{chat}/completion", {"userMessage": "hello", "stream": True}),
    ("GET", "/completions/{turn}", None),
    ("GET", "/completions/{turn}/events", None),
    ("POST", "/completions/{turn}/stop", None),
    ("GET", "/chat/{chat}/turns/{turn}/prompt", None),
    ("POST", "/chat/{chat}/turns/{turn}/feedback", {"rating": -1}),
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    settings_ = Settings(data_dir=tmp_path_factory.mktemp("shared") / "data", engine="echo")
    with wire(settings_) as parts, api_client(parts) as client:
        yield client


class World:
    """Users who act, and what each of them owns."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.owned: dict[str, dict[str, list[str]]] = {user: {} for user in USERS}  # user -> chat -> turns

    def request(self, user: str, method: str, url: str, **options: Any) -> Any:
        headers = {} if user == "local" else {"X-User-ID": user}
        return self.client.request(method, url, headers=headers, **options)

    def chat(self, user: str, index: int) -> None:
        made = self.request(user, "POST", "/chat", json={"title": secret(user)}).json()
        assert made["userID"] == user
        self.owned[user][made["chatID"]] = []

    def ask(self, user: str, index: int) -> None:
        for chat in self.one_of(user, index):
            body = {"userMessage": f"{secret(user)} {index}"}
            turn = self.request(user, "POST", f"/chat/{chat}/completion", json=body).json()
            self.owned[user][chat].append(turn["turnID"])

    def delete(self, user: str, index: int) -> None:
        for chat in self.one_of(user, index):
            assert self.request(user, "DELETE", f"/chat/{chat}").status_code == 204
            del self.owned[user][chat]

    def look(self, user: str, index: int) -> None:
        query = {"q": "secret"} if index % 2 else {}
        listed = self.request(user, "GET", "/chats", params={"limit": 100, **query})
        assert {chat["userID"] for chat in listed.json()["chats"]} <= {user}
        assert not [other for other in USERS if other != user and secret(other) in listed.text]

    def pry(self, user: str, index: int) -> None:
        others = [(owner, *owned) for owner in USERS if owner != user for owned in self.owned[owner].items()]
        for (owner, chat, turns), (method, path, body) in itertools.product(others, OWNED):
            url = path.format(chat=chat, turn=turns[0] if turns else "none")
            refused = self.request(user, method, url, json=body)
            assert refused.status_code == 404, (method, url)
            assert secret(owner) not in refused.text

    def one_of(self, user: str, index: int) -> list[str]:
        chats = [*self.owned[user]]
        return chats[index % len(chats) :][:1] if chats else []

    def check(self) -> None:
        """Whatever was tried, everyone still has all of theirs."""
        for user in USERS:
            for chat, turns in self.owned[user].items():
                known = self.request(user, "GET", f"/chat/{chat}").json()
                assert [turn["turnID"] for turn in known["turns"]] == turns
                assert known["title"] == secret(user)


def secret(user: str) -> str:
    return f"secret-of-{user}"


ACTIONS = (World.chat, World.ask, World.look, World.delete, World.pry)
STEPS = st.lists(
    st.tuples(st.sampled_from(USERS), st.sampled_from(ACTIONS), st.integers(0, 20)), min_size=3, max_size=12
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_no_leak(shared: TestClient, steps: list[tuple[str, Callable[[World, str, int], None], int]]) -> None:
    world = World(shared)  # chats of earlier examples are still there: they must stay their owners', too
    for user, action, index in steps:
        action(world, user, index)
    world.check()


@pytest.mark.parametrize("user_id", ["ui:abc", "a b", "", "x" * 65, "ann\u00e9", "../x", "a;b"])
def test_a_header_cannot_name_what_is_no_user(client: TestClient, user_id: str) -> None:
    answer = client.get("/chats", headers=[(b"x-user-id", user_id.encode())])
    assert answer.status_code == 422


def test_prefixes_are_kept_apart() -> None:
    """What the engine is asked carries the user, so that nothing is shared between two."""
    engine = ScriptedEngine()
    with wire(Settings(engine="echo"), engine) as parts, api_client(parts) as client:
        for user in USERS:
            chat = client.post("/chat", json={}, headers={"X-User-ID": user}).json()["chatID"]
            client.post(f"/chat/{chat}/completion", json={"userMessage": "hi"}, headers={"X-User-ID": user})
    assert [request.user_id for request in engine.seen] == list(USERS)
