"""What a strategy's prompt is worth to the model: the gold answer among ten, and the true next turn.

Both add a section to each cell of a report. They need the weights and take seconds a question.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog

from chatlab.evaluation import bootstrap
from chatlab.evaluation.dialogues import Dialogue, Question
from chatlab.evaluation.metrics import content_words, words
from chatlab.evaluation.prompts import PromptMaker
from chatlab.evaluation.report import HistoryReport, difference
from chatlab.evaluation.scoring import Likelihood, Scorer

N_DISTRACTORS = 9
SAME_WORDS = 8  # in a row, by which another dialogue gives an answer away

log = structlog.get_logger(__name__)


# The gold answer among ten


@dataclass(frozen=True, slots=True)
class _Choice:
    """A question and its answers, the gold one first."""

    dialogue: Dialogue
    question: Question
    answers: tuple[str, ...]

    @property
    def key(self) -> str:
        return f"{self.dialogue.sample_id}:{self.question.index}"


@dataclass(frozen=True, slots=True)
class _Ranked:
    """Of one question; rank 1 is the first, by log-likelihood a token."""

    nll_per_token: float
    rank: int


async def rank_answers(
    report: HistoryReport, dialogues: Sequence[Dialogue], maker: PromptMaker, scorer: Scorer, n: int, seed: int
) -> None:
    """Add `rank` to every cell: how the gold answer does among nine others of the same dialogue.

    Distractors are gold answers of other questions, all of whose content words occur in the dialogue, so that having
    read it does not give them away.

    Args:
        report: Its cells are added to.
        dialogues: As evaluated.
        maker: Of prompts.
        scorer: With the weights.
        n: Most questions, drawn with the seed from those that have enough distractors.
        seed: Of the draw, the distractors and the intervals.
    """
    choices = _choices(dialogues, n, seed)
    unread: dict[str, _Ranked] = {}
    for choice in choices:
        prompt = await maker.make("truncate", maker.window, choice.dialogue, (), choice.question.question)
        if prompt is not None:
            unread[choice.key] = _ranked(scorer.score(prompt.messages, choice.answers))
    by_cell: dict[tuple[str, int], dict[str, _Ranked]] = {}
    for cell in report.cells:
        found = by_cell[cell.strategy, cell.budget] = {}
        for choice in choices:
            dialogue, asked = choice.dialogue, choice.question.question
            prompt = await maker.make(cell.strategy, cell.budget, dialogue, dialogue.turns, asked)
            if prompt is not None:
                found[choice.key] = _ranked(scorer.score(prompt.messages, choice.answers))
        log.info("ranked", strategy=cell.strategy, budget=cell.budget, questions=len(found))
    for cell in report.cells:
        found, peer = by_cell[cell.strategy, cell.budget], by_cell.get((report.peer, cell.budget))
        section = _rank_figures(found, seed) | {"none": _rank_figures(unread, seed)}
        if peer is not None and cell.strategy != report.peer:
            section[f"minus_{report.peer}"] = {
                "first": difference(_first(found), _first(peer), seed),
                "nll_per_token": difference(_nll(found), _nll(peer), seed),
            }
        cell.sections["rank"] = section


def _choices(dialogues: Sequence[Dialogue], n: int, seed: int) -> list[_Choice]:
    generator = np.random.default_rng(seed)
    found: list[_Choice] = []
    for dialogue in dialogues:
        said = {word for each in dialogue.utterances for word in words(each.content)}
        others = {
            " ".join(words(q.answer)): q.answer for q in dialogue.questions if said.issuperset(content_words(q.answer))
        }
        for question in dialogue.questions:
            gold = " ".join(words(question.answer))
            candidates = [answer for text, answer in others.items() if text and text != gold]
            if gold and len(candidates) >= N_DISTRACTORS:
                picks = generator.permutation(len(candidates))[:N_DISTRACTORS].tolist()
                found.append(_Choice(dialogue, question, (question.answer, *(candidates[i] for i in picks))))
    drawn = sorted(generator.permutation(len(found))[:n].tolist())
    return [found[i] for i in drawn]


def _ranked(scored: Sequence[Likelihood]) -> _Ranked:
    gold = scored[0].nll_per_token
    return _Ranked(gold, 1 + sum(other.nll_per_token < gold for other in scored[1:]))


def _first(found: Mapping[str, _Ranked]) -> dict[str, float]:
    return {key: float(each.rank == 1) for key, each in found.items()}


def _nll(found: Mapping[str, _Ranked]) -> dict[str, float]:
    return {key: each.nll_per_token for key, each in found.items()}


def _rank_figures(found: Mapping[str, _Ranked], seed: int) -> dict[str, Any]:
    ranks = [float(each.rank) for each in found.values()]
    return {
        "n": len(found),
        "first": _json(bootstrap.share([*_first(found).values()])),
        "mean_rank": _json(bootstrap.mean(ranks, seed)),
        "nll_per_token": _json(bootstrap.mean(list(_nll(found).values()), seed)),
    }


# The true next turn


@dataclass(frozen=True, slots=True)
class _Target:
    """A turn whose answer is scored, what it scores without and with the whole history, and a stranger's chat.

    Attributes:
        tokens: Of the prompts that do not depend on a strategy: `none`, `full`, and `notes` where there are some.
    """

    dialogue: Dialogue
    index: int
    none: Likelihood
    full: Likelihood
    notes: Likelihood | None
    stranger: Dialogue | None
    tokens: Mapping[str, int]

    @property
    def key(self) -> str:
        return f"{self.dialogue.sample_id}:t{self.index}"

    @property
    def question(self) -> str:
        return self.dialogue.turns[self.index].user_message

    @property
    def answer(self) -> str:
        return self.dialogue.turns[self.index].assistant_message or ""


async def next_turns(
    report: HistoryReport,
    dialogues: Sequence[Dialogue],
    maker: PromptMaker,
    scorer: Scorer,
    n: int,
    seed: int,
    tokens: range | None = None,
    controls: Collection[str] | None = None,
    strangers: Sequence[Dialogue] | None = None,
    history_alone: bool = False,
) -> None:
    """Add `perplexity` to every cell: how likely the assistant's real answer is, given what a strategy shows.

    The share of the full history's gain that is recovered, (none - x) / (none - full) on sums of the negative
    log-likelihood, is given for the strategy, for the same strategy with the turns of another dialogue (what any
    history is worth), and for notes that people wrote, as system text. Where there are notes, the turn is the first one
    that they do not stand for; else any after the first. Turns whose full history exceeds the window are left out.
    `minus_full` is what each loses on the full history, in nats a token, paired; `targets` has the sums by turn.

    Args:
        report: Its cells are added to.
        dialogues: As evaluated.
        maker: Of prompts.
        scorer: With the weights.
        n: Most turns, drawn with the seed.
        seed: Of the draw and the intervals.
        tokens: Turns whose prompt with the full history has other sizes are left out: where everything fits, strategies
            are alike, and a long history takes long to score.
        controls: Strategies that are also scored with another dialogue's turns; None does it with all.
        strangers: Where that one comes from, these dialogues among them; None takes these.
        history_alone: Budgets are of the history: what the question takes by itself is added to them.
    """
    targets = await _targets(dialogues, maker, scorer, n, seed, tokens, strangers or dialogues)
    log.info("next turns are drawn", turns=len(targets))
    for cell in report.cells:
        kept: list[_Target] = []
        sizes: list[int] = []
        ours: list[Likelihood] = []
        theirs: list[Likelihood | None] = []
        for target in targets:
            path = target.dialogue.turns[: target.index]
            budget = cell.budget + target.tokens["none"] * history_alone
            prompt = await maker.make(cell.strategy, budget, target.dialogue, path, target.question)
            if prompt is None:
                continue
            other = None
            if target.stranger and (controls is None or cell.strategy in controls):
                stranger = target.stranger
                other = await maker.make(cell.strategy, budget, stranger, stranger.turns, target.question)
            kept.append(target)
            sizes.append(prompt.claimed_tokens)
            ours.append(_only(scorer, prompt.messages, target.answer))
            theirs.append(_only(scorer, other.messages, target.answer) if other else None)
        cell.sections["perplexity"] = _next_turn_figures(kept, sizes, ours, theirs, seed)
        log.info("next turns are scored", strategy=cell.strategy, budget=cell.budget, turns=len(kept))


async def _targets(
    dialogues: Sequence[Dialogue],
    maker: PromptMaker,
    scorer: Scorer,
    n: int,
    seed: int,
    sizes: range | None,
    strangers: Sequence[Dialogue],
) -> list[_Target]:
    generator = np.random.default_rng(seed)
    places: list[tuple[int, int]] = []
    for d, dialogue in enumerate(dialogues):
        answered = [i for i, turn in enumerate(dialogue.turns) if i and turn.user_message and turn.assistant_message]
        if dialogue.notes:
            answered = [i for i in answered if i >= dialogue.notes_turn][:1]
        places += [(d, i) for i in answered]
    found: list[_Target] = []
    for pick in generator.permutation(len(places)).tolist():
        if len(found) == n:
            break
        d, i = places[pick]
        dialogue, turn = dialogues[d], dialogues[d].turns[i]
        answer = turn.assistant_message or ""
        full = await maker.make("direct", maker.window, dialogue, dialogue.turns[:i], turn.user_message)
        none = await maker.make("truncate", maker.window, dialogue, (), turn.user_message)
        if full is None or none is None or (sizes and full.claimed_tokens not in sizes):
            continue
        notes = await maker.make(
            "truncate", maker.window, dialogue, (), turn.user_message, notes="\n".join(dialogue.notes)
        )
        tokens = {"none": none.claimed_tokens, "full": full.claimed_tokens}
        if dialogue.notes and notes is not None:
            tokens["notes"] = notes.claimed_tokens
        step = int(generator.integers(1, len(strangers))) if len(strangers) > 1 else 0
        found.append(
            _Target(
                dialogue,
                i,
                _only(scorer, none.messages, answer),
                _only(scorer, full.messages, answer),
                _only(scorer, notes.messages, answer) if dialogue.notes and notes is not None else None,
                _stranger(strangers, strangers.index(dialogue), step, answer),
                tokens,
            )
        )
    return found


def _stranger(dialogues: Sequence[Dialogue], d: int, step: int, answer: str) -> Dialogue | None:
    """The dialogue so many places on, or the next one that does not say the same, as made-up ones may."""
    runs = _runs(answer)
    for i in range(len(dialogues) - 1 if step else 0):
        other = dialogues[(d + 1 + (step - 1 + i) % (len(dialogues) - 1)) % len(dialogues)]
        if not any(runs & _runs(turn.assistant_message or "", len(next(iter(runs), ()))) for turn in other.turns):
            return other
    return None


def _runs(text: str, length: int = SAME_WORDS) -> set[tuple[str, ...]]:
    """All runs of so many words; of a shorter text, all of it."""
    found = words(text)
    length = min(length, len(found))
    return {tuple(found[i : i + length]) for i in range(len(found) - length + 1)} if length else set()


def _only(scorer: Scorer, messages: Sequence[Any], answer: str) -> Likelihood:
    return scorer.score(messages, [answer])[0]


def _next_turn_figures(
    targets: Sequence[_Target],
    tokens: Sequence[int],
    ours: Sequence[Likelihood],
    strangers: Sequence[Likelihood | None],
    seed: int,
) -> dict[str, Any]:
    shown: dict[str, Sequence[Likelihood | None]] = {
        "none": [target.none for target in targets],
        "full": [target.full for target in targets],
        "history": ours,
        "control": strangers,
        "notes": [target.notes for target in targets],
    }
    per_token: dict[str, Any] = {}
    recovered: dict[str, Any] = {}
    minus_full: dict[str, Any] = {}
    for name, found in shown.items():
        known = [(target, each) for target, each in zip(targets, found, strict=True) if each is not None]
        if not known:
            continue
        answered = [each.tokens for _, each in known]
        per_token[name] = _json(bootstrap.ratio([e.nll for _, e in known], answered, seed))
        if name != "full":
            lost = [each.nll - target.full.nll for target, each in known]
            minus_full[name] = _json(bootstrap.ratio(lost, answered, seed))
        if name not in {"none", "full"}:
            gains = [target.none.nll - each.nll for target, each in known]
            possible = [target.none.nll - target.full.nll for target, _ in known]
            recovered[name] = _json(bootstrap.ratio(gains, possible, seed))
    by_target = [
        {
            "id": target.key,
            "answer_tokens": target.full.tokens,
            "prompt_tokens": {**target.tokens, "history": tokens[i]},
            "nll": {name: each.nll for name, found in shown.items() if (each := found[i]) is not None},
        }
        for i, target in enumerate(targets)
    ]
    return {
        "n": len(targets),
        "nll_per_token": per_token,
        "recovered": recovered,
        "minus_full": minus_full,
        "targets": by_target,
    }


def _json(estimate: bootstrap.Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else estimate.as_json()
