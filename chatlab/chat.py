"""One chat turn, top to bottom.

    server half   admission -> load the chat -> look the answer up                                       `begin`
                  a hit is stored with the message and is the answer                                     `_serve`
                  else: build the prompt -> store the user's message -> job
    worker half   engine stream -> partial text stored as it grows -> the end stored -> events           `_answer`
    afterwards    the answer kept for whoever asks the same; compared with one that was near             `AnswerCache`
                  a share of hits answered by the model, too                                             `Auditor`
                  notes written, the next prompt's beginning computed, the turn made findable            `preparation`

The turn belongs to the server: whoever asked may leave, come back, or watch from elsewhere. What is not the caller's
is `NotFound`. Names no implementation of store, jobs, history or engine.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import structlog

from chatlab.attribution import Attribution, Attributor
from chatlab.auditor import Auditor
from chatlab.cache.answers import AnswerCache
from chatlab.cache.lookup import Ask, Lookup
from chatlab.clock import Clock
from chatlab.engines.base import Engine, GenerationRequest, Piece
from chatlab.errors import ChatlabError, FieldError, InvalidInput, NotFound, check_text
from chatlab.history import Outlook, Prompt, PromptBuilder, PromptInput, Recall, stored_messages
from chatlab.jobs import Job, Jobs
from chatlab.library import UNDO_SECONDS, ChatLibrary
from chatlab.messages import (
    CacheChoice,
    CacheEntry,
    CacheLookup,
    Chat,
    DeltaEvent,
    DoneEvent,
    ErrorEvent,
    Event,
    HistoryChoice,
    Message,
    Note,
    NotesMode,
    Problem,
    PromptProvenance,
    Provenance,
    RestartEvent,
    SamplingParams,
    Similar,
    StatusEvent,
    Timing,
    Turn,
    TurnStatus,
    Usage,
    path_to,
)
from chatlab.notekeeper import Ended, NoteKeeper
from chatlab.partials import PartialTexts
from chatlab.preparation import Preparation
from chatlab.problems import INTERRUPTED, problem_of
from chatlab.progress import Progress
from chatlab.store import Store
from chatlab.store.recent import Conversation
from chatlab.telemetry import Metrics
from chatlab.titles import TitleWriter

NEWEST = "\x00newest"  # no id of a turn: the API refuses NUL

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """What a caller asks of a turn; unset fields take the chat's settings.

    Attributes:
        parent_turn_id: The turn it follows; None is a new root, `NEWEST` whatever came last.
        cache_bypass: Do not serve this answer from the cache.
        entitle: The chat's provisional title: once the turn is done, the model may give a better one.
    """

    user_message: str
    parent_turn_id: str | None = NEWEST
    params: SamplingParams = field(default_factory=SamplingParams)
    history: HistoryChoice | None = None
    cache: CacheChoice | None = None
    cache_bypass: bool = False
    entitle: str | None = None


@dataclass(frozen=True, slots=True)
class SeenPrompt:
    """What the model saw; `rendered` is None when another model is loaded now, or its template is unknown."""

    messages: tuple[Message, ...]
    rendered: str | None
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the server half hands to the worker half."""

    turn: Turn
    given: PromptInput
    choice: HistoryChoice
    prompt: Prompt | None  # of a hit there is none
    params: SamplingParams
    lookup: Lookup
    entitle: str | None
    started_at: float  # perf_counter when the request came in

    def ended(self, turn: Turn) -> Ended:
        """For what is prepared after it."""
        return Ended(turn, self.given, self.choice, self.params)


