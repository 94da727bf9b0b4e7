"""The consoles that everything but plain lines is printed with: no text in them is obeyed, neither by the terminal nor
by rich.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from dora_cli.printable import escape


def make_console(file: IO[str] | None = None) -> Console:
    """A console on `file`, stdout by default."""
    return _PlainTextConsole(file=file, highlight=False, markup=False, emoji=False)


def make_error_console() -> Console:
    """A console on stderr."""
    return _PlainTextConsole(stderr=True, highlight=False, markup=False, emoji=False)


class _PlainTextConsole(Console):
    """Makes visible what a terminal would obey, in every text that is rendered; rich's own codes are no
    text and stay.
    """

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(escape(segment.text), segment.style)
