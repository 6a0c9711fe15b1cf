"""Made-up chats with known repeats: what the verdict is measured and shown on.

Questions are those of `chatlab.evaluation.workload`; answers are texts of a length that chats have. Of a seed and the
words always the same chats come.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from chatlab.evaluation.workload import Asked, Words, make_stream
from chatlab.messages import Chat, Turn
from chatlab.store.recent import Conversation

BEGIN = datetime(2026, 1, 5, 8, tzinfo=UTC)
LONG = 0.06  # of the chats
LONG_TURNS = (30, 120)
SHORT_TURNS = (1, 6)
ANSWER_SENTENCES = (2, 14)
REGENERATED = 0.03  # of the turns
IN_OTHER_LANGUAGE = 0.04
OF_ITS_OWN = 0.35  # of the questions, those about something that nobody else asks about
PASTED = 0.05  # of the questions, those with a long text
PASTED_SENTENCES = (10, 60)
OTHER_LANGUAGES = (
    "Wie lange muss man Kartoffeln kochen?",
    "Quelle est la capitale de la Mongolie ?",
    "¿Cómo se dice buena suerte en italiano?",
    "日本の首都はどこですか？",
    "Как приготовить борщ?",
    "كيف أتعلم البرمجة؟",
    "如何用Python读取CSV文件？",
    "Hur lång tid tar det att lära sig svenska?",
)
DOING = ("clean", "repair", "sell", "paint", "insure", "ship", "store", "build", "rent", "measure", "label", "import")
THINGS = (
    "an accordion", "a beehive", "old maps", "a canoe", "wool carpets", "a telescope", "a piano", "clay roof tiles",
    "a wind turbine", "fishing nets", "a sauna stove", "garden gnomes", "a letterpress", "ski boots", "a church bell",
    "sea containers", "a loom", "a greenhouse", "film cameras", "a hot-air balloon", "mosaics", "a water mill",
    "street lamps", "a violin", "cheese wheels", "a treehouse", "railway sleepers", "an aquarium", "kites", "a kiln",
)  # fmt: skip
PLACES = (
    "in winter", "on an island", "without a licence", "for a school", "with two helpers", "near the sea", "at night",
    "on a small budget", "in a rented flat", "for a museum", "after a flood", "before a move", "by train", "in Peru",
    "in Norway", "for a market", "in a hurry", "at high altitude", "in the desert", "for beginners",
)  # fmt: skip
SENTENCES = (
    "It depends on what you start from, but most people do it in two steps.",
    "First check that everything you need is at hand, and note the amounts.",
    "A baker in Lisbon does the same with half of it, and it works.",
    "Remember that the second version is preferred, because it takes less room.",
    "The usual value lies between 12 and 18, and 15 is a good start.",
    "If it fails, look at the last line of the log, which names the cause.",
    "That changed in 2021, so older guides say something else.",
    "A smaller pot needs less water, but the time stays about the same.",
    "In short: yes, as long as nobody else writes to the file meanwhile.",
    "The meeting is now on Thursday at 9, not on Monday any more.",
)


@dataclass(slots=True)
class _Open:
    """A chat that goes on."""

    chat_id: str
    user_id: str
    left: int
    turns: list[Turn] = field(default_factory=list[Turn])


def sample_chats(words: Words, seed: int, n_turns: int, users: Sequence[str] = ("",)) -> Iterator[Conversation]:
    """Chats with so many turns together; many short ones, some long, with versions and several languages.

    Args:
        words: Families of questions.
        seed: Of every draw.
        n_turns: In all.
        users: Whose chats they are.
    """
    chance = random.Random(seed)
    at, made, number = BEGIN, 0, 0
    asked: list[Asked] = make_stream(words, seed, n_turns)
    while made < n_turns:
        long = chance.random() < LONG
        left = min(chance.randint(*(LONG_TURNS if long else SHORT_TURNS)), n_turns - made)
        chat = _Open(f"chat-{number}", chance.choice(users), left)
        while chat.left:
            at += timedelta(minutes=chance.expovariate(1 / 20))
            chat.turns.append(_next(chat, asked[made], at, chance))
            chat.left -= 1
            made += 1
        title = f"Sample {number}: {chat.turns[0].user_message[:40]}"
        yield Conversation(
            Chat(chat.chat_id, chat.user_id, title, chat.turns[0].created_at, chat.turns[-1].created_at),
            tuple(chat.turns),
        )
        number += 1


def asked_alone(words: Words, seed: int, n: int) -> Iterator[Conversation]:
    """Chats that end in a question each, an hour apart, with what was said before it: many repeats and near traps.

    Args:
        words: Families of questions.
        seed: Of every draw.
        n: Chats.
    """
    for i, asked in enumerate(make_stream(words, seed, n)):
        said = [message["content"] for message in asked.history]
        told = [*zip(said[::2], said[1::2], strict=True), (asked.question, answer_to(asked.answer_key))]
        at = BEGIN + timedelta(hours=i)
        turns = tuple(
            Turn(
                turn_id=f"{i}/{place}",
                chat_id=str(i),
                user_id=asked.user,
                parent_turn_id=f"{i}/{place - 1}" if place else None,
                user_message=question,
                created_at=at + timedelta(minutes=place),
                assistant_message=answer,
                status="done",
            )
            for place, (question, answer) in enumerate(told)
        )
        yield Conversation(Chat(str(i), asked.user, f"Sample {i}", at, turns[-1].created_at), turns)


def _next(chat: _Open, asked: Asked, at: datetime, chance: random.Random) -> Turn:
    question, key = asked.question, asked.answer_key
    if chance.random() < IN_OTHER_LANGUAGE:
        question = key = chance.choice(OTHER_LANGUAGES)
    elif chance.random() < OF_ITS_OWN:
        question = key = f"How do I {chance.choice(DOING)} {chance.choice(THINGS)} {chance.choice(PLACES)}?"
    if chance.random() < PASTED:
        pasted = chance.choices(SENTENCES, k=chance.randint(*PASTED_SENTENCES))
        question, key = f"{question}\n\n{' '.join(pasted)}", f"{key} {' '.join(pasted)}"
    before = chat.turns[-1] if chat.turns else None
    parent = None if before is None else before.turn_id
    if before is not None and chance.random() < REGENERATED:
        question, parent, key = before.user_message, before.parent_turn_id, f"{key} anew"
    return Turn(
        turn_id=f"{chat.chat_id}/{len(chat.turns)}",
        chat_id=chat.chat_id,
        user_id=chat.user_id,
        parent_turn_id=parent,
        user_message=question,
        created_at=at,
        assistant_message=answer_to(key),
        status="done",
    )


def answer_to(key: str) -> str:
    """An answer; the same for questions that one answer serves."""
    chance = random.Random(key)
    return f"On {key[:40]}: " + " ".join(chance.choices(SENTENCES, k=chance.randint(*ANSWER_SENTENCES)))


def as_chatgpt(conversations: Iterable[Conversation]) -> list[dict[str, Any]]:
    """Chats in the form of ChatGPT's `conversations.json`; versions of an answer follow the same message."""
    return [_entry(each) for each in conversations]


