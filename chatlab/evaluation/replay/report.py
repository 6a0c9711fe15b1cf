"""The report of a replay as lines: a table of configurations, paired differences, and what the log cannot tell."""

from collections.abc import Mapping
from typing import Any

from chatlab.evaluation.replay.comparison import SHARES
from chatlab.evaluation.report import aligned

NAMES = {
    "served": "served by the cache",
    "prompt_tokens": "prompt tokens",
    "computed_tokens": "of these computed",
    "dropped_turns": "turns dropped",
    "seconds": "seconds",
}


def table(found: Mapping[str, Any]) -> str:
    """The report of `comparison.result` for a terminal."""
    log = found["log"]
    lines = [f"{log['source']}: {log['turns']:,} turns in {log['chats']:,} chats, {log['lookups']:,} cache lookups", ""]
    lines += aligned([heads(), *(row(each) for each in found["configurations"])])
    for each in found["differences"]:
        lines += ["", f"{each['name']} less {each['minus']}, a turn (95 % over chats)"]
        lines += aligned([*([f"  {name}", shown] for name, shown in difference_rows(each))])
    lines += ["", *(sentence for each in found["configurations"] for sentence in sentences(each))]
    return "\n".join(lines)


def heads() -> list[str]:
    """Of the columns of `row`."""
    return ["configuration", "served", "exact", "semantic", "wrong of judged", "prompt tokens", "computed", "reuse",
            "dropped", "seconds"]  # fmt: skip


def row(figures: Mapping[str, Any]) -> list[str]:
    """A configuration's figures: shares, and means a turn."""
    estimates, prompts = figures["estimates"], figures["prompts"]
    return [
        figures["name"],
        shown("served", estimates["served"]),
        f"{figures['exact']:,}",
        f"{figures['semantic']:,}",
        shown("wrong_of_judged", estimates["wrong_of_judged"]),
        *(value(name, estimates[name]) if prompts else "–" for name in ("prompt_tokens", "computed_tokens")),
        value("prefix_reuse", estimates["prefix_reuse"]),
        value("dropped_turns", estimates["dropped_turns"]) if prompts else "–",
        value("seconds", estimates["seconds"]),
    ]


def difference_rows(each: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values of paired differences."""
    found = [(NAMES[name], shown(name, estimate, signed=True)) for name, estimate in each["estimates"].items()]
    changes = f"{each['served_more']:,} more, {each['served_less']:,} less, {each['other_answer']:,} another answer"
    return [("turns served", changes), *found]


def sentences(figures: Mapping[str, Any]) -> list[str]:
    """How far a configuration decides as the log did, and what stands in for what is not known."""
    name, then = figures["name"], figures["as_logged"]
    found: list[str] = []
    if then["known"]:
        n = then["known"] - then["beyond"]
        by = ", ".join(f"{key} {count:,}" for key, count in then["by"].items())
        found.append(
            f"{name}: {then['same']:,} of {n:,} decisions of the cache are those of the log"
            + (f" (others: {by})" if by else "")
            + (f"; {then['beyond']:,} more met what is not in the log" if then["beyond"] else "")
        )
    if figures["answers_assumed"]:
        found.append(
            f"{name}: of {figures['answers_assumed']:,} turns the model's answer is not known; what was served stands "
            "in for it (--answers asks the model)"
        )
    if figures["refused"]:
        found.append(f"{name}: {figures['refused']:,} turns get no prompt within their budget")
    if figures["faults"]:
        found.append(f"{name}: {figures['faults']:,} operations of the cache failed; see the log lines")
    return found


def value(name: str, estimate: Mapping[str, Any] | None) -> str:
    """An estimate without its interval."""
    return "–" if estimate is None else _number(name, estimate["value"], "")


def shown(name: str, estimate: Mapping[str, Any] | None, signed: bool = False) -> str:
    """An estimate with its interval."""
    if estimate is None:
        return "–"
    sign = "+" if signed else ""
    low, high = (_number(name, each, sign) for each in estimate["interval"])
    return f"{_number(name, estimate['value'], sign)} [{low}, {high}]"


def _number(name: str, number: float, sign: str) -> str:
    if name in SHARES:
        return f"{number:{sign}.1%}"
    return f"{number:{sign},.2f}" if name in ("seconds", "dropped_turns") else f"{number:{sign},.0f}"
