"""Where the result of a command goes: to the terminal, and to a file that was asked for."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chatlab.errors import ConfigError


def check_file(option: str, file: Path | None) -> None:
    """Refuse a file that cannot be written, before a run that takes minutes.

    Raises:
        ConfigError: It cannot; names the option.
    """
    if file is None:
        return
    if not file.parent.is_dir():
        raise ConfigError(f"{option} {file}: there is no folder {file.parent}")
    if file.is_dir():
        raise ConfigError(f"{option} {file}: is a folder")


def publish(result: Mapping[str, Any], table: str, json_file: Path | None) -> None:
    """Print the table, write the result where it was asked for.

    Raises:
        ConfigError: The file cannot be written.
    """
    print(table)  # noqa: T201 - a command's own words
    if json_file is not None:
        try:
            json_file.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--json {json_file}: cannot be written: {error.strerror}") from error
