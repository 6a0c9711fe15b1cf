"""What the page shows, as plain values: where it is, which branch, what comes next. Knows no Gradio and no HTML."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import TypeAdapter, ValidationError

from chatlab.messages import Chat, ChatSettings, Similar, Turn, path_to

TITLE_CHARS = 60
MARKUP = re.compile(r"\*\*|__|`|^\s*#+ ", re.MULTILINE)  # of Markdown; a title has none
PAGE_TURNS = 20  # turns of a long chat shown at once; more on request
MAX_TURNS = 500


@dataclass(frozen=True, slots=True)
class Place:
    """Where a page is. The browser keeps it as JSON and sends it with each event; it grants nothing.

    Attributes:
        chat: The chat on show, empty for a new one.
        leaf: The last turn of the branch on show, empty for the newest.
        title: The chat's title, for the window.
        turns: Most turns shown, counted from the end; 0 for the usual number.
        archived: Whether the chat is only read.
        n: Counts what the browser asked to see; an answer to an earlier wish is known by it.
    """

    chat: str = ""
    leaf: str = ""
    title: str = ""
    turns: int = PAGE_TURNS
    archived: bool = False
    n: int = 0

    @staticmethod
    def of(text: str) -> "Place":
        """From what a browser sent; what cannot be read is a new chat."""
        try:
            return _place.validate_json(text)
        except ValidationError:
            return Place()

    def to_json(self) -> str:
        """As the browser keeps it."""
        return _place.dump_json(self).decode()


_place = TypeAdapter(Place)


@dataclass(frozen=True, slots=True)
class View:
    """What the page shows next; None leaves a part as it is, so that `View()` changes nothing.

    Attributes:
        place: Where the page is now.
        earlier: The turns before the last one, as HTML.
        latest: The last turn, the one that may be growing, as HTML.
        notes: The panel of notes, as HTML.
        chosen: The settings in the panel.
    """

    place: Place | None = None
    earlier: str | None = None
    latest: str | None = None
    notes: str | None = None
    chosen: ChatSettings | None = None


@dataclass(frozen=True, slots=True)
class Branch:
    """A path through a chat's turns, with what was chosen at each fork.

    Attributes:
        turns: Root first.
        siblings: For each turn, the ids of all turns with the same parent, oldest first.
        read_only: Whether nothing can be done with it.
        similar: What may do until the last turn, which is under way, has its answer.
    """

    turns: tuple[Turn, ...]
    siblings: tuple[tuple[str, ...], ...]
    read_only: bool = False
    similar: Similar | None = None


def plain(value: object) -> str:
    """Text that can be stored, of whatever came: without NUL characters and lone surrogates; else empty."""
    return value.replace("\x00", "").encode(errors="replace").decode() if isinstance(value, str) else ""


def title_of(message: str) -> str:
    """A title for a chat that begins with this message: its first line, shortened."""
    line = " ".join(MARKUP.sub("", plain(message)).strip().partition("\n")[0].split())
    return line if len(line) <= TITLE_CHARS else line[: TITLE_CHARS - 1].rstrip() + "…"


def branch_to(turns: Sequence[Turn], leaf: str) -> Branch:
    """The branch that goes through `leaf` and on to the newest turn below it; the newest branch for an unknown one.

    Args:
        turns: All turns of a chat, oldest first.
        leaf: A turn's id, or empty.
    """
    children: dict[str | None, list[str]] = {}
    for turn in turns:
        children.setdefault(turn.parent_turn_id, []).append(turn.turn_id)
    if not any(turn.turn_id == leaf for turn in turns):
        leaf = turns[-1].turn_id if turns else ""
    while below := children.get(leaf):
        leaf = below[-1]
    path = path_to(turns, leaf or None)
    return Branch(path, tuple(tuple(children[turn.parent_turn_id]) for turn in path))


def with_turn(branch: Branch, turn: Turn) -> Branch:
    """The branch with a newer state of its last turn."""
    return replace(branch, turns=(*branch.turns[:-1], turn))


def place_in(place: Place, chat: Chat, branch: Branch) -> Place:
    """The place of a page that shows a branch of a chat; another chat begins with its last turns."""
    turns = max(PAGE_TURNS, min(MAX_TURNS, place.turns)) if place.chat == chat.chat_id else PAGE_TURNS
    for at, turn in enumerate(branch.turns):
        if turn.turn_id == place.leaf:  # what was asked for is among them
            turns = max(turns, len(branch.turns) - at)
    leaf = branch.turns[-1].turn_id if branch.turns else ""
    return Place(chat.chat_id, leaf, chat.title or "", turns, chat.archived, place.n)
