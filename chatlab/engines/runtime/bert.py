"""BERT's encoder over weights that Transformers loaded: a short text without its bookkeeping, in half of its time.

Knows tokens and vectors, not texts. Texts lie end to end, each seeing its own tokens only, so that nothing is padded.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from chatlab.engines.runtime.products import Product, packs, product_with

Step = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class _Layer:
    """One layer; `keys` gives queries, keys and values side by side."""

    keys: Product
    attended: Product
    attended_norm: Step
    wide: Product
    narrow: Product
    norm: Step


class Bert:
    """An encoder of `runs`.

    Args:
        model: A `BertModel`, which must not change.
    """

    def __init__(self, model: Any) -> None:
        embeddings = model.embeddings
        self._heads: int = model.config.num_attention_heads
        self._words: torch.Tensor = embeddings.word_embeddings.weight
        self._types: torch.Tensor = embeddings.token_type_embeddings.weight
        self._places: torch.Tensor = embeddings.position_embeddings.weight
        self._norm: Step = embeddings.LayerNorm
        self._layers = [_layer(each) for each in model.encoder.layer]

    @torch.inference_mode()
    def __call__(self, texts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """The last hidden states, (n, dim), of each text's n tokens, of which all together have a few hundred."""
        lengths = [len(text) for text in texts]
        ids = torch.tensor([token for text in texts for token in text])  # (n)
        places = torch.cat([torch.arange(length) for length in lengths])
        of = torch.repeat_interleave(torch.tensor(lengths))
        seen = of[:, None] == of if len(texts) > 1 else None  # (n, n)
        x = self._norm(self._words[ids] + self._types[0] + self._places[places])
        for layer in self._layers:
            heads = layer.keys(x).view(len(ids), 3, self._heads, -1).permute(1, 2, 0, 3)  # (3, heads, n, of a head)
            attended = F.scaled_dot_product_attention(*heads.unsqueeze(1).unbind(), attn_mask=seen)[0]
            x = layer.attended_norm(layer.attended(attended.transpose(0, 1).reshape(len(ids), -1)) + x)
            x = layer.norm(layer.narrow(F.gelu(layer.wide(x))) + x)
        return [*x.split(lengths)]


def runs(model: Any) -> bool:
    """Whether a model of Transformers is such an encoder, with weights that this machine has a layout for."""
    config = getattr(model, "config", None)
    return (
        type(model).__name__ == "BertModel"
        and getattr(config, "position_embedding_type", "absolute") == "absolute"
        and config is not None
        and config.hidden_act == "gelu"
        and not config.is_decoder
        and packs(model.embeddings.word_embeddings.weight)
    )


def _layer(layer: Any) -> _Layer:
    attention = layer.attention.self
    parts = (attention.query, attention.key, attention.value)
    weight = torch.cat([part.weight for part in parts])
    bias = torch.cat([part.bias for part in parts])
    return _Layer(
        product_with(weight, bias),
        _product(layer.attention.output.dense),
        layer.attention.output.LayerNorm,
        _product(layer.intermediate.dense),
        _product(layer.output.dense),
        layer.output.LayerNorm,
    )


def _product(linear: Any) -> Product:
    return product_with(linear.weight, linear.bias)
