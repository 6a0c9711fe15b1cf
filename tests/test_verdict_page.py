"""The verdict's page in Chromium: nothing in it runs or loads but its own, people judge in it and it counts along."""

import io
import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from chatlab.cache.statistics import share_of
from chatlab.evaluation.readers.pairs import read_pairs
from chatlab.evaluation.traffic.command import Options, verdict
from chatlab.evaluation.traffic.progress import Progress
from chatlab.evaluation.traffic.samples import as_chatgpt, asked_alone
from chatlab.evaluation.workload import read_words
from chatlab.settings import Settings
from tests.browser import CHROMIUM, FLAGS, NARROW, examine, new_context

ROOT = Path(__file__).parents[1]
HOSTILE = (
    "</script><script>document.title = 'taken'</script>",
    "<img src=https://example.org/x.png onerror=\"document.title = 'taken'\">",
    '"><svg onload="document.title = \'taken\'"><style>@import url(https://example.org/x.css)</style>',
    "<!-- </title></style> ]]> [a](javascript:alert(1)) & &amp; {0} ${x} %s",
)


@pytest.fixture(scope="module")
def made(bundled_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of an export in which hostile texts are asked, answered, and titles; its figures beside it."""
    folder = tmp_path_factory.mktemp("verdict")
    chats = as_chatgpt(asked_alone(read_words(ROOT / "data" / "cache_workload.toml"), 4, 300))
    for i, said in enumerate(HOSTILE * 8):
        entry = chats[i]
        entry["title"] = said
        messages = [node["message"] for node in entry["mapping"].values() if node["message"]]
        messages[0]["content"]["parts"] = [said]
        messages[1]["content"]["parts"] = [said]
    file = folder / "it's <b>mine & yours.json"
    file.write_text(json.dumps(chats, ensure_ascii=False), encoding="utf-8")
    options = Options(file, folder / "page.html", budgets=(900,), json=folder / "figures.json")
    verdict(options, Settings(data_dir=folder, model=str(bundled_model)), Progress(io.StringIO()))
    return options.out


@pytest.fixture(scope="module")
def browser(made: Path) -> Iterator[Browser]:
    """After the page is made: Playwright has an event loop of its own in this thread."""
    assert CHROMIUM is not None, "install a Chromium: `make browser`"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, made: Path) -> Iterator[Page]:
    with new_context(browser, accept_downloads=True) as context:
        page = context.new_page()
        page.goto(made.as_uri())
        yield page


class _Elements(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_what_was_said_is_only_text_and_nothing_is_loaded(browser: Browser, made: Path) -> None:
    text = made.read_text(encoding="utf-8")
    parsed = _Elements()
    parsed.feed(text)
    assert not {tag for tag, _ in parsed.found} & {"img", "iframe", "link", "object", "embed", "base", "form"}
    for tag, attributes in parsed.found:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "style", "xlink:href")], tag
        assert (attributes.get("href") or "#").startswith("#")
    assert [tag for tag, _ in parsed.found].count("script") == 2
    assert len(text) < 3_000_000
    asked: list[str] = []
    complaints: list[str] = []
    with new_context(browser) as context:
        page = context.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.goto(made.as_uri())
        expect(page).to_have_title("Verdict on it's <b>mine & yours.json")
        for said in HOSTILE:
            expect(page.locator(".group p", has_text=said).first).to_be_attached()
    assert asked == [made.as_uri()]
    assert complaints == []


@pytest.mark.parametrize("name", ["light", "dark", "narrow"])
def test_it_can_be_used_in_light_dark_and_on_a_telephone(browser: Browser, made: Path, name: str) -> None:
    scheme = "dark" if name == "dark" else "light"
    with new_context(browser, color_scheme=scheme, **({"viewport": NARROW} if name == "narrow" else {})) as context:
        page = context.new_page()
        page.goto(made.as_uri())
        examine(page, f"verdict-{name}")
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        page.locator("#judge").scroll_into_view_if_needed()
        examine(page, f"verdict-{name}-judging")
        page.locator("#follows summary").first.click()
        page.locator("#cost").scroll_into_view_if_needed()
        examine(page, f"verdict-{name}-cost")


def test_a_person_judges_and_the_table_follows(page: Page, tmp_path: Path) -> None:
    cells = json.loads(page.locator("#figures").inner_text())["cells"]
    number = max(i for i, cell in enumerate(cells[: len(cells) // 2]) if cell["semantic"])  # the loosest of one's own
    pairs = page.locator('[data-list="more-served"] .pair')
    expect(page.locator("#download")).to_be_disabled()
    visible = pairs.locator("visible=true")
    expect(visible).to_have_count(10)
    n = 24
    while visible.count() < n:
        page.locator("#more-served").click()
    data = json.loads(page.locator("#figures").inner_text())["pairs"]
    judged = wrong = 0
    for i in range(n):
        other = i % 2 == 0
        pairs.nth(i).get_by_label("No" if other else "Yes", exact=True).check()
        if number in data[i]["cells"]:
            judged, wrong = judged + 1, wrong + other
    expect(page.locator("#judged")).to_have_text(f"{n} of {len(data)} pairs judged")
    share = cells[number]["semantic"] / cells[number]["hits"]
    interval = share_of(wrong, judged)
    yours = page.locator(f"#yours-{number}")
    expect(yours).to_contain_text(f"{_percent(wrong / judged * share)}")
    expect(yours).to_contain_text(
        f"{_percent(interval.low * share)} to {_percent(interval.high * share)}, {judged} judged"
    )
    assert judged >= 20
    assert interval.low * share > cells[number]["max_error"]
    expect(page.locator(f"#verdict-{number}")).to_have_text("No: too many wrong")

    page.reload()  # it is still known
    expect(yours).to_contain_text(f"{judged} judged")
    assert pairs.nth(0).get_attribute("data-said") == "other"
    with page.expect_download() as download:
        page.locator("#download").click()
    file = tmp_path / download.value.suggested_filename
    download.value.save_as(file)
    labelled = {pair.pair_id: pair for pair in read_pairs(file)}
    assert len(labelled) == n
    assert [labelled[each["id"]].same for each in data[:n]] == [i % 2 != 0 for i in range(n)]
    assert [labelled[each["id"]].b for each in data[:n]] == [each["question"] for each in data[:n]]

    page.locator("#forget").click()
    expect(yours).to_have_text("–")
    expect(page.locator("#judged")).to_have_text("No pair judged yet")
    page.reload()
    expect(page.locator("input:checked")).to_have_count(0)


def _percent(share: float) -> str:
    value = 100 * share
    return f"{value:.0f}\u00a0%" if value == 0 or value >= 9.95 else f"{value:.1f}\u00a0%"


def test_own_prices_change_what_it_costs(page: Page) -> None:
    row = page.locator("[data-cost]").first
    prompts, answers, _ = json.loads(row.get_attribute("data-cost") or "")
    page.get_by_label("$ per million tokens in").fill("10")
    page.get_by_label("$ per million tokens out").fill("100")
    expect(row.locator(".money")).to_have_text(f"${(prompts * 10 + answers * 100) / 1e6:,.2f}")
    page.get_by_label("Row").select_option("The bundled model on two CPU cores")
    expect(row.locator(".money")).to_have_text("$0.00")
