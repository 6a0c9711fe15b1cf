"""What follows from the figures, in sentences, each with the rule that it was computed by.

Every number of a sentence is one of the figures; a rule says which, and from what value on it says yes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from chatlab.evaluation.traffic.prices import Price

Answer = Literal["yes", "no", "open", "fact"]
HARMLESS = 0.01  # of the questions, for which turns may be left out without a word
PERCENT = "\u00a0%"
WORTH = 0.05  # of the tokens, that are worth a setting


@dataclass(frozen=True, slots=True)
class Sentence:
    """One of them.

    Attributes:
        about: What it is about, in a word or two.
        answer: Whether it says yes, no, that it is open, or only what is.
        rule: How it was computed, and the thresholds.
    """

    about: str
    text: str
    answer: Answer
    rule: str

    def as_json(self) -> dict[str, str]:
        """For a result file."""
        return {"about": self.about, "text": self.text, "answer": self.answer, "rule": self.rule}


def sentences(found: Mapping[str, Any], price: Price) -> list[Sentence]:
    """All of them; of figures as `figures` gives them.

    Args:
        found: The figures.
        price: The row of prices that seconds and money rest on.
    """
    if not found["turns"]:
        return [Sentence("export", "The export holds no question, so nothing follows from it.", "open", "No turns.")]
    written = [_cache(found, price), _scope(found), _again(found)]
    budgets = list(dict.fromkeys(cell["budget"] for cell in found["history"]))
    written += [_history(found, budget) for budget in budgets]
    written.append(_money(found, price))
    return [each for each in written if each is not None]


def headline(found: Mapping[str, Any], price: Price) -> str:
    """The verdict in one sentence."""
    if not found["turns"]:
        return "This export holds no question, so there is nothing to judge."
    cell = found["cache"]["cells"][found["cache"]["main"]]
    state = verdict_of(cell, found, price)
    rate = percent(cell["hit_rate"]["value"]) if cell["hit_rate"] else "none"
    could = f"{rate} of the questions could have been answered from earlier answers"
    match state:
        case "yes":
            return f"Yes, a cache would have paid: {could}."
        case "no":
            return f"No, a cache would not have paid: only {could}."
        case _:
            doubt = (
                "some of these answers look wrong: judge for yourself" if doubted(cell) else "whether that pays is open"
            )
            return f"{could[0].upper()}{could[1:]}, but {doubt}."


def second_line(found: Mapping[str, Any]) -> str:
    """What to do about long conversations, in one sentence."""
    best = _cheapest(found)
    if best is None:
        return "Hardly a conversation was too long to be sent whole."
    saved, gone = percent(1 - best["of_whole"]["value"]), percent(best["dropped_of_past"]["value"])
    noted = percent(best["noted_of_past"]["value"])
    return (
        f"Of the strategies for long conversations, {best['strategy']} at {best['budget']:,} tokens would have sent "
        f"least: {saved} fewer prompt tokens, with notes for {noted} of the past turns and {gone} left out."
    )


def verdict_of(cell: Mapping[str, Any], found: Mapping[str, Any], price: Price) -> Answer:
    """Whether a cache pays: time is shown to be saved, and nothing makes its promise doubtful."""
    rate = cell["hit_rate"]
    if rate is None:
        return "open"
    even = break_even(found, price)
    low, high = rate["interval"]
    if high <= even:
        return "no"
    return "yes" if low > even and not doubted(cell) else "open"


def doubted(cell: Mapping[str, Any]) -> bool:
    """Whether more of the stored answers are shown to differ than may be wrong: a person has to look."""
    return cell["compared"] is not None and cell["compared"]["interval"][0] > cell["max_error"]


def break_even(found: Mapping[str, Any], price: Price) -> float:
    """Share of hits from which on lookups take less time than hits save."""
    tokens = found["tokens"]
    seconds = price.seconds(tokens["prompts_whole"], tokens["answers"]) / max(1, found["turns"])
    return min(1.0, found["cache"]["lookup_seconds"] / seconds) if seconds else 1.0


def _cache(found: Mapping[str, Any], price: Price) -> Sentence:
    cell = found["cache"]["cells"][found["cache"]["main"]]
    answer = verdict_of(cell, found, price)
    even = break_even(found, price)
    text = (
        f"With at most {bound(cell['max_error'])} of its answers wrong, a cache of your own questions would have "
        f"answered {cell['hits']:,} of {cell['lookups']:,} questions, {shown(cell['hit_rate'])}, "
        f"{cell['exact']:,} of them asked in the same words. "
    )
    if answer == "open" and doubted(cell):
        text += (
            f"But a comparison of {cell['compared']['n']} answers with those that were given finds more of them "
            "different than that: judge some pairs above."
        )
    elif answer == "yes":
        text += f"That is more than the {percent(even)} from which on it saves time: it would have paid."
    elif answer == "no":
        text += f"That is no more than the {percent(even)} from which on it saves time: it would not have paid."
    else:
        text += f"Whether that is more than the {percent(even)} from which on it saves time is not shown."
    rule = (
        "Share of hits = hits / questions looked up. It pays if the lower end of its 95 % interval is above the "
        f"break-even: {found['cache']['lookup_seconds']} s a lookup / the mean seconds of an answer at the speeds of "
        f"“{price.name}”. It does not if the upper end is at or below it. It is open otherwise, and where the lower "
        "end of the share of stored answers that differ from those given is above the promise: a person has to say "
        "whether they would have done. "
        "Interval: bootstrap over chats, 2,000 resamples."
    )
    return Sentence("cache", text, answer, rule)


def _scope(found: Mapping[str, Any]) -> Sentence | None:
    main = found["cache"]["cells"][found["cache"]["main"]]
    shared = next(
        (c for c in found["cache"]["cells"] if c["scope"] == "global" and c["max_error"] == main["max_error"]), None
    )
    if shared is None:
        return None
    if found["users"] > 1:
        text = (
            f"Shared by all {found['users']} people, a cache would have answered {shared['hits']:,} questions instead "
            f"of {main['hits']:,}: it serves what others asked, but keeps only first questions without personal data."
        )
    else:
        text = (
            f"The export is of one person, so sharing has nothing to add: of the {main['hits']:,} answers, "
            f"{shared['hits']:,} would have come from a shared cache, too, which keeps only first questions without "
            "personal data."
        )
    rule = (
        "Hits of both scopes at the same bound. `user`: answers given to the same person; `global`: those given to "
        "anybody, to a first question, where neither question nor answer looks personal."
    )
    return Sentence("scope", text, "fact", rule)


def _again(found: Mapping[str, Any]) -> Sentence:
    again = found["again"]
    if not again["groups"]:
        text = "No question was asked twice."
    else:
        most = again["shown"][0]
        text = (
            f"{again['repeats']:,} questions, {shown(again['share'])}, ask again what was asked before, in "
            f"{again['groups']:,} groups; the largest was asked {most['count']:,} times."
        )
    rule = (
        "A question joins the group of the earlier question that has the same words, or that the cache's decision "
        "would serve it from at the main bound. Share = questions but the first of each group / all questions. "
        "Interval: bootstrap over chats."
    )
    return Sentence("asked again", text, "fact", rule)


def _history(found: Mapping[str, Any], budget: int) -> Sentence:
    cells = {cell["strategy"]: cell for cell in found["history"] if cell["budget"] == budget}
    direct = cells["direct"]
    rule = (
        f"At {budget:,} tokens. Refused: questions whose whole conversation exceeds the budget. Sent: tokens of the "
        "strategy's prompts / tokens of all conversations whole. Left out: past turns of which nothing is in a prompt "
        f"/ all past turns. It matters if more than {bound(HARMLESS)} of the questions exceed the budget. Interval: "
        "bootstrap over chats."
    )
    long = f"{direct['refused']:,} of {direct['turns']:,} questions, {shown(direct['refused_share'])},"
    if direct["refused_share"]["value"] <= HARMLESS:
        text = (
            f"At a budget of {budget:,} tokens it hardly matters how old turns are handled: {long} are too long to be "
            "sent with their whole conversation."
        )
        return Sentence(f"{budget:,} tokens", text, "no", rule)
    newest, notes, quotes = (
        (shown(cells[name]["of_whole"]), percent(cells[name]["dropped_of_past"]["value"]))
        for name in ("truncate", "summarize", "hybrid")
    )
    text = (
        f"At a budget of {budget:,} tokens it matters how old turns are handled: {long} are too long to be sent with "
        f"their whole conversation. Keeping the newest turns sends {newest[0]} of the tokens and leaves out "
        f"{newest[1]} of the past turns; with notes it is {notes[0]} and {notes[1]}, with notes and quotes {quotes[0]} "
        f"and {quotes[1]}."
    )
    return Sentence(f"{budget:,} tokens", text, "yes", rule)


def _money(found: Mapping[str, Any], price: Price) -> Sentence:
    tokens = found["tokens"]
    currency = found["prices"]["currency"]
    whole = price.money(tokens["prompts_whole"], tokens["answers"])
    cell = found["cache"]["cells"][found["cache"]["main"]]
    cached = price.money(cell["saved_prompt_tokens"], cell["saved_answer_tokens"])
    made_up = " The prices are examples: put your own in." if price.example else ""
    text = (
        f"Sent whole, all conversations are {tokens['prompts_whole']:,} tokens of prompts and {tokens['answers']:,} of "
        f"answers: {amount(whole, currency)} and {duration(price.seconds(tokens['prompts_whole'], tokens['answers']))} "
        f"of computing by the row “{price.name}”. The cache would have saved {amount(cached, currency)} of it."
    )
    best = _cheapest(found)
    if best is not None:
        spared = price.money(tokens["prompts_whole"] - best["tokens"], 0)
        name = f"{best['strategy'].capitalize()} at {best['budget']:,} tokens"
        text += f" {name} would have saved {amount(spared, currency)}."
    rule = (
        "Money = tokens of prompts × price of input + tokens of answers × price of output. Seconds = tokens of prompts "
        "/ speed of reading + tokens of answers / speed of writing, one after the other, nothing reused. Counted with "
        f"the tokenizer of {tokens['model']}: other models count somewhat differently."
    )
    return Sentence("cost", text + made_up, "fact", rule)


def _cheapest(found: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The strategy that sends least and refuses nothing, where that is worth it."""
    cells: Sequence[Mapping[str, Any]] = [
        cell
        for cell in found["history"]
        if cell["strategy"] != "direct" and not cell["refused"] and cell["of_whole"]["interval"][1] < 1 - WORTH
    ]
    return min(cells, key=lambda cell: cell["of_whole"]["value"], default=None)


def bound(max_error: float) -> str:
    """A share that was chosen, not found."""
    return f"{100 * max_error:g}{PERCENT}"


def percent(share: float) -> str:
    """A share as people write it."""
    value = 100 * share
    if 0 < value < 0.1:
        return f"under 0.1{PERCENT}"
    return f"{value:.0f}{PERCENT}" if value == 0 or value >= 9.95 else f"{value:.1f}{PERCENT}"


def shown(estimate: Mapping[str, Any] | None) -> str:
    """A share with its interval."""
    if estimate is None:
        return "unknown"
    low, high = estimate["interval"]
    return f"{percent(estimate['value'])} (95 %: {percent(low)} to {percent(high)})"


def amount(money: float, currency: str) -> str:
    """A sum of money."""
    return f"{currency}{money:,.2f}" if money < 1_000 else f"{currency}{money:,.0f}"


def duration(seconds: float) -> str:
    """How long something takes."""
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7_200 else f"{seconds / 3_600:,.1f} h"
