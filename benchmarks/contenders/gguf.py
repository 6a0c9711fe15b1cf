"""The bundled model's weights as a BF16 file for llama.cpp."""

from pathlib import Path
from typing import Any

from chatlab.engines.models import BUNDLED_NAME, bundled_gguf

FILE_TYPE_BF16 = 32  # `general.file_type`, as llama.cpp numbers them


def bf16_gguf(folder: Path) -> Path | None:
    """Written once, from the file of which chatlab makes its own bf16 weights; None without that file."""
    source = bundled_gguf()
    if source is None:
        return None
    target = folder / f"{BUNDLED_NAME}-bf16.gguf"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        _write(source, partial)
        partial.replace(target)
    return target


def _write(source: Path, target: Path) -> None:
    import numpy as np
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
    from gguf.quants import dequantize, quantize

    reader = GGUFReader(source)
    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.quantization_version"):
            continue
        value: Any = FILE_TYPE_BF16 if name == "general.file_type" else field.contents()
        if field.types[0] == GGUFValueType.ARRAY:
            writer.add_array(name, value)
        else:
            writer.add_key_value(name, value, field.types[0])
    for tensor in reader.tensors:
        weights = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if weights.ndim == 1:  # norms
            writer.add_tensor(tensor.name, weights)
        else:
            bf16 = GGMLQuantizationType.BF16
            writer.add_tensor(tensor.name, quantize(weights, bf16), raw_dtype=bf16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
