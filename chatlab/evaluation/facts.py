"""Which facts of a chat outlive its compression, and which values live on that were replaced.

A chat's turns are noted segment by segment, as the product does it; a run of n segments is a chat after n compactions.
What counts is what a prompt would show: the notes without the statements that later ones replace, and after them, word
for word, the turns that have no note. Notes are not merged here.

A fact is a question whose answer stands, as it is, in a message that it cites. It is looked for in the notes of the run
that covers all those messages. A replaced value is looked for where the run covers the turn that said it first; what
the message that replaces it says of it tells the change, and does not count.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from chatlab.evaluation import bootstrap
from chatlab.evaluation.bootstrap import Estimate
from chatlab.evaluation.dialogues import USER_ID, Dialogue, Question
from chatlab.evaluation.metrics import holds
from chatlab.history import NoteWriter, Piece, note_of
from chatlab.history.budget import Counter, TokenCounts
from chatlab.history.inert import make_inert
from chatlab.history.notes import COMPRESSION, MIN_TOKENS
from chatlab.history.replacements import Replacements
from chatlab.messages import UNKNOWN_TIME, Note, Statement, Turn

COMPACTIONS = (1, 5)
SEGMENT_TOKENS = 1_000
LEAST_SHARE = 0.5  # of a segment, that a chat's last one must have
NO_CATEGORY = "none"


class SegmentNotes:
    """Writes notes as the product does, of statements alone.

    Args:
        counter: An engine.
        writer: Of a builder of prompts for it.
        compression: Tokens of turns for a token of a note.
    """

    def __init__(self, counter: Counter, writer: NoteWriter, compression: float = COMPRESSION) -> None:
        self._facts = counter.facts
        self._tokens = TokenCounts(counter)
        self._writer = writer
        self._compression = compression
        self._replaced = Replacements()

    def tokens(self, turn: Turn) -> int:
        """Of a turn in a prompt."""
        return self._tokens.of_turn(
            turn.user_message, turn.assistant_message or "", lambda text: make_inert(text, self._facts)
        )

    def piece(self, turns: Sequence[Turn], before: Sequence[Note] = ()) -> Piece:
        """Turns to be noted, and the room for their note, which follows others."""
        tokens = sum(map(self.tokens, turns))
        return Piece(tuple(turns), tokens, max(MIN_TOKENS, int(tokens / self._compression)), tuple(before))

    async def note(self, turns: Sequence[Turn], before: Sequence[Note] = ()) -> Note:
        """The note of some turns, which follows others."""
        piece = self.piece(turns, before)
        content = await self._writer.draft(piece)
        first, last = turns[0].turn_id, turns[-1].turn_id
        return note_of(piece, content, f"{first}-{last}", turns[0].chat_id, USER_ID, self._facts.model, UNKNOWN_TIME)

    def standing(self, notes: Sequence[Note], later: Sequence[Turn]) -> list[Statement]:
        """What a prompt shows of notes: their statements without those that the next notes, or later turns, replace."""
        found: list[Statement] = []
        for i, note in enumerate(notes):
            struck = self._replaced.in_note(note, notes[i + 1 :], later)
            found += [each for each in note.statements if (each.role, each.text) not in struck]
        return found


@dataclass(frozen=True, slots=True)
class Probe:
    """A fact of covered turns.

    Attributes:
        key: Of the question.
        compactions: The notes that there are.
        kept: Whether the notes have the answer.
    """

    key: str
    category: str
    compactions: int
    kept: bool


@dataclass(frozen=True, slots=True)
class StaleProbe:
    """A replaced value of covered turns.

    Attributes:
        key: Of the question.
        compactions: The notes that there are.
        old: Whether the prompt has the replaced value.
        new: Whether it has the one that holds.
    """

    key: str
    compactions: int
    old: bool
    new: bool

    @property
    def alone(self) -> bool:
        """The prompt says what no longer holds, and nothing else."""
        return self.old and not self.new

    @property
    def beside(self) -> bool:
        """The prompt says both."""
        return self.old and self.new


@dataclass(frozen=True, slots=True)
class FactReport:
    """What was found in all chats.

    Attributes:
        probes: A fact once for each number of compactions.
        stale_probes: A replaced value once for each.
        compactions: The numbers asked for.
        left_out: Questions whose answer does not stand, as it is, in what they cite.
        turn_tokens: Of all noted turns.
        note_tokens: Of their notes.
        note_seconds: That each note took to write.
        seed: Of the intervals.
    """

    probes: tuple[Probe, ...]
    stale_probes: tuple[StaleProbe, ...]
    compactions: tuple[int, ...]
    left_out: int
    turn_tokens: int
    note_tokens: int
    note_seconds: tuple[float, ...]
    seed: int = 0

    @property
    def compression(self) -> float | None:
        """As it came out."""
        return self.turn_tokens / self.note_tokens if self.note_tokens else None

    @property
    def categories(self) -> tuple[str, ...]:
        """Of the facts, in the order of their names."""
        return tuple(sorted({probe.category for probe in self.probes}))

    def kept(self, compactions: int, category: str | None = None) -> Estimate | None:
        """The share of facts whose answer is in the notes; None where there are none."""
        return self._share(
            probe.kept
            for probe in self.probes
            if probe.compactions == compactions and category in {None, probe.category}
        )

    def stale_alone(self, compactions: int) -> Estimate | None:
        """The share of replaced values that a prompt says without the new one."""
        return self._share(probe.alone for probe in self.stale_probes if probe.compactions == compactions)

    def stale_beside(self, compactions: int) -> Estimate | None:
        """The share of replaced values that a prompt still says besides the new one."""
        return self._share(probe.beside for probe in self.stale_probes if probe.compactions == compactions)

    def as_json(self) -> dict[str, Any]:
        """In the documented shape."""
        return {
            "left_out": self.left_out,
            "compression": self.compression,
            "note_ms_mean": 1e3 * sum(self.note_seconds) / len(self.note_seconds) if self.note_seconds else None,
            "compactions": {
                str(n): {
                    "kept": as_json(self.kept(n)),
                    "kept_by_category": {name: as_json(self.kept(n, name)) for name in self.categories},
                    "stale_alone": as_json(self.stale_alone(n)),
                    "stale_beside": as_json(self.stale_beside(n)),
                }
                for n in self.compactions
            },
        }

    def _share(self, found: Iterator[bool]) -> Estimate | None:
        return bootstrap.share([float(each) for each in found])


def as_json(estimate: Estimate | None) -> dict[str, Any] | None:
    """An estimate for a result file; None stays None."""
    return None if estimate is None else estimate.as_json()


async def survey(
    dialogues: Sequence[Dialogue],
    writer: SegmentNotes,
    segment_tokens: int = SEGMENT_TOKENS,
    compactions: Sequence[int] = COMPACTIONS,
    seed: int = 0,
) -> FactReport:
    """Note chats and look for their facts.

    Args:
        dialogues: With questions; others have nothing to look for.
        writer: Of notes.
        segment_tokens: Of the turns that become a note, about.
        compactions: How many notes follow each other; a chat with fewer segments has no part in it.
        seed: Of the intervals.
    """
    probes: list[Probe] = []
    stale: list[StaleProbe] = []
    notes: list[Note] = []
    left_out = 0
    for dialogue in dialogues:
        facts = [asked for asked in dialogue.questions if _is_fact(dialogue, asked)]
        left_out += len(dialogue.questions) - len(facts)
        turns = [turn for turn in dialogue.turns if turn.assistant_message]
        ends = segments(turns, writer.tokens, segment_tokens)
        written: list[Note] = []
        for begin, end in pairwise([0, *ends]):
            written.append(await writer.note(turns[begin:end], written))
        notes += written
        for n in compactions:
            for last in range(n, len(ends) + 1, n):
                begin, end = ([0, *ends])[last - n], ends[last - 1]
                shown = writer.standing(written[last - n : last], turns[end:])
                probes += _probes(dialogue, facts, turns[begin:end], shown, n)
                stale += _stale_probes(dialogue, facts, turns[begin:end], turns[end:], shown, n)
    return FactReport(
        tuple(probes),
        tuple(stale),
        tuple(compactions),
        left_out,
        sum(note.tokens_before for note in notes),
        sum(note.tokens_after for note in notes),
        tuple(note.latency_ms / 1e3 for note in notes),
        seed,
    )


def segments(turns: Sequence[Turn], size: Callable[[Turn], int], segment_tokens: int) -> list[int]:
    """Where segments end, each of as many tokens or a little more; the last may have fewer, but half of that."""
    ends: list[int] = []
    tokens = 0
    for i, turn in enumerate(turns, 1):
        tokens += size(turn)
        if tokens >= segment_tokens or (i == len(turns) and tokens >= LEAST_SHARE * segment_tokens):
            ends.append(i)
            tokens = 0
    return ends


def _is_fact(dialogue: Dialogue, asked: Question) -> bool:
    cited = [each.content for each in dialogue.utterances if each.utterance_id in (asked.evidence or ())]
    return any(holds(text, asked.answer) for text in cited)


def _probes(
    dialogue: Dialogue, facts: Sequence[Question], covered: Sequence[Turn], shown: Sequence[Statement], n: int
) -> Iterator[Probe]:
    there = {turn.turn_id for turn in covered}
    for fact in facts:
        if there.issuperset(_cited(dialogue, fact)):
            kept = any(holds(each.text, fact.answer) for each in shown)
            yield Probe(_key(dialogue, fact), fact.category or NO_CATEGORY, n, kept)


def _stale_probes(
    dialogue: Dialogue,
    facts: Sequence[Question],
    covered: Sequence[Turn],
    later: Sequence[Turn],
    shown: Sequence[Statement],
    n: int,
) -> Iterator[StaleProbe]:
    there = {turn.turn_id for turn in covered}
    after = "\n".join(f"{turn.user_message}\n{turn.assistant_message or ''}" for turn in later)
    for fact in facts:
        if fact.stale is None:
            continue
        said = next((each for each in dialogue.utterances if holds(each.content, fact.stale)), None)
        if said is not None and dialogue.turns[said.turn_index].turn_id in there:
            changed = _cited(dialogue, fact)
            old = any(holds(each.text, fact.stale) for each in shown if each.turn_id not in changed)
            new = any(holds(each.text, fact.answer) for each in shown) or holds(after, fact.answer)
            yield StaleProbe(_key(dialogue, fact), n, old, new)


def _cited(dialogue: Dialogue, asked: Question) -> frozenset[str]:
    """The ids of the turns that a question cites."""
    cited = asked.evidence or ()
    return frozenset(dialogue.turns[e.turn_index].turn_id for e in dialogue.utterances if e.utterance_id in cited)


def _key(dialogue: Dialogue, asked: Question) -> str:
    return f"{dialogue.sample_id}:{asked.index}"
