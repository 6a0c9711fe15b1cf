"""The page Compare: one question, or a stored conversation, through several configurations side by side."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.resources import files
from typing import Any

import gradio as gr

from chatlab.chat import ChatService
from chatlab.comparison import MAX_SIDES, MIN_SIDES, Comparisons
from chatlab.errors import ChatlabError, InvalidInput, NotFound
from chatlab.messages import ChatSettings, HistoryChoice, StrategyName
from chatlab.ui.ballots import Ballots
from chatlab.ui.failures import failed, or_shown
from chatlab.ui.frame import Frame, empty_html, or_said, part, problem_html
from chatlab.ui.identity import Identities, Kept
from chatlab.ui.insights import QUIET
from chatlab.ui.panel import Panel, chosen_from, values_of
from chatlab.ui.refusal import Refused, refusal
from chatlab.ui.sides import Prices, sides_html, wins_html
from chatlab.ui.view import plain

UPDATE_SECONDS = 0.1  # between two views of growing answers
EQUAL = "equal"  # in place of a position, on the ballot
CHATS_OFFERED = 50
NO_CHAT = ""
BEGIN: tuple[StrategyName, ...] = ("truncate", "hybrid", "summarize", "direct")  # of the configurations at first
ABOUT = (
    "The same words through several configurations. Nothing of it enters your chats, your cache or your statistics; "
    "only your vote is stored. Stored answers are looked at where a configuration's cache allows it."
)
FIRST = empty_html("Nothing compared yet", "Choose what differs, ask a question, and the answers stream side by side.")


class ComparePage:
    """Built inside the page's route.

    Args:
        panel: Makes the components of one configuration.
        defaults: The settings of a new chat; the configurations begin with them, and with other strategies.
    """

    def __init__(
        self,
        ui: gr.Blocks,
        identities: Identities,
        chats: ChatService,
        comparisons: Comparisons,
        panel: Callable[[], Panel],
        defaults: ChatSettings,
    ) -> None:
        self._chats = chats
        self._comparisons = comparisons
        self._begin = [replace(defaults, history=HistoryChoice(each)) for each in BEGIN]
        self._ballots = Ballots()
        self._frame = frame = Frame(identities, "compare", ABOUT)
        with gr.Column(elem_classes="tab"):
            with gr.Row(elem_id="asked"):
                chat = gr.Dropdown(
                    [("None: the question alone", NO_CHAT)], value=NO_CHAT, label="Conversation", elem_id="chat-choice",
                    info="Goes before the question. Without a question, its last one is asked again.",
                )  # fmt: skip
                question = gr.Textbox(label="Question", lines=2, max_lines=8, elem_id="question")
            with gr.Row(elem_id="choices"):
                n = gr.Radio([*range(MIN_SIDES, MAX_SIDES + 1)], value=2, label="Configurations", elem_id="range")
                blind = gr.Checkbox(True, label="Hide which is which until I vote", elem_id="blind")
                prompt_price = gr.Number(None, label="Price of a million prompt tokens", minimum=0, placeholder="none")
                answer_price = gr.Number(None, label="Price of a million answer tokens", minimum=0, placeholder="none")
            panels: list[Panel] = []
            columns: list[gr.Column] = []
            with gr.Row(elem_id="configurations"):
                for at in range(MAX_SIDES):
                    with gr.Column(visible=at < MIN_SIDES, min_width=240) as column:
                        gr.HTML(f"<h2>Configuration {at + 1}</h2>", js_on_load=None, apply_default_css=False)
                        panels.append(panel())
                    columns.append(column)
            with gr.Row(elem_id="run"):
                start = gr.Button("Compare", variant="primary", elem_id="start")
                stop = gr.Button("Stop", elem_id="stop-all")
            sides = gr.HTML(
                FIRST, js_on_load=(files("chatlab.ui") / "scripts" / "compare.js").read_text(), apply_default_css=False,
                elem_id="sides",
            )  # fmt: skip
            wins = part("wins")
        prices = [prompt_price, answer_price]
        settings = [each for one in panels for each in one.components]
        ui.load(self._load, [frame.kept], [frame.kept, chat, wins, *prices, *settings], **QUIET)
        n.input(_shown_columns, [n], columns, **QUIET)
        run = [frame.kept, chat, question, n, blind, *prices, *settings]
        start.click(self._run, run, sides, **QUIET)
        stop.click(self._stop, [frame.kept], None, **QUIET)
        for event in (sides.vote, sides.reveal):
            event(self._vote, [frame.kept, *prices], [sides, wins], **QUIET)

    async def _load(self, kept: Kept, request: gr.Request) -> tuple[Any, ...]:
        kept, user_id = self._frame.identify(kept)
        wanted = plain(request.query_params.get("chat"))
        choices = await or_shown(choices_of(self._chats, user_id, wanted))
        value = wanted if any(wanted == chat_id for _, chat_id in choices) else NO_CHAT
        begin = [each for settings in self._begin for each in values_of(settings)]  # Gradio's own empty number is 0
        return kept, gr.update(choices=choices, value=value), await or_said(self._wins(user_id)), None, None, *begin

    async def _wins(self, user_id: str) -> str:
        return f"<h2>Which configuration wins</h2>{wins_html(await self._comparisons.wins(user_id))}"

    async def _run(
        self,
        request: gr.Request,
        kept: Kept,
        chat_id: str,
        question: str,
        n: int,
        blind: bool,
        prompt_price: object,
        answer_price: object,
        *values: Any,
    ) -> AsyncGenerator[str]:
        session, made = str(request.session_hash), None
        try:
            user_id = self._frame.require(kept)
            prices, chosen = prices_from(prompt_price, answer_price), configurations_from(n, values)
            made = await self._comparisons.begin(user_id, plain(question), chosen, plain(chat_id), bool(blind))
            await self._ballots.put(session, made)
            while made.live:
                made.changed.clear()
                yield sides_html(made, prices)
                await made.changed.wait()
                await asyncio.sleep(UPDATE_SECONDS)
            yield sides_html(made, prices)
        except Refused as error:
            yield problem_html(str(error))
        except ChatlabError as error:
            yield problem_html(str(refusal(error)))
        except Exception as error:
            raise failed() from error
        finally:
            if made is not None:  # whoever leaves the page stops it
                await made.stop()
                if not made.hidden:
                    self._ballots.drop(session, made)
                self._ballots.trim()

    async def _stop(self, request: gr.Request, kept: Kept) -> None:
        made = self._ballots.of(str(request.session_hash), self._frame.require(kept))
        if made is not None:
            await made.stop()

    async def _vote(
        self, request: gr.Request, kept: Kept, prompt_price: object, answer_price: object, event: gr.EventData
    ) -> tuple[str, str]:
        data = getattr(event, "_data", None)
        wanted: dict[str, Any] = data if isinstance(data, dict) else {}

        async def work() -> tuple[str, str]:
            user_id, session = self._frame.require(kept), str(request.session_hash)
            prices = prices_from(prompt_price, answer_price)
            made = self._ballots.of(session, user_id)
            if made is None:
                raise Refused("There is nothing to vote on: compare first.")
            if wanted.get("do") == "reveal":
                self._comparisons.reveal(made)
            else:
                await self._comparisons.vote(made, position_from(wanted.get("winner")))
            self._ballots.drop(session, made)  # the page has it now
            return sides_html(made, prices), await self._wins(user_id)

        return await or_shown(work())


async def choices_of(chats: ChatService, user_id: str, wanted: str) -> list[tuple[str, str]]:
    """Names and ids of a user's newest chats, and of the one that is `wanted`, if it is theirs and there."""
    found = [*(await chats.chats(user_id, CHATS_OFFERED)).chats]
    if wanted and all(wanted != each.chat_id for each in found):
        with suppress(NotFound):
            found.append((await chats.conversation(user_id, wanted)).chat)
    return [("None: the question alone", NO_CHAT), *((each.title or "Untitled", each.chat_id) for each in found)]


