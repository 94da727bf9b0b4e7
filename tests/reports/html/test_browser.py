"""The page in a real browser: quiet, alone, whole, and usable by mouse, finger and keys at any width, on paper, and without its script."""

from __future__ import annotations

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
        "all": [root / "seeds", deep, pair, stopped, hostile],
    }
    made = {}
    for name, runs in wanted.items():
        made[name] = root / f"{name}.html"
        write_report(runs, made[name])
    return made


@pytest.mark.parametrize("width", [360, 800, 1400])
@pytest.mark.parametrize("name", ["seeds", "deep", "pair", "stopped", "all"])
def test_the_page_is_quiet_alone_and_fits(name: str, width: int, browser: Browser, reports: dict[str, Path]) -> None:
    browser.open(reports[name], width=width)
    assert browser.complaints == []
    assert [url for url in browser.requests if not url.startswith("data:")] == [reports[name].as_uri()]
    assert browser.ask("window.hurt") is None
    assert browser.ask("document.documentElement.scrollWidth") == width, "only tables may scroll sideways"
    sizes = browser.ask("[...document.querySelectorAll('figure svg[role=img]')].map(e => [e.clientWidth, e.clientHeight])")
    assert len(sizes) >= 3
    assert all(280 <= across <= 480 and down >= 150 for across, down in sizes)
    # the lines are there: drawn, with an extent, inside their picture
    lines = browser.ask(
        "[...document.querySelectorAll('path.line')].map(e => { const a = e.getBoundingClientRect(), "
        "b = e.ownerSVGElement.getBoundingClientRect(); return a.width > 20 && a.left >= b.left - 3 && a.right <= b.right + 3 "
        "&& a.top >= b.top - 3 && a.bottom <= b.bottom + 3 })"
    )
    assert lines
    assert all(lines)
    small = browser.ask("Math.min(...[...document.querySelectorAll('svg text')].map(e => e.getBoundingClientRect().height))")
    assert small >= 10


def test_the_map_of_a_phone_needs_no_scrolling(browser: Browser, reports: dict[str, Path]) -> None:
    for name in ("seeds", "deep", "pair"):
        browser.open(reports[name], width=360)
        assert browser.ask("[...document.querySelectorAll('.ranks .scroll')].every(e => e.scrollWidth <= e.clientWidth)")


def test_details_by_mouse_finger_and_keys(browser: Browser, reports: dict[str, Path]) -> None:
    browser.open(reports["deep"], width=800)
    first = browser.ask("document.querySelector('.map td[tabindex]').getBoundingClientRect().toJSON()")
    place = {"x": first["x"] + 5, "y": first["y"] + 5}
    browser.send("Emulation.setDeviceMetricsOverride", width=800, height=3000, deviceScaleFactor=1, mobile=False)
    browser.send("Input.dispatchMouseEvent", type="mouseMoved", **place)
    assert "model.layers.0.self_attn.q_proj\nrank " in browser.ask("document.querySelector('output').textContent")
    for kind in ("mousePressed", "mouseReleased"):  # a touch ends as a click too
        browser.send("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowLeft", "ArrowUp", "ArrowUp", "ArrowLeft", "ArrowLeft", "ArrowDown"):
        browser.press(key)
    assert browser.ask("document.querySelector('output').textContent").startswith("model.layers.1.self_attn.q_proj\n")
    assert browser.ask("document.activeElement.tabIndex") == 0
    assert browser.ask("[...document.querySelectorAll('.map td')].filter(e => e.tabIndex === 0).length") == 1
    assert browser.complaints == []


def test_without_its_script_the_page_is_whole(browser: Browser, reports: dict[str, Path]) -> None:
    browser.open(reports["seeds"], width=800, script=False)
    assert browser.complaints == []
    shown = browser.ask("[...document.querySelectorAll('.map td[title]')].filter(e => e.textContent && e.clientWidth).length")
    assert shown == 36
    assert browser.ask("document.querySelector('output').clientHeight") == 0
    assert browser.ask("document.querySelectorAll('figure svg[role=img]').length") == 4


def test_on_paper_everything_is_open(browser: Browser, reports: dict[str, Path]) -> None:
    browser.open(reports["seeds"], width=800)
    printed = browser.pdf()
    assert printed.startswith(b"%PDF")
    browser.send("Emulation.setEmulatedMedia", media="print")
    try:
        assert browser.ask("[...document.querySelectorAll('details pre')].every(e => e.getBoundingClientRect().height > 30)")
        assert browser.ask("document.querySelector('output').clientHeight") == 0
    finally:
        browser.send("Emulation.setEmulatedMedia", media="")
    assert browser.ask("document.querySelectorAll('details[open]').length") == 1, "what was folded is folded again"
