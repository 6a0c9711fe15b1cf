"""Writes `data/notes_dev.jsonl`, `notes_check.jsonl` and `notes_test.jsonl`: made-up chats full of small facts.

Each chat is small talk, questions about the world and long answers, over some days. In it stand facts of one clause,
one or two a message; a fifth of them gets another value later. The words come from `notes_dev.toml` and
`notes_test.toml`, which share no template, name, place or object. A value stands only where its fact is said, and so
does the one that it replaced. Nothing is anybody's.
"""

import json
import re
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

from pydantic import BaseModel

SEED = 11
SPLITS = ("dev", "check", "test")
N_CHATS = 8
SESSIONS = 5
TOKENS = 4_900
FACTS, UPDATES, ASSISTANT_FACTS, PAIRS, LISTS = 35, 7, 4, 3, 2
NEAREST_UPDATE, FARTHEST_UPDATE = 320, 2_300  # tokens after the message that is updated
WORDS = Path(__file__).parent
TARGET = WORDS.parent / "data"

_SLOT = re.compile(r"\{(?:(\d+)-(\d+)|(\w+)(!?))\}")
_CONTRACTION = re.compile(r"\b(i|it|that|we|they|don|can|won|isn|doesn|didn)'(m|s|t|d|ve|re|ll)\b")


class Template(BaseModel):
    """How a kind of fact is said, changed and asked for; `twin` plants it twice, for two subjects."""

    category: str
    question: str
    values: list[str]
    said: list[str]
    subjects: list[str] = [""]
    update: list[str] = []
    ask: list[str] = []
    twin: bool = False


class Exchange(BaseModel):
    """A turn without facts; `follows` keeps it behind the one before it."""

    user: str
    assistant: str
    follows: bool = False


class Paragraph(BaseModel):
    """A question about the world and its long answer."""

    ask: str
    answer: str


class Words(BaseModel):
    """All that a split is made of; `characters_in_token` of SmolLM2, which is not needed to write the chats."""

    title: str
    characters_in_token: float
    begun: datetime
    greetings: list[str]
    plain: list[str]
    beside: list[str]
    pairs: list[str]
    lists: list[str]
    list_fillers: list[str]
    chatter: list[str]
    acks: list[str]
    tails: list[str]
    values: dict[str, list[str]]
    facts: list[Template]
    chats: list[Exchange]
    paragraphs: list[Paragraph]


@dataclass(eq=False)
class Fact:
    """A planted fact; `clause` says it with `value`, `change` with `new`."""

    template: Template
    subject: str
    value: str
    clause: str
    new: str | None = None
    change: str | None = None


@dataclass
class Block:
    """Turns that stay together, and the facts that the first of them says or changes."""

    turns: list[tuple[str, str]]
    facts: list[Fact] = field(default_factory=list[Fact])
    changes: bool = False

    @property
    def characters(self) -> int:
        """Its length."""
        return sum(len(user) + len(assistant) for user, assistant in self.turns)


class Deck:
    """Options in a random order, none again before all have been drawn."""

    def __init__(self, random: Random, options: Sequence[str]) -> None:
        self._random, self._options, self._left = random, [*options], list[str]()

    def draw(self) -> str:
        """The next one."""
        if not self._left:
            self._left = self._random.sample(self._options, len(self._options))
        return self._left.pop()


