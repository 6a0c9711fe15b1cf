"""The page Cache: what the answer cache did for a person, what it keeps of theirs, and where its threshold stands."""

from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from html import escape
from importlib.resources import files
from typing import Any

import gradio as gr

from chatlab.cache.answers import AnswerCache
from chatlab.cache.statistics import CacheStatistics, Traffic
from chatlab.clock import last_days
from chatlab.errors import NotFound
from chatlab.messages import CacheEntry
from chatlab.store import EntryPage
from chatlab.ui.cache_charts import calibration_chart, error_chart, refusals_chart, traffic_chart
from chatlab.ui.charts import chart_html, percent, short
from chatlab.ui.failures import or_shown
from chatlab.ui.frame import Frame, empty_html, figures_html, or_said, part
from chatlab.ui.identity import Identities, Kept
from chatlab.ui.insights import QUIET, RANGES, between, share
from chatlab.ui.refusal import Refused
from chatlab.ui.view import plain

PAGE_ENTRIES = 20
MAX_SHOWN = 500
EXCERPT_CHARS = 300
TYPED: dict[str, Any] = {**QUIET, "trigger_mode": "always_last"}  # letters come faster than answers


class CachePage:
    """Built inside the page's route."""

    def __init__(
        self, ui: gr.Blocks, identities: Identities, answers: AnswerCache, now: Callable[[], datetime]
    ) -> None:
        self._answers = answers
        self._now = now
        self._frame = frame = Frame(
            identities, "cache", "Questions that were answered before are not computed again. Here is what that did."
        )
        with gr.Column(elem_classes="tab"):
            days = gr.Radio([(f"{n} days", n) for n in RANGES], value=30, label="Range", elem_id="range")
            done = part("done")
            calibration = part("calibration")
            again = gr.Button("Recalibrate now", size="sm", elem_id="recalibrate")
            gr.HTML('<h2 id="kept-title">Your stored answers</h2>', js_on_load=None, apply_default_css=False)
            q = gr.Textbox(label="Search questions and answers", placeholder="Search", max_lines=1, elem_id="find")
            entries = gr.HTML(
                "", js_on_load=(files("chatlab.ui") / "scripts" / "cache.js").read_text(), apply_default_css=False,
                elem_id="entries",
            )  # fmt: skip
        shown = [done, calibration, entries]
        ui.load(self._load, [frame.kept, days, q], [frame.kept, *shown], **QUIET)
        days.input(self._done, [frame.kept, days], done, **QUIET)
        q.change(self._entries, [frame.kept, q], entries, **TYPED)
        again.click(self._recalibrate, [frame.kept], calibration, **QUIET)
        for event in (entries.evict, entries.evict_all, entries.more):
            event(self._change, [frame.kept, q, days], [entries, done], **QUIET)

    async def _load(self, kept: Kept, days: object, q: str) -> tuple[Kept, str, str, str]:
        kept, user_id = self._frame.identify(kept)
        return (
            kept,
            await or_said(self.done_html(user_id, days)),
            await or_said(self.calibration_html()),
            await or_said(self.entries_html(user_id, q)),
        )

    async def _done(self, kept: Kept, days: object) -> str:
        return await or_said(self.done_html(self._frame.require(kept), days))

    async def _entries(self, kept: Kept, q: str) -> str:
        return await or_said(self.entries_html(self._frame.require(kept), q))

    async def _recalibrate(self, kept: Kept) -> str:
        async def work() -> str:
            self._frame.require(kept)
            await self._answers.recalibrate()
            return await self.calibration_html("Recalibrated from what is stored now.")

        return await or_shown(work())

    async def _change(self, kept: Kept, q: str, days: object, event: gr.EventData) -> tuple[str, str]:
        data = getattr(event, "_data", None)
        wanted: dict[str, Any] = data if isinstance(data, dict) else {}

        async def work() -> tuple[str, str]:
            user_id = self._frame.require(kept)
            do, entry, shown = (plain(wanted.get(each)) for each in ("do", "entry", "shown"))
            html = await self.change(user_id, do, entry, q, _number(shown))
            return html, await self.done_html(user_id, days)

        return await or_shown(work())

    async def change(self, user_id: str, do: str, entry_id: str, q: str, n_shown: int = 0) -> str:
        """Do what was chosen among the entries; gives the list as it is then.

        Args:
            user_id: Whose.
            do: `evict`, `evict-all`, or `more`, with the number of entries shown as `entry_id`.
            entry_id: The entry.
            q: What is searched for.
            n_shown: Entries in the list, which stays as long.

        Raises:
            Refused: The entry is gone, or was never theirs.
        """
        if do == "more":
            return await self.entries_html(user_id, q, _number(entry_id))
        if do == "evict-all":
            n = await self._answers.evict_all(user_id)
            return await self.entries_html(user_id, q, said=f"Evicted {n:,} stored answer{'s' * (n != 1)}.")
        try:
            await self._answers.evict_entry(user_id, entry_id)
        except NotFound as error:
            raise Refused("This stored answer is gone already: reload the page.") from error
        return await self.entries_html(user_id, q, n_shown, said="Evicted: the same question is computed again.")

    async def done_html(self, user_id: str, days: object) -> str:
        """What the cache did in the last days.

        Raises:
            Refused: `days` is not one of the ranges.
        """
        if days not in RANGES:
            raise Refused(f"Range: choose one of {', '.join(map(str, RANGES))} days.")
        begin, wanted = last_days(self._now(), int(str(days)))
        return done_html(await self._answers.statistics(begin, user_id), wanted)

    async def calibration_html(self, said: str = "") -> str:
        """Where the threshold stands."""
        note = f'<p class="said" role="status">{escape(said)}</p>' if said else ""
        return f"{chart_html(calibration_chart(await self._answers.calibration()))}{note}"

    async def entries_html(self, user_id: str, q: str, n: int = PAGE_ENTRIES, said: str = "") -> str:
        """Some stored answers of a person, newest first."""
        q = plain(q).strip()
        page = await self._answers.entries(user_id, max(PAGE_ENTRIES, min(n, MAX_SHOWN)), None, q or None)
        return entries_html(page, q, self._now(), said)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else 0


