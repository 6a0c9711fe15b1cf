"""From logits to tokens, for all sequences of a step at once.

The distributions are those of Transformers' processors (repetition penalty, temperature, top-k, top-p, in this order).
A token is drawn by one uniform number from the request's own generator, so a seed gives the same answer on any device
and whoever else is being answered.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from chatlab.messages import SamplingParams

MIN_TEMPERATURE = 1e-4  # below it, logits overflow: greedy is what it means
CANDIDATES = 256  # looked at first, for top-k and top-p; rarely are more needed


class Sampler:
    """How one sequence's tokens are chosen.

    Args:
        params: Nothing left open.
        prompt_ids: The repetition penalty counts them.
    """

    def __init__(self, params: SamplingParams, prompt_ids: Sequence[int]) -> None:
        self.temperature = params.temperature or 0.0
        self.greedy = self.temperature < MIN_TEMPERATURE
        self.top_k = params.top_k or 0
        self.top_p = 1.0 if params.top_p is None else params.top_p
        self.penalty = params.repetition_penalty or 1.0
        self._seen = set(prompt_ids) if self.penalty != 1.0 else set[int]()
        self._generator = torch.Generator()
        self._generator.manual_seed(params.seed) if params.seed is not None else self._generator.seed()

    def uniform(self) -> float:
        """The request's next random number in [0, 1)."""
        return float(torch.rand((), generator=self._generator, dtype=torch.float64))

    def penalise(self, logits: torch.Tensor) -> None:
        """Make tokens that have occurred less likely, in place; logits are (vocab)."""
        seen = torch.tensor(sorted(self._seen), device=logits.device)
        scores = logits[seen]
        logits[seen] = torch.where(scores < 0, scores * self.penalty, scores / self.penalty)

    def chose(self, token_id: int) -> None:
        """Count a token as occurred."""
        if self.penalty != 1.0:
            self._seen.add(token_id)


@dataclass(frozen=True, slots=True)
class Distributions:
    """What each of n sequences may go on with: tokens and their probabilities, (n, k) each, most probable first."""

    token_ids: torch.Tensor
    probabilities: torch.Tensor


@torch.inference_mode()
def sample(logits: torch.Tensor, samplers: Sequence[Sampler]) -> list[int | None]:
    """The next token of each sequence; None where the logits are not numbers.

    Args:
        logits: (n, vocab), any float type.
        samplers: One a row.
    """
    logits = logits.float()
    highest, tokens = logits.max(-1)  # NaN if any is
    sound = torch.isfinite(highest).tolist()
    chosen: list[int | None] = [token if fine else None for token, fine in zip(tokens.tolist(), sound, strict=True)]
    changed = [i for i, s in enumerate(samplers) if sound[i] and not (s.greedy and s.penalty == 1.0)]
    if changed:
        rows = [samplers[i] for i in changed]
        likely = distributions(logits[changed], rows)
        drawn = _draw(likely, [0.0 if s.greedy else s.uniform() for s in rows])
        for i, token in zip(changed, drawn, strict=True):
            chosen[i] = token
    for sampler, token in zip(samplers, chosen, strict=True):
        if token is not None:
            sampler.chose(token)
    return chosen


def distributions(logits: torch.Tensor, samplers: Sequence[Sampler]) -> Distributions:
    """What the parameters leave of the logits, (n, vocab) float32, which are changed."""
    for row, sampler in zip(logits, samplers, strict=True):
        if sampler.penalty != 1.0:
            sampler.penalise(row)
    temperatures = [1.0 if s.greedy else s.temperature for s in samplers]
    logits /= torch.tensor(temperatures, device=logits.device)[:, None]
    vocab = logits.shape[1]
    if all(s.greedy or 0 < s.top_k <= CANDIDATES or (not s.top_k and s.top_p < 1) for s in samplers):
        few = _nucleus(logits, samplers, min(CANDIDATES, vocab))
        if few is not None:
            return few
    everything = _nucleus(logits, samplers, vocab)
    assert everything is not None
    return everything


def _nucleus(logits: torch.Tensor, samplers: Sequence[Sampler], n_candidates: int) -> Distributions | None:
    """The distributions if the most probable `n_candidates` tokens are enough for all of them."""
    vocab = logits.shape[1]
    scores, token_ids = logits.topk(n_candidates)  # most probable first
    rank = torch.arange(n_candidates, device=logits.device)
    top_k = torch.tensor([1 if s.greedy else s.top_k or vocab for s in samplers], device=logits.device)[:, None]
    top_p = torch.tensor([s.top_p for s in samplers], device=logits.device)[:, None]
    within_k = rank < top_k
    scores = scores.masked_fill(~within_k, -torch.inf)
    # Top-p counts what top-k left: the candidates among them, or all tokens.
    total = torch.where(top_k > n_candidates, logits.logsumexp(-1, keepdim=True), scores.logsumexp(-1, keepdim=True))
    probabilities = (scores - total).exp()
    before = probabilities.cumsum(-1) - probabilities
    kept = within_k & ((before < top_p) | (rank == 0))
    cut_short = kept[:, -1] & (top_k[:, 0] > n_candidates)
    if n_candidates < vocab and bool(cut_short.any()):
        return None
    probabilities = probabilities.masked_fill(~kept, 0.0)
    return Distributions(token_ids, probabilities / probabilities.sum(-1, keepdim=True))


def _draw(likely: Distributions, uniform: Sequence[float]) -> list[int]:
    """One token a row: where the cumulated probability passes the uniform number."""
    cumulated = likely.probabilities.double().cumsum(-1)
    targets = torch.tensor(uniform, dtype=torch.float64, device=cumulated.device)[:, None] * cumulated[:, -1:]
    places = (cumulated <= targets).sum(-1, keepdim=True)
    last = (likely.probabilities > 0).sum(-1, keepdim=True) - 1  # rounding must not lead past the last possible one
    return likely.token_ids.gather(1, torch.minimum(places, last))[:, 0].tolist()
