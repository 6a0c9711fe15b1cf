"""What the machine allows: memory read and bf16 products, measured on the spot with torch."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

READ_BYTES = 512_000_000
TRIES = 3
ROWS, WIDTH = 1_536, 2_048  # of the product: about a prompt of 1,500 tokens by a large layer


@dataclass(frozen=True, slots=True)
class Limits:
    """The best of what was measured.

    Attributes:
        read_1_thread_gbs: GB/s of one core; 0 on a GPU.
        read_gbs: GB/s of all threads, or of the GPU's memory.
        product_gflops: Multiplications and additions of a bf16 layer, in 1e9/s.
    """

    read_1_thread_gbs: float
    read_gbs: float
    product_gflops: float

    def decode_tokens_per_second(self, n_parameters: int) -> float:
        """Tokens/s of one chat if all bf16 weights are read once a token, and nothing else took time."""
        return self.read_gbs * 1e9 / (2 * n_parameters)

    def prompt_ms(self, n_parameters: int, n_tokens: int) -> float:
        """Milliseconds of a prompt's products with the layers' weights, without its attention."""
        return 2 * n_parameters * n_tokens / (self.product_gflops * 1e9) * 1e3

    def best(self, other: "Limits") -> "Limits":
        """The better figure of each."""
        mine, theirs = asdict(self), asdict(other)
        return Limits(**{name: max(value, theirs[name]) for name, value in mine.items()})


def measure(device: torch.device, threads: int) -> Limits:
    """About a second on two cores."""
    numbers = torch.ones(READ_BYTES // 4, device=device)
    read_1_thread = 0.0
    if device.type == "cpu":
        torch.set_num_threads(1)
        read_1_thread = READ_BYTES / _seconds(numbers.sum, device)
        torch.set_num_threads(threads)
    read = READ_BYTES / _seconds(numbers.sum, device)
    inputs = torch.randn(ROWS, WIDTH, device=device, dtype=torch.bfloat16)
    weights = torch.randn(WIDTH, WIDTH, device=device, dtype=torch.bfloat16)
    product = 2 * ROWS * WIDTH * WIDTH / _seconds(lambda: torch.nn.functional.linear(inputs, weights), device)
    return Limits(read_1_thread / 1e9, read / 1e9, product / 1e9)


def device_name(device: torch.device) -> str:
    """The GPU's or the processor's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "CPU")


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    """The shortest of a few tries; the first one, which sets things up, does not count."""
    times: list[float] = []
    for _ in range(TRIES + 1):
        _finish(device)
        started = time.perf_counter()
        work()
        _finish(device)
        times.append(time.perf_counter() - started)
    return min(times[1:])


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
