"""Messages of a tree into turns. No recursion: a chat may be a hundred thousand messages deep.

A turn is a user's message and its answer. Answers to the same message are versions: turns with the same parent and the
same user message. Assistant messages that follow each other are one answer. Three things have no turn of their own in
other tools, and get a user message that says so: an assistant that wrote first, one that went on where others branch
off, and a message without any text.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal

from chatlab.exchange.faults import fault
from chatlab.exchange.values import EPOCH, last_of
from chatlab.messages import Feedback, Provenance, Turn, TurnStatus

WROTE_FIRST = "[The assistant wrote first]"
WENT_ON = "[The assistant went on]"
NOTHING_SAID = "[Empty message]"
NO_QUESTIONS = frozenset((WROTE_FIRST, WENT_ON, NOTHING_SAID))
MISSING_PARENT = "links to messages that are not in the file (what followed them begins a branch)"
TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Node:
    """A message of a tree.

    Attributes:
        node_id: Unique in its chat.
        parent_id: Of the message that it follows.
        role: None is a message that is passed over: what follows it follows its parent.
        place: Where it is in the file.
        at: When it was begun.
        until: When it was complete.
        status: Of an answer.
    """

    node_id: str
    parent_id: str | None
    role: Literal["user", "assistant"] | None
    text: str
    place: str
    at: datetime | None = None
    until: datetime | None = None
    model: str | None = None
    status: TurnStatus = "done"
    feedback: Feedback | None = None


@dataclass(frozen=True, slots=True)
class _Draft:
    """A turn before its time is set."""

    turn: Turn
    asked_id: str
    asked_at: datetime | None
    answered_at: datetime | None


def turns_of(
    nodes: Sequence[Node], chat_id: str, begun_at: datetime | None, left_out: Counter[str]
) -> tuple[Turn, ...]:
    """The turns of a chat's messages, oldest first, each with a time of its own and later than its parent.

    Args:
        nodes: In the file's order.
        chat_id: Of the chat.
        begun_at: The chat's time, for messages without one.
        left_out: Counts what has no place.

    Raises:
        ExchangeError: Two messages have one id, or some follow each other in a circle.
    """
    parents = _kept_parents(nodes, left_out)
    by_id = {node.node_id: node for node in nodes if node.role is not None}
    children: defaultdict[str | None, list[Node]] = defaultdict(list)
    for node in by_id.values():
        children[parents[node.node_id]].append(node)
    drafts: list[_Draft] = []
    turn_after: dict[str, str] = {}  # the turn that a message completes
    waiting = [*reversed(children[None])]
    while waiting:
        node = waiting.pop()
        below = children[node.node_id]
        waiting += reversed(below)
        parent = by_id.get(parents[node.node_id] or "")
        if node.role == "user":
            if not any(child.role == "assistant" for child in below) or any(child.role == "user" for child in below):
                drafts.append(_draft(chat_id, node, (), _turn_before(node, parents, turn_after)))
                turn_after[node.node_id] = node.node_id
        elif not (parent is not None and parent.role == "assistant" and len(children[parent.node_id]) == 1):
            answer = _answer(node, children)
            asked = parent if parent is not None and parent.role == "user" else None
            before = _turn_before(asked or node, parents, turn_after)
            drafts.append(_draft(chat_id, asked or _unasked(node, parent), answer, before))
            turn_after |= {each.node_id: answer[-1].node_id for each in answer}
    places = {node.node_id: place for place, node in enumerate(nodes)}
    return _timed(drafts, places, begun_at or EPOCH)


def _kept_parents(nodes: Iterable[Node], left_out: Counter[str]) -> Mapping[str, str | None]:
    """For each message, the nearest one above it that is kept."""
    by_id: dict[str, Node] = {}
    for node in nodes:
        if node.node_id in by_id:
            raise fault(node.place, f"has the id of another message, {node.node_id!r}: each needs its own")
        by_id[node.node_id] = node
    found: dict[str | None, str | None] = {None: None}
    for start in by_id.values():
        path: list[Node] = []
        on_path: set[str] = set()
        at: str | None = start.node_id
        while at not in found:
            if at in on_path:
                raise fault(start.place, "follows itself: its chain of parents is a circle")
            if (node := by_id.get(at or "")) is None:
                left_out[MISSING_PARENT] += 1
                found[at] = None
                break
            path.append(node)
            on_path.add(node.node_id)
            at = node.parent_id
        for node in reversed(path):
            above = by_id.get(node.parent_id or "")
            kept = above is not None and above.role is not None
            found[node.node_id] = node.parent_id if kept else found[node.parent_id]
    return {node_id: parent for node_id, parent in found.items() if node_id is not None}


def _answer(first: Node, children: Mapping[str | None, Sequence[Node]]) -> tuple[Node, ...]:
    """The assistant's messages from one on, as long as nothing branches off."""
    chain = [first]
    while len(below := children[chain[-1].node_id]) == 1 and below[0].role == "assistant":
        chain.append(below[0])
    return tuple(chain)


