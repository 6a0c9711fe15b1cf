"""What a handler of a page could not do, as Gradio shows it."""

from collections.abc import Awaitable
from typing import TypeVar

import gradio as gr
import structlog

from chatlab.errors import ChatlabError
from chatlab.ui.refusal import Refused, refusal

T = TypeVar("T")

log = structlog.get_logger(__name__)


async def or_shown(work: Awaitable[T]) -> T:
    """What comes of it; what is refused is said in the words of the page, what fails goes to the log.

    Raises:
        gr.Error: It did not work.
    """
    try:
        return await work
    except Refused as error:
        raise shown(error) from error
    except ChatlabError as error:
        raise shown(refusal(error)) from error
    except Exception as error:
        raise failed() from error


def failed() -> gr.Error:
    """For what nobody foresaw; to be called where it is caught."""
    log.exception("the page failed")
    return gr.Error("The server could not do it; its log says why. Try again.", print_exception=False)


def shown(error: Refused) -> gr.Error:
    """For what was refused."""
    return gr.Error(str(error), title="That did not work", print_exception=False)
