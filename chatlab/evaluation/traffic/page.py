"""The verdict as one HTML page that needs nothing else: no server, no font, no script from elsewhere.

Its policy lets only its own style and its own script run, by their hashes, and nothing be loaded.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from chatlab.evaluation.traffic import sections
from chatlab.evaluation.traffic.figures import ENOUGH
from chatlab.evaluation.traffic.html import text
from chatlab.evaluation.traffic.prices import Prices
from chatlab.evaluation.traffic.sentences import Sentence, break_even, headline, second_line, verdict_of

LINKS = (
    ("cache", "Cache"),
    ("again", "Asked again"),
    ("history", "History"),
    ("cost", "Cost"),
    ("follows", "What follows"),
)


def page(found: Mapping[str, Any], written: list[Sentence], prices: Prices, key: str, made: str) -> str:
    """The page.

    Args:
        found: The figures.
        written: The sentences.
        prices: Of the figures.
        key: Of the export, under which a browser keeps what a person ticks.
        made: When, in words.
    """
    style, script = _own("page.css"), _own("page.js")
    price = prices.rows[0]
    policy = "; ".join(
        (
            "default-src 'none'",
            f"style-src '{_hash(style)}'",
            f"script-src '{_hash(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    body, data = _empty(), ""
    if found["turns"]:
        links = "".join(f'<li><a href="#{place}">{name}</a></li>' for place, name in LINKS)
        body = "".join(
            (
                sections.cache(found, price),
                sections.again(found),
                sections.history(found),
                sections.cost(found, prices),
                sections.months(found),
                sections.follows(written, price),
            )
        )
        second = f'<p class="second">{text(second_line(found))}</p>'
        top = f'{second}{sections.cards(found, price)}<nav aria-label="Sections"><ul>{links}</ul></nav>'
        data = (
            f'<script type="application/json" id="figures">{_for_script(_data(found, prices, key))}</script>'
            f"<script>{script}</script>"
        )
    else:
        top = ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="referrer" content="no-referrer">
<meta name="color-scheme" content="light dark">
<title>Verdict on {text(found["file"])}</title><style>{style}</style></head>
<body><header><h1>chatlab's verdict on {text(found["file"])}</h1>
<p class="headline">{text(headline(found, price))}</p>
{top}</header>
<main>{body}</main>
<footer><p>Made {text(made)} by <code>python -m chatlab verdict</code> on your machine. This page loads nothing and
sends nothing. It holds texts of the export: share it as you would share that.</p></footer>
{data}</body></html>
"""


def _data(found: Mapping[str, Any], prices: Prices, key: str) -> dict[str, Any]:
    price = prices.rows[0]
    even = break_even(found, price)
    cells = [
        {
            "max_error": cell["max_error"],
            "hits": cell["hits"],
            "semantic": cell["semantic"],
            "saves": cell["hit_rate"] is not None and cell["hit_rate"]["interval"][0] > even,
            "answer": verdict_of(cell, found, price),
            "words": sections.verdict_words(cell, found, price),
        }
        for cell in found["cache"]["cells"]
    ]
    return {
        "key": key,
        "name": found["file"],
        "enough": ENOUGH,
        "currency": prices.currency,
        "lookup_seconds": found["cache"]["lookup_seconds"],
        "cells": cells,
        "pairs": [
            {name: pair[name] for name in ("id", "question", "earlier", "cells", "whole")}
            for pair in found["cache"]["pairs"]
        ],
        "rows": [
            {
                "input": row.input_per_million,
                "output": row.output_per_million,
                "reading": row.prompt_tokens_per_second,
                "writing": row.answer_tokens_per_second,
            }
            for row in prices.rows
        ],
    }


def _empty() -> str:
    return "<section><h2>Nothing to show</h2><p>No chat of this export has a question.</p></section>"


def _for_script(value: object) -> str:
    """JSON within a script element: nothing in it can end that."""
    written = json.dumps(value, ensure_ascii=True)
    return written.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _own(name: str) -> str:
    return resources.files("chatlab.evaluation.traffic").joinpath(name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
