"""What the machine has, and how much of it goes to what."""

import ctypes
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

HUGE_PAGE = 2**21
MADV_HUGEPAGE, MADV_COLLAPSE = 14, 25
MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) rw-p \S+ \S+ 0\s*$")  # writable, of no file and no name
MIN_FILLED = 0.9
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


def use_huge_pages() -> int:
    """Put what fills this process's memory into huge pages, where Linux (6.1 or later) does that when asked.

    Weights are read once a token, and with pages of 4 KiB finding them takes a part of that time. Takes a second or two
    for a GB, and adds next to nothing: only what is in use anyway is moved.

    Returns:
        Bytes of the mappings that were moved.
    """
    n_bytes = 0
    with suppress(OSError, AttributeError):  # no Linux
        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        for start, end in _filled_mappings():
            start, end = -(-start // HUGE_PAGE) * HUGE_PAGE, end // HUGE_PAGE * HUGE_PAGE
            if madvise(start, end - start, MADV_HUGEPAGE) == 0 == madvise(start, end - start, MADV_COLLAPSE):
                n_bytes += end - start
    return n_bytes


def _filled_mappings() -> Iterator[tuple[int, int]]:
    """Where anonymous memory is that is large and mostly in use: no stacks, no files, no free heap."""
    start = end = 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if head := MAPPING.match(line):
            start, end = (int(each, 16) for each in head.groups())
        elif line.startswith("Rss:") and end - start >= 2 * HUGE_PAGE:
            if int(line.split()[1]) * 1_024 >= MIN_FILLED * (end - start):
                yield start, end
        elif not line.startswith(("Size:", "KernelPageSize:", "MMUPageSize:")):
            start = end = 0  # another mapping's head, or the rest of this one's entry


def affords_second_copy(n_bytes: int) -> bool:
    """Whether weights of this size may be in memory twice."""
    return n_bytes <= machine_bytes() * SECOND_COPY_SHARE