def _unasked(answer: Node, parent: Node | None) -> Node:
    text = WROTE_FIRST if parent is None else WENT_ON
    return replace(answer, role="user", text=text)


def _turn_before(node: Node, parents: Mapping[str, str | None], turn_after: Mapping[str, str]) -> str | None:
    above = parents[node.node_id]
    return None if above is None else turn_after[above]


def _draft(chat_id: str, asked: Node, answer: Sequence[Node], parent_turn_id: str | None) -> _Draft:
    last = answer[-1] if answer else None
    answered_at = answer[0].at if answer else None
    turn = Turn(
        turn_id=last.node_id if last else asked.node_id,
        chat_id=chat_id,
        user_id="",
        parent_turn_id=parent_turn_id,
        user_message=asked.text if asked.text.strip() else NOTHING_SAID,
        created_at=EPOCH,
        assistant_message="\n\n".join(node.text for node in answer if node.text) if answer else None,
        status=last.status if last else "stopped",
        source="model" if last else None,
        finished_at=(last.until or last.at) if last else None,
        finish_reason="stop" if last and last.status == "done" else None,
        provenance=Provenance(model=next((node.model for node in reversed(answer) if node.model), None)),
        feedback=last.feedback if last else None,
    )
    return _Draft(turn, asked.node_id, asked.at, answered_at)


def _timed(drafts: Sequence[_Draft], places: Mapping[str, int], begun_at: datetime) -> tuple[Turn, ...]:
    """In the order of time, then of the file, parents first, no time twice; a later version begins with its answer."""
    began: dict[str, datetime] = {}
    asked: set[str] = set()
    placed: list[tuple[datetime, int, Turn]] = []
    for draft in drafts:
        known = (draft.asked_at, draft.answered_at)
        at = last_of(known) if draft.asked_id in asked else next((time for time in known if time), None)
        asked.add(draft.asked_id)
        at = at or begun_at
        if draft.turn.parent_turn_id is not None:
            at = max(at, began[draft.turn.parent_turn_id] + TICK)
        began[draft.turn.turn_id] = at
        placed.append((at, places[draft.turn.turn_id], draft.turn))
    turns: list[Turn] = []
    last: datetime | None = None
    for at, _, turn in sorted(placed, key=lambda each: each[:2]):
        last = at if last is None else max(at, last + TICK)
        turns.append(replace(turn, created_at=last, finished_at=max(last, turn.finished_at or last)))
    return tuple(turns)


def span_of(
    created_at: datetime | None, updated_at: datetime | None, turns: Sequence[Turn]
) -> tuple[datetime, datetime]:
    """When a chat began and when it last moved; what the file does not say, its turns do."""
    begun_at = created_at or (turns[0].created_at if turns else None) or updated_at or EPOCH
    moved_at = last_of([updated_at, *((turn.finished_at or turn.created_at) for turn in turns)]) or begun_at
    return begun_at, max(begun_at, moved_at)
