"""What the model sees of a conversation: the prompt, within a token budget, counted exactly."""

from chatlab.history.judge import Judge
from chatlab.history.note_writer import NoteWriter, note_of
from chatlab.history.notes import NOTING, Piece, chain, lines_of, text_of
from chatlab.history.prompt import Outlook, Prompt, PromptBuilder, PromptInput
from chatlab.history.recall import Recall
from chatlab.history.recipe import stored_messages
from chatlab.history.strategies import recalls
from chatlab.history.unstored import UnstoredNotes

__all__ = [
    "NOTING",
    "Judge",
    "NoteWriter",
    "Outlook",
    "Piece",
    "Prompt",
    "PromptBuilder",
    "PromptInput",
    "Recall",
    "UnstoredNotes",
    "chain",
    "lines_of",
    "note_of",
    "recalls",
    "stored_messages",
    "text_of",
]