class ChatService(ChatLibrary):
    """Everything a user does with chats. Belongs to one event loop while turns are under way.

    Args:
        store: Open.
        jobs: Of this process.
        engine: Loaded.
        recall: Finds evicted turns.
        answers: Those that may serve again.
        metrics: Told of every turn that ended, and of faults.
        clock: Later than everything stored.
        new_id: Unique ids.
        max_message_chars: Longest message taken.
        undo_seconds: From discarding a chat to its end.
        notes: Who writes the notes of old turns.
    """

    def __init__(
        self,
        store: Store,
        jobs: Jobs,
        engine: Engine,
        recall: Recall,
        answers: AnswerCache,
        metrics: Metrics,
        clock: Clock,
        new_id: Callable[[], str],
        max_message_chars: int,
        undo_seconds: float = UNDO_SECONDS,
        notes: NotesMode = "auto",
    ) -> None:
        prompts = PromptBuilder(engine, recall)
        self._notes = NoteKeeper(prompts, engine, store, clock, new_id, notes)
        preparation = Preparation(prompts, engine, recall, self._notes, store, jobs, metrics)
        super().__init__(store, jobs, metrics, clock, new_id, undo_seconds, preparation.forget, answers.forget)
        self._engine = engine
        self._answers = answers
        self._prompts = prompts
        self._preparation = preparation
        self._partials = PartialTexts(store, metrics)
        self._titles = TitleWriter(engine, jobs, metrics)
        self._auditor = Auditor(engine, metrics)
        self._attributor = Attributor(engine)
        self._max_message_chars = max_message_chars

    # Chats with their turns

    async def conversation(self, user_id: str, chat_id: str) -> Conversation:
        """A chat with all its turns, oldest first; a running turn with its text so far."""
        known = await self._store.conversation(user_id, chat_id)
        return replace(known, turns=tuple(self._as_of_now(turn) for turn in known.turns))

    async def titled(self, user_id: str, chat_id: str) -> Chat:
        """A chat once no title is under way for it."""
        await self._store.conversation(user_id, chat_id)
        await self._titles.ended(chat_id)
        return (await self._store.conversation(user_id, chat_id)).chat

    async def noted(self, user_id: str, chat_id: str) -> Conversation:
        """A chat once the notes are written that its last turn made due; the model may improve them later."""
        await self._store.conversation(user_id, chat_id)
        await self._preparation.noted(chat_id)
        return await self.conversation(user_id, chat_id)

    # A turn: server half

    async def begin(self, user_id: str, chat_id: str, request: TurnRequest) -> Turn:
        """Take a message in; when this returns the message is durable and its answer under way.

        Raises:
            NotFound: No such chat of this user.
            ChatBusy: The chat is answering.
            QueueFull: Too many answers are under way.
            InvalidInput: The request cannot be served as it is, `PromptTooLong` among them.
        """
        # 1. Admission.
        started_at = time.perf_counter()
        check_text("userMessage", request.user_message, self._max_message_chars)
        await self._store.conversation(user_id, chat_id)
        job = self._jobs.reserve(user_id, chat_id, self._new_id())
        ahead = max(0, self._jobs.n_live - self._engine.facts.slots)
        try:
            # 2. The chat as it is now that its place is ours.
            known = await self._store.conversation(user_id, chat_id)
            path = _path(known, request)

            # 3. What was answered before.
            params = request.params.over(known.chat.params)
            system = known.chat.system_prompt
            given = PromptInput(system, path, request.user_message, job.turn_id, chat_id, known.notes)
            choice = request.history or known.chat.history
            scope = (request.cache or known.chat.cache).scope
            lookup = await self._answers.look_up(
                Ask(
                    user_id=user_id,
                    chat_id=chat_id,
                    turn_id=job.turn_id,
                    scope=scope,
                    question=request.user_message,
                    path=path,
                    system_prompt=system,
                    params=params,
                    model=f"{self._engine.facts.engine}/{self._engine.facts.model}",
                    bypass=request.cache_bypass,
                    history=choice,
                )
            )

            # 4. Else the prompt, within the budget.
            prompt = None
            if lookup.entry is None:
                prompt = await self._prompts.build(given, choice, params)
                if prompt.provenance.fault is not None:
                    self._metrics.fault("recall")

            # 5. The job starts while the message is being stored; nobody hears of the turn before that is done.
            position = 0 if prompt is None else ahead
            turn = Turn(
                turn_id=job.turn_id,
                chat_id=chat_id,
                user_id=user_id,
                parent_turn_id=path[-1].turn_id if path else None,
                user_message=request.user_message,
                created_at=self._clock(),
                status="queued" if position else "running",
                provenance=Provenance(
                    cache=lookup.provenance,
                    prompt=prompt and prompt.provenance,
                    model=self._engine.facts.model,
                    engine=self._engine.facts.engine,
                    timing=Timing(cache_ms=lookup.ms or None),
                ),
                prompt=prompt.recipe if prompt else (),
            )
            job.log.append(StatusEvent(turn.turn_id, chat_id, turn.status, position, lookup.similar))
            if lookup.entry is not None:
                turn = self._served(turn, lookup, lookup.entry, started_at)
            stored = asyncio.ensure_future(self._store.add_turn(turn))
        except BaseException:
            self._jobs.release(job)
            raise
        plan = _Plan(turn, given, choice, prompt, params, lookup, request.entitle, started_at)
        if lookup.entry is None:
            self._answers.lead(lookup)
            self._jobs.start(job, lambda job: self._answer(job, plan, stored))
        else:
            self._jobs.start(job, lambda job: self._serve(job, plan, stored))
        try:
            await asyncio.shield(stored)
        except Exception:
            await self._jobs.stop(job)
            raise
        return turn

    def _served(self, turn: Turn, lookup: Lookup, entry: CacheEntry, started_at: float) -> Turn:
        """A turn with a stored answer."""
        took_ms = round(1e3 * (time.perf_counter() - started_at), 3)
        timing = Timing(cache_ms=lookup.ms, ttft_ms=took_ms, total_ms=took_ms)
        usage = Usage(saved_tokens=entry.saved_tokens)
        return replace(
            turn,
            assistant_message=entry.answer,
            status="done",
            source="cache",
            finished_at=self._clock(),
            finish_reason="stop",
            provenance=replace(turn.provenance, cache=lookup.provenance, prompt=None, usage=usage, timing=timing),
        )

    async def _serve(self, job: Job, plan: _Plan, stored: asyncio.Future[None]) -> None:
        """End a turn that has its answer already. Never raises."""
        job.closing = True
        turn, problem = plan.turn, None
        try:
            await asyncio.wait([stored])
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is not None:
                task.uncancel()  # the answer is there, and is to be stored
            await asyncio.wait([stored])
        if isinstance(error := stored.exception(), Exception):
            log.error("turn could not be stored", turn_id=turn.turn_id, exc_info=error)
            problem = problem_of(error)
            turn = replace(turn, status="failed", error=problem)
        self._end(job, plan, turn, problem)

    # A turn: worker half

    async def _answer(self, job: Job, plan: _Plan, stored: asyncio.Future[None]) -> None:
        """Run a turn to its end. Never raises: whatever happens becomes the turn's outcome."""
        progress = Progress(plan.started_at)
        problem: Problem | None = None
        status: TurnStatus = "done"
        stored.add_done_callback(lambda _: progress.stored())
        self._partials.follow(plan.turn, job.log)
        entry: CacheEntry | None = None
        try:
            if plan.lookup.following is not None:
                entry = await asyncio.shield(plan.lookup.following)
            if entry is None:
                await self._generate(job, plan, progress)
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is not None:
                task.uncancel()  # the cancellation has done its work: the end is still to be stored
            status, problem = ("stopped", None) if job.stop_asked else ("failed", INTERRUPTED)
            if job.stop_asked and plan.lookup.taken:
                plan.lookup.serve_matched("the person took the answer to a similar question")
                entry = plan.lookup.entry
        except Exception as error:
            status, problem = "failed", problem_of(error)
            log.warning("turn failed", turn_id=plan.turn.turn_id, exc_info=not isinstance(error, ChatlabError))
        job.closing = True
        self._partials.leave(plan.turn)
        await asyncio.wait([stored])
        if entry is not None:
            if not plan.lookup.taken:
                plan.lookup.serve(entry)
            if job.log.text:
                job.log.append(RestartEvent())
            plan.lookup.ms = round(1e3 * (time.perf_counter() - plan.started_at), 3)  # it waited for that answer
            turn = self._served(plan.turn, plan.lookup, entry, plan.started_at)
        else:
            turn = replace(
                plan.turn,
                assistant_message=job.log.text,
                status=status,
                source="model",
                error=problem,
                finished_at=self._clock(),
                finish_reason=progress.finish_reason,
                provenance=replace(
                    plan.turn.provenance,
                    usage=progress.usage,
                    timing=replace(progress.timing, cache_ms=plan.turn.provenance.timing.cache_ms),
                ),
            )
        try:
            stored.result()
            await self._store.finish_turn(turn)
        except Exception as error:
            log.error("turn could not be stored", turn_id=turn.turn_id, exc_info=True)
            problem = problem_of(error)
            turn = replace(turn, status="failed", error=problem)
        kept: CacheEntry | None = None
        try:
            kept = await self._answers.offer(plan.lookup, turn)
        finally:
            self._answers.ended(plan.lookup, kept)
        if kept is not None:
            self._jobs.aside(self._answers.index(plan.lookup, kept), f"index {turn.turn_id}")
        self._end(job, plan, turn, problem)

    def _end(self, job: Job, plan: _Plan, turn: Turn, problem: Problem | None) -> None:
        """Count a turn, prepare the next one, tell whoever listens."""
        self._metrics.turn_ended(turn)
        self._jobs.aside(self._learn(plan, turn), f"learn {turn.turn_id}")
        if turn.status == "done" and (entitle := plan.entitle) is not None:
            self._titles.begin(turn, lambda title: self.replace_title(turn.user_id, turn.chat_id, entitle, title))
        if turn.assistant_message:
            self._preparation.begin(plan.ended(turn))
        if turn.source == "cache" and turn.assistant_message:
            job.log.append(DeltaEvent(turn.assistant_message))
        job.log.append(DoneEvent(turn) if problem is None else ErrorEvent(turn, problem))

    async def _learn(self, plan: _Plan, turn: Turn) -> None:
        """Note what the cache did, and whether it was right as far as that can be known."""
        await self._answers.note(plan.lookup)
        await self._answers.learn(plan.lookup, turn)
        if turn.source == "cache" and self._answers.to_audit(plan.lookup):
            await self._auditor.ask(turn, lambda: self._asked_anew(plan), lambda given: self._audited(plan, given))

    async def _asked_anew(self, plan: _Plan) -> tuple[GenerationRequest, PromptProvenance]:
        """What the model would have been asked of a turn that was served."""
        prompt = plan.prompt or await self._prompts.build(plan.given, plan.choice, plan.params)
        return self._request(replace(plan, prompt=prompt)), prompt.provenance

    async def _audited(self, plan: _Plan, given: Turn) -> None:
        """Learn from what the model would have answered; it is what answers the same question from then on."""
        if (kept := await self._answers.audited(plan.lookup, given)) is not None:
            await self._answers.index(plan.lookup, kept)

    def _request(self, plan: _Plan) -> GenerationRequest:
        """What the model is asked."""
        assert plan.prompt is not None
        return GenerationRequest(plan.prompt.messages, plan.params, plan.turn.user_id, plan.prompt.quoted_chars)

    async def _generate(self, job: Job, plan: _Plan, progress: Progress) -> None:
        """The engine's stream as events and measurements."""
        async with aclosing(self._engine.stream(self._request(plan))) as chunks:
            async for chunk in chunks:
                progress.take(chunk)
                if isinstance(chunk, Piece) and chunk.text:
                    job.log.append(DeltaEvent(chunk.text))

    # Turns, afterwards

    async def turn(self, user_id: str, turn_id: str) -> Turn:
        """A turn; a running one with its text so far."""
        return self._as_of_now(await self._store.turn(user_id, turn_id))

    async def turn_of_chat(self, user_id: str, chat_id: str, turn_id: str) -> Turn:
        """A turn of a chat."""
        known = await self.conversation(user_id, chat_id)
        for turn in known.turns:
            if turn.turn_id == turn_id:
                return turn
        raise NotFound("turn", turn_id)

    async def events(self, user_id: str, turn_id: str, after: int = 0) -> AsyncGenerator[list[Event]]:
        """A turn's events from the one after `after` to the end, those at hand together; a finished turn replays.

        Awaiting this checks the caller's right; the generator it returns cannot fail.

        Raises:
            NotFound: No such turn of this user.
        """
        job = self._jobs.find(user_id, turn_id)
        if job is not None and not (job.log.ended and after > len(job.log)):
            return job.log.read(after)
        return _replay(await self._store.turn(user_id, turn_id), after)

    async def wait(self, user_id: str, turn_id: str) -> Turn:
        """The turn once it has ended."""
        async with aclosing(await self.events(user_id, turn_id)) as events:
            async for batch in events:
                if isinstance(end := batch[-1].body, DoneEvent | ErrorEvent):
                    return end.turn
        return await self._store.turn(user_id, turn_id)

    async def stop(self, user_id: str, turn_id: str) -> Turn:
        """End a turn, keeping its partial text; a turn that has ended stays as it is."""
        if (job := self._jobs.find(user_id, turn_id)) is not None:
            await self._jobs.stop(job)
        return await self.turn(user_id, turn_id)

    async def prompt(self, user_id: str, chat_id: str, turn_id: str) -> SeenPrompt:
        """What the model saw for a turn.

        Raises:
            NotFound: No such turn, or it never came to a prompt.
        """
        known = await self._store.conversation(user_id, chat_id)
        turns = {turn.turn_id: turn for turn in known.turns}
        turn = await self._store.turn(user_id, turn_id)  # with its recipe
        if turn_id not in turns or turn.provenance.prompt is None:
            raise NotFound("prompt of turn", turn_id)
        facts = self._engine.facts
        messages = stored_messages(turn.prompt, turns, facts)
        known_template = turn.provenance.model == facts.model and facts.counting != "estimate"
        rendered = await asyncio.to_thread(self._engine.render, messages) if known_template else None
        return SeenPrompt(messages, rendered, turn.provenance.prompt.prompt_tokens)

    async def looked_up(self, turn: Turn) -> tuple[CacheLookup | None, CacheEntry | None]:
        """What the cache noted of a turn, and the stored answer that served it while there is one."""
        return await self._answers.looked_up(turn)

    async def outlook(self, user_id: str, chat_id: str, leaf: str | None) -> Outlook:
        """How full the prompt of the next message will be, after a turn of a chat.

        Raises:
            NotFound: No such chat of this user, or no such turn in it.
            PromptTooLong: No message fits the chat's settings.
        """
        known = await self._store.conversation(user_id, chat_id)
        try:
            path = path_to(known.turns, leaf)
        except KeyError:
            raise NotFound("turn", leaf or "") from None
        chat = known.chat
        given = PromptInput(chat.system_prompt, path, "", "", chat_id, known.notes)
        return await self._prompts.outlook(given, chat.history, chat.params)

    @property
    def attributes(self) -> bool:
        """Whether it can be measured what of its prompt mattered for an answer."""
        return self._attributor.able

    async def attribution(self, user_id: str, chat_id: str, turn_id: str) -> Attribution:
        """What of its prompt mattered for an answer; takes the time of some answers.

        Raises:
            NotFound: No such turn.
            InvalidInput: It cannot be measured; says why.
        """
        known = await self._store.conversation(user_id, chat_id)
        turns = {turn.turn_id: turn for turn in known.turns}
        turn = await self._store.turn(user_id, turn_id)  # with its recipe
        if turn_id not in turns:
            raise NotFound("turn", turn_id)
        return await self._attributor.attribute(turn, turns)

    async def rate(self, user_id: str, chat_id: str, turn_id: str, rating: int, reason: str | None) -> None:
        """Store a person's verdict (1 or -1) on an answer."""
        turn = await self.turn_of_chat(user_id, chat_id, turn_id)
        await self._store.rate(turn, rating, reason, self._clock())
        await self._answers.rated(turn, rating)

    def similar_to(self, turn: Turn) -> Similar | None:
        """What may do for a turn under way until its answer is there, unless a person has judged it."""
        return self._answers.similar_to(turn.turn_id) if turn.live else None

    async def judge_similar(self, user_id: str, turn_id: str, same: bool) -> Turn:
        """Take a person's word on whether the answer to a similar question will do.

        If it will, and the turn is under way, that answer is the turn's and the model's is given up.

        Raises:
            NotFound: No such turn of this user, or nothing similar was found for it.
        """
        turn = await self.turn(user_id, turn_id)
        if not await self._answers.person_says(turn, same):
            raise NotFound("similar question of turn", turn_id)
        return await self.stop(user_id, turn_id) if same and turn.live else turn

    async def pin(self, user_id: str, chat_id: str, turn_id: str, pinned: bool) -> Turn:
        """Keep a turn in the prompt of every later one, or no longer."""
        turn = await self.turn_of_chat(user_id, chat_id, turn_id)
        await self._store.pin_turn(turn, pinned)
        return replace(turn, pinned=pinned)

    # Notes

    async def notes(self, user_id: str, chat_id: str) -> tuple[Note, ...]:
        """A chat's notes, on whatever branch, oldest first."""
        return await self._notes.of_chat(user_id, chat_id)

    async def note(self, user_id: str, chat_id: str, note_id: str) -> Note:
        """A note; those that were merged are gone."""
        return await self._notes.find(user_id, chat_id, note_id)

    async def edit_note(self, user_id: str, chat_id: str, note_id: str, text: str) -> Note:
        """Let a note say what a person wants it to say; from then on nothing but a person changes it."""
        return await self._notes.edit(user_id, chat_id, note_id, text)

    async def delete_note(self, user_id: str, chat_id: str, note_id: str) -> None:
        """Empty a note for good: nothing stands for its turns, and no other note of them is written."""
        await self._notes.delete(user_id, chat_id, note_id)

    def _as_of_now(self, turn: Turn) -> Turn:
        """A running turn with its text so far, which the store only follows."""
        if not turn.live or (job := self._jobs.find(turn.user_id, turn.turn_id)) is None:
            return turn
        if isinstance(end := job.log.end, DoneEvent | ErrorEvent):  # ended, but its end could not be stored
            return end.turn
        return replace(turn, assistant_message=job.log.text, status="running" if job.log.text else turn.status)


def _path(known: Conversation, request: TurnRequest) -> tuple[Turn, ...]:
    """The turns that the new one follows."""
    if request.parent_turn_id == NEWEST:
        return path_to(known.turns, known.turns[-1].turn_id if known.turns else None)
    try:
        return path_to(known.turns, request.parent_turn_id)
    except KeyError:
        raise InvalidInput(FieldError("parentTurnID", f"this chat has no turn {request.parent_turn_id!r}")) from None


async def _replay(turn: Turn, after: int) -> AsyncGenerator[list[Event]]:
    """The events of a turn whose log is gone. A reader that had some of them is told to begin again."""
    bodies = [
        RestartEvent() if after else StatusEvent(turn.turn_id, turn.chat_id, turn.status, 0),
        *([DeltaEvent(turn.assistant_message)] if turn.assistant_message else []),
        DoneEvent(turn) if turn.error is None else ErrorEvent(turn, turn.error),
    ]
    yield [Event(event_id, body) for event_id, body in enumerate(bodies, after + 1)]