class Writer:
    """Writes one chat."""

    def __init__(self, words: Words, random: Random) -> None:
        self.words, self.random = words, random
        self.values: list[str] = []  # what stands in one place only
        self.clauses: list[str] = []
        names = ("greetings", "plain", "beside", "pairs", "lists", "list_fillers", "chatter", "acks", "tails")
        self.decks = {name: Deck(random, getattr(words, name)) for name in names}
        self.paragraphs = random.sample(words.paragraphs, len(words.paragraphs))

    def fill(self, text: str, same: bool = True) -> str:
        """The text with words in its slots; the same word in the same slot, unless told otherwise."""
        drawn: dict[str, str] = {}

        def one(slot: re.Match[str]) -> str:
            low, high, name, upper = slot.groups()
            if low:
                return str(self.random.randint(int(low), int(high)))
            if name == "A":
                return self.random.choice("ABCDEFGHJKLMNPRSTVWXYZ")
            if not same or name not in drawn:
                drawn[name] = self.random.choice(self.words.values[name])
            return drawn[name].capitalize() if upper else drawn[name]

        return _SLOT.sub(one, text)

    def free(self, text: str) -> bool:
        """Whether no value stands in a text."""
        return not any(value in text.casefold() for value in self.values)

    def draw(self, deck: str) -> str:
        """Small talk or a frame for it in which no value stands."""
        while not self.free(
            text := self.fill(self.decks[deck].draw()) if deck == "chatter" else self.decks[deck].draw()
        ):
            pass
        return text

    def facts(self) -> tuple[list[Fact], list[Fact], list[Fact]]:
        """Those that stay, those that are updated, those that the assistant states."""
        templates = self.random.sample(self.words.facts, len(self.words.facts))
        stated = [self.plant(t) for t in templates if t.ask][:ASSISTANT_FACTS]
        own = sorted((t for t in templates if not t.ask), key=lambda t: not t.update)
        updated, kept = own[:UPDATES], self.random.sample(own[UPDATES:], len(own) - UPDATES)
        changed = [self.plant(t, changes=True) for t in updated]
        stay = [self.plant(t, beside=fact) for t, fact in zip(updated, changed, strict=True) if t.twin]
        for template in kept:
            stay.append(self.plant(template))
            if template.twin:
                stay.append(self.plant(template, beside=stay[-1]))
        return stay[: FACTS - UPDATES - ASSISTANT_FACTS], changed, stated

    def plant(self, template: Template, changes: bool = False, beside: Fact | None = None) -> Fact:
        """A fact whose values stand nowhere else yet."""
        subject = self.random.choice([each for each in template.subjects if not beside or each != beside.subject])
        while True:
            said, update = self.random.choice(template.said), self.random.choice(template.update) if changes else ""
            old, new = (self.fill(self.random.choice(template.values), same=False) for _ in range(2))
            clause = said.replace("{v}", old).replace("{s}", subject)
            change = update.replace("{v}", new).replace("{old}", old).replace("{s}", subject)
            values = [old.casefold(), new.casefold()][: 1 + changes]
            said_before = "\n".join([*self.clauses, said, update, subject, template.question]).casefold()
            apart = not changes or (values[0] not in values[1] and values[1] not in values[0])
            halves = old.split(" and ")
            elsewhere = any(value in said_before for value in values)
            if apart and not elsewhere and len({*halves}) == len(halves) and self.free(clause + change):
                break
        self.values += values
        self.clauses += [clause, change]
        return Fact(template, subject, old, clause, *((new, change) if changes else ()))

    def message(self, clauses: list[str], question: str | None = None) -> str:
        """What the user writes around one or two facts, and a question of theirs."""
        chatter = [self.draw("chatter") for _ in range(self.random.choice((0, 1, 1, 2)))]
        place = self.random.randint(0, len(chatter))
        if len(clauses) == 2:
            core = self.draw("pairs").replace("{a}", clauses[0]).replace("{b}", clauses[1])
        elif question:
            question += "" if question[-1] in "?.!" else "."
            core = self.draw("beside").replace("{c}", clauses[0]).replace("{q}", question)
            chatter = chatter[:1]
        else:
            core = self.draw("plain").replace("{c}", clauses[0])
        text = " ".join([*chatter[:place], core, *chatter[place:]])
        text = re.sub(r"(^|[.!?] )([a-z])", lambda found: found[1] + found[2].upper(), text)
        return self.sloppy(text) if self.random.random() < 0.3 else text

    def sloppy(self, text: str) -> str:
        """As people type in a hurry."""
        return _CONTRACTION.sub(r"\1\2", text.lower()).rstrip(".!")

    def reply(self) -> str:
        """What the assistant says to a fact."""
        return self.draw("acks") + (f" {self.draw('tails')}" if self.random.random() < 0.65 else "")

    def paragraph(self) -> Paragraph:
        """The next one in which no value stands."""
        while not self.free((found := self.paragraphs.pop()).ask + found.answer):
            pass
        return found

    def told(self, fact: Fact, clause: str, changes: bool = False) -> Block:
        """A fact in a message of its own, or beside a question."""
        if self.random.random() < 0.25:
            about = self.paragraph()
            return Block([(self.message([clause], about.ask), about.answer)], [fact], changes)
        return Block([(self.message([clause]), self.reply())], [fact], changes)

    def stated(self, fact: Fact) -> Block:
        """A fact that the assistant gives."""
        ask, answer = self.random.choice(fact.template.ask), fact.clause
        if self.random.random() < 0.5:
            ask = f"{self.draw('chatter')} {ask}"
        return Block([(ask, f"{answer} {self.draw('tails')}" if self.random.random() < 0.5 else answer)], [fact])

    def together(self, facts: list[Fact], listed: bool) -> Block:
        """Two facts in a message."""
        clauses = [fact.clause for fact in facts]
        if not listed:
            return Block([(self.message(clauses), self.reply())], facts)
        text = self.draw("lists").replace("{a}", clauses[0]).replace("{b}", clauses[1])
        return Block([(text.replace("{x}", self.draw("list_fillers")), self.reply())], facts)

    def small_talk(self) -> list[Block]:
        """Exchanges without facts, in a random order."""
        blocks: list[Block] = []
        for each in self.words.chats:
            user, assistant = self.fill(f"{each.user}\0{each.assistant}").split("\0")
            if each.follows:
                blocks[-1].turns.append((user, assistant))
            else:
                blocks.append(Block([(user, assistant)]))
        free = [block for block in blocks if all(self.free(" ".join(turn)) for turn in block.turns)]
        return self.random.sample(free, len(free))

    def blocks(self) -> list[Block]:
        """The whole chat in its order."""
        stay, changed, stated = self.facts()
        # 1. The facts as they are first said.
        single = self.random.sample([*stay, *changed], len(stay) + len(changed))
        doubled = [[single.pop(), single.pop()] for _ in range(PAIRS + LISTS)]
        order = [self.together(facts, listed=i < LISTS) for i, facts in enumerate(doubled)]
        order += [self.told(fact, fact.clause) for fact in single]
        order += map(self.stated, stated)
        updates = [self.told(fact, fact.change, changes=True) for fact in changed if fact.change]
        # 2. Talk between them, as much as there is room for.
        talk = self.small_talk()
        while sum(map(self.tokens, (*order, *updates))) < TOKENS - 60:
            if talk and self.random.random() < 0.5:
                order.append(talk.pop())
            else:
                about = self.paragraph()
                order.append(Block([(about.ask, about.answer)]))
        # 3. What is updated stands early enough.
        self.random.shuffle(order)
        early = len(order) * 6 // 10
        for i in range(early, len(order)):
            if any(fact.change for fact in order[i].facts):
                j = self.random.choice([j for j in range(early) if not any(f.change for f in order[j].facts)])
                order[i], order[j] = order[j], order[i]
        for update in self.random.sample(updates, len(updates)):
            self.insert(order, update)
        return order

    def tokens(self, block: Block) -> float:
        """About as many as a tokenizer would count."""
        return block.characters / self.words.characters_in_token

    def insert(self, order: list[Block], update: Block) -> None:
        """Put an update some way behind what it changes."""
        (place,) = (i for i, block in enumerate(order) if update.facts[0] in block.facts and not block.changes)
        wanted, passed = self.random.uniform(NEAREST_UPDATE, FARTHEST_UPDATE), 0.0
        for i in range(place + 1, len(order)):
            if passed >= wanted:
                order.insert(i, update)
                return
            passed += self.tokens(order[i])
        order.append(update)

    def chat(self, index: int) -> dict[str, Any]:
        """One chat of a file."""
        order = self.blocks()
        starts = {len(order) * i // SESSIONS: i for i in range(SESSIONS)}
        begun = self.words.begun + timedelta(days=23 * index)
        messages: list[dict[str, Any]] = []
        said: dict[tuple[Fact, bool], dict[str, Any]] = {}
        for i, block in enumerate(order):
            date = begun + timedelta(days=4 * starts[i], hours=starts[i] * 5 % 4) if i in starts else None
            for j, turn in enumerate(block.turns):
                first = date if not j else None
                texts = (f"{self.draw('greetings')} {turn[0]}" if first else turn[0], turn[1])
                for role, content in zip(("user", "assistant"), texts, strict=True):
                    messages.append({"role": role, "content": content, "id": f"n{len(messages)}"})
                if first:
                    messages[-2]["date"] = first.isoformat()
                for fact in block.facts if not j else ():
                    said[fact, block.changes] = messages[-1 if fact.template.ask else -2]
        questions = [_asked(fact, message, said) for (fact, new), message in said.items() if new or not fact.change]
        return {"sample_id": f"notes-{self.words.title}-{index}", "messages": messages, "questions": questions}


def _asked(fact: Fact, message: dict[str, Any], said: dict[tuple[Fact, bool], dict[str, Any]]) -> dict[str, Any]:
    question = fact.template.question.replace("{s}", fact.subject)
    asked = {"question": question, "answer": _as_written(fact.new or fact.value, message), "evidence": [message["id"]]}
    asked["category"] = "update" if fact.new else fact.template.category
    if fact.new:
        asked["stale"] = _as_written(fact.value, said[fact, False])
    return asked


def _as_written(value: str, message: dict[str, Any]) -> str:
    """The value with the capitals that it has in the message."""
    place = message["content"].casefold().index(value.casefold())
    return message["content"][place : place + len(value)]


def read_words(split: str) -> Words:
    """What the chats of a split are made of."""
    return Words.model_validate(tomllib.loads((WORDS / f"notes_{split}.toml").read_text(encoding="utf-8")))


def main(folder: Path = TARGET) -> int:
    """Write both files."""
    for split in SPLITS:
        words = read_words(split)
        chats = [Writer(words, Random(f"{SEED}:{split}:{i}")).chat(i) for i in range(N_CHATS)]
        lines = [json.dumps(chat, ensure_ascii=False) for chat in chats]
        (folder / f"notes_{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
