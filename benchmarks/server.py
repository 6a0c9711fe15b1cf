"""A chatlab process to measure from outside, with the echo engine."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx


@contextmanager
def server(port: int, tokens_per_second: float) -> Generator[str]:
    """Serve on an empty data dir while the context is open; gives the address."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        environment = {
            **os.environ,
            "CHATLAB_ENGINE": "echo",
            "CHATLAB_ECHO_TOKENS_PER_SECOND": str(tokens_per_second),
            "CHATLAB_DATA_DIR": folder,
            "CHATLAB_CACHE_SCOPE": "off",  # what is asked again is to be computed again
            "CHATLAB_PORT": str(port),
        }
        process = subprocess.Popen([sys.executable, "-m", "chatlab", "serve"], env=environment)
        try:
            wait_until_up(f"http://127.0.0.1:{port}/readyz")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def wait_until_up(url: str) -> None:
    """Wait until an address answers.

    Raises:
        TimeoutError: After half a minute.
    """
    for _ in range(300):
        try:
            httpx.get(url).raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.1)
        else:
            return
    raise TimeoutError(f"{url} did not come up")
