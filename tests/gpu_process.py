"""A stand-in for `spaces.GPU` that does what matters of it: the task runs in a process forked for it.

Arguments and results are pickled; closing the generator stops the task after its next item; of an error only the class
comes back.
"""

import multiprocessing
import pickle
from collections.abc import Callable, Generator
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Any

import torch

JOIN_SECONDS = 20.0


def in_process(*, duration: Callable[..., int]) -> Callable[[Any], Any]:
    """Like `spaces.GPU(duration=...)` on ZeroGPU."""
    context = multiprocessing.get_context("fork")

    def decorate(task: Callable[..., Generator[Any]]) -> Callable[..., Generator[Any]]:
        def call(*args: Any) -> Generator[Any]:
            assert duration(*args) > 0
            ours, theirs = context.Pipe(duplex=False)
            stop = context.Event()
            process = context.Process(target=_run, args=(task, pickle.dumps(args), theirs, stop), daemon=True)
            process.start()
            theirs.close()
            try:
                while (item := ours.recv()) is not None:
                    if isinstance(item, _Failed):
                        raise RuntimeError(item.kind)
                    yield item
            finally:
                stop.set()
                process.join(JOIN_SECONDS)
                assert process.exitcode == 0

        return call

    return decorate


def here(*, duration: Callable[..., int]) -> Callable[[Any], Any]:
    """Like `spaces.GPU(duration=...)` anywhere else: the task itself."""
    return lambda task: task


class _Failed:
    def __init__(self, kind: str) -> None:
        self.kind = kind


def _run(task: Callable[..., Generator[Any]], args: bytes, out: Connection, stop: Event) -> None:
    torch.set_num_threads(1)  # the parent's pool of threads was not forked
    items = task(*pickle.loads(args))
    try:
        for item in items:
            if stop.is_set():
                items.close()
                break
            out.send(item)
    except Exception as error:  # noqa: BLE001 - whatever it is, its class is what the other side hears
        out.send(_Failed(type(error).__name__))
    out.send(None)
