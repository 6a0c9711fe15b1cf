"""What is known of lookups: whether the answer at hand serves the question, and the threshold that follows from it.

A miss with a candidate has two answers, the model's and the stored one; so has a hit that was audited. Whether they say
the same is a label; so is what a person says. Labels are stored with their lookups, and read again by the next process.
Belongs to one event loop.
"""

import asyncio
from collections.abc import Sequence

from chatlab.cache.comparator import Answered, agree, opening, shipped
from chatlab.cache.decision import Verifier
from chatlab.cache.lookup import Lookup
from chatlab.cache.questions import Questions
from chatlab.cache.recalibration import Label, Recalibration
from chatlab.cache.verifier import NAME
from chatlab.messages import CacheLookup, LabelSource
from chatlab.store import AnswerRows

REMEMBERED = 30_000  # lookups that a new process reads


class Labels:
    """The labels of a process, and the recalibration that they feed.

    Args:
        rows: Of the store.
        questions: Reads texts, openings of answers too.
        max_error: Share of answers served from the cache that may be wrong.
        verifier: That scores, instead of the shipped one: nothing is served before labels allow it.

    Attributes:
        verifier: Its name.
    """

    def __init__(self, rows: AnswerRows, questions: Questions, max_error: float, verifier: Verifier | None) -> None:
        self._rows = rows
        self._questions = questions
        self._max_error = max_error
        self.verifier = NAME if verifier is None else verifier.name
        self._calibrated = verifier is None or verifier.calibrated
        self._known: Recalibration | None = None
        self._reading: asyncio.Lock = asyncio.Lock()  # guards _known while it is read

    async def recalibration(self) -> Recalibration:
        """What is known by now, with what earlier processes stored."""
        async with self._reading:
            if self._known is None:
                self._known = await self._read()
            return self._known

    async def renew(self) -> Recalibration:
        """What is known by what is stored now, found anew."""
        async with self._reading:
            self._known = await self._read()
            return self._known

    async def _read(self) -> Recalibration:
        return await asyncio.to_thread(known_from, await self.log(), self._max_error, self._calibrated)

    async def log(self) -> list[CacheLookup]:
        """The latest lookups with scores of this verifier, oldest first."""
        return await self._rows.latest(REMEMBERED, self.verifier)

    async def threshold(self) -> float:
        """Least score that may be served."""
        return (await self.recalibration()).threshold

    async def asked(self, exact: bool) -> None:
        """Count one more lookup; whether the exact tier served it."""
        (await self.recalibration()).asked(exact)

    async def compare(self, lookup: Lookup, answer: str, source: LabelSource, weight: float = 1.0) -> None:
        """Take the model's answer to a question as evidence on the stored one.

        Args:
            lookup: With the stored answer.
            answer: The model's, whole.
            source: What it was asked for.
            weight: Lookups that this one stands for.
        """
        if lookup.label is not None or lookup.matched is None or not lookup.nearest or not lookup.nearest.score:
            return
        texts = [lookup.ask.question, lookup.matched.question, opening(answer), opening(lookup.matched.answer)]
        asked, before, ours, theirs = await self._questions.get(texts)
        same = await asyncio.to_thread(agree, Answered(asked, ours), Answered(before, theirs))
        if lookup.label is None:  # a person may have spoken meanwhile
            await self.learn(lookup, Label(lookup.nearest.score, same, weight, source))

    async def person_says(self, lookup: Lookup, same: bool) -> None:
        """Take a person's word on a question under way."""
        assert lookup.nearest is not None
        await self.learn(lookup, Label(lookup.nearest.score, same, source="person"))

    async def learn(self, lookup: Lookup, label: Label) -> None:
        """Take a label of a lookup in, and store it."""
        lookup.label = label
        (await self.recalibration()).learn(label)
        if lookup.noted:
            await self._rows.label(lookup.ask.turn_id, label.same, label.weight, label.source)

    async def person_said(self, found: CacheLookup, same: bool) -> None:
        """Take a person's word on a stored lookup; it outweighs what a comparison said."""
        await self._rows.label(found.turn_id, same, 1.0, "person")
        if found.tier == "semantic" or found.outcome == "miss":
            (await self.recalibration()).learn(Label(found.score or 0.0, same, source="person"))


def known_from(lookups: Sequence[CacheLookup], max_error: float, calibrated: bool = True) -> Recalibration:
    """What stored lookups say, oldest first."""
    recalibration = Recalibration(max_error, shipped(), calibrated)
    for each in lookups:
        if each.outcome != "bypass":
            recalibration.asked(each.tier == "exact")
        if each.same is not None and each.tier != "exact" and each.score:
            recalibration.learn(Label(each.score, each.same, each.label_weight or 1.0, each.label_source or "miss"))
    return recalibration
