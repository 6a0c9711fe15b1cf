"""What the machine has, and how much of it goes to what."""

import ctypes
import os
from contextlib import suppress
from pathlib import Path

import torch

CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
MIN_KV_BYTES = 512_000_000
KV_SHARE_OF_MACHINE = 1 / 8
KV_SHARE_OF_FREE_GPU = 0.7  # the rest is for a step's intermediate results
SECOND_COPY_SHARE = 1 / 16  # of the machine, for what makes decoding quicker and nothing else


def machine_bytes() -> int:
    """Memory that this process may use: the machine's, or its container's if that is less."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(physical, int(CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return physical


def default_kv_bytes(device: torch.device) -> int:
    """Memory for keys and values when the settings leave it open; call it when the weights are loaded."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free * KV_SHARE_OF_FREE_GPU)
    return max(MIN_KV_BYTES, int(machine_bytes() * KV_SHARE_OF_MACHINE))


def return_freed() -> None:
    """Give memory that was freed back to the system, where that takes a call (glibc keeps it)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def affords_second_copy(n_bytes: int) -> bool:
    """Whether weights of this size may be in memory twice."""
    return n_bytes <= machine_bytes() * SECOND_COPY_SHARE
