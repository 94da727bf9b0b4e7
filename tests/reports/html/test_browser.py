"""The page in a real browser: quiet, alone, whole, and usable by mouse, finger and keys at any width, on paper, and
without its script.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dora_cli.reports.html.page import write_report
from tests.reports import examples
from tests.reports.html.browser import CHROMIUM, Browser
from tests.reports.html.folders import write_run

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")

HOSTILE = "</script><script>window.hurt = 1</script><img src=http://127.0.0.1:9/a.png onerror='window.hurt = 1'>"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    for seed in (1, 2, 3):
        write_run(root / "seeds" / f"seed-{seed}", examples.bert(6), seed=seed)
    deep = write_run(root / "deep", examples.llama(30))
    pair = write_run(root / "pair", examples.bart(12), stop=None)
    stopped = write_run(root / "stopped", examples.bert(12), stop=60, model="a/rather-long-name-of-a-model-" + "x" * 80)
    hostile = write_run(root / "<b>&'", examples.bert(2), model=HOSTILE)
    wanted = {
        "seeds": [root / "seeds"],
        "deep": [deep],
        "pair": [pair],
        "stopped": [stopped],
        "many": [
            root / "seeds",
            deep,
            pair,
            stopped,
            hostile,
            *(write_run(root / f"r{rank}", rank=rank) for rank in (2, 3, 40)),
        ],
    }
    made = {}
    for name, runs in wanted.items():
        made[name] = root / f"{name}.html"
        write_report(runs, made[name])
    return made


@pytest.mark.parametrize(("width", "scheme"), [(400, "dark"), (1400, "light")])
@pytest.mark.parametrize("name", ["seeds", "deep", "pair", "stopped", "many"])
def test_the_page_is_quiet_alone_and_fits(
    name: str, width: int, scheme: str, browser: Browser, reports: dict[str, Path]
) -> None:
    browser.prefer(scheme)
    browser.open(reports[name], width=width)
    browser.ask("document.querySelectorAll('details').forEach(part => { part.open = true })")
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [reports[name].as_uri()]
    assert browser.ask("window.hurt") is None
    assert browser.ask("document.documentElement.scrollWidth") == width
    boxes = "[...document.querySelectorAll('.fit, .parts, figure, .panel')]"
    assert browser.ask(f"{boxes}.filter(e => e.scrollWidth > e.clientWidth + 1).length") == 0, (
        "nothing is scrolled sideways"
    )
    sizes = browser.ask("[...document.querySelectorAll('.area')].map(e => [e.clientWidth, e.clientHeight])")
    assert len(sizes) >= 3
    assert all(across >= 150 and down >= 150 for across, down in sizes)
    # the lines are there: drawn, with an extent, inside their picture
    lines = browser.ask(
        "[...document.querySelectorAll('.area path.line')].map(e => { const a = e.getBoundingClientRect(), b = "
        "e.ownerSVGElement.getBoundingClientRect(); return a.width > 20 && a.left >= b.left - 3 && a.right <= b.right "
        "+ 3 && a.top >= b.top - 3 && a.bottom <= b.bottom + 3 })"
    )
    assert lines
    assert all(lines)
    texts = "[...document.querySelectorAll('figure *, td, th, .note')]"
    assert browser.ask(f"Math.min(...{texts}.map(e => parseFloat(getComputedStyle(e).fontSize)))") >= 12
    # labels of axes stay within their figure
    assert browser.ask(
        "[...document.querySelectorAll('.area span')].every(e => { const a = e.getBoundingClientRect(), "
        "b = e.closest('figure').getBoundingClientRect(); return a.left >= b.left && a.right <= b.right })"
    )


@pytest.mark.parametrize("width", [800, 1400])
@pytest.mark.parametrize("name", ["seeds", "deep", "pair", "stopped", "many"])
def test_rows_of_pictures_are_full(name: str, width: int, browser: Browser, reports: dict[str, Path]) -> None:
    """No void beside a map, no chart alone in a row, and all of a row end in one line."""
    browser.open(reports[name], width=width)
    browser.ask("document.querySelectorAll('details').forEach(part => { part.open = true })")
    grids = browser.ask(
        "[...document.querySelectorAll('.pictures')].map(grid => ({box: grid.getBoundingClientRect().toJSON(), "
        "figures: [...grid.querySelectorAll('figure')]"
        ".map(e => ({...e.getBoundingClientRect().toJSON(), chart: e.className === 'chart'}))}))"
    )
    assert grids
    for grid in grids:
        charts = sum(figure["chart"] for figure in grid["figures"])
        rows: dict[int, list[dict[str, float]]] = {}
        for figure in grid["figures"]:
            rows.setdefault(round(figure["y"]), []).append(figure)
        for row in rows.values():
            assert sum(figure["width"] for figure in row) + 16 * (len(row) - 1) == pytest.approx(
                grid["box"]["width"], abs=2
            )
            assert max(figure["bottom"] for figure in row) - min(figure["bottom"] for figure in row) < 1
            if charts > 1:
                assert len(row) > 1 or not row[0]["chart"]


def test_the_page_is_dark_for_who_prefers_it_and_paper_is_not(browser: Browser, reports: dict[str, Path]) -> None:
    ground = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    seen = {}
    for scheme in ("light", "dark"):
        browser.prefer(scheme)
        browser.open(reports["seeds"], width=800)
        seen[scheme] = sum(browser.ask(ground)[:3])
    assert seen["light"] > 600
    assert seen["dark"] < 120
    browser.send(
        "Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}]
    )
    try:
        assert browser.ask("getComputedStyle(document.querySelector('h1')).color") == "rgb(26, 26, 26)"
    finally:
        browser.prefer("light")


def test_a_map_is_whole_where_there_is_room_and_continued_below_where_there_is_not(
    browser: Browser, reports: dict[str, Path]
) -> None:
    tops = "[...document.querySelectorAll('.map')].map(e => Math.round(e.getBoundingClientRect().top))"
    heads = "[...document.querySelectorAll('.map tbody tr:nth-child(2) th')]"
    names = f"{heads}.filter(e => e.getBoundingClientRect().width > 0).length"
    browser.open(reports["deep"], width=1400)
    assert len(set(browser.ask(tops))) == 1
    assert browser.ask(names) == 2, "of attention and of FFN, once"
    browser.open(reports["deep"], width=400)
    parts = browser.ask(tops)
    assert parts == sorted(set(parts))
    assert len(parts) > 2
    assert browser.ask(names) == 2 * len(parts)


def test_details_by_mouse_finger_and_keys(browser: Browser, reports: dict[str, Path]) -> None:
    browser.open(reports["deep"], width=800)
    said = browser.ask("document.querySelector('output').textContent")
    assert {"point", "tap", "arrow"} <= set(re.findall(r"\w+", said)), "whatever the device: many have all of these"
    first = browser.ask("document.querySelector('.map td[tabindex]').getBoundingClientRect().toJSON()")
    place = {"x": first["x"] + 5, "y": first["y"] + 5}
    browser.send("Emulation.setDeviceMetricsOverride", width=800, height=3000, deviceScaleFactor=1, mobile=False)
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", **place)
    assert "model.layers.0.self_attn.q_proj\nrank " in browser.ask("document.querySelector('output').textContent")
    for kind in ("mousePressed", "mouseReleased"):  # a touch ends as a click too
        browser.send("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)
    for key in (
        "ArrowDown",
        "ArrowRight",
        "ArrowRight",
        "ArrowLeft",
        "ArrowUp",
        "ArrowUp",
        "ArrowLeft",
        "ArrowLeft",
        "ArrowDown",
    ):
        browser.press(key)
    assert browser.ask("document.querySelector('output').textContent").startswith("model.layers.0.self_attn.k_proj\n")
    for _ in range(12):  # from one part of the map into the next
        browser.press("ArrowRight")
    assert browser.ask("document.querySelector('output').textContent").startswith("model.layers.12.self_attn.k_proj\n")
    assert browser.ask("document.activeElement.tabIndex") == 0
    assert browser.ask("[...document.querySelectorAll('.map td')].filter(e => e.tabIndex === 0).length") == 1
    assert browser.complaints == []


def test_without_its_script_the_page_is_whole(browser: Browser, reports: dict[str, Path]) -> None:
    browser.open(reports["seeds"], width=800, script=False)
    assert browser.complaints == []
    shown = browser.ask(
        "[...document.querySelectorAll('.map td[title]')].filter(e => e.textContent && e.clientWidth).length"
    )
    assert shown == 36
    assert browser.ask("document.querySelector('output').clientHeight") == 0
    assert browser.ask("document.querySelectorAll('figure .area svg').length") == 4


def test_on_paper_everything_is_open(browser: Browser, reports: dict[str, Path]) -> None:
    browser.open(reports["seeds"], width=800)
    printed = browser.pdf()
    assert printed.startswith(b"%PDF")
    browser.send("Emulation.setEmulatedMedia", media="print")
    try:
        assert browser.ask(
            "[...document.querySelectorAll('details pre')].every(e => e.getBoundingClientRect().height > 30)"
        )
        assert browser.ask("document.querySelector('output').clientHeight") == 0
    finally:
        browser.send("Emulation.setEmulatedMedia", media="")
    assert browser.ask("document.querySelectorAll('details[open]').length") == 1, "what was folded is folded again"
