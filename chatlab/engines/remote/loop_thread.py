"""An event loop in a thread of its own, for what belongs to one loop while its callers have many or none."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class LoopThread:
    """Runs from the constructor to `close`.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._opened: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._work()), name=name, daemon=True)
        self._thread.start()
        self.loop, self._stop = self._opened.result()

    def call(self, function: Callable[[*Ts], object], *args: *Ts) -> None:
        """Call a function on the loop, soon.

        Raises:
            RuntimeError: Closed.
        """
        self.loop.call_soon_threadsafe(function, *args)

    def run(self, coroutine: Coroutine[Any, Any, T], seconds: float) -> T:
        """Run a coroutine on the loop and wait for its result; not to be called on the loop itself.

        Raises:
            RuntimeError: Closed.
            TimeoutError: It took longer than `seconds`, and was cancelled.
        """
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        except RuntimeError:
            coroutine.close()
            raise
        try:
            return future.result(seconds)
        finally:
            future.cancel()

    def close(self) -> None:
        """Cancel what runs on the loop and wait for the thread; idempotent."""
        if self._thread.is_alive():
            self.call(self._stop.set)
        self._thread.join()

    async def _work(self) -> None:
        stop = asyncio.Event()
        self._opened.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()
