"""What each history strategy would have sent for each question of an export, at each budget, and what it left out.

Every prompt is that of the server's own builder, with the turns before it whose prompts were made in the same way. As
long as a whole conversation fits, and no note is due, every strategy sends all of it: then nothing is built. Notes are
written by rules, as before the embedder is loaded, and `hybrid` finds turns by their words, as on `/v1`: embedding
every answer would take longer than all the rest.
"""

import tempfile
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

from chatlab.embedding import Embedder
from chatlab.errors import PromptTooLong
from chatlab.evaluation.traffic.requests import ChatHead, Request
from chatlab.evaluation.traffic.sizes import MessageSizes
from chatlab.history import PromptBuilder, PromptInput, Recall, UnstoredNotes
from chatlab.history.inert import make_inert
from chatlab.history.notes import NOTING
from chatlab.history.passages import Passage
from chatlab.history.prompt import QUESTION_SHARE
from chatlab.messages import (
    HistoryChoice,
    Note,
    PromptPart,
    PromptProvenance,
    Provenance,
    SamplingParams,
    StrategyName,
    Turn,
)
from chatlab.vectors import Vectors

STRATEGIES: tuple[StrategyName, ...] = ("direct", "truncate", "summarize", "hybrid")
ANSWER_TOKENS = 1_024  # kept free in a window
CHECK_EVERY = 50  # prompts that were built, of which one is counted as a whole


class Sent(NamedTuple):
    """A prompt.

    Attributes:
        tokens: Of it; 0 where the strategy refuses.
        dropped: Past turns of which nothing is in it.
        noted: Past turns for which notes stand.
        quoted: Past turns that were found again.
        refused: Whether there is none.
    """

    tokens: int
    dropped: int = 0
    noted: int = 0
    quoted: int = 0
    refused: int = 0


class WordRecall(Recall):
    """Finds turns by their words alone, whatever the chat."""

    async def search(self, chat_id: str | None, turns: Sequence[Turn], question: str) -> tuple[Passage, ...]:
        """Passages of these turns that bear on a question, best first; nothing is embedded."""
        return await self.search_words(chat_id, turns, question)


@contextmanager
def open_words(choice: str) -> Generator[WordRecall]:
    """Finds by words; an embedder that nobody loads judges statements, and its vectors stay empty.

    Args:
        choice: Of the embedder, as settings have it.
    """
    with tempfile.TemporaryDirectory(prefix="chatlab-verdict-") as folder:
        embedder = Embedder(choice)
        vectors = Vectors(folder, embedder.name)
        try:
            yield WordRecall(embedder, vectors)
        finally:
            vectors.close()
            embedder.close()


@dataclass(frozen=True, slots=True)
class _Node:
    """A request with what stands before it.

    Attributes:
        before: The one before it in its conversation.
        tokens: Of the turns before it with an answer, in a prompt.
    """

    request: Request
    before: "_Node | None"
    tokens: int

    @property
    def path(self) -> tuple[Turn, ...]:
        """The turns before it, root first."""
        found: list[Turn] = []
        node = self.before
        while node is not None:
            found.append(node.request.turn)
            node = node.before
        return tuple(reversed(found))


