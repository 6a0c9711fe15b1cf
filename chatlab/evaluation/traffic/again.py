"""Questions that are asked again and again: groups that one answer serves, by the cache's own decision.

Whoever asked, whenever, and whatever was said before: "continue" is asked again, too, though no cache may answer it. A
question joins the group of the question that the decision would serve it from, or begins one: nothing is chained.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from chatlab.cache.decision import CANDIDATES
from chatlab.evaluation.traffic.judgements import Judgements
from chatlab.evaluation.traffic.requests import Requests
from chatlab.evaluation.traffic.texts import Texts

TOGETHER = 256


@dataclass(slots=True)
class Group:
    """Requests that ask the same, in order; the first one names it."""

    requests: list[int] = field(default_factory=list[int])


async def groups(
    requests: Requests, texts: Texts, judgements: Judgements, threshold: float, progress: Callable[[int, int], None]
) -> list[Group]:
    """Group all requests, but those that want another answer to what was just asked.

    Args:
        requests: In order.
        texts: Of their questions.
        judgements: Of these texts.
        threshold: Least score at which one answer serves two questions.
        progress: Told how far it is.

    Returns:
        Those that were asked twice and more, the largest first.

    Raises:
        ModelUnavailable: The embedder cannot be loaded.
    """
    by_words: dict[str, Group] = {}
    leaders: dict[int, Group] = {}
    n = len(requests.asked)
    for place, request in enumerate(requests.asked):
        if place % TOGETHER == 0:
            progress(place, n)
            judgements.save(n)
        if request.anew:
            continue
        group = by_words.get(request.same_words)
        if group is None:
            text = texts.place_of[request.turn.user_message]
            group = await _near(text, leaders, texts, judgements, threshold)
            if group is None:
                group = leaders[text] = Group()
            by_words[request.same_words] = group
        group.requests.append(place)
    judgements.save(n)
    progress(n, n)
    found = [group for group in leaders.values() if len(group.requests) > 1]
    return sorted(found, key=lambda group: -len(group.requests))


async def _near(
    text: int, leaders: dict[int, Group], texts: Texts, judgements: Judgements, threshold: float
) -> Group | None:
    near: Sequence[int] = [each for each in texts.neighbours[text].tolist() if each in leaders and each != text]
    if not near:
        return None
    chosen = await judgements.of(text, near[:CANDIDATES])
    return leaders[chosen.text] if chosen.judgement.score >= threshold else None
