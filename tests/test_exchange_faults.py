"""Files that are broken, hostile or odd: an error that names the place, or a reading that loses nothing."""

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatlab.errors import ExchangeError
from chatlab.exchange import read_export
from chatlab.exchange.tree import NOTHING_SAID, WENT_ON, WROTE_FIRST
from chatlab.messages import path_to

DEEP = 100_000
NESTED = 4_000  # as one JSON value inside the other; Python's own parser ends at 1,000
ReadText = Callable[[str | bytes], list[Any]]


@pytest.fixture
def read(tmp_path: Path) -> ReadText:
    def read_(content: str | bytes) -> list[Any]:
        file = tmp_path / "file"
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return list(read_export(file))

    return read_


def node(parent: str | None, role: str, text: Any, **more: Any) -> dict[str, Any]:
    message = {"author": {"role": role}, "content": {"content_type": "text", "parts": [text]}, **more}
    return {"parent": parent, "children": [], "message": message}


def chatgpt(**nodes: Any) -> str:
    return json.dumps([{"title": "T", "mapping": nodes}])


def said(exported: Any) -> list[tuple[str, str | None]]:
    return [(turn.user_message, turn.assistant_message) for turn in exported.conversation.turns]


@pytest.mark.parametrize(
    ("content", "place", "problem"),
    [
        ("", "file", "is empty"),
        (" \n", "file", "is empty"),
        ("Hello", "file", "is no JSON"),
        ("\ufeff[]".encode("utf-16"), "file", "is in UTF-16: save it as UTF-8"),
        ('[{"mapping": {}}', "conversations[1]", "ends in the middle"),
        ('[{"mapping": {}}, {"mapping": tru', "conversations[1]", "cut off"),
        ("[1]", "conversations[0]", "must be a conversation, an object, got a number"),
        ('[{"mapping": {}}, {"a": 1}]', "conversations[1]", "it has 'a'"),
        (chatgpt(a=node("b", "user", "x"), b=node("a", "user", "y")), 'mapping["a"].message', "circle"),
        (chatgpt(a=node("a", "user", "x")), 'mapping["a"].message', "circle"),
        (chatgpt(a=node(None, "user", 5)), "content.parts[0]", "got a number"),
        (chatgpt(a=node(None, "user", "x", create_time="soon")), "message.create_time", "must be a time"),
        (chatgpt(a=node(None, "user", "x", create_time=True)), "message.create_time", "must be a time"),
        (chatgpt(a=node(None, "user", "x", create_time=1e300)), "message.create_time", "must be a time"),
        ('[{"mapping": {"a": {"message": {"create_time": NaN}}}}]', "conversations[0]", "is no valid JSON"),
        (chatgpt(a={"parent": 1.5}), 'mapping["a"].parent', "must be an id"),
        ('[{"mapping": []}]', "conversations[0].mapping", "must be an object, got a list"),
        ('[{"id":"1","chat":{"messages":[{"role":"user","content":3}]}}]', "chat.messages[0].content", "got a number"),
        (
            '{"conversationId":"1","messages":[{"messageId":"a","isCreatedByUser":true,"text":"x"},'
            '{"messageId":"a","isCreatedByUser":false,"text":"y"}]}',
            "conversations[0].messages[1]",
            "has the id of another message",
        ),
        ('{"conversationId":"1","messages":[{"text":"x"}]}', "messages[0].isCreatedByUser", "must be true or false"),
        ('{"conversations":[{"from":"martian","value":"x"}]}', "conversations[0].from", "must be human or user"),
        ('{"conversations":[{"from":"human"}]}', "conversations[0].value", "must be a text, got null"),
        ('{"chatlab": {"version": 2}, "chats": []}', "chatlab.version", "must be 1, got 2"),
        ('{"chatlab": {"version": 1}, "chats": [{"chatID": "c", "turns": []}]}', "chats[0].userID", "field required"),
        (gzip.compress(b"[" + b"{}" * 1000)[:-20], "file", "cannot be unpacked"),
        (b"PK\x03\x04 no archive", "file", "cannot be unpacked"),
        (b'[{"title": "\xff\xfe"}]', "conversations[0]", "is no valid JSON"),
        ('[{"title": ' + "9" * 5000 + "}]", "conversations[0]", "holds a number that is too large"),
        ('[{"mapping": {"a": {"parent": 1e999}}}]', "conversations[0]", ""),
    ],
)
def test_what_cannot_be_used_is_named_with_its_place(
    read: ReadText, content: str | bytes, place: str, problem: str
) -> None:
    with pytest.raises(ExchangeError) as failed:
        read(content)
    assert place in failed.value.place
    assert problem in failed.value.problem


