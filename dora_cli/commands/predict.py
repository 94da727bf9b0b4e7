"""``dora predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dora_cli.commands.inputs import readable
from dora_cli.printable import say

EPILOG = "Example:  dora predict -c runs/glue-rte --output submission/"


def predict(
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
    output: Annotated[
        str,  # not a Path, which would lose the / that a folder ends with
        typer.Option(
            "--output",
            "-o",
            metavar="FILE|DIR/",
            help="Where to write, a new file. FILE.jsonl: everything, one object a line. GLUE: DIR/ for the "
            "benchmark's submission files, or FILE.tsv for one. e2e: any other FILE, plain text, one output a "
            "line. -: stdout (GLUE: JSON lines, e2e: plain text).",
            show_default=False,
        ),
    ],
    file: Annotated[
        Path | None,
        typer.Option(
            "--input",
            "-i",
            metavar="FILE",
            help="Examples of your own: csv, tsv, json, jsonl or parquet with the task's columns (e2e: mr); or plain "
            "text, one a line, where the task reads one text. -: stdin, JSON lines or plain text.",
            show_default=False,
        ),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            metavar="NAME",
            help="A split of the run's data (default: test, of MNLI both; e2e: decode.split).",
            show_default=False,
        ),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change where data and model are or how it decodes, e.g. data.path=DIR or decode.beams=1.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there already.")] = False,
) -> None:
    """Write what a finished run predicts: classes, numbers or texts, for a split of its data or for examples of your
    own.
    """
    from dora_cli.library.prediction import write_predictions
    from dora_cli.reports.progress import make_listener
    from dora_cli.runs.output_files import is_stdout
    from dora_cli.wording import plural

    with readable(file, "--input") as examples:
        done = write_predictions(
            checkpoint,
            output,
            split=split,
            file=examples,
            overrides=set_ or [],
            overwrite=overwrite,
            listener=make_listener(),
        )
    to_stdout = is_stdout(output)
    for written in done:
        where = "stdout" if to_stdout else written.path
        say(f"{plural(written.predictions, 'prediction')} written to {where}", err=to_stdout)
