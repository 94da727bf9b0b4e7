"""``dora eval``."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from dora_cli.commands.options import check_overwrite

EPILOG = "Example:  dora eval --checkpoint runs/demo-sst2 --output result.json"


def evaluate(
    checkpoint: Annotated[
        Path,
        typer.Option(
            "--checkpoint",
            "-c",
            metavar="DIR",
            help="Run folder (its selected adapter), or one checkpoint of it.",
            show_default=False,
        ),
    ],
    split: Annotated[
        str | None,
        typer.Option(
            "--split", metavar="NAME", help="Another split than the run was evaluated on.", show_default=False
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change where data and base model are, e.g. data.path=DIR. May be repeated.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Also write the result to this new JSON file; - writes it to stdout and the table to stderr.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it is there already.")] = False,
) -> None:
    """Evaluate a finished run: rebuild its model at the final ranks and score it."""
    from dora_cli.assembly.restore import evaluate_saved
    from dora_cli.json_text import to_json
    from dora_cli.machine.processes import is_main
    from dora_cli.reports.console import make_console, make_error_console
    from dora_cli.reports.evaluation import print_evaluation
    from dora_cli.reports.progress import make_listener
    from dora_cli.runs.output_files import check_output_file, is_stdout, write_output

    check_overwrite(output, overwrite=overwrite)
    if output is not None:
        check_output_file(output, overwrite=overwrite)
    with contextlib.closing(make_listener()) as listener:
        result = evaluate_saved(
            checkpoint, split=split, overrides=set_ or [], note=listener.note, progress=listener.evaluating
        )
    if not is_main():
        return
    print_evaluation(make_error_console() if is_stdout(output) else make_console(), result)
    if output is not None:
        write_output(output, to_json(result))