class Strategies:
    """Makes prompts for the requests of chats.

    Args:
        sizes: Counts, with a window that holds the largest budget and an answer.
        recall: By words.
        budgets: Tokens that a prompt may have.
    """

    def __init__(self, sizes: MessageSizes, recall: Recall, budgets: Sequence[int]) -> None:
        self.budgets = budgets
        self._sizes = sizes
        self._builder = PromptBuilder(sizes, recall)
        self._notes = UnstoredNotes(self._builder, self._builder.writer, sizes.facts.model)
        self._params = SamplingParams(max_new_tokens=ANSWER_TOKENS)
        self._n_built = 0

    def tokens_of(self, head: ChatHead, requests: Iterable[Request]) -> list[tuple[int, int]]:
        """The tokens of each request's whole conversation with its question, and of its answer."""
        return [
            (self._whole(head, node), self._sizes.of("assistant", self._inert(node.request.answer)))
            for node in self._nodes(requests)
        ]

    def grows(self, head: ChatHead, requests: Iterable[Request], strategy: StrategyName, budget: int) -> bool:
        """Whether something is left out or noted anywhere in a chat, so that prompts must be built."""
        return any(not self._fits(head, node, strategy, budget) for node in self._nodes(requests))

    async def sent(
        self, head: ChatHead, requests: Sequence[Request], strategy: StrategyName, budget: int
    ) -> list[Sent]:
        """The prompts of a chat's requests, in order."""
        seen: dict[str, Provenance] = {}
        notes: tuple[Note, ...] = ()
        found: list[Sent] = []
        roots: dict[str, str] = {}  # the first turn with an answer of each request's path
        for node in self._nodes(requests):
            roots[node.request.turn.turn_id] = _root(node, roots)
            whole = self._whole(head, node)
            if strategy == "direct":
                found.append(Sent(whole) if whole <= budget else Sent(0, refused=1))
                continue
            if self._fits(head, node, strategy, budget):
                parts = (PromptPart("verbatim", (root,), whole),) if (root := roots[node.request.turn.turn_id]) else ()
                prompt = PromptProvenance(strategy, budget, whole, parts)
                found.append(Sent(whole))
            else:
                made, notes = await self._build(head, node, HistoryChoice(strategy, budget), seen, notes)
                if made is None:
                    found.append(Sent(0, refused=1))
                    continue
                prompt = made
                found.append(_sent(made, node))
            seen[node.request.turn.turn_id] = Provenance(prompt=prompt)
        return found

    async def _build(
        self, head: ChatHead, node: _Node, choice: HistoryChoice, seen: dict[str, Provenance], notes: tuple[Note, ...]
    ) -> tuple[PromptProvenance | None, tuple[Note, ...]]:
        nothing = Provenance()
        path = [replace(turn, provenance=seen.get(turn.turn_id, nothing)) for turn in node.path]
        turn = node.request.turn
        given = PromptInput(head.system_prompt, path, turn.user_message, turn.turn_id, head.chat_id, notes)
        try:
            notes = await self._notes.keep(given, choice, self._params)
            prompt = await self._builder.build(replace(given, notes=notes), choice, self._params)
        except PromptTooLong:
            return None, notes
        self._n_built += 1
        if self._n_built % CHECK_EVERY == 1:
            self._sizes.check(prompt.messages)
        return prompt.provenance, notes

    def _nodes(self, requests: Iterable[Request]) -> list[_Node]:
        known: dict[str, _Node] = {}
        found: list[_Node] = []
        for request in requests:
            turn = request.turn
            before = known.get(turn.parent_turn_id or "")
            tokens = 0
            if before is not None:
                answered = bool(before.request.answer)
                tokens = before.tokens + (self._builder.stretches.size(before.request.turn) if answered else 0)
            node = _Node(request, before, tokens)
            known[turn.turn_id] = node
            found.append(node)
        return found

    def _whole(self, head: ChatHead, node: _Node) -> int:
        stretches = self._builder.stretches
        system = stretches.system(head.system_prompt)
        question = self._inert(node.request.turn.user_message)
        return system.tokens + node.tokens + stretches.question_tokens(system, question)

    def _fits(self, head: ChatHead, node: _Node, strategy: StrategyName, budget: int) -> bool:
        """Whether all is sent, and no note is due."""
        if self._whole(head, node) > budget:
            return False
        if (noting := NOTING.get(strategy)) is None:
            return True
        stays = self._builder.stretches.system(head.system_prompt).tokens
        return node.tokens < noting.start * (int((1 - QUESTION_SHARE) * budget) - stays)

    def _inert(self, text: str) -> str:
        return make_inert(text, self._sizes.facts)


def _sent(prompt: PromptProvenance, node: _Node) -> Sent:
    answered = {turn.turn_id for turn in node.path if turn.assistant_message}
    return Sent(
        tokens=prompt.prompt_tokens,
        dropped=sum(turn_id in answered for turn_id in prompt.dropped_turn_ids),
        noted=len(prompt.turn_ids_in("summary")),
        quoted=len({*prompt.turn_ids_in("retrieved")} - {*prompt.turn_ids_in("summary")}),
    )


def _root(node: _Node, roots: dict[str, str]) -> str:
    """The first turn with an answer before a request; empty without one."""
    if node.before is None:
        return ""
    turn = node.before.request.turn
    return roots[turn.turn_id] or (turn.turn_id if turn.assistant_message else "")
