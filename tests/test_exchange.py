"""Chats of other tools' exports: read whole, or refused with the entry, the place and the fix."""

from pathlib import Path

import pytest

from chatlab.errors import ExchangeError
from chatlab.exchange import read_chats, read_export
from chatlab.messages import path_to
from chatlab.store.recent import Conversation

EXPORTS = Path(__file__).parents[1] / "data" / "exports"
ASKED = "How do I compute a moving average in Python?"
FUJI = [
    ("富士山の高さは何メートルですか。", "富士山の高さは3,776メートルです。🗻"),
    ("وبالعربية؟", "يبلغ ارتفاع جبل فوجي 3776 مترًا."),
]


def branches(conversation: Conversation) -> list[list[tuple[str, str | None]]]:
    """Every path from a root to a leaf, oldest leaf first, as what was asked and answered."""
    turns = conversation.turns
    followed = {turn.parent_turn_id for turn in turns}
    leaves = [turn.turn_id for turn in turns if turn.turn_id not in followed]
    return [[(turn.user_message, turn.assistant_message) for turn in path_to(turns, leaf)] for leaf in leaves]


@pytest.mark.parametrize("name", ["chatgpt.json", "open_webui.json", "librechat.json", "chatlab.json"])
def test_the_same_chat_of_each_tool_has_the_same_branches(name: str) -> None:
    conversation = next(read_chats(EXPORTS / name))
    assert conversation.chat.title == "Moving average"
    first, second, third = branches(conversation)
    assert [len(first), len(second), len(third)] == [2, 2, 1]
    assert first[0] == second[0]
    assert first[0][0] == third[0][0] == ASKED
    assert "```python\ndef moving_average" in (first[0][1] or "")
    assert third[0][1] == "Use `numpy.convolve(values, numpy.ones(n) / n, 'valid')`."
    assert (first[1][1], second[1][1]) == ("`[2.0, 3.0]`", "Then `range` is empty and you get `[]`.")
    assert [turn.provenance.model for turn in conversation.turns[:1]] in (["gpt-4o"], ["llama3.2:3b"])
    times = [turn.created_at for turn in conversation.turns]
    assert times == sorted({*times})
    assert conversation.chat.created_at <= times[0]


@pytest.mark.parametrize("name", ["chatgpt.json", "open_webui.json", "librechat_tree.json", "sharegpt.jsonl"])
def test_letters_of_any_script_come_whole_and_the_system_prompt_with_them(name: str) -> None:
    found = next(each for each in read_chats(EXPORTS / name) if each.chat.system_prompt)
    assert branches(found) == [FUJI]
    assert found.chat.system_prompt == "Answer briefly."


def test_what_is_left_out_is_counted() -> None:
    chatgpt, *_ = read_export(EXPORTS / "chatgpt.json")
    assert chatgpt.left_out == {"reasoning": 1, "calls of tools": 1, "messages of tools": 1}
    webui, *_ = read_export(EXPORTS / "open_webui.json")
    assert webui.left_out == {"reasoning": 1}


def test_an_entry_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    file = tmp_path / "export.txt"
    text = (EXPORTS / "chatgpt.json").read_text()
    file.write_text(text.replace('"parts": [\n      "`[2.0, 3.0]`"', '"parts": [\n      7'))
    with pytest.raises(ExchangeError) as failed:
        list(read_chats(file))
    assert failed.value.place == 'conversations[0].mapping["a2"].message.content.parts[0]'
    assert str(failed.value).endswith('must be a text or an object, got a number (entry 1, "Moving average")')
    file.write_text(text[:-400])
    with pytest.raises(ExchangeError, match=r"conversations\[1\]: the file ends in the middle of it"):
        list(read_chats(file))
