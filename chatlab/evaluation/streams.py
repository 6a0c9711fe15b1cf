"""The cache on a stream of questions in order: what each policy serves, how much of it is wrong, and when.

The story of one question: what it is keyed by -> the exact tier -> the nearest stored questions -> the policy ->
served, or answered by the model and stored -> labels. The model's answer is right by definition; a served one is wrong
where the stored question's `answer_key` is another. Vectors and judgements are computed once for all policies and
seeds.
"""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from chatlab.cache.context import needs_context
from chatlab.cache.decision import Judgement, judge
from chatlab.cache.evidence import Question
from chatlab.cache.key import history_key
from chatlab.cache.personal import personal_data
from chatlab.cache.questions import Questions
from chatlab.cache.reading import language_of, normalised
from chatlab.cache.recalibration import Comparator
from chatlab.embedding import Embedder
from chatlab.evaluation.policies import Candidate, Policy
from chatlab.evaluation.workload import Asked
from chatlab.messages import CacheScope

NEIGHBOURS = 64  # nearest texts of the whole stream that are known of each; further ones are searched for
SMALL = 256  # stored questions, up to which all are compared
_AT_ONCE = 512  # texts compared with all others

Bucket = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Keyed:
    """A question with what it is keyed by.

    Attributes:
        text: Its place among the texts.
        same_words: Equal for what the exact tier takes for the same.
        full: The bucket of its whole conversation, where its answer is stored.
        sought: The bucket in which near ones are looked for: without the conversation where it is not needed.
        plain: The bucket of who knows users only.
        stored: Whether an answer to it may be stored.
    """

    asked: Asked
    text: int
    same_words: str
    full: Bucket
    sought: Bucket
    plain: Bucket
    stored: bool


class Corpus:
    """The texts of streams: vectors, neighbours, judgements.

    Args:
        questions: Embedded, each text once.
    """

    def __init__(self, questions: Sequence[Question]) -> None:
        self.questions = questions
        self.vectors = np.stack([each.embedded.vector for each in questions])  # (n, dim) float32, unit norm
        self.place_of = {each.text: i for i, each in enumerate(questions)}
        self._neighbours = np.concatenate(
            [self._nearest_of(i) for i in range(0, len(questions), _AT_ONCE)]
        )  # (n, NEIGHBOURS)
        self._judged: dict[tuple[int, int], Judgement] = {}

    def _nearest_of(self, first: int) -> NDArray[np.int64]:
        similarities = self.vectors[first : first + _AT_ONCE] @ self.vectors.T
        k = min(NEIGHBOURS, len(self.questions))
        near = np.argpartition(-similarities, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(similarities, near, axis=1), axis=1, kind="stable")
        return np.take_along_axis(near, order, axis=1)

    def nearest(self, text: int, stored: "Stored", n: int) -> list[Candidate]:
        """The n stored texts nearest to one, the nearest first."""
        if not stored.answers:
            return []
        found: list[int] = []
        if len(stored.answers) > SMALL:
            for i in self._neighbours[text].tolist():
                if i in stored.answers:
                    found.append(i)
                    if len(found) == n:
                        break
        if len(found) < n:
            places = stored.places
            similarities = self.vectors[places] @ self.vectors[text]
            k = min(n, len(places))
            near = np.argpartition(-similarities, k - 1)[:k]
            found = places[near[np.argsort(-similarities[near], kind="stable")]].tolist()
        return [Candidate(i, float(self.vectors[i] @ self.vectors[text])) for i in found]

    def judge(self, text: int, candidates: Sequence[Candidate]) -> list[Judgement]:
        """The cache's judgements, with the place of each among these candidates."""
        found: list[Judgement] = []
        for place, candidate in enumerate(candidates):
            known = self._judged.get((text, candidate.text))
            if known is None:
                (known,) = judge(self.questions[text], [self.questions[candidate.text]])
                self._judged[text, candidate.text] = known
            found.append(Judgement(place, known.similarity, known.score, known.guard, known.closeness))
        return found


@dataclass(slots=True)
class Stored:
    """What one bucket holds: the answer to each text."""

    answers: dict[int, str] = field(default_factory=dict[int, str])
    _places: NDArray[np.int64] | None = None

    @property
    def places(self) -> NDArray[np.int64]:
        """Of the texts."""
        if self._places is None:
            self._places = np.fromiter(self.answers, dtype=np.int64, count=len(self.answers))
        return self._places

    def store(self, text: int, answer_key: str) -> None:
        """A new answer; an older one to the same text goes."""
        if text not in self.answers:
            self._places = None
        self.answers[text] = answer_key