def test_a_list_without_chats_and_a_byte_order_mark_are_fine(read: ReadText) -> None:
    assert read("[]") == []
    assert read("\ufeff" + chatgpt(a=node(None, "user", "x")))[0].conversation.chat.title == "T"


def test_a_chain_a_hundred_thousand_messages_deep_is_read(read: ReadText) -> None:
    roles = ("user", "assistant")
    nodes = {
        str(at): node(str(at - 1) if at else None, roles[at % 2], f"{at}", create_time=1_700_000_000 + at)
        for at in range(DEEP)
    }
    (exported,) = read(chatgpt(**nodes))
    turns = exported.conversation.turns
    assert len(path_to(turns, turns[-1].turn_id)) == DEEP // 2
    nested = [
        f'{{"messageId": "{at}", "isCreatedByUser": {str(at % 2 == 0).lower()}, "text": "{at}", "children": ['
        for at in range(NESTED)
    ]
    (exported,) = read(f'{{"conversationId": "c", "messages": [{"".join(nested)}{"]}" * NESTED}]}}')
    assert len(exported.conversation.turns) == NESTED // 2
    with pytest.raises(ExchangeError):
        read('[{"mapping": {"a": ' + "[" * NESTED + "]" * NESTED + "}}]")


def test_messages_that_chatlab_has_no_turn_for_keep_their_words(read: ReadText) -> None:
    (exported,) = read(
        chatgpt(
            hello=node("gone", "assistant", "Welcome", end_turn=True),
            q=node("hello", "user", "  "),
            a=node("q", "assistant", "one"),
            b=node("a", "assistant", "two"),
            c=node("a", "assistant", "three"),
            again=node("b", "user", "first try"),
            more=node("again", "user", "second try"),
            d=node("more", "assistant", "done"),
        )
    )
    assert said(exported) == [
        (WROTE_FIRST, "Welcome"),
        (NOTHING_SAID, "one"),
        (WENT_ON, "two"),
        (WENT_ON, "three"),
        ("first try", None),
        ("second try", "done"),
    ]
    assert sum(exported.left_out.values()) == 1


def test_what_is_no_text_is_marked_and_counted(read: ReadText) -> None:
    first, second = r"a\ud83d b\ude00 c\u0000", r"ok \ud83d\ude00 \\ud83d \\\\u0000"
    (exported,) = read(
        f'{{"conversations": [{{"from": "human", "value": "{first}"}}, {{"from": "gpt", "value": "{second}"}}]}}'
    )
    assert said(exported) == [("a\ufffd b\ufffd c\ufffd", "ok 😀 \\ud83d \\\\u0000")]
    assert sum(exported.left_out.values()) == 3


@pytest.mark.parametrize("shift", range(12))
def test_a_pair_of_surrogates_is_whole_wherever_a_block_ends(
    read: ReadText, shift: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatlab.exchange.source.BLOCK_BYTES", 16)
    text = "x" * shift + "😀\\😀\n" * 20
    (exported,) = read(json.dumps([{"conversations": [{"from": "human", "value": text}]}]))
    assert said(exported) == [(text, None)]
    assert exported.left_out == {}


def test_an_archive_is_read_as_each_tool_packs_it(tmp_path: Path) -> None:
    file = tmp_path / "any.bin"
    entry = json.dumps([{"conversations": [{"from": "human", "value": "x"}]}])
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("user.json", '{"id": "me"}')
        archive.writestr("conversations.json", entry)
    assert len(list(read_export(file))) == 1
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("one.json", entry)
        archive.writestr("folder/two.jsonl", '{"messages": 1}')
    with pytest.raises(ExchangeError, match=r"folder/two.jsonl: conversations\[0\]"):
        list(read_export(file))
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("picture.png", b"")
    with pytest.raises(ExchangeError, match="without conversations.json"):
        list(read_export(file))


def test_own_turns_that_follow_each_other_in_a_circle_are_refused(read: ReadText) -> None:
    fixture = Path(__file__).parents[1] / "data" / "exports" / "chatlab.json"
    whole = json.loads(fixture.read_bytes())
    turns = whole["chats"][1]["turns"]
    turns[0]["parentTurnID"] = turns[1]["turnID"]
    with pytest.raises(ExchangeError, match=r"chats\[1\].turns\[0\].parentTurnID: must be that of a turn before it"):
        read(json.dumps(whole))
    turns[0]["parentTurnID"] = None
    turns[0]["status"] = "done?"
    with pytest.raises(ExchangeError, match=r"chats\[1\].turns\[0\].status"):
        read(json.dumps(whole))


def test_json_that_is_nested_too_deep_is_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "deep.json"
    file.write_text('[{"conversationId": "c", "text": "\\"[[[[\\\\", "messages": ' + "[" * 200_000)
    with pytest.raises(ExchangeError, match="nests deeper than 10,000"):
        list(read_export(file))
