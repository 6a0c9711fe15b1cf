"""The hygiene of notebooks: each fault is found, and the committed ones have none."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tools.notebooks import MAX_OUTPUT_BYTES, faults, main

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def code(count: int | None, source: str = "1 + 1", outputs: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {"cell_type": "code", "execution_count": count, "source": [source], "outputs": outputs or []}


def printed(*lines: str) -> list[dict[str, Any]]:
    return [{"output_type": "stream", "name": "stdout", "text": list(lines)}]


CLEAN: dict[str, Any] = {
    "metadata": {"kernelspec": {"name": "python3"}},
    "cells": [
        {"cell_type": "markdown", "source": ["See https://example.org/home/page and ~/notes, or docs/tmp/x"]},
        code(1, outputs=printed("quickstart-data/models", "\n")),
        code(2),
    ],
}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.name)
def test_the_committed_notebooks_are_clean(notebook: Path) -> None:
    assert list(faults(json.loads(notebook.read_text()))) == []


def test_there_are_notebooks_and_a_clean_one_has_no_faults() -> None:
    assert NOTEBOOKS
    assert list(faults(CLEAN)) == []


@pytest.mark.parametrize(
    ("cell", "fault"),
    [
        (code(None), "execution counts are [1, None]"),
        (code(4), "execution counts are [1, 4]"),
        (code(2, outputs=[{"output_type": "error", "ename": "ValueError"}]), "cell 3 ended with an error"),
        (code(2, outputs=printed("x" * MAX_OUTPUT_BYTES)), "bytes of output"),
        (code(2, outputs=printed("saved to /home/ada/chats")), "names a folder of one machine: /home/ada/chats"),
        (code(2, outputs=printed("File /tmp/ipykernel_7/1.py")), "/tmp/ipykernel_7/1.py"),
        (code(2, outputs=printed("C:\\Users\\ada")), "names a folder of one machine"),
        (code(2, source="open('/root/x')"), "names a folder of one machine: /root/x"),
    ],
)
def test_each_fault_is_found(tmp_path: Path, cell: dict[str, Any], fault: str) -> None:
    notebook = copy.deepcopy(CLEAN)
    notebook["cells"][-1] = cell
    (found,) = faults(notebook)
    assert fault in found
    file = tmp_path / "bad.ipynb"
    file.write_text(json.dumps(notebook))
    assert main([str(file)]) == 1


def test_another_kernel_is_a_fault() -> None:
    (found,) = faults({**CLEAN, "metadata": {"kernelspec": {"name": "my-env"}}})
    assert "my-env" in found
