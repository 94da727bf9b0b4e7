"""Makes the terminal picture of the README from a real run: what `dora train` shows at one of its steps, as an SVG.

    python scripts/picture_terminal.py RECIPE [--set KEY=VALUE ...] --step 386 --output docs/images/live.svg [--width
    100]

The run ends after that step, and its folder is thrown away. The README's is from::

    python scripts/picture_terminal.py configs/demo/sst2.yaml --step 487 --output docs/images/live.svg
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from dora_cli.recipe import load_recipe
from dora_cli.reports.live.screen import _Picture
from dora_cli.reports.progress import RunListener
from dora_cli.training.run import train

THEME = TerminalTheme(
    (30, 34, 42),
    (220, 223, 228),
    [
        (40, 44, 52),
        (224, 108, 117),
        (152, 195, 121),
        (229, 192, 123),
        (97, 175, 239),
        (198, 120, 221),
        (86, 182, 194),
        (220, 223, 228),
    ],
)


class Seen(Exception):  # noqa: N818 - no error
    """The picture has been taken."""


class Camera(RunListener):
    """Shows a run to a terminal that goes nowhere, until the step whose picture is wanted."""

    def __init__(self, step: int, width: int, height: int) -> None:
        nowhere = _terminal(width=width, height=height)
        super().__init__(nowhere, nowhere, live=True)
        self._at, self._size = step, (width, height)
        self._said: list[Text] = []
        self.picture: Console | None = None

    def _say(self, line: str, style: str = "") -> None:
        self._said.append(Text(line, style))
        super()._say(line, style)

    def tick(self, step: int, phase: str, budget: int) -> None:
        super().tick(step, phase, budget)
        if step < self._at:
            return
        width, height = self._size
        self.picture = _terminal(width=width, record=True)
        for line in self._said:
            self.picture.print(line)
        assert self._screen is not None
        self.picture.print(_Picture(self._screen._lines(width - 1, height)))
        raise Seen


def _terminal(**settings: Any) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", highlight=False, **settings)


def svg_of(console: Console, title: str) -> str:
    """The recorded lines as SVG, with the fonts of whoever looks: a picture must not ask the network for some."""
    before, _, rest = CONSOLE_SVG_FORMAT.partition("@font-face")
    after = rest[rest.rindex("@font-face") :].partition("}}")[2]
    plain = (before + after).replace("Fira Code, monospace", "Menlo, Consolas, DejaVu Sans Mono, monospace")
    return console.export_svg(title=title, theme=THEME, code_format=plain, unique_id="dora")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--step", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--width", type=int, default=100)
    parser.add_argument("--height", type=int, default=40)
    parser.add_argument("--title", help="over the picture; by default the command without its settings")
    arguments = parser.parse_args()
    camera = Camera(arguments.step, arguments.width, arguments.height)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Seen):
        train(load_recipe(arguments.recipe, arguments.overrides), Path(folder) / "run", listener=camera)
    assert camera.picture is not None, f"the run ended before step {arguments.step}"
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    names = arguments.recipe.parts[-3:]
    arguments.output.write_text(
        svg_of(camera.picture, arguments.title or f"dora train {'/'.join(names)}"), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