def _entry(conversation: Conversation) -> dict[str, Any]:
    mapping: dict[str, Any] = {"root": {"id": "root", "message": None, "parent": None, "children": []}}
    asked: dict[tuple[str, str], str] = {}

    def add(node_id: str, parent: str, role: str, said: str, at: datetime) -> None:
        message = {
            "id": node_id,
            "author": {"role": role},
            "create_time": at.timestamp(),
            "content": {"content_type": "text", "parts": [said]},
            "status": "finished_successfully",
            "recipient": "all",
        }
        mapping[node_id] = {"id": node_id, "message": message, "parent": parent, "children": []}
        mapping[parent]["children"].append(node_id)

    for turn in conversation.turns:
        parent = turn.parent_turn_id or "root"
        if (node := asked.get((parent, turn.user_message))) is None:
            node = asked[parent, turn.user_message] = f"{turn.turn_id}/asked"
            add(node, parent, "user", turn.user_message, turn.created_at)
        add(turn.turn_id, node, "assistant", turn.assistant_message or "", turn.created_at + timedelta(seconds=1))
    chat = conversation.chat
    return {
        "title": chat.title,
        "create_time": chat.created_at.timestamp(),
        "update_time": chat.updated_at.timestamp(),
        "mapping": mapping,
        "conversation_id": chat.chat_id,
    }
