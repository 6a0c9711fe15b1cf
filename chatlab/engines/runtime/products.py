"""Products with a weight matrix, in the layouts that a CPU is quickest with. Knows matrices, not models.

A plain bf16 product in torch reads its weights at half of the memory's speed when there are few rows. Here oneDNN gets
them packed once; and for one to three rows, an answer or a few at a time, FBGEMM gets a second copy as fp16, which it
reads at nearly full speed. Every bf16 weight above 8e-6 is exact in fp16, and none moves by more than 3e-8. Its rows
are fp32, so that fewer results are rounded than with oneDNN's bf16.
"""

from collections.abc import Callable

import torch
from torch.nn import functional as F

FEW_ROWS = 3  # beyond, reading fp16 costs more than oneDNN's product
MAX_FP16_ERROR = 2**-25
CHECKED_ROWS = 4_096

Product = Callable[[torch.Tensor], torch.Tensor]


def product_with(weight: torch.Tensor, bias: torch.Tensor | None, wide: bool = False) -> Product:
    """`x -> x @ weight.T + bias`, of the type of x.

    Args:
        weight: (out, in); may be dropped by the caller.
        bias: (out) or None.
        wide: Keep the second copy and take fp32 rows, too, no more than `FEW_ROWS`; the weight is `exact_in_fp16`.
    """
    if not packs(weight):
        return lambda x: F.linear(x, weight, bias)
    many = _with_onednn(weight, bias)
    if not wide:
        return many
    few = _with_fbgemm(weight, bias)
    return lambda x: few(x) if x.dtype == torch.float32 else many(x)


def packs(weight: torch.Tensor) -> bool:
    """Whether oneDNN has a layout of its own for these weights on this machine."""
    if weight.device.type != "cpu" or weight.dtype != torch.bfloat16 or not torch.backends.mkldnn.is_available():
        return False
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001 - torch offers no public question


def exact_in_fp16(weight: torch.Tensor) -> bool:
    """Whether FBGEMM may have these weights: fp16 keeps each, up to what is lost below its smallest numbers."""
    if not packs(weight) or "fbgemm" not in torch.backends.quantized.supported_engines:
        return False
    parts = weight.split(CHECKED_ROWS)  # of the whole there would be four copies at a time
    return all(bool(((part.half().float() - part.float()).abs() <= MAX_FP16_ERROR).all()) for part in parts)


def _with_onednn(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)  # noqa: SLF001 - what torch's own compiler calls
    product = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001
    return lambda x: product(x, packed, bias, "none", [], "")


def _with_fbgemm(weight: torch.Tensor, bias: torch.Tensor | None) -> Product:
    packed = torch.ops.quantized.linear_prepack_fp16(weight.float(), None if bias is None else bias.float())
    product = torch.ops.quantized.linear_dynamic_fp16
    return lambda x: product(x, packed)
