"""The document around a page, and how tables and pictures stand in it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from dora_cli.reports.html.elements import Markup, Table, tag
from dora_cli.reports.html.rank_map import Picture
from dora_cli.reports.html.rows import spans
from dora_cli.reports.html.script import SCRIPT
from dora_cli.reports.html.style import style
from dora_cli.version import __version__

PANEL = 36
"""Pixels around a table."""


def document(title: str, *parts: Markup, rules: str = "") -> str:
    """The whole page, which holds `parts` one below the other and needs nothing else; `rules` add to its style."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    # the browser itself is told to fetch nothing and to run this script alone
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:; base-uri "
        "'none'; form-action 'none'"
    )
    made = (
        f"Made by dora {__version__} (DoRA, Dynamic Low-Rank Adaptation, arXiv 2405.17357) from the records of the "
        "runs."
    )
    body = tag("body", tag("main", *parts, tag("footer", made)), Markup(f"<script>{SCRIPT}</script>"))
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="generator", content=f"dora {__version__}"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        Markup(f"<style>{style(body)}{rules}</style>"),
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def arranged(maps: Sequence[Picture], charts: Sequence[Markup]) -> Markup:
    """Rank maps and charts in full rows."""
    places = spans([one.need for one in maps], len(charts))
    placed = zip([*(one.markup for one in maps), *charts], places, strict=True)
    return tag("div", *(tag("div", figure, class_=place.classes) for figure, place in placed), class_="pictures")


def tables(titled: Sequence[tuple[str, Table | None]]) -> Markup | None:
    """Tables beside each other, as far as there is room for each."""
    panels = [
        tag("div", tag("h3", title), found.markup, class_="panel", style=f"flex:{found.need} 1 {found.need + PANEL}px")
        for title, found in titled
        if found is not None
    ]
    return tag("div", *panels, class_="tables") if panels else None


def folded(title: str, content: Markup, *, opened: bool = False) -> Markup:
    return tag("details", tag("summary", title), content, open=opened)
