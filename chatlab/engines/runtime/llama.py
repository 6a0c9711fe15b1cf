"""The Llama family (Llama, SmolLM2, Mistral, Qwen 2 and 3) over a batch of sequences, prompts and answers mixed.

The same mathematics as Transformers' own modules, laid out for speed: projections that read the same input are one
matrix, weights are packed once for the CPU (`products`), all tokens of a step go through each matrix together, and
attention goes over neighbours in memory (`arena`). It proves itself: `made_from` compares it with the model that it was
made from before anything is answered with it.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from chatlab.engines.runtime.arena import Arena, KvShape, Row, neighbours
from chatlab.engines.runtime.memory import affords_second_copy
from chatlab.engines.runtime.products import FEW_ROWS, Product, exact_in_fp16, product_with
from chatlab.engines.runtime.runner import Feed

FAMILY = frozenset({"llama", "mistral", "qwen2", "qwen3"})
ROPE_TYPES = frozenset({"default", "linear", "llama3", "yarn"})  # those that do not change with the length
ATTENTION_TOKENS = 256  # of a prompt, in one call: its tokens do not see those after it, and need not be compared
PACKERS = 2
PROBE_TOKENS = 48
PROBE_ANSWER = 8  # of them fed one by one
# In standard deviations of the logits. Measured on SmolLM2: 2e-6 in fp32, 0.04 in bf16, which is bf16's own error.
MAX_PROBE_ERROR = {torch.float32: 1e-3, torch.bfloat16: 0.15, torch.float16: 0.05}


Norm = dict[torch.dtype, torch.Tensor]  # the weight, twice (see `_rms`), in the types that x may have


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one decoder layer."""

    attention_norm: Norm
    qkv: Product  # queries, keys and values, in this order
    q_norm: Norm | None  # of a head, Qwen 3
    k_norm: Norm | None
    out: Product
    mlp_norm: Norm
    gate_up: Product
    down: Product


@dataclass(frozen=True, slots=True)
class Attended:
    """Consecutive tokens of a step that share an attention call; lists have one view a layer.

    Attributes:
        tokens: Their range in the step.
        single: One token of each of several sequences; otherwise any number of tokens of one sequence.
        places: Where new keys and values go. Single: the rows, (rows, 2 * kv_heads, capacity, head_dim), at
            `positions`; otherwise just the new tokens' part of the row, (2 * kv_heads, n, head_dim).
        positions: A pair of indices, rows and their positions.
        keys: Up to the longest sequence among them, (rows, kv_heads, n_keys, head_dim).
        values: Likewise.
        mask: What each may see, broadcastable to (rows, 1, queries, n_keys); None when everything.
    """

    tokens: slice
    single: bool
    places: Sequence[torch.Tensor]
    positions: tuple[torch.Tensor, torch.Tensor]
    keys: Sequence[torch.Tensor]
    values: Sequence[torch.Tensor]
    mask: torch.Tensor | None


def supported(config: Any) -> bool:
    """Whether a model of this configuration is one of the family, with nothing that this file does not do."""
    layer_types = getattr(config, "layer_types", None)
    sliding = config.model_type == "mistral" and config.sliding_window is not None
    return (
        config.model_type in FAMILY
        and config.hidden_act == "silu"
        and not sliding
        and (layer_types is None or set(layer_types) == {"full_attention"})
        and config.rope_parameters.get("rope_type", "default") in ROPE_TYPES
        and not hasattr(config, "quantization_config")
    )


