"""HTML elements as text.

Whatever is not `Markup` is escaped, so that no name, path or recipe can become a part of the page.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from dora_cli.reports.html.paths import without_places
from dora_cli.reports.html.style import room_for, wide_from

_EMPTY = frozenset({"br", "col", "link", "meta", "rect", "wbr"})
CHARACTER, BOLD, PAD, LONGEST = 8.0, 9.4, 20, 26
"""Measures of a table: the width of a character, of one in a head and a cell's margins in pixels; characters after
which a cell is broken.
"""
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
"""Control characters, what turns the direction of text around, and what is no character: a page may not hold or should
not obey them.
"""


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: object) -> Markup:
    """`value` as HTML that shows it, absolute paths cut to their last parts; `Markup` as it is."""
    if isinstance(value, Markup):
        return value
    return Markup(html.escape(_UNFIT.sub("\ufffd", without_places(str(value))), quote=True))


def join(parts: Iterable[object], between: str = "") -> Markup:
    """Parts after each other, each escaped unless it is `Markup`."""
    return Markup(text(between).join(text(part) for part in parts))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """One element.

    Args:
        name: of the element.
        children: content in order; None is left out.
        attributes: ``class_`` is ``class``, ``data_tip`` is ``data-tip``, ``viewBox`` stays. None and False leave an
            attribute out, True gives it without a value.
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


class Table(NamedTuple):
    """A table, and about how many pixels it needs to be shown whole."""

    markup: Markup
    need: int


def table(
    head: Iterable[object],
    rows: Iterable[Iterable[object]],
    *,
    foot: Iterable[Iterable[object]] = (),
    words: bool = False,
) -> Table:
    """A table whose first column heads its rows. Where it is too wide it is a list: each row's cells below its head.

    Args:
        head: of the columns.
        rows: each begins with its head.
        foot: rows below a line.
        words: whether its cells are texts, which may be broken into lines, and not numbers.
    """
    head, body, last = list(head), [list(row) for row in rows], [list(row) for row in foot]

    def row(cells: Sequence[object]) -> Markup:
        first, *others = cells
        named = [
            tag("td", cell, data_label=None if words else _plain(label))
            for cell, label in zip(others, head[1:], strict=True)
        ]
        return tag("tr", tag("th", first, scope="row", class_="short" if _length(first) <= LONGEST else None), *named)

    columns = tag("tr", *(tag("th", cell, scope="col") for cell in head))
    parts = [tag("thead", columns), tag("tbody", *map(row, body)), tag("tfoot", *map(row, last)) if last else None]
    need = room_for(needed(head, [*body, *last]))
    kind = "words" if words else f"numbers {wide_from(need)}"
    item = None if words else f"--item:{_item(head, [*body, *last])}px"
    return Table(tag("div", tag("table", *parts, class_=kind, style=item), class_="fit"), need)


def needed(head: Sequence[object], rows: Sequence[Sequence[object]]) -> int:
    """About how many pixels a table of numbers needs: heads of columns are broken between words, cells are not."""
    total = -float(PAD)  # the table's own sides have none
    for index, title in enumerate(head):
        cells = [min(_length(row[index]), LONGEST) * CHARACTER for row in rows]
        words = [min(len(word), LONGEST) * BOLD for word in _plain(title).split()]
        total += max([*cells, *words, CHARACTER]) + PAD
    return round(total)


def _item(head: Sequence[object], rows: Sequence[Sequence[object]]) -> int:
    """About how many pixels a cell needs in a list, where the head of its column stands before it."""
    longest = max(
        (_length(title) + _length(cell) for row in rows for title, cell in zip(head[1:], row[1:], strict=True)),
        default=1,
    )
    return round(longest * CHARACTER) + PAD


def _plain(cell: object) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", cell)) if isinstance(cell, Markup) else str(cell)


def _length(cell: object) -> int:
    return len(_plain(cell))
