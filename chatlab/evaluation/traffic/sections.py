"""The sections of the verdict's page, each from the figures alone."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from chatlab.evaluation.traffic.charts import Bar, bars, columns
from chatlab.evaluation.traffic.figures import ENOUGH, LOOKUP_SECONDS, SHOWN_GROUPS
from chatlab.evaluation.traffic.html import WORDS, cell, estimate, number, table, text
from chatlab.evaluation.traffic.prices import Price, Prices
from chatlab.evaluation.traffic.sentences import Sentence, amount, bound, doubted, duration, percent, verdict_of

Found = Mapping[str, Any]

SCOPES = {"user": "your own", "global": "shared"}
STRATEGIES = {
    "direct": "whole chat (direct)",
    "truncate": "newest turns (truncate)",
    "summarize": "notes (summarize)",
    "hybrid": "notes, quotes (hybrid)",
}
KINDS = {"direct": "d", "truncate": "a", "summarize": "b", "hybrid": "c"}
ANSWER_CHARS = 500


def cards(found: Found, price: Price) -> str:
    """The key numbers."""
    tokens, main = found["tokens"], found["cache"]["cells"][found["cache"]["main"]]
    rate = main["hit_rate"]
    shown = [
        (f"{found['turns']:,}", f"questions in {found['chats']:,} chats"),
        (percent(rate["value"]) if rate else "–", "answered before, by the cache's decision"),
        (f"{found['again']['groups']:,}", "questions that were asked again"),
        (number(tokens["prompts_whole"]), "tokens of prompts, each chat sent whole"),
        (
            amount(price.money(tokens["prompts_whole"], tokens["answers"]), found["prices"]["currency"]),
            "for all of it, at example prices" if price.example else f"for all of it: {price.name}",
        ),
    ]
    items = "".join(f"<li><strong>{text(value)}</strong>{text(label)}</li>" for value, label in shown)
    return f'<ul class="cards">{items}</ul>'


def cache(found: Found, price: Price) -> str:
    """Would a cache have paid?"""
    cells = found["cache"]["cells"]
    rows = [_cell(found, i, price) for i in range(len(cells))]
    chart = bars(
        "Share of questions answered from the cache, with 95 % intervals",
        [
            Bar(
                f"{SCOPES[each['scope']]}, {bound(each['max_error'])} wrong",
                each["hit_rate"]["value"],
                each["hit_rate"]["interval"],
                percent(each["hit_rate"]["value"]),
                "a" if each["scope"] == "user" else "b",
            )
            for each in cells
            if each["hit_rate"]
        ],
    )
    one = (
        "The export is of one person. A cache shared with others can add nothing here: these rows only show how "
        "much of yours is fit to be shared."
        if found["users"] < 2
        else f"The export has the chats of {found['users']} people."
    )
    head = [
        "Answers",
        "May be wrong",
        "Served",
        "Same words",
        "By meaning",
        "Answers differ",
        "Wrong by you",
        "Pays?",
    ]
    errs = found["cache"]["comparison_errs"]
    guards = cells[found["cache"]["main"]]["refused"]
    refused = ", ".join(f"{text(name)} {n:,}" for name, n in list(guards.items())[:8])
    return f"""<section id="cache"><h2>Would a cache have paid?</h2>