def made_from(model: Any) -> "LlamaRunner | None":
    """The model as one of the family; None if what it computes is not what the model does.

    Either way the model's matrices are gone afterwards, taken over one by one to save memory.
    """
    probe = [(7 * i + 11) % model.config.vocab_size for i in range(PROBE_TOKENS)]
    with torch.inference_mode():
        expected = model(input_ids=torch.tensor([probe], device=model.device)).logits[0, -PROBE_ANSWER - 1 :].float()
    runner = LlamaRunner(model)
    state = runner.begin(PROBE_TOKENS, None, 0)
    first = PROBE_TOKENS - PROBE_ANSWER
    feeds = [Feed(state, 0, probe[:first], wants_logits=True)]
    feeds += [Feed(state, i, probe[i : i + 1], wants_logits=True) for i in range(first, PROBE_TOKENS)]
    computed = torch.cat([runner.step([feed]) for feed in feeds]).float()
    runner.end(state)
    error = (computed - expected).abs().mean() / expected.std()
    return runner if float(error) < MAX_PROBE_ERROR[model.dtype] else None  # not if it is NaN, either


class LlamaRunner:
    """See `Runner`.

    Args:
        model: Transformers' model, `supported`; its matrices are taken over.
        keep: Leave the model usable, at the cost of its memory.
    """

    cuts = True

    def __init__(self, model: Any, keep: bool = False) -> None:
        config = model.config
        decoder = model.model
        matrices = [weight for weight in decoder.layers.parameters() if weight.ndim == 2]
        n_bytes = sum(matrix.nbytes for matrix in matrices)
        # A few rows are computed in fp32 from a second copy of the layers, where there may be one.
        self._wide = affords_second_copy(n_bytes) and all(map(exact_in_fp16, matrices))
        self._embedding: torch.Tensor = decoder.embed_tokens.weight.detach().clone()  # a view would hold the whole file
        self._rotary = decoder.rotary_emb
        self._eps: float = config.rms_norm_eps
        self._heads: int = config.num_attention_heads
        self._kv_heads: int = config.num_key_value_heads
        self._head_dim: int = decoder.layers[0].self_attn.head_dim
        self._norm = _doubled(decoder.norm)
        with ThreadPoolExecutor(PACKERS) as packers:  # each copies one matrix at a time
            self._layers = [*packers.map(lambda module: _layer(module, self._wide, keep), decoder.layers)]
        # Often the embedding itself. A second copy would take 100 MB in SmolLM2 and save 3 % of a token's time.
        self._head = _linear([model.lm_head], wide=False, keep=True)
        self.device = self._embedding.device
        self._shape = KvShape(len(self._layers), self._kv_heads, self._head_dim, self._embedding.dtype, self.device)
        self._arena = Arena(self._shape, config.max_position_embeddings)

    @property
    def n_bytes(self) -> int:
        """Of all blocks."""
        return self._arena.n_bytes

    @property
    def bytes_per_token(self) -> int:
        """Of keys and values."""
        return self._shape.bytes_per_token

    def cost_of(self, n_tokens: int, state: Row | None = None) -> int:
        """See `Runner.cost_of`."""
        return 0 if state and n_tokens <= state.capacity else self._arena.cost_of(n_tokens)

    def begin(self, n_tokens: int, kept: torch.Tensor | None, n_known: int) -> Row:
        """See `Runner.begin`; a kept prefix is (layers, 2 * kv_heads, tokens, head_dim)."""
        row = self._arena.take(n_tokens)
        if kept is not None:
            row.kv[:, :, :n_known] = kept[:, :, :n_known]
        return row

    def grow(self, state: Row, n_tokens: int, n_written: int) -> Row:
        """See `Runner.grow`."""
        return self._arena.grown(state, n_tokens, n_written)

    def keep(self, state: Row, n_tokens: int) -> torch.Tensor:
        """See `Runner.keep`: a copy, without the rest of the row."""
        kept = self._shape.empty(1, n_tokens)[:, 0]
        return kept.copy_(state.kv[:, :, :n_tokens])

    def end(self, state: Row, spoiled: bool = False) -> None:
        """See `Runner.end`."""
        self._arena.give_back(state, spoiled)

    @torch.inference_mode()
    def step(self, feeds: Sequence[Feed[Row]]) -> torch.Tensor:
        """See `Runner.step`."""
        # 1. Order: single tokens first, neighbours in memory beside each other.
        order = sorted(range(len(feeds)), key=lambda i: _place(feeds[i]))
        batch = [feeds[i] for i in order]
        token_ids = torch.tensor([t for feed in batch for t in feed.token_ids], device=self.device)
        positions = torch.tensor(
            [p for feed in batch for p in range(feed.start, feed.start + len(feed.token_ids))],
            device=self.device,
        )
        attended = self._attended(batch, positions)
        x = F.embedding(token_ids, self._embedding)  # (n, hidden)
        if self._wide and len(x) <= FEW_ROWS:
            x = x.float()
        cos, sin = self._rotary(x, positions[None])
        cos, sin = cos.view(-1, 1, self._head_dim), sin.view(-1, 1, self._head_dim)  # (n, 1, head_dim)
        half = self._head_dim // 2
        sin = torch.cat((-sin[..., :half], sin[..., half:]), -1)  # the sign of rotate_half

        # 2. Layers.
        for number, layer in enumerate(self._layers):
            x = x + layer.out(self._attention(number, layer, self._rms(x, layer.attention_norm), cos, sin, attended))
            gate, up = layer.gate_up(self._rms(x, layer.mlp_norm)).chunk(2, -1)
            x = x + layer.down(F.silu(gate) * up)

        # 3. Logits of each sequence's last token, in the order asked for.
        ends, end = [0] * len(feeds), 0
        for i, feed in zip(order, batch, strict=True):
            end += len(feed.token_ids)
            ends[i] = end - 1
        last = torch.tensor([e for e, feed in zip(ends, feeds, strict=True) if feed.wants_logits], dtype=torch.long)
        return self._head(self._rms(x[last.to(x.device)], self._norm).to(self._embedding.dtype))

    def _rms(self, x: torch.Tensor, norm: Norm) -> torch.Tensor:
        """RMS norm as the layer norm of (x, -x), whose mean is 0: one kernel instead of nine."""
        width = x.shape[-1]
        return F.layer_norm(torch.cat((x, -x), -1), (2 * width,), norm[x.dtype], None, self._eps)[..., :width]

    def _attention(
        self,
        number: int,
        layer: Layer,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        attended: Sequence[Attended],
    ) -> torch.Tensor:
        """(n, hidden) -> (n, heads * head_dim); writes the new keys and values."""
        n, rotated = x.shape[0], self._heads + self._kv_heads
        qkv = layer.qkv(x).view(n, rotated + self._kv_heads, self._head_dim)
        qk = qkv[:, :rotated]
        if layer.q_norm is not None and layer.k_norm is not None:
            qk[:, : self._heads] = self._rms(qk[:, : self._heads], layer.q_norm)
            qk[:, self._heads :] = self._rms(qk[:, self._heads :], layer.k_norm)
        torch.addcmul(qk * cos, qk.roll(self._head_dim // 2, -1), sin, out=qk)
        seen = [self._attend(each, number, qkv[each.tokens]) for each in attended]
        return (seen[0] if len(seen) == 1 else torch.cat(seen)).to(x.dtype)

    def _attend(self, each: Attended, number: int, qkv: torch.Tensor) -> torch.Tensor:
        """Attention of the tokens of one call: (n, heads + 2 * kv_heads, head_dim) -> (n, heads * head_dim)."""
        n, group = qkv.shape[0], self._heads // self._kv_heads
        # Query heads that share a key head are rows of one product, so keys and values are not copied for each.
        place = each.places[number]
        query = qkv[:, : self._heads].view(n, self._kv_heads, group, self._head_dim).to(place.dtype)
        if each.single:
            place[each.positions[0], :, each.positions[1]] = qkv[:, self._heads :].to(place.dtype)
        else:
            place.copy_(qkv[:, self._heads :].transpose(0, 1))
            query = query.transpose(0, 1).reshape(1, self._kv_heads, n * group, self._head_dim)
        seen = F.scaled_dot_product_attention(query, each.keys[number], each.values[number], each.mask)
        if not each.single:
            seen = seen.view(self._kv_heads, n, group, self._head_dim).transpose(0, 1)
        return seen.reshape(n, self._heads * self._head_dim)

    def _attended(self, batch: Sequence[Feed[Row]], positions: torch.Tensor) -> list[Attended]:
        """The attention calls of a step."""
        calls: list[Attended] = []
        n_single = sum(len(feed.token_ids) == 1 for feed in batch)
        at = 0
        for start, end in neighbours([feed.state for feed in batch[:n_single]]):
            calls.append(self._call(batch[start:end], slice(start, end), positions[start:end]))
            at = end
        for feed in batch[n_single:]:
            for first in range(0, len(feed.token_ids), ATTENTION_TOKENS):
                token_ids = feed.token_ids[first : first + ATTENTION_TOKENS]
                tokens = slice(at, at + len(token_ids))
                part = Feed(feed.state, feed.start + first, token_ids, wants_logits=False)
                calls.append(self._call([part], tokens, positions[tokens]))
                at = tokens.stop
        return calls

    def _call(self, feeds: Sequence[Feed[Row]], tokens: slice, positions: torch.Tensor) -> Attended:
        row, n_rows, n = feeds[0].state, len(feeds), len(positions)
        kv = row.block.kv[:, row.index : row.index + n_rows]  # (layers, rows, 2 * kv_heads, capacity, head_dim)
        n_keys = max(feed.start + len(feed.token_ids) for feed in feeds)
        single = n_rows > 1
        places = kv if single else kv[:, 0, :, feeds[0].start : n_keys]
        mask = None
        if n > 1 and any(feed.start + 1 != n_keys for feed in feeds):
            visible = torch.arange(n_keys, device=positions.device) <= positions[:, None]  # (n, n_keys)
            mask = torch.zeros(visible.shape, dtype=kv.dtype, device=kv.device).masked_fill_(~visible, -torch.inf)
            if single:
                mask = mask.view(n_rows, 1, 1, n_keys)
            else:
                mask = mask.repeat_interleave(self._heads // self._kv_heads, 0).view(1, 1, -1, n_keys)
        return Attended(
            tokens,
            single,
            places.unbind(),
            (torch.arange(n_rows, device=positions.device), positions),
            kv[:, :, : self._kv_heads, :n_keys].unbind(),
            kv[:, :, self._kv_heads :, :n_keys].unbind(),
            mask,
        )


def _place(feed: Feed[Row]) -> tuple[int, int, int]:
    """Where a feed stands in its step."""
    return len(feed.token_ids), id(feed.state.block), feed.state.index


def _layer(module: Any, wide: bool, keep: bool) -> Layer:
    attention, mlp = module.self_attn, module.mlp
    return Layer(
        attention_norm=_doubled(module.input_layernorm),
        qkv=_linear([attention.q_proj, attention.k_proj, attention.v_proj], wide, keep),
        q_norm=_doubled(attention.q_norm) if hasattr(attention, "q_norm") else None,
        k_norm=_doubled(attention.k_norm) if hasattr(attention, "k_norm") else None,
        out=_linear([attention.o_proj], wide, keep),
        mlp_norm=_doubled(module.post_attention_layernorm),
        gate_up=_linear([mlp.gate_proj, mlp.up_proj], wide, keep),
        down=_linear([mlp.down_proj], wide, keep),
    )


def _doubled(norm: Any) -> Norm:
    """A norm's weight for both halves of (x, -x)."""
    weight = torch.cat((norm.weight, norm.weight)).detach()
    return {weight.dtype: weight, torch.float32: weight.float()}


def _linear(modules: Sequence[Any], wide: bool, keep: bool) -> Product:
    """One product for modules that read the same input."""
    weight = torch.cat([module.weight for module in modules]).detach()
    biases = [module.bias for module in modules]
    bias = None if biases[0] is None else torch.cat(biases).detach()
    if not keep:
        for module in modules:
            module.weight = None
    return product_with(weight, bias, wide)
