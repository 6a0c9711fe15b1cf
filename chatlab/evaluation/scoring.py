"""How likely a model finds a text after a prompt: log-likelihoods from the weights, in this process.

The prompt is computed once, and its keys and values serve all continuations, which run as one batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chatlab.engines.models import ModelSource
from chatlab.engines.template import ChatTemplate
from chatlab.messages import Message

if TYPE_CHECKING:
    import torch

MAX_CONTINUATION_TOKENS = 256  # longer ones are scored as far as this


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Of one continuation.

    Attributes:
        log_likelihood: The sum over its tokens, natural logarithm.
        tokens: How many were scored.
    """

    log_likelihood: float
    tokens: int

    @property
    def nll(self) -> float:
        """Negative log-likelihood, summed."""
        return -self.log_likelihood

    @property
    def nll_per_token(self) -> float:
        """The mean over the tokens."""
        return -self.log_likelihood / self.tokens


class Scorer:
    """A causal language model of Transformers.

    Args:
        model: Its weights.
        template: Its template and tokenizer.
        device: Where it runs.
    """

    def __init__(self, model: Any, template: ChatTemplate, device: "torch.device") -> None:
        self._model = model
        self._template = template
        self._device = device

    def score(self, messages: Sequence[Message], continuations: Sequence[str]) -> tuple[Likelihood, ...]:
        """Each continuation as the answer to a prompt.

        Args:
            messages: The prompt.
            continuations: Texts with a token at least.
        """
        import torch

        prompt = self._template.encode(self._template.render(messages))
        texts = [self._template.encode(text)[:MAX_CONTINUATION_TOKENS] for text in continuations]
        if not all(texts):
            raise ValueError("an empty continuation has no likelihood")
        longest = max(map(len, texts))
        padded = torch.tensor(
            [text + [0] * (longest - len(text)) for text in texts], device=self._device
        )  # (n, longest)
        lengths = torch.tensor([len(text) for text in texts], device=self._device)  # (n,)
        with torch.inference_mode():
            read = self._model(torch.tensor([prompt], device=self._device), use_cache=True, logits_to_keep=1)
            first = read.logits[:, -1:].float().expand(len(texts), 1, -1)  # (n, 1, vocabulary)
            rest = first[:, :0]
            if longest > 1:
                read.past_key_values.batch_repeat_interleave(len(texts))
                # What pads a text stands after it, where causal attention does not look.
                rest = self._model(padded[:, :-1], past_key_values=read.past_key_values).logits.float()
            logits = torch.cat([first, rest], dim=1)  # (n, longest, vocabulary)
            chosen = logits.gather(2, padded[:, :, None])[:, :, 0] - logits.logsumexp(dim=2)  # (n, longest)
            inside = torch.arange(longest, device=self._device)[None] < lengths[:, None]
            sums = (chosen * inside).sum(dim=1).tolist()
        return tuple(Likelihood(total, len(text)) for total, text in zip(sums, texts, strict=True))


def load_scorer(source: ModelSource, device: str) -> Scorer:
    """A scorer with its weights loaded.

    Args:
        source: Where they are.
        device: As CHATLAB_DEVICE says it.

    Raises:
        ModelUnavailable: They cannot be loaded.
    """
    from chatlab.engines.runtime.loading import load, pick_device

    chosen = pick_device(device)
    described, model = load(source, chosen)
    return Scorer(model, ChatTemplate(described.tokenizer, source.name), chosen)
