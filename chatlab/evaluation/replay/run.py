"""Configurations on a log, each with a cache and a search of its own; nothing is left behind."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack

from chatlab.aside import answer_aside
from chatlab.embedding import Embedder
from chatlab.engines.base import Engine, GenerationRequest
from chatlab.evaluation.parts import Counting, open_recall
from chatlab.evaluation.replay.answers import open_answers
from chatlab.evaluation.replay.configuration import Configuration
from chatlab.evaluation.replay.decisions import Decision
from chatlab.evaluation.replay.log import Log, Progress
from chatlab.evaluation.replay.prompts import ReplayedPrompts, Sent
from chatlab.evaluation.replay.replay import Answer, Model, Replay
from chatlab.messages import SamplingParams


async def replay(
    log: Log,
    configuration: Configuration,
    embedder: Embedder,
    counting: Counting | None = None,
    engine: Engine | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Sequence[Decision], int]:
    """What becomes of every turn of a log.

    Args:
        log: What is replayed.
        configuration: That decides.
        embedder: Its; may be shared by configurations that name none.
        counting: Renders and counts prompts; without it none are built.
        engine: Answers what the cache does not serve; without it the log does.
        seed: Of audits that the log does not know.
        progress: Told how many turns of how many have ended.

    Returns:
        The decisions in the order of the turns, and how often something did not work.

    Raises:
        ModelUnavailable: The embedder cannot be loaded.
    """
    await embedder.embed(["A server that has answered for a while has it loaded."])
    with ExitStack() as opened:
        answers, clock, store = opened.enter_context(open_answers(configuration, embedder, seed))
        await asyncio.gather(*(store.add_chat(each.chat) for each in log.conversations))
        prompts = None
        if counting is not None:
            recall = opened.enter_context(open_recall(configuration.settings))
            prompts = ReplayedPrompts(counting.engine, counting.tokenize, recall, configuration)
        model = None if engine is None else _asking(engine)
        decisions = await Replay(log, configuration, answers, clock, prompts, model).run(progress)
        return decisions, answers.n_faults


def _asking(engine: Engine) -> Model:
    async def ask(sent: Sent, params: SamplingParams, user_id: str) -> Answer:
        began = time.perf_counter()
        prompt = sent.prompt
        found = await answer_aside(engine, GenerationRequest(prompt.messages, params, user_id, prompt.quoted_chars))
        return Answer(found.text, found.reason == "stop", time.perf_counter() - began)

    return ask
