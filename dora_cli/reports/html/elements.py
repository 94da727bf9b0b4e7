"""HTML elements as text. Whatever is not `Markup` is escaped, so that no name, path or recipe can become a part of the page."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable

_EMPTY = frozenset({"br", "line", "link", "meta", "path", "rect"})
SHORT = 24
"""The head of a row of at most so many characters stays on one line."""
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""Control characters, what turns the direction of text around, and what is no character: a page may not hold or should not obey them."""


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: object) -> Markup:
    """`value` as HTML that shows it; `Markup` as it is."""
    return value if isinstance(value, Markup) else Markup(html.escape(_UNFIT.sub("\ufffd", str(value)), quote=True))


def join(parts: Iterable[object], between: str = "") -> Markup:
    """Parts after each other, each escaped unless it is `Markup`."""
    return Markup(text(between).join(text(part) for part in parts))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """One element.

    Args:
        name: of the element.
        children: content in order; None is left out.
        attributes: ``class_`` is ``class``, ``data_tip`` is ``data-tip``, ``viewBox`` stays. None and False leave an attribute out, True
            gives it without a value.
    """
    written = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        written.append(key if value is True else f'{key}="{text(value)}"')
    opening = " ".join(written)
    if name in _EMPTY:
        assert not children
        return Markup(f"<{opening}/>")  # SVG wants the slash, HTML lets it stand
    return Markup(f"<{opening}>{join(child for child in children if child is not None)}</{name}>")


def table(
    head: Iterable[object], rows: Iterable[Iterable[object]], *, foot: Iterable[Iterable[object]] = (), **attributes: object
) -> Markup:
    """A table whose first column heads its rows, in a box that scrolls sideways where it is too wide."""

    def row(cells: Iterable[object]) -> Markup:
        first, *others = cells
        return tag(
            "tr", tag("th", first, scope="row", class_="short" if len(str(first)) <= SHORT else None), *(tag("td", cell) for cell in others)
        )

    columns = tag("tr", *(tag("th", cell, scope="col") for cell in head))
    body = [tag("thead", columns), tag("tbody", *(row(cells) for cells in rows))]
    below = [row(cells) for cells in foot]
    if below:
        body.append(tag("tfoot", *below))
    return tag("div", tag("table", *body, **attributes), class_="scroll")