<p>A cache keeps answers. When a later question asks the same, in the same words or in others, the kept answer is given
again: at once, and for nothing. How far it goes is a promise: of the answers that it gives, at most so many may be
wrong.</p>
<p class="quiet">{one}</p>
<figure><figcaption>Share of the questions that would have been answered from the cache; the lines are 95 %
intervals.</figcaption>{chart}</figure>
{table("What caches would have done", head, rows, plain=2)}
<details><summary>How to read this table</summary>
<p><em>Served</em>: hits of {cells[0]["lookups"]:,} questions that were looked up; asking for another answer to the same
question is not looked up. <em>Answers differ</em>: of a random sample of the hits by meaning, the stored answer is
compared with the one that was really given. The comparison errs: of its test answers it took
{percent(errs["false_same"])} of the different ones for the same, and {percent(errs["false_different"])} of the
same for different. <em>Wrong by you</em>: of the pairs that you judge below; from {ENOUGH} on, they decide. Hits by the
same words count as right in both.</p>
<p>The decision is the live cache's: the same test whether a question needs its conversation, the same guards, verifier
and thresholds as on its first day (later it learns from your traffic). Answers are kept for
{found["cache"]["ttl_hours"]:g} hours, five minutes where a question is about now. All chats count as one model's.</p>
{f"<p>What guards refused at the marked row: {refused}.</p>" if refused else ""}</details>
{_pairs(found)}</section>"""


def _cell(found: Found, i: int, price: Price) -> str:
    each = found["cache"]["cells"][i]
    answer = verdict_of(each, found, price)
    marked = ' class="main"' if i == found["cache"]["main"] else ""
    compared = each["compared"]
    return (
        f'<tr{marked}><th scope="row">{text(SCOPES[each["scope"]])}</th><td>{bound(each["max_error"])}</td>'
        f"{cell(estimate(each['hit_rate']))}{cell(number(each['exact']))}{cell(number(each['semantic']))}"
        f"{cell(estimate(compared))}"
        f'<td class="n" id="yours-{i}">–</td>'
        f'<td class="n"><span class="chip {answer}" id="verdict-{i}">{text(verdict_words(each, found, price))}</span>'
        "</td></tr>"
    )


def verdict_words(each: Found, found: Found, price: Price) -> str:
    """Whether a cell pays, in two words."""
    answer = verdict_of(each, found, price)
    if answer == "open":
        return "Open: judge pairs" if doubted(each) else "Not shown"
    return "Yes" if answer == "yes" else "No: too few hits"


def _pairs(found: Found) -> str:
    pairs = found["cache"]["pairs"]
    served = [pair for pair in pairs if pair["cells"]]
    refused = [pair for pair in pairs if not pair["cells"]]
    if not pairs:
        return "<h3>Nothing to judge</h3><p>No question came near an earlier one.</p>"
    return f"""<h3 id="judge">Judge for yourself</h3>
<p>Would the earlier answer have done for the later question? {len(served):,} pairs, of questions drawn at random from
those that some cache would have answered by meaning. Their order is random, too: the first twenty say as much as any
twenty. What you tick stays in this browser; the table above follows it.</p>
<div class="tools only-script"><span id="judged" role="status">No pair judged yet</span>
<button type="button" id="download" disabled>Download as labelled pairs</button>
<button type="button" id="forget">Forget my judgements</button></div>
<p class="quiet only-script">The file is for <code>python -m chatlab calibrate --pairs FILE</code> and
<code>python -m chatlab eval cache --pairs FILE</code>; pairs with a text that is cut here are left out of it.</p>
<div data-list="more-served">{"".join(map(_article, served))}</div>
<div class="tools only-script"><button type="button" id="more-served">Show more</button></div>
{_refused(refused)}"""


def _refused(pairs: Sequence[Found]) -> str:
    if not pairs:
        return (
            '<div class="only-script" hidden data-list="more-refused"></div><button hidden id="more-refused"></button>'
        )
    return f"""<h3>What no cache would have served, though it is near</h3>
<p>{len(pairs)} more, drawn at random: a guard saw a difference, or the score is below every threshold.</p>
<div data-list="more-refused">{"".join(map(_article, pairs))}</div>
<div class="tools only-script"><button type="button" id="more-refused">Show more</button></div>"""


def _article(pair: Found) -> str:
    why = f"refused: {pair['guard']} differs" if pair["guard"] else f"score {pair['score']:.2f}"
    about = f"{why} · similarity {pair['similarity']:.2f}"
    about += " · asked within a conversation" if pair["in_conversation"] else ""
    name = text(pair["id"])

    def side(label: str, at: str, chat: str, question: str, answer: str) -> str:
        where = " · ".join(filter(None, (label, at, f"in “{chat}”" if chat else "")))
        return (
            f'<div><small>{text(where)}</small><p class="q">{text(_cut(question))}</p>'
            f'<div class="answer" tabindex="0" role="group" aria-label="{text(label)} answer">'
            f"<p>{text(answer) or '<em>no answer</em>'}</p></div></div>"
        )

    return (
        f'<article class="pair" data-pair="{name}"><div class="two">'
        f"{side('Earlier', pair['earlier_at'], pair['earlier_chat'], pair['earlier'], pair['earlier_answer'])}"
        f"{side('Later', pair['at'], pair['chat'], pair['question'], pair['answer'])}</div>"
        f'<fieldset class="only-script"><legend>Would the earlier answer have done?</legend>'
        f'<label><input type="radio" name="{name}" value="same">Yes</label>'
        f'<label><input type="radio" name="{name}" value="other">No</label>'
        f"<small>{text(about)}</small></fieldset></article>"
    )


def _cut(question: str) -> str:
    return question if len(question) <= ANSWER_CHARS else f"{question[:ANSWER_CHARS]} …"


def again(found: Found) -> str:
    """Questions asked again and again."""
    shown = found["again"]["shown"]
    if not shown:
        return '<section id="again"><h2>Asked again and again</h2><p>No question was asked twice.</p></section>'
    items: list[str] = []
    for group in shown:
        words = "".join(f"<p>{text(each)}</p>" for each in group["wordings"])
        when = f"{group['first']} to {group['last']}" if group["first"] else ""
        more = group["n_wordings"] - len(group["wordings"])
        about = [
            f"in {group['chats']:,} chats",
            f"{group['served']:,} would have come from the cache",
            f"{more} more wordings" if more else "",
            when,
        ]
        items.append(
            f'<li class="group"><strong>{group["count"]:,}×</strong><div>{words}'
            f"<small>{text(' · '.join(filter(None, about)))}</small></div></li>"
        )
    all_of = found["again"]["groups"]
    shown_of = f"The {len(shown)} largest of {all_of:,} groups." if all_of > SHOWN_GROUPS else f"All {all_of:,} groups."
    return f"""<section id="again"><h2>Asked again and again</h2>
