"""What the rounds gave, as a table, as ratios with their targets, and as a plot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.engine_figures import CHATS
from benchmarks.report import p50

OURS, GENERATE, CONTINUOUS, LLAMA_CPP = "chatlab", "generate", "continuous batching", "llama.cpp"
COLOURS = {OURS: "#1f77b4", GENERATE: "#ff7f0e", CONTINUOUS: "#2ca02c", LLAMA_CPP: "#d62728"}
COLOUR_NAMES = {OURS: "blue", GENERATE: "orange", CONTINUOUS: "green", LLAMA_CPP: "red"}
NONE = "–"

Key = tuple[str, str]  # contender, figure


@dataclass(slots=True)
class Rounds:
    """The figures of each round; those of a key that is not in all of them count as missing."""

    rounds: list[dict[Key, float]] = field(default_factory=lambda: [])

    def values(self, contender: str, figure: str) -> list[float]:
        """One a round, or none."""
        values = [each[contender, figure] for each in self.rounds if (contender, figure) in each]
        return values if len(values) == len(self.rounds) else []

    def median(self, contender: str, figure: str) -> float | None:
        """Over the rounds."""
        values = self.values(contender, figure)
        return p50(values) if values else None

    def ratio(self, above: Key, below: Key) -> float | None:
        """The median of the ratios within each round, so that what slowed a whole round cancels out."""
        over, under = self.values(*above), self.values(*below)
        return p50([a / b for a, b in zip(over, under, strict=True)]) if over and under else None


@dataclass(frozen=True, slots=True)
class Ratio:
    """Two figures in proportion, and where the proportion should be."""

    name: str
    above: Key
    below: Key
    at_least: float | None = None
    at_most: float | None = None
    stretch: float | None = None

    def line(self, value: float | None) -> str:
        """For people."""
        sign, target = ("at least", self.at_least) if self.at_most is None else ("at most", self.at_most)
        met = value is not None and target is not None and (value <= target if self.at_most else value >= target)
        stretch = f", if possible {self.stretch:g}" if self.stretch else ""
        shown = NONE if value is None else f"{value:.2f}{'' if met else ' (not reached)'}"
        return f"{self.name}: {shown}; {sign} {target:g}{stretch}"


RATIOS = (
    Ratio("decoding 1 chat, to llama.cpp", (OURS, "decode_1"), (LLAMA_CPP, "decode_1"), 0.6, stretch=0.75),
    Ratio("decoding 16 chats, to llama.cpp", (OURS, "decode_16"), (LLAMA_CPP, "decode_16"), 1.0, stretch=1.6),
    Ratio(
        "speed of a 1,500-token prompt, to llama.cpp",
        (LLAMA_CPP, "first_token_1500_ms"),
        (OURS, "first_token_1500_ms"),
        1.3,
    ),
    Ratio("first token of turn 10, to that of turn 1", (OURS, "turn_10_ms"), (OURS, "turn_1_ms"), at_most=1.8),
    Ratio(
        "p95 gap while 1,500 tokens arrive, to the undisturbed gap",
        (OURS, "gap_p95_ms"),
        (OURS, "gap_ms"),
        at_most=4.0,
    ),
    Ratio("decoding 64 chats, to 16 chats", (OURS, "decode_64"), (OURS, "decode_16"), 1.0),
)

# The figure's name, what it is, and how it is written.
ROWS = (
    ("first_token_50_ms", "first token of a 50-token prompt, ms", ".0f"),
    ("first_token_1500_ms", "first token of a 1,500-token prompt, ms", ".0f"),
    ("turn_1_ms", "first token of turn 1, ms", ".0f"),
    ("turn_10_ms", "first token of turn 10, ms", ".0f"),
    *((f"decode_{n}", f"{n} chat{'s' if n > 1 else ''}, tokens/s", ".1f" if n == 1 else ".0f") for n in CHATS),
    ("gap_ms", "gap between two tokens, ms", ".1f"),
    ("gap_p95_ms", "p95 of it while 1,500 tokens arrive, ms", ".1f"),
    ("arriving_first_token_ms", "first token of those 1,500, ms", ".0f"),
    ("loaded_mb", "memory after loading, MB", ",.0f"),
    ("peak_mb", "most memory, MB", ",.0f"),
)


def table(rounds: Rounds, contenders: Sequence[str], limits: Mapping[str, float]) -> str:
    """Markdown, medians; the last column is what the machine allows, by figure."""
    cells = [["", *contenders, "limit"]]
    for figure, label, style in ROWS:
        values = [*(rounds.median(name, figure) for name in contenders), limits.get(figure)]
        cells.append([label, *(NONE if value is None else format(value, style) for value in values)])
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = ["| " + " | ".join(f"{cell:{w}}" for cell, w in zip(row, widths, strict=True)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def plot(rounds: Rounds, contenders: Sequence[str]) -> str:
    """Mermaid: tokens a second over chats, a line for each contender that has them all."""
    lines = {
        name: [value for n in CHATS if (value := rounds.median(name, f"decode_{n}")) is not None] for name in contenders
    }
    lines = {name: values for name, values in lines.items() if len(values) == len(CHATS)}
    most = max((max(values) for values in lines.values()), default=0.0)
    return "\n".join(
        [
            "```mermaid",
            "---",
            "config:",
            "  themeVariables:",
            "    xyChart:",
            f'      plotColorPalette: "{", ".join(COLOURS[name] for name in lines)}"',
            "---",
            "xychart-beta",
            '  title "tokens a second, all chats together"',
            f'  x-axis "chats" [{", ".join(map(str, CHATS))}]',
            f'  y-axis "tokens/s" 0 --> {most * 1.1:.0f}',
            *(f"  line [{', '.join(f'{value:.0f}' for value in values)}]" for values in lines.values()),
            "```",
            "",
            f"Lines: {', '.join(f'{COLOUR_NAMES[name]} {name}' for name in lines)}.",
        ]
    )
