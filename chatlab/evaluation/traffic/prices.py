"""What tokens cost and how fast they are computed: rows of a TOML file, or one given by options."""

import tomllib
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, TypeAdapter

from chatlab.errors import ConfigError
from chatlab.evaluation.readers.records import read_text, validated

SHIPPED = Path(__file__).parents[3] / "data" / "prices.toml"  # of a checkout
PROMPT_SPEED, ANSWER_SPEED = 5_000.0, 100.0  # tokens a second, where only prices are given

Money = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Speed = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Row(BaseModel, extra="forbid"):
    name: Annotated[str, Field(min_length=1, max_length=80)]
    input_per_million: Money
    output_per_million: Money
    prompt_tokens_per_second: Speed
    answer_tokens_per_second: Speed
    example: bool = False


class _File(BaseModel, extra="forbid"):
    as_of: date
    currency: Annotated[str, Field(min_length=1, max_length=8)]
    row: Annotated[list[_Row], Field(min_length=1)]


@dataclass(frozen=True, slots=True)
class Price:
    """A row.

    Attributes:
        example: Whether the figures are made up.
    """

    name: str
    input_per_million: float
    output_per_million: float
    prompt_tokens_per_second: float
    answer_tokens_per_second: float
    example: bool = False

    def money(self, prompt_tokens: float, answer_tokens: float) -> float:
        """For so many tokens."""
        return (prompt_tokens * self.input_per_million + answer_tokens * self.output_per_million) / 1e6

    def seconds(self, prompt_tokens: float, answer_tokens: float) -> float:
        """For so many tokens, of one answer after the other."""
        return prompt_tokens / self.prompt_tokens_per_second + answer_tokens / self.answer_tokens_per_second


@dataclass(frozen=True, slots=True)
class Prices:
    """Rows, of which the first is what sentences rest on.

    Attributes:
        as_of: When they held; None where nobody says so.
        source: Where they are from.
    """

    rows: tuple[Price, ...]
    currency: str
    as_of: date | None
    source: str

    def as_json(self) -> dict[str, Any]:
        """For a result file."""
        return {
            "as_of": None if self.as_of is None else self.as_of.isoformat(),
            "currency": self.currency,
            "source": self.source,
            "rows": [asdict(row) for row in self.rows],
        }


def read_prices(file: Path) -> Prices:
    """The rows of a file.

    Raises:
        ConfigError: It cannot be used; names the field and what is wrong.
    """
    try:
        found = tomllib.loads(read_text(file))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: no TOML: {error}") from error
    read = validated(TypeAdapter(_File), found, file, "the prices")
    return Prices(tuple(Price(**row.model_dump()) for row in read.row), read.currency, read.as_of, file.name)


def prices_for(file: Path | None, price_in: float | None, price_out: float | None) -> Prices:
    """The rows to use: those of options, of a file, of the checkout, or a row without prices.

    Raises:
        ConfigError: An option or the file cannot be used.
    """
    if price_in is not None or price_out is not None:
        row = Price("Your prices", price_in or 0.0, price_out or 0.0, PROMPT_SPEED, ANSWER_SPEED)
        return Prices((row,), "", None, "--price-in and --price-out")
    if file is not None:
        return read_prices(file)
    if SHIPPED.is_file():
        return read_prices(SHIPPED)
    return Prices((Price("No prices given", 0.0, 0.0, PROMPT_SPEED, ANSWER_SPEED, True),), "", None, "nowhere")
