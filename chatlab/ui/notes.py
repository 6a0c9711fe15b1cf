"""The notes of a branch as HTML: what stands in the prompt for old turns, to be read, corrected and deleted.

Everything from a person or a model goes through `escape`. Buttons carry what they do in `data-do`; `scripts/notes.js`
passes that on. What is being typed into a note is the browser's, and is never renewed from here.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from itertools import groupby

from chatlab.history import lines_of
from chatlab.messages import Note, NoteKind, Turn
from chatlab.ui.view import MAX_TURNS, Branch

KINDS: Mapping[NoteKind, str] = {
    "ledger": "word for word",
    "model": "with the model's summary",
    "edited": "edited by you",
}
SPEAKERS: Mapping[str | None, str] = {"user": "You", "assistant": "Answer", None: "Summary"}


def notes_html(notes: Sequence[Note], branch: Branch) -> str:
    """The folded panel: the notes whose turns are all on the branch, oldest first; empty where there is none."""
    places = {turn.turn_id: place for place, turn in enumerate(branch.turns)}
    here = [note for note in notes if note.kind != "deleted" and places.keys() >= set(note.turn_ids)]
    if not here:
        return ""
    here.sort(key=lambda note: [places[turn_id] for turn_id in note.turn_ids])
    newest = branch.turns[-1]
    items = "".join(_item(note, places, newest, branch.read_only) for note in here)
    return (
        f'<details class="notes" data-chat="{escape(newest.chat_id)}"><summary data-do="notes">Notes · {len(here)}'
        '</summary><p class="about">They stand in the prompt for old turns that no longer fit. The turns themselves '
        f"stay as they are.</p><ul>{items}</ul></details>"
    )


def noted_turns(turn: Turn) -> set[str]:
    """The ids of the turns that notes stood for in a turn's prompt."""
    prompt = turn.provenance.prompt
    return set(prompt.turn_ids_in("summary")) if prompt is not None else set()


def _item(note: Note, places: Mapping[str, int], newest: Turn, read_only: bool) -> str:
    turns = _turns(note, places)
    facts = f"{note.tokens_before:,} → {note.tokens_after:,} tokens", KINDS.get(note.kind, ""), _carried(note, newest)
    return (
        f'<li data-note="{escape(note.note_id)}" data-revision="{note.revision}" data-turns="{turns}">'
        f'<p class="stands">{_way_back(note, places, turns)} <span>{escape(" · ".join(facts))}</span></p>'
        f'<div class="body">{said_html(note.text)}<p class="origin">{_origin(note)}</p>'
        f"{'' if read_only else _tools(turns)}</div>"
        # The parser takes the first line end of a text area away.
        f'<textarea hidden class="raw" aria-hidden="true">\n{escape(note.text)}</textarea></li>'
    )


def _turns(note: Note, places: Mapping[str, int]) -> str:
    first, last = places[note.turn_ids[0]] + 1, places[note.turn_ids[-1]] + 1
    return f"turn {first}" if first == last else f"turns {first}–{last}"


def _way_back(note: Note, places: Mapping[str, int], turns: str) -> str:
    """A button that shows the first of the turns, if the page can show so many."""
    back = len(places) - places[note.turn_ids[0]]
    if back > MAX_TURNS:
        return f"<b>{turns.capitalize()}</b>"
    return (
        f'<button type="button" class="plain" data-do="to-turn" data-turn="{escape(note.turn_ids[0])}" '
        f'data-back="{back}" title="Show these turns">{turns.capitalize()}</button>'
    )


def _carried(note: Note, newest: Turn) -> str:
    """Whether the newest prompt had it; a note that was written or changed since then, it had not."""
    if not noted_turns(newest) >= set(note.turn_ids):
        return "not in the newest prompt"
    return "in the newest prompt" if note.updated_at <= newest.created_at else "changed since the newest prompt"


def said_html(text: str) -> str:
    """What a note says, by speaker."""
    said = ""
    for role, lines in groupby(lines_of(text), lambda line: line.role):
        said += f"<dt>{SPEAKERS[role]}</dt>" + "".join(f"<dd>{escape(line.text)}</dd>" for line in lines)
    return f"<dl>{said}</dl>" if said else "<p>Nothing in there looked like something to remember.</p>"


def _origin(note: Note) -> str:
    """The model and the time."""
    what = "Summary by" if note.kind == "model" else "Counted by"
    model = f"{what} {escape(note.model)} · " if note.model else ""
    changed = f" · changed {_time(note.updated_at)}" if note.revision > 1 else ""
    return f"{model}{'written' if model else 'Written'} {_time(note.created_at)}{changed}"


def _time(at: datetime) -> str:
    return f'<time datetime="{at.isoformat()}">{at:%Y-%m-%d %H:%M} UTC</time>'


def _tools(turns: str) -> str:
    def button(do: str, name: str) -> str:
        return (
            f'<button type="button" class="plain" data-do="{do}">{name}<span class="sr-only"> the note of {turns}'
            "</span></button>"
        )

    return f'<div class="buttons">{button("edit-note", "Edit")}{button("delete-note", "Delete")}</div>'
