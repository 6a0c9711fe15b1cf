"""Notebook hygiene, a part of `make check`: a committed notebook is one clean run from the top, on nobody's machine."""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

KERNEL = "python3"
MAX_OUTPUT_BYTES = 200_000
# Folders that are somebody's: home and temporary ones. A `~` or a relative path is nobody's.
SOMEBODYS = re.compile(
    r"""(?<![\w.:/~-])(/(?:home|Users|root|tmp|var/folders|work|content|mnt)/[^\s"'<>\\]*|[A-Z]:\\\\?Users\\)"""
)


def faults(notebook: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a notebook, in its own words: nothing when it is clean."""
    kernel = notebook.get("metadata", {}).get("kernelspec", {}).get("name")
    if kernel != KERNEL:
        yield f"its kernel is {kernel!r}, not {KERNEL!r}"
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    counts = [cell["execution_count"] for cell in code]
    if counts != list(range(1, len(code) + 1)):
        yield f"its execution counts are {counts}: run it once, from the top, in a fresh kernel"
    for number, cell in enumerate(notebook["cells"], 1):
        outputs: Sequence[Mapping[str, Any]] = cell.get("outputs", [])
        if any(output["output_type"] == "error" for output in outputs):
            yield f"cell {number} ended with an error"
        if (n_bytes := len(json.dumps(outputs))) > MAX_OUTPUT_BYTES:
            yield f"cell {number} has {n_bytes} bytes of output, more than {MAX_OUTPUT_BYTES}"
        for text in _texts([cell["source"], outputs]):
            if found := SOMEBODYS.search(text):
                yield f"cell {number} names a folder of one machine: {found.group(1)}"


def _texts(value: object) -> Iterator[str]:
    """Every string in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, Sequence):
        for each in value:
            yield from _texts(each)


def main(files: Sequence[str]) -> int:
    """Print the faults of notebooks; the exit code says whether there are any."""
    found = [f"{file}: {fault}" for file in files for fault in faults(json.loads(Path(file).read_text()))]
    print("\n".join(found) or f"{len(files)} notebooks are clean")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
