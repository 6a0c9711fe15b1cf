"""The page of a lab's chats, served from the same process and shown inline in a notebook."""

from contextlib import AbstractAsyncContextManager
from html import escape

from chatlab.lab.thread import PartsThread

HEIGHT = 700
# Jupyter's own page is on `localhost`: a frame of the same site keeps its storage, one from 127.0.0.1 would be a
# stranger there, whose storage browsers partition and private windows deny.
HOST = "localhost"


class LabPage:
    """The page and the REST API on a loopback port, from the constructor to `close` or the lab's.

    Attributes:
        height: Of the frame in a notebook, in pixels.

    Raises:
        ConfigError: The port is taken.
    """

    def __init__(self, thread: PartsThread, port: int, height: int) -> None:
        from chatlab.serve import listening  # takes seconds: only for those who ask for the page

        self._thread = thread
        self._listening: AbstractAsyncContextManager[int] = listening(thread.parts, port)
        self.height = height
        self._closed = False
        self.port = thread.call(self._listening.__aenter__())

    @property
    def url(self) -> str:
        """The page's address, for this machine only."""
        return f"http://{HOST}:{self.port}"

    @property
    def closed(self) -> bool:
        """Whether it no longer listens."""
        return self._closed or self._thread.closed

    def close(self) -> None:
        """Listen no more; answers under way go on. Idempotent."""
        if not self.closed:
            self._closed = True
            self._thread.call(self._stop())

    async def _stop(self) -> None:
        await self._listening.__aexit__(None, None, None)

    def __repr__(self) -> str:
        return f"<page of a lab: {'closed' if self.closed else self.url}>"

    def _repr_html_(self) -> str:
        if self.closed:
            return escape(repr(self))
        return (
            f'<iframe src="{self.url}" width="100%" height="{int(self.height)}" title="chatlab" '
            'style="border: 1px solid rgba(128, 128, 128, .35); border-radius: 8px" '
            'allow="clipboard-write; fullscreen"></iframe>'
        )
