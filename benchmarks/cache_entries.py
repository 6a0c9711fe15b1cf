"""100,000 stored answers to measure a cache with: questions, their vectors, and how they are stored.

A twentieth of the questions is embedded; the others have the vector of one that shares their first words, turned by
about 20 degrees, as other ends of a sentence would. What is asked anew shares words with what is stored.
"""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import duckdb
import numpy as np

from chatlab.cache.key import digest
from chatlab.cache.lookup import Ask
from chatlab.cache.reading import normalised
from chatlab.embedding import Embedder
from chatlab.messages import CacheEntry, CacheScope, SamplingParams
from chatlab.settings import Settings
from chatlab.store.answers import UPSERT_ENTRY, entry_row
from chatlab.store.duckdb import FILE
from chatlab.vectors import QUESTIONS, Vector, Vectors
from chatlab.wiring import Parts, wire

N_ENTRIES, N_EMBEDDED = 100_000, 5_000
N_USERS, ZIPF = 400, 1.0  # of "user" scope: the busiest has about 15,000 entries
TURN = 0.36  # tangent of the angle between a vector and its neighbours
LOT = 5_000  # entries stored at a time
ANSWER = "Take your time, and do one step after the other: first what is loose, then what is fixed. " * 8


def _listed(text: str) -> list[str]:
    return text.split(",")


_VERBS = _listed(
    "repair,clean,paint,open,sell,move,store,wrap,measure,lift,polish,replace,insure,label,rent,photograph,weigh,"
    "disinfect,insulate,decorate,donate,recycle,ship,assemble,dismantle,lubricate,varnish,waterproof,sharpen,dry,"
    "steam,bleach,glue,sand,oil,wax,hang,hide,lock,rescue,restore,trade,value,inspect,test,trim,upgrade,"
    "dust,fold,carve"
)
_THINGS = _listed(
    "bicycle,garden shed,kitchen window,leather sofa,wooden table,brass lamp,garage door,water tank,wool carpet,"
    "stone wall,fishing boat,camping tent,electric piano,sewing machine,coffee grinder,baby stroller,roof rack,"
    "bookshelf,wardrobe,chandelier,violin,snow blower,lawn mower,hot tub,mailbox,fire place,picture frame,"
    "wine barrel,bird cage,oak floor,steel gate,rain gutter,tool box,ladder,hammock,canoe,surfboard,telescope,"
    "record player,typewriter,chess board,doll house,rocking chair,bread oven,ice chest,stair rail,copper pot,"
    "mirror,curtain,mattress"
)
_UNSEEN_THINGS = _listed(
    "trampoline,greenhouse,pizza stone,solar panel,treadmill,aquarium,accordion,sled,beehive,dumbwaiter,kayak,"
    "loom,anvil,wheelbarrow,periscope,harpsichord,gazebo,sundial,kiln,teapot"
)
_ENDS = _listed(
    "in winter,before a move,without any tools,on a small budget,in one afternoon,for a friend,at my parents' place,"
    "with two children around,after a flood,in a rented flat,when it rains,by myself,in a humid climate,at night,"
    "for the first time,without a car,near the sea,with a bad back,on a balcony,in the desert,before the guests come,"
    "with what is in the kitchen,as a beginner,for the school fair,in a tiny room,after ten years outside,"
    "without making noise,with only one hand,in a hurry,for a museum,on the third floor,under a low ceiling,"
    "in full sun,without chemicals,for a film set,with a power drill,between two walls,in the mountains,"
    "at minus ten degrees,for resale"
)