def done_html(known: CacheStatistics, days: Sequence[date]) -> str:
    """Figures and plots of these days, for lookups of one person."""
    total = known.total
    if not total.lookups:
        return empty_html(
            f"No questions were looked up in the last {len(days)} days",
            "The cache is asked where a chat's “Answer cache” is not off: choose “My own answers” in its settings, "
            '<a class="pages" href="./">ask something</a>, and ask it again.',
        )
    charts = [traffic_chart(days, known.days), refusals_chart(total.refused), error_chart(days, known.days)]
    return f'{_figures(total)}<div class="charts">{"".join(map(chart_html, charts))}</div>'


def _figures(total: Traffic) -> str:
    worth = (
        f"pays from a hit rate of {percent(total.break_even)}" if total.break_even is not None else "no hit yet to tell"
    )
    hits = f"{total.exact:,} same words, {total.semantic:,} by meaning"
    hits += f", {total.shadow:,} would have been in shadow mode" if total.shadow else ""
    return figures_html(
        [
            ("Hit rate", share(total.hit_rate), between(total.hit_rate)),
            ("Hits", f"{total.exact + total.semantic:,}", hits),
            (
                "Right, by meaning",
                share(total.precision),
                between(total.precision) if total.precision.value is not None else "no audited answer yet",
            ),
            ("Tokens saved", short(total.saved_tokens), "prompts and answers not computed"),
            ("Time saved, net", f"{total.saved_seconds:,.1f} s", f"after all lookups; {worth}"),
            ("A lookup takes", f"{total.lookup_ms_p50:.0f} ms", f"95 % within {total.lookup_ms_p95:.0f} ms"),
        ]
    )  # fmt: skip


def entries_html(page: EntryPage, q: str, now: datetime, said: str = "") -> str:
    """Stored answers with what can be done with them."""
    note = f'<p class="said" role="status">{escape(said)}</p>'
    if not page.entries:
        if q:
            return note + empty_html("Nothing found", f"No stored question or answer of yours has “{escape(q)}” in it.")
        return note + empty_html(
            "Nothing of yours is stored",
            "Whole answers of the model are stored where a chat's answer cache is on, and serve you again. "
            '<a class="pages" href="./">Ask something</a> to begin.',
        )
    shown = f"{len(page.entries):,} of {page.n:,}" if page.next_cursor else f"{page.n:,}"
    more = (
        f'<p class="more"><button type="button" class="plain" data-do="more" '
        f'data-entry="{len(page.entries) + 2 * PAGE_ENTRIES}">Show more</button></p>'
        if page.next_cursor and len(page.entries) < MAX_SHOWN
        else ""
    )
    what = f"{shown} stored answer{'s' * (page.n != 1)}{' found' if q else ''}"
    every = '<button type="button" class="plain danger" data-do="ask-all">Evict all …</button>'
    return (
        f'{note}<p class="count"><span>{what}</span>{every}</p>'
        f'<ul class="entries">{"".join(_entry(each, now) for each in page.entries)}</ul>{more}{_DIALOG}'
    )


def _entry(entry: CacheEntry, now: datetime) -> str:
    facts = [
        f'<time datetime="{entry.created_at.isoformat()}">{_ago(now - entry.created_at)}</time>',
        f"{entry.hits:,} hit{'s' * (entry.hits != 1)}",
        f"{short(entry.hits * entry.saved_tokens)} tokens saved",
        _left(entry.expires_at - now),
    ]
    chat = (
        f' · <a href="./?chat={escape(entry.chat_id)}">its chat</a>'
        if entry.chat_id
        else " · from a request without a chat"
    )
    return (
        f'<li><p class="asked">{escape(_excerpt(entry.question))}</p>'
        f'<p class="said-then">{escape(_excerpt(entry.answer))}</p><p class="facts">{" · ".join(facts)}{chat}</p>'
        f'<button type="button" class="plain" data-do="evict" data-entry="{escape(entry.entry_id)}" '
        f'aria-label="Evict the answer to: {escape(entry.question[:80])}">Evict</button></li>'
    )


_DIALOG = (
    '<dialog id="evict-everything" aria-labelledby="evict-everything-title"><form method="dialog">'
    '<h2 id="evict-everything-title">Evict all of your stored answers?</h2><p>The same questions are computed again '
    'from then on. Your chats stay as they are.</p><div class="buttons"><button class="plain danger" value="evict">'
    'Evict all</button> <button class="plain" value="" autofocus>Cancel</button></div></form></dialog>'
)


def _excerpt(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= EXCERPT_CHARS else text[: EXCERPT_CHARS - 1].rstrip() + "…"


def _ago(span: timedelta) -> str:
    return f"{_span(span)} ago" if span >= timedelta(minutes=1) else "just now"


def _left(span: timedelta) -> str:
    return f"for another {_span(span)}" if span > timedelta() else "expired"


def _span(span: timedelta) -> str:
    seconds = max(60, int(span.total_seconds()))
    for size, name in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if (n := seconds // size) >= 1:
            return f"{n} {name}{'s' * (n != 1)}"
    raise AssertionError(span)
