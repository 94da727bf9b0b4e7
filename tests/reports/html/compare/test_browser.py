"""The page of an experiment in a real browser: quiet, alone, whole at any width, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dora_cli.reports.compare.results import Results
from dora_cli.reports.html.compare.page import experiment_page
from tests.reports.compare.examples import experiment, write_experiment
from tests.reports.html.browser import CHROMIUM, Browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

HOSTILE = "</script><script>window.hurt = 1</script><img src=http://127.0.0.1:9/a.png onerror='window.hurt = 1'>"
LONG = "a-rather-long-name-of-a-method-" + "x" * 60


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


def verdicts(record: dict[str, Any]) -> dict[str, Any]:
    """With the longest badge, and with all that may be said of a comparison."""
    record["comparisons"][0]["verdict"] = "non-inferior"
    record["comparisons"][1] |= {"verdict": "withheld", "seeds_needed": 14, "dropped": [13], "notes": ["Mind this."]}
    return record


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("experiments")
    records = {
        "few": (verdicts(experiment(2, 4, 10)), ["dora", "sora"]),
        "many": (experiment(5, 8, 12), ["dora"]),
        "bare": (experiment(1, 1, 1, tune=False, margin=False), []),
        "odd": (experiment(2, 3, 3, names=[HOSTILE, LONG, "dora"], task_names=[HOSTILE, LONG]), []),
    }
    made = {}
    for name, (record, ranks) in records.items():
        folder = write_experiment(root / name, record, with_ranks=ranks)
        made[name] = root / f"{name}.html"
        made[name].write_text(experiment_page(Results.read(folder), folder), encoding="utf-8")
    return made


@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (900, "dark")])
@pytest.mark.parametrize("name", ["few", "many", "bare", "odd"])
def test_the_page_is_quiet_alone_and_fits(
    name: str, width: int, scheme: str, browser: Browser, pages: dict[str, Path]
) -> None:
    browser.prefer(scheme)
    browser.open(pages[name], width=width)
    browser.ask("document.querySelectorAll('details').forEach(part => { part.open = true })")
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [pages[name].as_uri()]
    assert browser.ask("window.hurt") is None
    assert browser.ask("document.documentElement.scrollWidth") == width
    wide = browser.ask(
        "[...document.querySelectorAll('.fit, .parts, figure, .panel, .forests, .verdicts, .cards')]"
        ".filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.className + ' ' + e.textContent.slice(0, 60))"
    )
    assert wide == [], "nothing is scrolled sideways"
    texts = "[...document.querySelectorAll('figure *, td, th, .note, li, dd')]"
    assert browser.ask(f"Math.min(...{texts}.map(e => parseFloat(getComputedStyle(e).fontSize)))") >= 12


@pytest.mark.parametrize("width", [400, 1400])
def test_what_is_drawn_stands_in_its_place(width: int, browser: Browser, pages: dict[str, Path]) -> None:
    browser.prefer("light")
    browser.open(pages["few"], width=width)
    inside = (
        "(e, of) => { const a = e.getBoundingClientRect(), b = of.getBoundingClientRect(); "
        "return a.left >= b.left - 7 && a.right <= b.right + 7 && a.top >= b.top - 7 && a.bottom <= b.bottom + 7 }"
    )
    for marks in (".area path.seed", ".area path.dot", ".area path.line", ".forest .interval", ".forest .point"):
        found = browser.ask(f"[...document.querySelectorAll('{marks}')].map(e => ({inside})(e, e.ownerSVGElement))")
        assert found, marks
        assert all(found), marks
    # each interval of the forest plot is as long as the numbers beside it say
    rows = browser.ask(
        "[...document.querySelectorAll('.forest tr.all')].map(row => ({"
        "width: row.querySelector('.interval').getBoundingClientRect().width, "
        "ends: row.cells[3].textContent.replaceAll('\\u2212', '-').split(' to ').map(Number)}))"
    )
    scales = [row["width"] / (row["ends"][1] - row["ends"][0]) for row in rows]
    assert len(scales) == 3
    assert scales == pytest.approx([scales[0]] * 3, rel=0.1)


def test_numbers_stand_beside_the_picture_where_there_is_room(browser: Browser, pages: dict[str, Path]) -> None:
    beside = (
        "(row => row.cells[2].getBoundingClientRect().left >= row.cells[1].getBoundingClientRect().right - 1)"
        "(document.querySelector('.forest tr.all'))"
    )
    for width, expected in ((1400, True), (400, False)):
        browser.open(pages["few"], width=width)
        assert browser.ask(beside) == expected


def test_on_paper_everything_is_open(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["few"], width=800)
    assert browser.pdf().startswith(b"%PDF")
    browser.send("Emulation.setEmulatedMedia", media="print")
    try:
        heights = browser.ask(
            "[...document.querySelectorAll('details table')].map(e => e.getBoundingClientRect().height)"
        )
        assert heights
        assert min(heights) > 20
    finally:
        browser.send("Emulation.setEmulatedMedia", media="")