@dataclass(frozen=True, slots=True)
class Entries:
    """What is stored, and what can be asked.

    Attributes:
        questions: (N_ENTRIES), no two alike; the first N_EMBEDDED have their own vectors.
        vectors: (N_ENTRIES, dim) float32, unit norm.
    """

    questions: list[str]
    vectors: Vector

    @classmethod
    async def made(cls, embedder: Embedder) -> "Entries":
        """Embedded, which takes half a minute."""
        questions = [*_questions()]
        own: Vector = (await embedder.embed(questions[:N_EMBEDDED])).vectors
        chance = np.random.default_rng(0)
        lots = [own]
        for _ in range(N_ENTRIES // N_EMBEDDED - 1):
            noise = chance.normal(size=own.shape).astype(np.float32)
            turned = own + TURN * noise / np.linalg.norm(noise, axis=1, keepdims=True)
            lots.append((turned / np.linalg.norm(turned, axis=1, keepdims=True)).astype(np.float32))
        return cls(questions, np.concatenate(lots))

    def paraphrased(self, number: int) -> str:
        """A stored question in other words, which its answer serves."""
        return self.questions[number % N_EMBEDDED].replace("How do I", "How can I")


def unseen(number: int) -> str:
    """A question that nobody asked, of about 40,000, though much like some that are stored."""
    number = number * 7_919 % (len(_VERBS) * len(_UNSEEN_THINGS) * len(_ENDS))
    rest, end = divmod(number, len(_ENDS))
    verb, thing = divmod(rest, len(_UNSEEN_THINGS))
    return f"How do I {_VERBS[verb]} a {_UNSEEN_THINGS[thing]} {_ENDS[end]}?"


def _questions() -> Iterator[str]:
    """Blocks of N_EMBEDDED: every verb with every thing and two of the ends."""
    for end in _ENDS:
        for verb in _VERBS:
            for thing in _THINGS:
                yield f"How do I {verb} a {thing} {end}?"


def owners() -> list[str]:
    """Who asked each of the questions: few people ask much, many little."""
    shares = 1 / np.arange(1, N_USERS + 1) ** ZIPF
    drawn = np.random.default_rng(1).choice(N_USERS, N_ENTRIES, p=shares / shares.sum())
    return [f"user-{number}" for number in drawn]


def ask_of(user_id: str, scope: CacheScope, question: str, parts: Parts) -> Ask:
    """A first question with the defaults of a chat."""
    model = f"{parts.engine.facts.engine}/{parts.engine.facts.model}"
    return Ask(user_id, "", "", scope, question, (), None, SamplingParams(), model)


def fill(settings: Settings, entries: Entries, scope: CacheScope, users: Sequence[str]) -> None:
    """Store all entries, those of a user in a bucket of theirs where the scope is "user".

    Args:
        settings: Of an empty data dir.
        entries: What to store.
        scope: Of all of them.
        users: Who asked each question.
    """

    async def fill_vectors(parts: Parts, vectors: Vectors, rows: Sequence[CacheEntry]) -> None:
        by_bucket: dict[str, list[int]] = {}
        for i, row in enumerate(rows):
            by_bucket.setdefault(row.bucket, []).append(i)
        for bucket, places in by_bucket.items():
            await vectors.add(bucket, [rows[i].entry_id for i in places], entries.vectors[places])
        await vectors.flush()
        await vectors.tidy()

    with wire(settings) as parts:
        rows = asyncio.run(_rows(parts, entries.questions, scope, users))
        vectors = Vectors(str(settings.data_dir / "vectors"), parts.embedder.name, QUESTIONS)
        asyncio.run(fill_vectors(parts, vectors, rows))
        vectors.close()
    with duckdb.connect(settings.data_dir / FILE) as connection:  # at once: through the store it takes minutes
        for i in range(0, len(rows), LOT):
            connection.execute(*UPSERT_ENTRY.render([*map(entry_row, rows[i : i + LOT])]))


async def _rows(parts: Parts, questions: Sequence[str], scope: CacheScope, users: Sequence[str]) -> list[CacheEntry]:
    buckets = {
        user: (await parts.answers.look_up(ask_of(user, scope, questions[0], parts))).bucket for user in {*users}
    }
    now = datetime.now(UTC)
    return [
        CacheEntry(
            entry_id=digest(buckets[user], normalised(question)),
            bucket=buckets[user],
            question=question,
            answer=ANSWER,
            user_id=user,
            chat_id="",
            turn_id="",
            saved_tokens=200,
            cost_ms=2_000.0,
            created_at=now,
            expires_at=now + timedelta(days=30),
        )
        for question, user in zip(questions, users, strict=True)
    ]
