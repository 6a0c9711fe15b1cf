"""Every setting of chatlab, read once at start from `CHATLAB_*` variables, then `chatlab.toml`, then defaults.

This is the only file that reads the environment. A wrong value ends the start with the variable's name.
"""

import importlib
import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from chatlab.errors import ConfigError
from chatlab.messages import CacheScope, NotesMode

PREFIX = "CHATLAB_"
TOML_FILE = "chatlab.toml"
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})


DATA_DIR = Path(".chatlab")


def _on_spaces() -> bool:
    return "SPACE_ID" in os.environ


def _data_dir(here: Path = Path()) -> Path:
    """`.chatlab`. On Spaces, where it goes with every restart, the temporary folder if that cannot be written."""
    if not _on_spaces() or os.access(here / DATA_DIR if (here / DATA_DIR).exists() else here, os.W_OK | os.X_OK):
        return DATA_DIR
    return Path(tempfile.gettempdir()) / "chatlab"


class Settings(BaseSettings):
    """One flat tree; the name of a variable is `CHATLAB_` and the field's name in capitals."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, toml_file=TOML_FILE, extra="ignore", frozen=True)

    host: str = Field(
        default_factory=lambda: "0.0.0.0" if _on_spaces() else "127.0.0.1",  # noqa: S104 - Spaces is a container
        description="Address to listen on; 127.0.0.1, and 0.0.0.0 on Hugging Face Spaces.",
    )
    port: int = Field(default=7860, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    data_dir: Path = Field(default_factory=_data_dir, description="Folder of everything stored; one process opens it.")
    model: str = Field(
        default="auto",
        min_length=1,
        description="`auto`, `bundled`, a Hub id or a folder with a model; with `openai` the server's name for it.",
    )
    vectors_uri: str = Field(
        default="",
        description="Folder or object storage for LanceDB, of one store; empty is `vectors` in the data dir.",
    )
    embedder: str = Field(
        default="auto",
        min_length=1,
        description="`auto` (the bundled one, else its Hub id), a Hub id or a folder. "
        "all-MiniLM-L6-v2, which `auto` is, also judges what notes keep.",
    )
    engine: Literal["auto", "transformers", "openai", "echo"] = Field(
        default="auto",
        description="`auto` is `transformers`; `openai` asks another server; `echo` answers with the user's message.",
    )
    openai_base_url: str = Field(
        default="", description="Address of the server for `openai`, like `http://127.0.0.1:8000/v1`."
    )
    openai_api_key: SecretStr = Field(default=SecretStr(""), description="Its key, if it wants one.")
    openai_tokenizer: str = Field(
        default="", description="A Hub id or folder to count tokens with; empty asks the server, or estimates."
    )
    openai_context_tokens: int = Field(
        default=0, ge=0, description="Its model's window; 0 takes what the server says, else 4,096."
    )
    openai_concurrency: int = Field(default=32, ge=1, description="Answers asked of it at the same time; more wait.")
    openai_first_token_seconds: float = Field(
        default=120.0, gt=0, description="Longest wait for its first token, retries included."
    )
    device: str = Field(default="auto", description="`auto`, `cpu`, `cuda` or another torch device.")
    threads: int = Field(default=0, ge=0, description="CPU threads of the engine; 0 leaves the choice to torch.")
    kv_cache_mb: int = Field(
        default=0,
        ge=0,
        description="Memory for the attention keys and values of running answers and of prefixes kept between turns, "
        "in MB; 0 takes an eighth of the machine's memory (at least 512), or 70 % of what is free on a GPU.",
    )
    echo_tokens_per_second: float = Field(
        default=0.0, ge=0, description="Pace of the `echo` engine; 0 is as fast as it can."
    )
    queue_limit: int = Field(default=256, ge=1, description="Answers under way or waiting before a 429.")
    max_body_bytes: int = Field(default=4_000_000, ge=1_000, description="Largest request body, else 413.")
    max_import_bytes: int = Field(default=2_000_000_000, ge=1_000, description="Largest file to import, else 413.")
    max_message_chars: int = Field(default=200_000, ge=1, description="Longest single message, in characters.")
    max_messages: int = Field(default=2_000, ge=1, description="Most messages in one `/v1` request.")
    notes: NotesMode = Field(
        default="auto",
        description="How `summarize` and `hybrid` note old turns: `ledger` keeps statements word for word, `model` "
        "adds the model's summary where it is sound, `auto` does so if the model passed a test, too.",
    )
    cache_scope: CacheScope = Field(default="user", description="Cache scope of a new chat: `off`, `user` or `global`.")
    cache_max_error: float = Field(
        default=0.05, gt=0, lt=1, description="Share of the answers served from the cache that may be wrong."
    )
    cache_verifier: str = Field(
        default="",
        description="CrossEncoder of sentence-transformers, Hub id or folder, in place of the shipped verifier.",
    )
    cache_max_entries: int = Field(
        default=100_000, ge=1, description="Most stored answers; what saved least for its age goes first."
    )
    cache_max_temperature: float = Field(
        default=1.0, ge=0, description="Answers sampled at a higher temperature are neither stored nor served."
    )
    cache_ttl_hours: float = Field(
        default=720.0, gt=0, description="How long an answer may serve; five minutes where the question is about now."
    )
    cache_writes_per_hour: int = Field(default=1_000, ge=0, description="Answers of one user stored within an hour.")
    cache_audit_share: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="Share of the answers served by meaning that the model gives, too, while idle: whether they are "
        "right.",
    )
    cache_similar: bool = Field(
        default=True, description="Show the answer to a similar question of the user's while the model answers."
    )
    cache_shadow: bool = Field(
        default=False, description="Decide and note what would be served, and let the model answer all the same."
    )
    auth: Literal["open"] = Field(
        default="open", description="Who the caller is: `open` trusts `X-User-ID`, so it listens on loopback only."
    )
    secret_key: str = Field(
        default="", description="Signs browser identities; empty makes one and keeps it in the data dir."
    )
    allow_open: bool = Field(
        default=False, description="Let `open` listen beyond loopback. Anyone who reaches it can use it."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe log line shown."
    )
    log_json: bool = Field(default=False, description="Log one JSON object a line instead of text for people.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments win over variables, variables over the file."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)

    @property
    def on_spaces(self) -> bool:
        """Whether this is a Hugging Face Space, where the platform decides who gets in."""
        return _on_spaces()

    @property
    def on_zero_gpu(self) -> bool:
        """Whether this is a Space whose GPU exists only inside `spaces.GPU` calls."""
        return os.environ.get("SPACES_ZERO_GPU", "").lower() in {"1", "t", "true"}


def variable(field: str) -> str:
    """The variable that sets a field."""
    return PREFIX + field.upper()


def load_settings(overrides: Mapping[str, object] | None = None) -> Settings:
    """Read the settings.

    Args:
        overrides: Field names and values that win over variables and file; None values are left out.

    Raises:
        ConfigError: A value cannot be used; names the variable, the value and what would be right.
    """
    known = {variable(name) for name in Settings.model_fields}
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known:
            warnings.warn(f"{name} is no setting of this version and is ignored", stacklevel=2)
    given: dict[str, Any] = {name: value for name, value in (overrides or {}).items() if value is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        lines = [
            f"{variable(str(each['loc'][0])) if each['loc'] else TOML_FILE}={each['input']!r}: {each['msg']}"
            for each in error.errors()
        ]
        raise ConfigError("; ".join(lines)) from error
    except ValueError as error:  # an unreadable chatlab.toml
        raise ConfigError(f"{TOML_FILE}: {error}") from error
    if settings.auth == "open" and not (settings.host in LOOPBACK_HOSTS or settings.allow_open or settings.on_spaces):
        raise ConfigError(
            f"{variable('host')}={settings.host!r}: with {variable('auth')}=open anyone who reaches this address "
            f"can use chatlab. Listen on 127.0.0.1, or set {variable('allow_open')}=true to allow it."
        )
    return settings


def quieten_libraries() -> None:
    """Keep libraries from reporting usage, looking for updates, or asking for others; to be called before they load."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    # Gradio sums up its last 10,000 events after each one, with pandas, for a page that is closed here.
    os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", "1000000000")
    os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("LANCE_LOG", "error")  # it warns of each partition that it joins while it merges
    warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm in a notebook without ipywidgets


def import_spaces() -> Any:
    """The package `spaces` of the ZeroGPU platform; must come first before torch and Gradio are imported.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        return importlib.import_module("spaces")
    except ModuleNotFoundError as error:
        raise ConfigError(
            "SPACES_ZERO_GPU is set, but the package `spaces` is not installed. Hugging Face Spaces installs it by "
            "itself; elsewhere unset the variable"
        ) from error
