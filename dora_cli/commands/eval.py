"""``dora eval``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dora_cli.collector import no_collection

EPILOG = "Example:  dora eval --checkpoint runs/demo-sst2 --output result.json"


def evaluate(
    checkpoint: Annotated[
        Path,
        typer.Option(
            "--checkpoint", "-c", metavar="DIR", help="Run folder (its selected adapter), or one checkpoint of it.", show_default=False
        ),
    ],
    split: Annotated[
        str | None, typer.Option("--split", metavar="NAME", help="Another split than the task's dev split.", show_default=False)
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
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Also write the result to this JSON file.", show_default=False)
    ] = None,
) -> None:
    """Evaluate a finished run: rebuild its model at the final ranks and score it."""
    from rich.console import Console

    with no_collection():
        from dora_cli.evaluation.saved import evaluate_saved
    from dora_cli.reports.evaluation import print_evaluation
    from dora_cli.reports.progress import make_listener
    from dora_cli.reports.records import write_json
    from dora_cli.training.output import check_output_file
    from dora_cli.training.processes import is_main

    if output is not None:
        check_output_file(output)
    result = evaluate_saved(checkpoint, split=split, overrides=set_ or [], listener=make_listener())
    if not is_main():
        return
    print_evaluation(Console(highlight=False), result)
    if output is not None:
        write_json(output, result)