async def prepare(
    streams: Sequence[Sequence[Asked]], embedder: Embedder, scope: CacheScope
) -> tuple[Corpus, list[list[Keyed]]]:
    """Embed all texts, and key all questions.

    Args:
        streams: Of one log or workload.
        embedder: The cache's.
        scope: `user` keeps users apart; `global` does not, and stores nothing personal and no answer in a conversation.

    Raises:
        ModelUnavailable: The embedder cannot be loaded.
    """
    texts = dict.fromkeys(text for stream in streams for asked in stream for text in (*_said(asked), asked.question))
    corpus = Corpus(await Questions(embedder, len(texts)).get([*texts]))
    needed: dict[tuple[str, ...], bool] = {}
    return corpus, [[_keyed(asked, corpus, scope, needed) for asked in stream] for stream in streams]


def _keyed(asked: Asked, corpus: Corpus, scope: CacheScope, needed: dict[tuple[str, ...], bool]) -> Keyed:
    said = _said(asked)
    if (words := (*said, asked.question)) not in needed:
        text, *before = (corpus.vectors[corpus.place_of[each]] for each in reversed(words))
        needed[words] = needs_context(asked.question, text, before[::-1])
    user = asked.user if scope == "user" else ""
    alone = user, language_of(asked.question), ""
    full = user, language_of(asked.question), history_key(asked.history)
    return Keyed(
        asked=asked,
        text=corpus.place_of[asked.question],
        same_words=normalised(asked.question),
        full=full,
        sought=full if needed[words] else alone,
        plain=(user,),
        stored=scope == "user" or not (asked.history or personal_data(asked.question)),
    )


def _said(asked: Asked) -> list[str]:
    return [message["content"] for message in asked.history if message["role"] == "user"]


@dataclass(frozen=True, slots=True)
class Run:
    """What a policy did with a stream, each array (n,) in its order.

    Attributes:
        served: Answered from the cache.
        wrong: Of these, those whose stored question has another answer.
        exact: Of these, those of the exact tier.
        guards: The guard that refused the nearest, by question.
        seconds: It took, without embedding; judgements that an earlier run made are not made again.
    """

    served: NDArray[np.bool_]
    wrong: NDArray[np.bool_]
    exact: NDArray[np.bool_]
    guards: Sequence[str | None]
    seconds: float

    def wrong_share(self, part: slice = slice(None)) -> float | None:
        """Of what is served in a part of the stream; None where nothing is."""
        n = int(self.served[part].sum())
        return float(self.wrong[part].sum()) / n if n else None

    def keeps(self, max_error: float) -> bool:
        """Whether the bound holds in both halves."""
        return all((self.wrong_share(part) or 0.0) <= max_error for part in halves(len(self.served)))


def halves(n: int) -> tuple[slice, slice]:
    """Of a stream of n questions."""
    return slice(0, n // 2), slice(n // 2, n)


def simulate(
    stream: Sequence[Keyed], corpus: Corpus, policy: Policy, seed: int, labels: Comparator | None = None
) -> Run:
    """Ask a stream's questions in order, all answers stored as they come.

    Args:
        stream: Keyed.
        corpus: Its texts.
        policy: New.
        seed: Of audits and of the errors of labels.
        labels: How often the comparison that makes labels errs; None where it does not.
    """
    chance = random.Random(seed)
    exact_tier: dict[tuple[Bucket, str], str] = {}
    near: dict[Bucket, Stored] = {}
    served, wrong, exact = (np.zeros(len(stream), dtype=bool) for _ in range(3))
    guards: list[str | None] = [None] * len(stream)
    started = time.perf_counter()
    for i, keyed in enumerate(stream):
        truth = keyed.asked.answer_key
        # 1. The same words after the same conversation, or without one where none is needed.
        if policy.exact:
            found = exact_tier.get((keyed.full, keyed.same_words)) or exact_tier.get((keyed.sought, keyed.same_words))
            if found is not None:
                served[i], exact[i], wrong[i] = True, True, found != truth
                policy.served_exactly()
                continue
        # 2. The nearest.
        bucket = near.setdefault(keyed.sought if policy.keyed else keyed.plain, Stored())
        choice = policy.choose(keyed.text, corpus.nearest(keyed.text, bucket, policy.n_candidates))
        same = choice.candidate is not None and bucket.answers[choice.candidate.text] == truth
        served[i], wrong[i], guards[i] = choice.served, choice.served and not same, choice.guard
        # 3. A label of what the model answers, too.
        if choice.candidate is not None and (not choice.served or chance.random() < policy.audit_share):
            policy.learn(choice, _said_of(same, labels, chance), audited=choice.served)
        # 4. A new answer is stored.
        if not choice.served and (policy.keeps_all or not same) and (keyed.stored or not policy.keyed):
            near.setdefault(keyed.full if policy.keyed else keyed.plain, Stored()).store(keyed.text, truth)
            exact_tier[keyed.full, keyed.same_words] = truth
    return Run(served, wrong, exact, guards, time.perf_counter() - started)


def _said_of(same: bool, labels: Comparator | None, chance: random.Random) -> bool:
    if labels is None:
        return same
    return chance.random() >= labels.false_different if same else chance.random() < labels.false_same
