"""A configuration to replay with: a TOML file of settings as in `chatlab.toml`, and what it asks of every chat.

What a configuration does not name is as it was in the log: each chat's scope, history and parameters, and the
threshold of the cache at that time. Names of settings that decide nothing here, like `port`, are allowed.
"""

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from chatlab.errors import ConfigError, InvalidInput
from chatlab.messages import (
    MAX_BUDGET_TOKENS,
    CacheScope,
    Chat,
    HistoryChoice,
    SamplingParams,
    StrategyName,
)
from chatlab.settings import Settings, load_settings

M = TypeVar("M", bound=BaseModel)

THRESHOLD = frozenset({"cache_max_error", "cache_verifier", "embedder"})  # what it depends on, beside labels


class _History(BaseModel, extra="forbid"):
    strategy: StrategyName | None = None
    budget_tokens: int | None = Field(default=None, ge=1, le=MAX_BUDGET_TOKENS)


class _Cache(BaseModel, extra="forbid"):
    scope: CacheScope | None = None


TABLES: Mapping[str, Sequence[str]] = {
    "history": tuple(_History.model_fields),
    "cache": tuple(_Cache.model_fields),
    "params": tuple(each.name for each in fields(SamplingParams)),
}


@dataclass(frozen=True, slots=True)
class Configuration:
    """What decides.

    Attributes:
        name: By which it is told from the others.
        settings: Of the cache and the model, with what the file does not name as the command has it.
        named: Settings that the file names.
        scope: Of the cache, in every chat; None leaves each its own.
        strategy: Of the history, in every chat; None leaves each its own.
        budget_tokens: Of every prompt; None leaves each its own.
        params: Over each chat's.
    """

    name: str
    settings: Settings
    named: frozenset[str] = frozenset()
    scope: CacheScope | None = None
    strategy: StrategyName | None = None
    budget_tokens: int | None = None
    params: SamplingParams = SamplingParams()

    @property
    def own_threshold(self) -> bool:
        """Whether the threshold is found anew, from the labels of the replay."""
        return not THRESHOLD.isdisjoint(self.named)

    @property
    def own_prompts(self) -> bool:
        """Whether prompts are others than those of the log."""
        limit = self.params.max_new_tokens
        return self.strategy is not None or self.budget_tokens is not None or limit is not None

    def history(self, chat: Chat) -> HistoryChoice:
        """Of a chat."""
        known = chat.history
        return HistoryChoice(self.strategy or known.strategy, self.budget_tokens or known.budget_tokens)


def as_logged(settings: Settings, name: str = "as logged") -> Configuration:
    """The configuration that names nothing."""
    return Configuration(name, settings)


def read_configurations(files: Sequence[Path], data_dir: Path | None = None) -> list[Configuration]:
    """Configurations with different names.

    Args:
        files: One each.
        data_dir: Of the command, where models are looked for.

    Raises:
        ConfigError: One cannot be used; names the file and the key.
    """
    found = [read_configuration(file, data_dir) for file in files]
    names = [each.name for each in found]
    return [
        replace(each, name=str(file)) if names.count(each.name) > 1 else each
        for file, each in zip(files, found, strict=True)
    ]


def read_configuration(file: Path, data_dir: Path | None = None) -> Configuration:
    """One configuration; see `read_configurations`."""
    try:
        given = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {file}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"--config {file}: no TOML: {error}") from error
    try:
        return _configuration(file.stem, given, data_dir)
    except ConfigError as error:
        raise ConfigError(f"--config {file}: {error}") from error


def _configuration(name: str, given: Mapping[str, Any], data_dir: Path | None) -> Configuration:
    flat = {key: value for key, value in given.items() if key not in TABLES}
    _check_names(flat, [*Settings.model_fields, *TABLES], "")
    tables: dict[str, Mapping[str, Any]] = {}
    for table, known in TABLES.items():
        value = given.get(table, {})
        if not isinstance(value, dict):
            raise ConfigError(f"{table}: must be a table, [{table}]")
        tables[table] = cast("Mapping[str, Any]", value)
        _check_names(tables[table], known, f"{table}.")
    history, cache = _valid(_History, tables["history"], "history"), _valid(_Cache, tables["cache"], "cache")
    if cache.scope is not None and "cache_scope" in flat:
        raise ConfigError("cache_scope and cache.scope: only one of them can be given")
    settings = load_settings({"data_dir": data_dir, **flat})
    return Configuration(
        name=name,
        settings=settings,
        named=frozenset(flat),
        scope=cache.scope or (settings.cache_scope if "cache_scope" in flat else None),
        strategy=history.strategy,
        budget_tokens=history.budget_tokens,
        params=_params(tables["params"]),
    )


def _check_names(given: Mapping[str, Any], known: Sequence[str], place: str) -> None:
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1, cutoff=0.0)
            raise ConfigError(f"{place}{key}: no setting of this version; did you mean {place}{near[0]}?")


def _valid(model: type[M], given: Mapping[str, Any], table: str) -> M:
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join([table, *map(str, first["loc"])])
        raise ConfigError(f"{place}={first['input']!r}: {first['msg']}") from error


def _params(given: Mapping[str, Any]) -> SamplingParams:
    try:
        return TypeAdapter(SamplingParams).validate_python(given)
    except InvalidInput as error:
        raise ConfigError("; ".join(f"params.{each.field}: {each.message}" for each in error.errors)) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(["params", *map(str, first["loc"])])
        raise ConfigError(f"{place}={first['input']!r}: {first['msg']}") from error