def position_from(winner: object) -> int | None:
    """The position of the side that a ballot is for; None for none.

    Raises:
        Refused: It is neither a number nor "equal".
    """
    if winner == EQUAL:
        return None
    if not isinstance(winner, str) or not (winner.isascii() and winner.isdecimal() and len(winner) <= 2):
        raise Refused("The vote: choose one of the answers, or “Equal”.")
    return int(winner)


def configurations_from(n: object, values: Sequence[Any]) -> list[ChatSettings]:
    """The first configurations of the page's components.

    Raises:
        Refused: One cannot be used; names it and the field.
    """
    if n not in range(MIN_SIDES, MAX_SIDES + 1):
        raise Refused(f"Configurations: choose {MIN_SIDES} to {MAX_SIDES}.")
    width = len(values) // MAX_SIDES
    chosen: list[ChatSettings] = []
    for at in range(int(str(n))):
        try:
            chosen.append(chosen_from(values[at * width : (at + 1) * width]))
        except InvalidInput as error:
            raise Refused(f"Configuration {at + 1}: {refusal(error)}") from error
    return chosen


def prices_from(prompt: object, answer: object) -> Prices:
    """Prices as typed.

    Raises:
        Refused: One cannot be a price; names it.
    """
    found: list[float | None] = []
    for name, value in (("prompt", prompt), ("answer", answer)):
        if value is None or isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9:
            found.append(None if value is None else float(value))
        else:
            raise Refused(f"Price of a million {name} tokens: must be a number of at least 0.")
    return Prices(*found)


def _shown_columns(n: int) -> list[Any]:
    return [gr.update(visible=at < n) for at in range(MAX_SIDES)]