<p>{found["again"]["repeats"]:,} questions ask what was asked before. {shown_of} What is only understood with the
conversation before it is counted here, too, but is not served after another conversation.</p>
<ol class="groups">{"".join(items)}</ol></section>"""


def history(found: Found) -> str:
    """What each strategy would have sent and left out."""
    budgets = list(dict.fromkeys(each["budget"] for each in found["history"]))
    parts: list[str] = []
    for budget in budgets:
        cells = [each for each in found["history"] if each["budget"] == budget]
        chart = bars(
            f"Tokens sent at a budget of {budget:,} tokens, of all conversations whole",
            [
                Bar(
                    each["strategy"],
                    each["of_whole"]["value"],
                    each["of_whole"]["interval"],
                    percent(each["of_whole"]["value"]) + (f", {each['refused']:,} refused" if each["refused"] else ""),
                    KINDS[each["strategy"]],
                )
                for each in cells
                if each["of_whole"]
            ],
            most=1.0,
        )
        parts.append(
            f"<h3>At most {budget:,} tokens a prompt</h3><figure><figcaption>Tokens sent, of what all conversations "
            f"take whole.</figcaption>{chart}</figure>{_prompts(budget, cells)}"
        )
    tokens = found["tokens"]
    exact = (
        f"Counts are exact by the tokenizer of {text(tokens['model'])} ({tokens['counted_whole']:,} whole prompts were "
        f"counted again; the largest difference was {tokens['count_error']})."
    )
    return f"""<section id="history"><h2>What each history strategy would have sent</h2>
