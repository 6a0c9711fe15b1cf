"""What is asked of every engine under test, and the process of its own in which it answers.

An engine is loaded once and answers one list of jobs at a time; between two it waits without using a core. What it
reports are moments: when a job was asked, and when each token of its answer was there.
"""

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from chatlab.engines.models import ModelSource
from chatlab.messages import Message
from chatlab.settings import Settings, quieten_libraries

PATIENCE_SECONDS = 300.0  # for the model to load, and for one list of jobs


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt to answer.

    Attributes:
        messages: The prompt; for engines that have the chat template.
        token_ids: The same prompt as tokens.
        max_new_tokens: The answer's length, but for engines that end at the model's own end.
        user_id: Prefixes are shared between jobs with the same one.
        after_tokens: It is asked when the first job of its list has so many tokens.
    """

    messages: list[Message]
    token_ids: list[int]
    max_new_tokens: int
    user_id: str
    after_tokens: int = 0


@dataclass(slots=True)
class Timeline:
    """What became of a job; moments in seconds of one clock.

    Attributes:
        asked_at: When the engine was given the job.
        token_at: When each token of the answer was there.
        answer: Its text, or its tokens.
    """

    asked_at: float
    token_at: list[float]
    answer: str | list[int]

    @property
    def first_token_ms(self) -> float:
        """Milliseconds from the question to the first token."""
        return (self.token_at[0] - self.asked_at) * 1e3


@dataclass(frozen=True, slots=True)
class Setup:
    """What all engines are given alike.

    Attributes:
        settings: Of chatlab; `engine` is the one for weights in this process.
        source: Where the model is.
        device: `cpu` or a torch device.
        threads: CPU threads.
        gguf: The same weights for llama.cpp, if there are any.
    """

    settings: Settings
    source: ModelSource
    device: str
    threads: int
    gguf: Path | None


class Progress:
    """When the jobs of a run have been answered far enough: the last one that began has so many tokens."""

    def __init__(self, n_jobs: int, enough: int) -> None:
        self._missing = n_jobs
        self._enough = enough
        self._last: Timeline | None = None
        self.done = False

    def tokens(self, timeline: Timeline, n_tokens: int) -> None:
        """So many more tokens are there, now."""
        if not timeline.token_at:
            self._missing -= 1
            self._last = timeline
        timeline.token_at += [now()] * n_tokens
        if not self._missing and timeline is self._last:
            self.done = self.done or len(timeline.token_at) >= self._enough


class Contender(Protocol):
    """An engine under test."""

    def run(self, jobs: Sequence[Job], enough: int) -> list[Timeline]:
        """Answer all jobs, each from its moment on; one timeline a job, in their order.

        Ends all of them as soon as the last one that began has `enough` tokens.
        """
        ...

    def close(self) -> None:
        """End its threads."""
        ...


class Unavailable(Exception):
    """A contender cannot take part, or gave no answer; says why."""


@dataclass(frozen=True, slots=True)
class _Answer:
    timelines: list[Timeline]
    peak_bytes: int


class ContenderProcess:
    """A contender in a process of its own.

    Args:
        make: Loads it; a module's function, imported there.
        setup: Passed on.

    Raises:
        Unavailable: It could not be loaded.
    """

    def __init__(self, make: Callable[[Setup], Contender], setup: Setup) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, setup), daemon=True)
        self._process.start()
        theirs.close()
        self.loaded_bytes = self._receive().peak_bytes
        self.peak_bytes = self.loaded_bytes

    def run(self, jobs: Sequence[Job], enough: int) -> list[Timeline]:
        """See `Contender.run`.

        Raises:
            Unavailable: It failed at these jobs, or its process ended.
        """
        try:
            self._connection.send((list(jobs), enough))
        except OSError as error:
            raise Unavailable("its process has ended") from error
        answer = self._receive()
        self.peak_bytes = answer.peak_bytes
        return answer.timelines

    def close(self) -> None:
        """End the process."""
        with suppress(OSError):
            self._connection.send(None)
        self._process.join(10)
        self._process.kill()
        self._process.join()

    def _receive(self) -> _Answer:
        try:
            if not self._connection.poll(PATIENCE_SECONDS):
                self._process.kill()
                raise Unavailable(f"no answer in {PATIENCE_SECONDS:g} s")
            answer: _Answer | str = self._connection.recv()
        except (EOFError, OSError) as error:
            raise Unavailable("its process has ended") from error
        if isinstance(answer, str):
            raise Unavailable(answer)
        return answer


def _serve(connection: Connection, make: Callable[[Setup], Contender], setup: Setup) -> None:
    """The process: load the contender, then answer until told to end."""
    quieten_libraries()
    try:
        contender = make(setup)
    except Exception as error:  # noqa: BLE001 - told to the parent, whatever it is
        connection.send(_reason(error))
        return
    connection.send(_Answer([], _peak_bytes()))
    while (asked := connection.recv()) is not None:
        try:
            connection.send(_Answer(contender.run(*asked), _peak_bytes()))
        except Exception as error:  # noqa: BLE001
            connection.send(_reason(error))
    contender.close()


def _peak_bytes() -> int:
    """The most memory that this process has had. Linux' `getrusage` would count its parent's, too."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) * 1024 for line in status.read_text().splitlines() if "VmHWM" in line)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _reason(error: Exception) -> str:
    lines = (str(error) or repr(error)).splitlines()
    return lines[0] if isinstance(error, Unavailable) else f"{type(error).__name__}: {lines[0]}"


def now() -> float:
    """Seconds of the clock of all timelines."""
    return time.perf_counter()
