"""What `eval history` found: one cell a strategy and budget, as JSON in the documented shape and as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from chatlab.evaluation import bootstrap
from chatlab.evaluation.bootstrap import Estimate
from chatlab.evaluation.prefixes import Reuse


@dataclass(slots=True)
class Cell:
    """What was seen of one strategy at one budget; filled while it is measured.

    Attributes:
        strategy: Its name.
        budget: In tokens.
        n: Questions asked; of data without questions, turns asked.
        refused: How many of these got no prompt.
        replayed: Turns asked in order.
        replayed_refused: How many of these got no prompt.
        over_limit: Prompts of more tokens than the budget, or than the window less the answer.
        faults: Prompts made by another strategy than the one asked for, because something did not work.
        count_error: The largest difference between the tokens a prompt says it has and those of the rendered template.
        coverage: By question, of those with a prompt and content words in the answer.
        evidence: By question, 1 or 0, of those with a prompt and evidence.
        tokens: Of each prompt of the `n`.
        seconds: Each prompt took.
        note_seconds: Each note took, written while nobody waited.
        reuse: Of each replayed turn after a dialogue's first.
        sections: What further measurements add.
    """

    strategy: str
    budget: int
    n: int = 0
    refused: int = 0
    replayed: int = 0
    replayed_refused: int = 0
    over_limit: int = 0
    faults: int = 0
    count_error: int = 0
    coverage: dict[str, float] = field(default_factory=dict[str, float])
    evidence: dict[str, float] = field(default_factory=dict[str, float])
    tokens: list[int] = field(default_factory=list[int])
    seconds: list[float] = field(default_factory=list[float])
    note_seconds: Sequence[float] = ()
    reuse: list[Reuse] = field(default_factory=list[Reuse])
    sections: dict[str, Any] = field(default_factory=dict[str, Any])

    def as_json(self, seed: int, peer: "Cell | None" = None) -> dict[str, Any]:
        """The cell with its intervals, and with its differences to a peer's at the same budget."""
        coverage, evidence = _mean(self.coverage, seed), bootstrap.share([*self.evidence.values()])
        reuse = {
            name: bootstrap.mean([getattr(each, name) for each in self.reuse], seed)
            for name in ("prefix_reuse", "prefix_reuse_cold", "prompt_reuse")
        }
        found: dict[str, Any] = {
            "n": self.n,
            "refused": self.refused,
            "over_limit_prompts": self.over_limit,
            "token_count_error": self.count_error,
            "faults": self.faults,
            "answer_word_coverage": _value(coverage),
            "evidence_recall": _value(evidence),
            **{name: _value(estimate) for name, estimate in reuse.items()},
            "blocked_turns": 0,  # no strategy waits for a summary
            "replayed_turns": self.replayed,
            "replayed_refused": self.replayed_refused,
            "prompt_tokens_mean": float(np.mean(self.tokens)) if self.tokens else None,
            "build_ms": _percentiles(self.seconds),
            "notes": len(self.note_seconds),
            "note_ms": _percentiles(self.note_seconds),
            "intervals": {
                name: None if each is None else each.as_json()
                for name, each in {"answer_word_coverage": coverage, "evidence_recall": evidence, **reuse}.items()
            },
        }
        if peer is not None and peer is not self:
            found[f"minus_{peer.strategy}"] = {
                "answer_word_coverage": difference(self.coverage, peer.coverage, seed),
                "evidence_recall": difference(self.evidence, peer.evidence, seed),
            }
        return found | self.sections


@dataclass(frozen=True, slots=True)
class HistoryReport:
    """The cells of a run, in the order asked for."""

    cells: Sequence[Cell]
    about: Mapping[str, Any]
    seed: int
    peer: str

    def with_about(self, **more: object) -> "HistoryReport":
        """The same with more said about the run."""
        return replace(self, about={**self.about, **more})

    def cell(self, strategy: str, budget: int) -> Cell | None:
        """One cell; None where it was not asked for."""
        return next((c for c in self.cells if (c.strategy, c.budget) == (strategy, budget)), None)

    def as_json(self) -> dict[str, Any]:
        """In the documented shape."""
        strategies: dict[str, dict[str, Any]] = {}
        for cell in self.cells:
            found = cell.as_json(self.seed, self.cell(self.peer, cell.budget))
            strategies.setdefault(cell.strategy, {})[str(cell.budget)] = found
        return {**self.about, "seed": self.seed, "strategies": strategies}


def table(result: Mapping[str, Any], peer: str) -> str:
    """The main figures of a report's JSON as aligned lines; the brackets hold 95 % intervals."""
    rows = [
        ["strategy", "budget", "n", "refused", "over", "count", "coverage", "evidence", "reuse", "tokens", "p95 ms"]
    ]
    for strategy, by_budget in result["strategies"].items():
        for budget, cell in by_budget.items():
            rows.append(
                [
                    strategy,
                    budget,
                    str(cell["n"]),
                    str(cell["refused"]),
                    str(cell["over_limit_prompts"]),
                    str(cell["token_count_error"]),
                    shown(cell["intervals"]["answer_word_coverage"]),
                    shown(cell["intervals"]["evidence_recall"]),
                    shown(cell["intervals"]["prefix_reuse"]),
                    "–" if cell["prompt_tokens_mean"] is None else f"{cell['prompt_tokens_mean']:,.0f}",
                    "–" if cell["build_ms"]["p95"] is None else f"{cell['build_ms']['p95']:.1f}",
                ]
            )
    lines = aligned(rows)
    for name, title in (
        (f"minus_{peer}", f"less {peer}"),
        ("rank", "gold answer among ten"),
        ("perplexity", "true next turn"),
    ):
        found = [
            [strategy, budget, *_section(cell[name])]
            for strategy, by_budget in result["strategies"].items()
            for budget, cell in by_budget.items()
            if cell.get(name) and _section(cell[name])
        ]
        if found:
            lines += ["", title, *aligned(found)]
    return "\n".join(lines)


def difference(ours: Mapping[str, float], theirs: Mapping[str, float], seed: int) -> dict[str, Any] | None:
    """The mean paired difference over what both have, and its interval."""
    both = [ours[key] - theirs[key] for key in ours if key in theirs]
    found = bootstrap.mean(both, seed)
    return None if found is None else found.as_json()


def _mean(values: Mapping[str, float], seed: int) -> Estimate | None:
    return bootstrap.mean(list(values.values()), seed)


def _value(estimate: Estimate | None) -> float | None:
    return None if estimate is None else estimate.value


def _percentiles(seconds: Sequence[float]) -> dict[str, float | None]:
    if not seconds:
        return {"p50": None, "p95": None}
    p50, p95 = np.percentile(np.array(seconds) * 1_000, [50, 95])
    return {"p50": float(p50), "p95": float(p95)}


def _section(section: Mapping[str, Any]) -> list[str]:
    """The estimates of a section by name, those of a section in it behind a dot."""
    found: list[str] = []
    for name, value in section.items():
        if isinstance(value, Mapping) and "interval" in value:
            found.append(f"{name} {shown(value)}")
        elif isinstance(value, Mapping):
            found += [f"{name}.{each}" for each in _section(value)]
        elif isinstance(value, int):
            found.append(f"{name} {value}")
    return found


def shown(estimate: Mapping[str, Any] | None) -> str:
    """An estimate's JSON in a table."""
    if estimate is None:
        return "–"
    low, high = estimate["interval"]
    return f"{estimate['value']:.3f} [{low:.3f}, {high:.3f}]"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table; rows may end early."""
    n_columns = max(map(len, rows))
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(n_columns)]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=False)).rstrip() for row in rows]
