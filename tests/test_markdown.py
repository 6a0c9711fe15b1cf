"""What a model writes is shown, and never runs or loads anything."""

import time
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatlab.markdown import GrowingText, split_reasoning, to_html

MATH = "math mrow mi mn mo mtext mspace mfrac msqrt mroot msup msub msubsup mover munder munderover mtable mtr mtd"
TAGS = set(
    "p br hr em strong s code pre div span button a ul ol li blockquote table thead tbody tr th td "
    f"h3 h4 h5 h6 mstyle mpadded mphantom menclose merror {MATH}".split()
)
ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![beacon](https://evil.example/a.png?who=you)",
    "![beacon](//evil.example/a.png)",
    "![x](data:image/svg+xml;base64,PHN2ZyBvbmxvYWQ9YWxlcnQoMSk+)",
    "[click](javascript:alert(1))",
    "[click](JaVaScRiPt:alert(1))",
    "[click](java\tscript:alert(1))",
    "[click](&#106;avascript:alert(1))",
    "<javascript:alert(1)>",
    "[x]: javascript:alert(1)\n\n[x]",
    "[click](vbscript:x) [d](data:text/html,<script>alert(1)</script>) [f](file:///etc/passwd)",
    r"$\href{javascript:alert(1)}{x}$",
    r"$\text{<script>alert(1)</script>}$",
    r"$\text{&lt;img src=x onerror=alert(1)&gt;}$",
    r"$$\style{background:url(//evil.example)}{a}$$",
    r"\(\class{x}{\text{</math><img src=x onerror=alert(1)>}}\)",
    "```html\n<script>alert(1)</script>\n```",
    '```"><img src=x onerror=alert(1)>\ncode\n```',
    "<think><img src=x onerror=alert(1)></think>",
    "<svg/onload=alert(1)> <iframe src=//evil.example> <style>*{background:url(//evil.example)}</style>",
    '[a](https://a.example/"onmouseover="alert(1))',
    "| <img src=x onerror=alert(1)> |\n|---|\n| ${alert(1)} {{constructor.constructor('alert(1)')()}} |",
]


class Inspector(HTMLParser):
    """Collects whatever is not harmless."""

    def __init__(self) -> None:
        super().__init__()
        self.harm: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in TAGS:
            self.harm.append(tag)
        for name, value in attrs:
            loads = name in {"src", "srcset", "style", "background", "poster", "action", "formaction", "xlink:href"}
            leads = name == "href" and not (value or "").startswith(("https://", "http://", "mailto:"))
            if loads or leads or name.startswith("on"):
                self.harm.append(f"{tag} {name}={value}")


def harm(html: str) -> list[str]:
    inspector = Inspector()
    inspector.feed(html)
    inspector.close()
    return inspector.harm


@pytest.mark.parametrize("text", ATTACKS)
def test_an_attack_is_only_text(text: str) -> None:
    assert harm(to_html(text)) == []


@settings(deadline=None)
@given(st.lists(st.sampled_from([*ATTACKS, "\n", "\n\n", "- ", "> ", "$", "`", "\\(", "|"]), max_size=6))
def test_no_combination_of_attacks_comes_through(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert harm(to_html(text)) == []
    growing = GrowingText()
    for end in range(0, len(text), 7):
        assert harm(growing.grow(text[:end])) == []


@pytest.mark.parametrize("html", ["<script>", '<a href="javascript:x">', '<p onclick="x">', "<p style=x>", "<img>"])
def test_the_inspector_finds_harm(html: str) -> None:
    assert harm(html)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("**bold** and *em*", "<strong>bold</strong> and <em>em</em>"),
        ("# Title", "<h3>Title</h3>"),
        ("a\nb", "a<br />\nb"),
        ("| a |\n|---|\n| 1<br>2 |", "<td>1<br />\n2</td>"),
        ("$x^2$", "<msup><mi>x</mi><mn>2</mn></msup>"),
        (r"\(x^2\)", "<msup><mi>x</mi><mn>2</mn></msup>"),
        ("$$x$$", '<math display="block">'),
        (r"\[x\]", '<math display="block">'),
        (r"\[x\] (1)", '<math display="block">'),
        ("from $5 to $10", "from $5 to $10"),
        (r"$\frac{$", "<code>"),
        ("```python\ndef f(): pass\n```", '<span class="k">def</span>'),
        ("```nosuchlanguage\na < b\n```", "a &lt; b"),
        ("![a cat](https://a.example/cat.png)", "a cat (image on a.example)"),
        ("[ok](https://a.example)", 'rel="noopener noreferrer nofollow"'),
    ],
)
def test_markdown_as_people_expect_it(text: str, part: str) -> None:
    assert part in to_html(text)


@settings(deadline=None)
@given(st.text(alphabet="ab `*_#->|$\\()[]\n1.", max_size=120), st.integers(1, 9))
def test_a_text_that_grew_looks_like_the_whole(text: str, step: int) -> None:
    growing = GrowingText()
    for end in range(0, len(text), step):
        growing.grow(text[:end])
    whole = GrowingText()
    assert growing.grow(text + "\n\nend") == whole.grow(text + "\n\nend")


def test_a_finished_block_is_not_rendered_again() -> None:
    growing = GrowingText()
    first = growing.grow("one\n\ntwo")
    assert first == to_html("one\n\ntwo")
    assert growing.grow("one\n\ntwo more") == to_html("one\n\ntwo more")
    assert growing.grow("another") == to_html("another")


@pytest.mark.parametrize(
    ("text", "reasoning", "answer", "closed"),
    [
        ("Hello", "", "Hello", True),
        ("<think>\nhm\n</think>\n\nHello", "hm", "Hello", True),
        ("<think>hm", "hm", "", False),
        ("hm</think>Hello", "hm", "Hello", True),
        ("What does <think> mean? </think> is its end.", "", "What does <think> mean? </think> is its end.", True),
    ],
)
def test_reasoning_is_split_off(text: str, reasoning: str, answer: str, closed: bool) -> None:
    thought = split_reasoning(text)
    assert (thought.reasoning, thought.answer, thought.closed) == (reasoning, answer, closed)


@pytest.mark.parametrize(
    "text",
    [
        "$$a\n\n" * 40_000,
        "\\(a " * 6_000,
        "\\(" * 15_000,
        "<![CDATA[" * 3_000,
        "[a][" * 7_000,
        "```java\n" + "\n" * 29_000 + "```",
        "```markdown\n" + "\n" * 29_000 + "```",
        "```typescript\n" + "?" * 19_000 + "\n```",
        "```python\n" + "a " * 9_000 + "\n```",
    ],
    ids=lambda text: repr(text[:14]),
)
def test_no_text_stops_the_server(text: str) -> None:
    began = time.process_time()
    to_html(text)
    assert time.process_time() - began < 3, "seconds of CPU; minutes without the limits"


def test_a_very_long_text_is_shown_as_it_is() -> None:
    assert to_html("**bold** <b> " * 4_000).startswith('<div class="plain-text">**bold** &lt;b&gt; ')
