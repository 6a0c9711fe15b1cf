"""From settings to a listening process: one server with the API and the page."""

import asyncio
import gc
import signal
import socket
import sys
import threading
import warnings
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType

import gradio as gr
import structlog
import uvicorn

from chatlab.api import install
from chatlab.errors import ConfigError
from chatlab.settings import Settings, variable
from chatlab.ui import Guard, Visitors, build_ui, css, files_router, theme
from chatlab.wiring import Parts, wire

STOP_SECONDS = 20.0
LEAVE_SECONDS = 1  # open pages hold a connection for as long as they are open
LOOPBACK = "127.0.0.1"
WEB_THREADS = 40
MAX_FILE_BYTES = 1  # the page takes no files, and the upload route would take them from anyone
# The loop, the writer and the generation thread hand over often; with the default of 5 ms each waits for the others.
SWITCH_SECONDS = 0.0005

log = structlog.get_logger(__name__)


@contextmanager
def serving(settings: Settings) -> Generator[str]:
    """Serve while the context is open; gives the address.

    On leaving, answers under way are interrupted with their text kept.

    Raises:
        ConfigError: The port is taken, the data dir is held, the model cannot be loaded, and the like.
    """
    with wire(settings) as parts:
        port = settings.port or _free_port(settings.host)
        loops: list[asyncio.AbstractEventLoop] = []

        @asynccontextmanager
        async def lifespan(app: object) -> AsyncGenerator[None]:
            loops.append(asyncio.get_running_loop())
            yield

        server, ui = build_server(parts)
        try:
            app, _, _ = server.launch(
                server_name=settings.host,
                server_port=port,
                app_kwargs={"lifespan": lifespan},  # one passed to gr.Server never runs
                prevent_thread_lock=True,
                quiet=True,
                run_history=False,
                ssr_mode=False,
                max_threads=WEB_THREADS,
                max_file_size=MAX_FILE_BYTES,
            )
        except OSError as error:
            raise ConfigError(
                f"{variable('port')}={port}: cannot listen there. Another program has the port: stop it, or choose "
                f"another one ({error})"
            ) from error
        if settings.on_zero_gpu:
            ui.server = app.get_blocks().server  # a mounted page has none; see `Visitors`
        facts = parts.engine.facts
        address = f"http://{settings.host}:{port}"
        log.info("listening", url=address, model=facts.model, device=facts.device, engine=facts.engine)
        try:
            yield address
        finally:
            # Streams end with their jobs; only then can the server, which waits for streams.
            asyncio.run_coroutine_threadsafe(parts.jobs.close(), loops[0]).result(STOP_SECONDS)
            app.get_blocks().close(verbose=False)


@asynccontextmanager
async def listening(parts: Parts, port: int) -> AsyncGenerator[int]:
    """Serve open parts on the running event loop, which must be theirs, and on loopback only; gives the port.

    Args:
        parts: They stay open afterwards, and answers under way go on.
        port: To listen on; 0 takes a free one.

    Raises:
        ConfigError: The port is taken.
    """
    try:
        listener = socket.create_server((LOOPBACK, port))
    except (OSError, OverflowError) as error:
        raise ConfigError(f"port={port}: cannot listen there; choose another one, or 0 for any ({error})") from error
    with listener:
        app, _ = build_server(parts)  # here: in a thread without a loop, Gradio makes loops and leaves them open
        config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=LEAVE_SECONDS)
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve([listener]), name="page")
        while not server.started and not running.done():
            await asyncio.sleep(0.01)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await running


def build_server(parts: Parts) -> tuple[gr.Server, gr.Blocks]:
    """The API and the page in one app, and the page. `gr.Server` launches both and tells Hugging Face Spaces."""
    server = gr.Server(title="chatlab", docs_url=None, redoc_url=None, openapi_url=None)
    install(server, parts)
    server.include_router(files_router(parts))
    ui = build_ui(parts)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "SSR mode is not supported")  # said of every app with several pages
        gr.mount_gradio_app(
            server,
            ui,
            path="/",
            run_history=False,
            show_error=False,  # but for those meant for people
            footer_links=[],
            theme=theme(),
            css=css(),
            ssr_mode=False,
            max_file_size=MAX_FILE_BYTES,
        )
    if parts.settings.on_zero_gpu:
        server.add_middleware(Visitors, ui=ui)
    server.add_middleware(Guard)
    return server, ui


def serve(settings: Settings) -> None:
    """Serve until interrupted or terminated."""
    done = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        done.set()

    sys.setswitchinterval(SWITCH_SECONDS)
    with serving(settings):
        for number in (signal.SIGINT, signal.SIGTERM):  # until here, they end the start at once
            signal.signal(number, end)
        gc.freeze()  # what a start makes lives on: not to be scanned in the middle of a turn
        done.wait()
        log.info("stopping")
    gc.unfreeze()  # or DuckDB's binding reports leaks at exit


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]
