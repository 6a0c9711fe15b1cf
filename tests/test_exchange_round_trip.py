"""What is written in a format is read again as it was: any tree, any text."""

import io
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chatlab.exchange import ExportedChat, FormatName, read_export, write_chats
from chatlab.messages import CacheLookup, Chat, Feedback, Note, Problem, Provenance, SamplingParams, Statement, Turn
from chatlab.store.recent import Conversation

BEGUN = datetime(2026, 1, 31, 23, 59, 58, 999_999, tzinfo=UTC)
NOW = datetime(2026, 2, 1, tzinfo=UTC)
PIECES = [
    "```python\nprint('`` ` ```')\n```",
    "~~~\nnever closed",
    "👩‍👩‍👧 é 𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
    "שלום \u202e עולם",
    "日本語、中文。",
    "\x01\x1b[31m\x7f\u2028",
    '<script>"\\u0000\\ud800"</script> <!--',
    '<details type="reasoning">',
    "\\\\ud83d\\n",
]
text = st.one_of(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=3).map("\n".join),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=30),
).filter(lambda value: bool(value.strip()))


@st.composite
def chats(draw: st.DrawFn) -> ExportedChat:
    """A chat whose turns make a random tree; some questions are asked again, some have no answer."""
    turns: list[Turn] = []
    at = BEGUN
    for index in range(draw(st.integers(0, 9))):
        at += timedelta(microseconds=draw(st.integers(1, 3_000_000_000)))
        parent = draw(st.sampled_from([None, *turns]))
        siblings = [turn for turn in turns if turn.parent_turn_id == (parent.turn_id if parent else None)]
        asked = draw(st.sampled_from([each.user_message for each in siblings] or [""])) if draw(st.booleans()) else ""
        answer = draw(st.one_of(st.none(), st.just(""), text))
        turns.append(
            Turn(
                f"turn{index}",
                "chat",
                "",
                parent.turn_id if parent else None,
                asked or draw(text),
                at,
                answer,
                status="stopped" if answer is None else "done",
                source=None if answer is None else "model",
                finished_at=at + timedelta(milliseconds=draw(st.integers(0, 5_000))),
                finish_reason=None if answer is None else "stop",
                provenance=Provenance(model=None if answer is None else "model"),
                feedback=None if answer is None else draw(st.sampled_from([None, Feedback(1, None)])),
            )
        )
    ends = [turn.finished_at or turn.created_at for turn in turns]
    system = draw(st.one_of(st.none(), text))
    chat = Chat("chat", "", draw(st.one_of(st.none(), text)), BEGUN, max([BEGUN, *ends]), system_prompt=system)
    return ExportedChat(Conversation(chat, tuple(turns)))


def round_trip(folder: Path, name: FormatName, *written: ExportedChat) -> list[ExportedChat]:
    file = folder / name
    with file.open("wb") as out:
        write_chats(written, name, out, NOW)
    return list(read_export(file))


def in_seconds(known: Conversation) -> list[tuple[Any, ...]]:
    """The tree and the texts with the place of each turn among those that follow the same one."""
    return sorted(
        (turn.turn_id, turn.parent_turn_id or "", turn.user_message, turn.assistant_message, turn.feedback)
        for turn in known.turns
    )


def siblings(known: Conversation) -> dict[str | None, list[str]]:
    found: dict[str | None, list[str]] = {}
    for turn in known.turns:
        found.setdefault(turn.parent_turn_id, []).append(turn.turn_id)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


every_tree = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("name", ["json", "librechat", "chatgpt", "sharegpt"])
def test_a_chat_comes_back_as_it_was(name: FormatName, folder: Path) -> None:
    forgotten: dict[FormatName, Callable[[Turn], Turn]] = {
        "chatgpt": lambda turn: replace(turn, feedback=None),
        "sharegpt": lambda turn: replace(turn, feedback=None),
    }

    @every_tree
    @given(chats())
    def check(exported: ExportedChat) -> None:
        known = exported.conversation
        if name != "json":
            forget = forgotten.get(name, lambda turn: turn)
            turns = [
                replace(turn, finished_at=turn.created_at) if turn.assistant_message is None else turn
                for turn in map(forget, known.turns)
            ]
            known = replace(known, turns=tuple(turns))
        (back,) = round_trip(folder, name, exported)
        assert back == ExportedChat(known)

    check()


