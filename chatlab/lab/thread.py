"""The parts of a lab in a thread of their own, which opens, runs and closes them.

Chats belong to one event loop while turns are under way, and a data dir's lock to the thread that took it. Callers
hand coroutines over and block until they are done: the same from a script, a notebook's cell, a coroutine or several
threads. Knows nothing of what the coroutines do.
"""

import asyncio
import signal
import threading
from collections.abc import Coroutine, Generator
from concurrent.futures import Future, InvalidStateError
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from chatlab.wiring import Parts

STOP_SECONDS = 20.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Running:
    """What is there once the parts are open."""

    parts: Parts
    loop: asyncio.AbstractEventLoop
    stop: asyncio.Event


class PartsThread:
    """Open parts and the event loop they belong to, from the constructor to `close`.

    Args:
        wiring: Entered and left in the thread.

    Raises:
        ConfigError: As `wire`.
    """

    def __init__(self, wiring: AbstractContextManager[Parts]) -> None:
        self._wiring = wiring
        self._lock = threading.Lock()  # guards _closed against work handed over after the end
        self._closed = False
        self._calls: set[Future[Any]] = set()  # of callers; those under way at the end are waited for
        self._opened: Future[_Running] = Future()
        self._ended: Future[None] = Future()
        self._thread = threading.Thread(target=self._work, name="lab", daemon=True)
        self._thread.start()
        try:
            with interruptible():
                self._running = self._opened.result()
        except Exception:
            self._thread.join()
            raise
        except BaseException:
            self._closed = True  # interrupted while it opens: it closes again by itself
            raise

    @property
    def parts(self) -> Parts:
        """The open parts."""
        return self._running.parts

    @property
    def closed(self) -> bool:
        """Whether nothing more is taken."""
        return self._closed

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the parts' loop and wait for its result; an interrupt cancels it.

        Raises:
            RuntimeError: Closed.
        """
        future = self.submit(coroutine)
        try:
            with interruptible():
                return future.result()
        except BaseException:
            future.cancel()
            raise

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine on the parts' loop.

        Raises:
            RuntimeError: Closed.
        """
        with self._lock:
            if self._closed:
                coroutine.close()
                raise RuntimeError("this lab is closed: open it again with chatlab.open(...)")
            future = asyncio.run_coroutine_threadsafe(coroutine, self._running.loop)
            self._calls.add(future)
        future.add_done_callback(self._calls.discard)
        return future

    def inside(self) -> bool:
        """Whether this is the parts' own thread, where waiting for it would never end."""
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """Interrupt the turns under way, their texts kept, close the parts and wait for all that; idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._running.loop.call_soon_threadsafe(self._running.stop.set)
        self._ended.result()
        self._thread.join()  # a thread that runs into the interpreter's end aborts the process

    def _work(self) -> None:
        try:
            with self._wiring as parts:
                asyncio.run(self._run(parts))
            self._ended.set_result(None)
        except BaseException as error:  # noqa: BLE001 - the boundary of the thread: it is raised where one waits
            try:
                self._opened.set_exception(error)
            except InvalidStateError:
                self._ended.set_exception(error)

    async def _run(self, parts: Parts) -> None:
        stop = asyncio.Event()
        self._opened.set_result(_Running(parts, asyncio.get_running_loop(), stop))
        if self._closed:
            return
        await stop.wait()
        await parts.jobs.close()  # every turn ends, and with it what follows one
        if calls := [asyncio.wrap_future(call) for call in self._calls]:
            await asyncio.wait(calls, timeout=STOP_SECONDS)


@contextmanager
def interruptible() -> Generator[None]:
    """Let an interrupt end a wait in the main thread.

    An event loop that runs there (an async cell, `asyncio.run`) handles interrupts by cancelling its task, which a
    wait inside that task would never see.
    """
    if threading.current_thread() is not threading.main_thread() or not callable(signal.getsignal(signal.SIGINT)):
        yield  # another thread is never interrupted; a process that ignores interrupts goes on doing so
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
