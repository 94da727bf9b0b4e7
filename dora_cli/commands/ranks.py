"""`dora ranks`: the final ranks of a run, as tables and pictures."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from dora_cli.commands.options import check_overwrite
from dora_cli.errors import CheckpointError, OptionError
from dora_cli.printable import escape_json, pour, say

RUNS = Path("runs")
EPILOG = "Example:  dora ranks runs/demo-sst2 --by block --plot ranks.svg"


class By(str, Enum):
    projection = "projection"
    block = "block"
    group = "group"


class What(str, Enum):
    map = "map"
    budget = "budget"
    training = "training"
    scores = "scores"


class As(str, Enum):
    rank_pattern = "rank-pattern"


AsOption = Annotated[
    As | None,
    typer.Option(
        "--as",
        metavar="FORM",
        help="Print the ranks for another tool. rank-pattern: arguments of PEFT's LoraConfig (r, lora_alpha, "
        "rank_pattern, alpha_pattern, target_modules) as JSON, with the run's ranks and scale.",
    ),
]


def ranks(
    folder: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR",
            help="A run folder, or the parent folder of a run with --seeds (shows mean ranks). Without it, the newest "
            "run under runs/.",
            show_default=False,
        ),
    ] = None,
    by: Annotated[
        By | None, typer.Option(metavar="KIND", help="Show means and sums by projection, block or group.")
    ] = None,
    scores: Annotated[bool, typer.Option("--scores", help="Show the importance of components at the freeze.")] = False,
    history: Annotated[
        bool, typer.Option("--history", help="Show budget and live components over steps, also of a running run.")
    ] = False,
    compare: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Show DIR's ranks minus those of RUN, which adapts the same projections; with --by, sums.",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also draw what is shown into the new FILE: .png, .svg or .pdf. Needs matplotlib (extra plots).",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it is there already.")] = False,
    what: Annotated[
        What | None,
        typer.Option(
            metavar="PICTURE",
            help="What --plot draws instead of what is shown: map, budget, training (loss and metric over steps) or "
            "scores.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print ranks.json as it is (of several seeds: the mean ranks as JSON).")
    ] = False,
    as_: AsOption = None,
) -> None:
    """Show how the budget was distributed: the rank of every projection, projections down, blocks across."""
    from dora_cli.reports.console import make_console
    from dora_cli.reports.ranks.views import View, draw, show
    from dora_cli.reports.runs import newest_run

    _check_one(
        {"--by": by, "--scores": scores, "--history": history, "--compare": compare, "--json": as_json, "--as": as_}
    )
    check_overwrite(plot, overwrite=overwrite, option="--plot")
    if what is not None and plot is None:
        raise OptionError(f"--what {what.value} says what --plot draws, but there is no --plot. Add --plot FILE.svg")
    if what is not None and compare is not None:
        raise OptionError(
            f"--what {what.value} and --compare do not go together: of two runs, --plot draws their difference."
        )
    if folder is None:
        folder = newest_run(RUNS)
        if folder is None:
            raise CheckpointError(
                f"there is no run with a ranks.json under {RUNS}/ in {Path.cwd()}. Name a run folder: dora ranks DIR"
            )
    view = View(folder, by=None if by is None else by.value, scores=scores, history=history, compare=compare)
    picture = what.value if what is not None else view.picture
    if plot is not None:
        draw(view, picture, plot, overwrite=overwrite)
    if as_ is not None:
        pour(escape_json(view.rank_pattern))
    elif as_json:
        pour(escape_json(view.json))
    else:
        show(view, make_console())
    if plot is not None:
        say(f"{'difference' if compare else picture}: {plot}", err=True)


def _check_one(views: Mapping[str, object]) -> None:
    """Refuses options that each show something else. Raises OptionError."""
    given = [name for name, value in views.items() if value]
    if len(given) > 1 and given != ["--by", "--compare"]:
        raise OptionError(
            f"{' and '.join(given)} do not go together: each shows something else. Give one of them; only --by also "
            "goes with --compare."
        )