@every_tree
@given(chats())
def test_open_webui_keeps_the_tree_the_texts_and_whole_seconds(folder: Path, exported: ExportedChat) -> None:
    known = exported.conversation
    (back,) = round_trip(folder, "openwebui", exported)
    assert back.left_out == {}
    assert in_seconds(back.conversation) == in_seconds(known)
    assert siblings(back.conversation) == siblings(known)
    assert back.conversation.chat.title == known.chat.title
    assert back.conversation.chat.system_prompt == known.chat.system_prompt
    original = {turn.turn_id: turn for turn in known.turns}
    for turn in back.conversation.turns:
        assert abs(turn.created_at - original[turn.turn_id].created_at) < timedelta(seconds=1)


def test_nothing_of_chatlabs_own_is_lost(folder: Path) -> None:
    turn = Turn(
        "t1", "c1", "me", None, "q", BEGUN, "partial", "failed", "model",
        Problem("urn:chatlab:problem:interrupted", "Interrupted", 503, "stopped"), NOW, None,
        Provenance(model="m", engine="echo"), (), Feedback(-1, "wrong"), True,
    )  # fmt: skip
    note = Note(
        "n1", "c1", "me", ("t1",), "hash", "user: q", (Statement("t1", "user", "q", ("old",)),), "edited", 9, 3, "m",
        1, 2.5, BEGUN, NOW, 4,
    )  # fmt: skip
    lookup = CacheLookup(
        "t1", "c1", "me", BEGUN, "user", "shadow", "semantic", "e1", 0.9, 0.5, 0.7, None, 1.5, 3, 2.0, "v", True, False,
        2.0, "person",
    )  # fmt: skip
    params = SamplingParams(0.5, 0.9, 4, 100, ("###",), 7, 1.1)
    chat = Chat("c1", "me", "Title", BEGUN, NOW, True, True, "Be brief.", params=params)
    exported = ExportedChat(Conversation(chat, (turn,), (note,)), (lookup,))
    assert round_trip(folder, "json", exported, exported) == [exported, exported]


@given(st.lists(chats(), max_size=3))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_table_has_a_row_a_turn(written: list[ExportedChat]) -> None:
    out = io.BytesIO()
    count = write_chats(written, "parquet", out, NOW)
    rows = cast(Any, pq).read_table(io.BytesIO(out.getvalue())).to_pylist()
    turns = [turn for each in written for turn in each.conversation.turns]
    assert [(row["user_message"], row["assistant_message"], row["created_at"]) for row in rows] == [
        (turn.user_message, turn.assistant_message, turn.created_at) for turn in turns
    ]
    assert (count.chats, count.turns) == (len(written), len(turns))


def test_a_document_for_people_shows_each_turn_once_and_no_code_swallows_the_next() -> None:
    def turn(turn_id: str, parent: str | None, asked: str, answer: str | None, second: int) -> Turn:
        return Turn(turn_id, "c", "", parent, asked, BEGUN + timedelta(seconds=second), answer, "done", "model")

    turns = (
        turn("a", None, "First\n```", "~~~~python\nnever closed <!-- here", 1),
        turn("b", "a", "Second", "<!-- nor this", 2),
        turn("c", "a", "Otherwise", None, 3),
    )
    out = io.BytesIO()
    write_chats([ExportedChat(Conversation(Chat("c", "", "# A *title*", BEGUN, NOW), turns))], "markdown", out, NOW)
    shown = out.getvalue().decode()
    assert shown.startswith("# \\# A \\*title\\*\n")
    assert "> First\n> ```\n> ```\n" in shown
    assert "~~~~python\nnever closed <!-- here\n~~~~\n" in shown
    assert "\\<!-- nor this" in shown
    assert "## Another branch after 1\n\n### 3. User\n\n> Otherwise" in shown
    assert shown.count("> First") == 1