<p>A model sees a prompt, and a prompt has room for so many tokens (a token is about three quarters of an English word).
When a chat grows longer, something must go: the question is refused (<em>direct</em>), the oldest turns are left out
(<em>truncate</em>), notes stand for them (<em>summarize</em>), or notes, and quotes of old turns that bear on
the question (<em>hybrid</em>).</p>
{"".join(parts)}
<details><summary>How this was computed</summary><p>{exact} Every prompt is the one that chatlab's own builder makes,
turn after turn. Notes are written by rules alone and old turns are found by their words, as on <code>/v1</code>; a
server with its embedder loaded chooses other words, of about the same length. Where a row says “of a sample”, the chats
that grow too long were drawn at random up to some 1,000 questions, and the others count by these.</p>
</details></section>"""


def _prompts(budget: int, cells: Sequence[Found]) -> str:
    head = ["Strategy", "Tokens sent", "Of whole", "Past turns left out", "Questions hit", "Turns in notes", "Refused"]
    rows: list[str] = []
    for each in cells:
        some = "" if each["exact"] else f"<small class='quiet'>of a sample of {each['measured']:,} questions</small>"
        rows.append(
            f'<tr><th scope="row">{text(STRATEGIES[each["strategy"]])}{some}</th>'
            f"{cell(number(each['tokens']))}{cell(estimate(each['of_whole']))}{cell(estimate(each['dropped_of_past']))}"
            f"{cell(estimate(each['questions_with_dropped']))}{cell(estimate(each['noted_of_past']))}"
            f"{cell(number(each['refused']))}</tr>"
        )
    return table(f"Strategies at {budget:,} tokens", head, rows)


def cost(found: Found, prices: Prices) -> str:
    """Tokens, seconds and money."""
    price, tokens = prices.rows[0], found["tokens"]
    main = found["cache"]["cells"][found["cache"]["main"]]
    whole, answers = tokens["prompts_whole"], tokens["answers"]
    rows = [_cost("Every conversation whole", whole, answers, 0, price, prices.currency)]
    left = whole - main["saved_prompt_tokens"], answers - main["saved_answer_tokens"]
    rows.append(
        _cost(
            f"The same with a cache ({bound(main['max_error'])} wrong)",
            *left,
            -main["lookups"],
            price,
            prices.currency,
        )
    )
    rows += [
        _cost(f"{each['strategy']} at {each['budget']:,}", each["tokens"], answers, 0, price, prices.currency)
        for each in found["history"]
        if each["strategy"] != "direct" and not each["refused"]
    ]
    options = "".join(f'<option value="{i}">{text(row.name)}</option>' for i, row in enumerate(prices.rows))
    of_day = f" as of {prices.as_of.isoformat()}" if prices.as_of else ""
    warning = (
        "These are round example figures, nobody's prices: put in what you pay."
        if price.example
        else f"From {prices.source}{of_day}."
    )

    def field(label: str, name: str, value: float) -> str:
        return (
            f'<label><span>{text(label)}</span><input type="number" min="0" step="any" data-price="{name}" '
            f'value="{value:g}"></label>'
        )

    return f"""<section id="cost"><h2>Tokens, time and money</h2>
<p><strong>{text(warning)}</strong></p>
<div class="inputs only-script"><label><span>Row{text(of_day)}</span><select id="row">{options}</select></label>
{field(f"{prices.currency} per million tokens in", "input", price.input_per_million)}
{field(f"{prices.currency} per million tokens out", "output", price.output_per_million)}
{field("Tokens read a second", "reading", price.prompt_tokens_per_second)}
{field("Tokens written a second", "writing", price.answer_tokens_per_second)}</div>
{table("Tokens, time and money", ["", "Tokens in", "Tokens out", "Time", "Money"], rows)}
<p class="quiet">Time is that of one answer after the other, nothing reused from prompt to prompt. With a cache, every
lookup takes {found["cache"]["lookup_seconds"]:g} s. Another file of prices is given by <code>--prices FILE</code>.</p>
</section>"""


def _cost(name: str, prompts: int, answers: int, lookups: int, price: Price, currency: str) -> str:
    seconds = price.seconds(prompts, answers) - lookups * LOOKUP_SECONDS
    return (
        f'<tr data-cost="{text(json.dumps([prompts, answers, lookups]))}"><th scope="row">{text(name)}</th>'
        f"{cell(number(prompts))}{cell(number(answers))}"
        f'<td class="n time">{duration(seconds)}</td>'
        f'<td class="n money">{text(amount(price.money(prompts, answers), currency))}</td></tr>'
    )


def months(found: Found) -> str:
    """How much was asked, over time."""
    counts = [(each["month"], each["turns"]) for each in found["months"]]
    if len(counts) < 2:
        return ""
    return f"""<section id="months"><h2>When you asked</h2><figure><figcaption>Questions a month.</figcaption>
{columns("Questions a month", counts)}</figure></section>"""


def follows(written: Sequence[Sentence], price: Price) -> str:
    """The sentences, each with its rule."""
    items = "".join(
        f"<li><p>{_chip(each)}{text(each.text)}</p><details><summary>Rule for “{text(each.about)}”</summary>"
        f"<p>{text(each.rule)}</p></details></li>"
        for each in written
    )
    return f"""<section id="follows"><h2>What follows</h2>
<p class="quiet">Each sentence is computed from the figures above, by the rule under it. What you tick and type in the
page changes the tables, not these sentences; seconds and money are by the row “{text(price.name)}”.</p>
<ul class="follows">{items}</ul></section>"""


def _chip(sentence: Sentence) -> str:
    words = WORDS[sentence.answer] if sentence.about == "cache" else ""
    return f'<span class="chip {sentence.answer}">{words}.</span> ' if words else ""
