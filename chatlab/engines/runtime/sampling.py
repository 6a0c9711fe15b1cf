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
CANDIDATES = (256, 4_096)  # looked at for top-k and top-p, before all: sorting a vocabulary takes 2 to 3 ms a row


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

    @property
    def limited(self) -> bool:
        """Whether only the most probable tokens are possible."""
        return self.greedy or self.top_k > 0 or self.top_p < 1.0

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


class Given(Sampler):
    """Chooses what is given, and notes how likely it was.

    Args:
        token_ids: The answer.
        log_likelihoods: Natural logarithm of each token's probability, added as they come.
    """

    def __init__(self, token_ids: Sequence[int], log_likelihoods: list[float]) -> None:
        super().__init__(SamplingParams(temperature=0.0), ())
        self._token_ids = token_ids
        self._log_likelihoods = log_likelihoods

    def take(self, logits: torch.Tensor) -> int:
        """The next token, whatever the logits, (vocab) float32, prefer."""
        token = self._token_ids[len(self._log_likelihoods)]
        self._log_likelihoods.append(float(logits[token] - logits.logsumexp(-1)))
        return token


@dataclass(frozen=True, slots=True)
class Candidates:
    """What each of n sequences may go on with, (n, k) each, most probable first.

    Attributes:
        token_ids: The k most probable tokens.
        probabilities: Theirs, 0 for those that top-k or top-p leave out.
        enough: Whether no other token is left in, (n).
    """

    token_ids: torch.Tensor
    probabilities: torch.Tensor
    enough: torch.Tensor


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
    for i, sampler in enumerate(samplers):
        if sound[i] and isinstance(sampler, Given):
            chosen[i] = sampler.take(logits[i])
    changed = [i for i, s in enumerate(samplers) if sound[i] and not (s.greedy and s.penalty == 1.0)]
    if changed:
        rows = [samplers[i] for i in changed]
        for i, token in zip(changed, _drawn(scores_of(logits[changed], rows), rows), strict=True):
            chosen[i] = token
    for sampler, token in zip(samplers, chosen, strict=True):
        if token is not None:
            sampler.chose(token)
    return chosen


def scores_of(logits: torch.Tensor, samplers: Sequence[Sampler]) -> torch.Tensor:
    """Logits, (n, vocab) float32, after penalty and temperature; changed in place."""
    for row, sampler in zip(logits, samplers, strict=True):
        if sampler.penalty != 1.0:
            sampler.penalise(row)
    temperatures = [1.0 if s.greedy else s.temperature for s in samplers]
    logits /= torch.tensor(temperatures, device=logits.device)[:, None]
    return logits


def candidates(scores: torch.Tensor, samplers: Sequence[Sampler], k: int) -> Candidates:
    """The k most probable tokens under top-k and top-p."""
    vocab = scores.shape[1]
    highest, token_ids = scores.topk(k)
    rank = torch.arange(k, device=scores.device)
    top_k = torch.tensor([1 if s.greedy else s.top_k or vocab for s in samplers], device=scores.device)[:, None]
    top_p = torch.tensor([s.top_p for s in samplers], device=scores.device)[:, None]
    within_k = rank < top_k
    highest = highest.masked_fill(~within_k, -torch.inf)
    # Top-p counts what top-k left: tokens among these, or all.
    total = torch.where(top_k > k, scores.logsumexp(-1, keepdim=True), highest.logsumexp(-1, keepdim=True))
    probabilities = (highest - total).exp()
    before = probabilities.cumsum(-1) - probabilities
    kept = within_k & ((before < top_p) | (rank == 0))
    known = (top_k == vocab) | (top_k <= k)  # whether the total is that of what top-k left
    enough = known[:, 0] & ((top_k[:, 0] <= k) | ~kept[:, -1])
    return Candidates(token_ids, probabilities.masked_fill(~kept, 0.0), enough)


def _drawn(scores: torch.Tensor, samplers: Sequence[Sampler]) -> list[int]:
    """A token a row: from all, or from so few candidates as are enough."""
    vocab = scores.shape[1]
    uniform = torch.tensor([0.0 if s.greedy else s.uniform() for s in samplers], device=scores.device)[:, None]
    tokens = torch.empty(len(samplers), dtype=torch.long, device=scores.device)
    free = [i for i, s in enumerate(samplers) if not s.limited]
    if free:
        tokens[free] = _place(scores[free].softmax(-1), uniform[free])
    left = [i for i, s in enumerate(samplers) if s.limited]
    for k in (*CANDIDATES, vocab):
        if not left:
            break
        found = candidates(scores[left], [samplers[i] for i in left], min(k, vocab))
        places = _place(found.probabilities, uniform[left])
        tokens[left] = found.token_ids.gather(1, places[:, None])[:, 0]
        left = [i for i, enough in zip(left, found.enough.tolist(), strict=True) if not enough]
    return tokens.tolist()


def _place(probabilities: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Where the cumulated probability, (n, k), passes the uniform number, (n, 1), of all there is: (n)."""
    cumulated = probabilities.cumsum(-1)
    total = cumulated[:, -1:].contiguous()
    place = torch.searchsorted(cumulated, uniform * total, right=True)
    last = torch.searchsorted(cumulated, total)  # rounding must not lead past the last possible one
    return torch.minimum(place, last)[:, 0]
