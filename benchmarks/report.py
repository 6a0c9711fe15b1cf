"""What every benchmark shares: percentiles, the machine, the written result."""

import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def p50(values: Sequence[float]) -> float:
    """The median."""
    return statistics.median(values)


def p95(values: Sequence[float]) -> float:
    """The 95th percentile."""
    return statistics.quantiles(values, n=20, method="inclusive")[-1]


def machine() -> dict[str, Any]:
    """Where the figures were taken."""
    return {"cpus": os.cpu_count(), "python": platform.python_version(), "system": platform.platform()}


def write(result: Mapping[str, Any], json_file: Path | None) -> None:
    """Keep the result as JSON where asked."""
    if json_file is not None:
        json_file.write_text(json.dumps({**result, "machine": machine()}, indent=2) + "\n")
