"""Notes beside what people wrote of the same turns, by ROUGE-1: ours, a model's own text, and the first lines.

LEAD-3 is the reference: the first three utterances. People retell where our notes quote, so figures compare notes with
each other, and none of them with 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chatlab.engines.base import Engine
from chatlab.evaluation import bootstrap
from chatlab.evaluation.bootstrap import Estimate
from chatlab.evaluation.dialogues import USER_ID, Dialogue
from chatlab.evaluation.facts import SegmentNotes, as_json
from chatlab.evaluation.metrics import rouge_1
from chatlab.history.note_writer import SUMMARY_SHARE
from chatlab.history.notes import VOICE
from chatlab.messages import Turn
from chatlab.summarizer import summarize

LEAD = 3  # utterances


@dataclass(frozen=True, slots=True)
class Scored:
    """The F1 of one chat's notes with what people wrote.

    Attributes:
        key: The chat.
        ledger: Of our notes.
        lead: Of the first utterances.
        model: Of what the model wrote, sound or not; None where it was not asked.
        sound: Whether the product would have used that.
    """

    key: str
    ledger: float
    lead: float
    model: float | None = None
    sound: bool = False


@dataclass(frozen=True, slots=True)
class SummaryReport:
    """Of all chats with notes that people wrote; the intervals' seed."""

    scored: tuple[Scored, ...]
    seed: int = 0

    @property
    def ledger(self) -> Estimate | None:
        """Our notes."""
        return self._mean([each.ledger for each in self.scored])

    @property
    def lead(self) -> Estimate | None:
        """The first utterances."""
        return self._mean([each.lead for each in self.scored])

    @property
    def ledger_minus_lead(self) -> Estimate | None:
        """The mean paired difference."""
        return self._mean([each.ledger - each.lead for each in self.scored])

    @property
    def model(self) -> Estimate | None:
        """What the model wrote."""
        return self._mean([each.model for each in self.scored if each.model is not None])

    @property
    def model_minus_ledger(self) -> Estimate | None:
        """The mean paired difference, over the chats that the model was asked about."""
        return self._mean([each.model - each.ledger for each in self.scored if each.model is not None])

    @property
    def sound(self) -> Estimate | None:
        """The share of what the model wrote that the product would have used."""
        return self._mean([float(each.sound) for each in self.scored if each.model is not None])

    def as_json(self) -> dict[str, Any]:
        """In the documented shape."""
        found = {
            "ledger": self.ledger,
            "lead_3": self.lead,
            "ledger_minus_lead_3": self.ledger_minus_lead,
            "model": self.model,
            "model_minus_ledger": self.model_minus_ledger,
            "model_sound": self.sound,
        }
        return {name: as_json(each) for name, each in found.items()}

    def _mean(self, values: Sequence[float]) -> Estimate | None:
        return bootstrap.mean(values, self.seed)


async def score_summaries(
    dialogues: Sequence[Dialogue], writer: SegmentNotes, engine: Engine | None = None, n: int = 0, seed: int = 0
) -> SummaryReport:
    """Hold notes against what people wrote.

    Args:
        dialogues: Those without notes by people are left out.
        writer: Of our notes, one a chat.
        engine: Of the model that writes, too; greedy.
        n: Most chats that it writes about, drawn with the seed.
        seed: Of the draw and the intervals.

    Raises:
        ChatlabError: The engine failed.
    """
    noted = [dialogue for dialogue in dialogues if dialogue.notes and _covered(dialogue)]
    drawn = set(np.random.default_rng(seed).permutation(len(noted))[:n].tolist()) if engine is not None else set[int]()
    scored: list[Scored] = []
    for i, dialogue in enumerate(noted):
        human = VOICE.sub("", "\n".join(dialogue.notes))
        covered = _covered(dialogue)
        note = await writer.note(covered)
        first = [each.content for each in dialogue.utterances][:LEAD]
        model, sound = None, False
        if engine is not None and i in drawn:
            summary = await summarize(engine, covered, int(SUMMARY_SHARE * writer.piece(covered).room), USER_ID)
            model, sound = rouge_1(summary.text, human), summary.flaw is None
        ledger = rouge_1("\n".join(each.text for each in note.statements), human)
        scored.append(Scored(dialogue.sample_id, ledger, rouge_1("\n".join(first), human), model, sound))
    return SummaryReport(tuple(scored), seed)


def _covered(dialogue: Dialogue) -> Sequence[Turn]:
    """The turns that people wrote of; who summed up a whole talk has seen its last turn, which the notes leave out."""
    whole = dialogue.notes_turn >= len(dialogue.turns) - 1
    return dialogue.turns if whole else dialogue.turns[: dialogue.notes_turn]
