"""``dora predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dora_cli.commands.inputs import name_of, readable
from dora_cli.errors import OptionError
from dora_cli.printable import say

_FORMATS = ("csv", "tsv", "json", "jsonl", "text")
EPILOG = "Example:  dora predict -c runs/glue-rte --output submission/"

Text = Annotated[
    list[str] | None,
    typer.Option("--text", metavar="TEXT", help="A text to predict for. May be repeated.", show_default=False),
]
TextPair = Annotated[
    list[str] | None,
    typer.Option("--text-pair", metavar="TEXT", help="The second text of a pair, for each --text.", show_default=False),
]
Output = Annotated[
    str | None,  # not a Path, which would lose the / that a folder ends with
    typer.Option(
        "--output",
        "-o",
        metavar="FILE|DIR/",
        help="Where to write, a new file. FILE.jsonl: everything, one object a line. FILE.csv: the columns of "
        "--input, and prediction and probabilities beside them. GLUE: DIR/ for the "
        "benchmark's submission files, or FILE.tsv for one; other classes and numbers: FILE.tsv as FILE.csv. e2e: any "
        "other FILE, plain text, one output a line. -: stdout (a table if --input is a csv or tsv, else JSON lines; "
        "e2e: plain text), which --text takes by itself.",
        show_default=False,
    ),
]
Input = Annotated[
    Path | None,
    typer.Option(
        "--input",
        "-i",
        metavar="FILE",
        help="Examples of your own: csv, tsv, json, jsonl or parquet with the task's columns (e2e: mr); or plain "
        "text, one a line, where the task reads one text. -: stdin, of any of these but parquet.",
        show_default=False,
    ),
]
Written = Annotated[
    str | None,
    typer.Option(
        "--format",
        "-f",
        metavar="FORMAT",
        help="What --input holds: csv, tsv, json, jsonl or text. Default: what the name of the file says, else what "
        "the content looks like: a first line with the task's columns is the header of a table.",
        show_default=False,
        autocompletion=lambda: list(_FORMATS),
    ),
]


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
    output: Output = None,
    text: Text = None,
    text_pair: TextPair = None,
    file: Input = None,
    form: Written = None,
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
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON lines on stdout, whatever --input is; e2e: with the inputs.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there already.")] = False,
) -> None:
    """Write what a finished run predicts: classes, numbers or texts, for a split of its data or for examples of your
    own.
    """
    from dora_cli.library.prediction import write_predictions
    from dora_cli.reports.progress import make_listener
    from dora_cli.runs.output_files import is_stdout
    from dora_cli.wording import plural

    if text_pair and not text:
        raise OptionError("--text-pair is the second text of a pair; give the first by --text")
    if output is None:
        if not text and not as_json:
            raise OptionError("--output is missing; name a new file, or - for stdout")
        output = "-"
    with readable(file, "--input") as examples:
        done = write_predictions(
            checkpoint,
            output,
            split=split,
            file=examples,
            called=None if file is None else name_of(file),
            form=form,
            texts=(text, text_pair) if text and text_pair else (text,) if text else None,
            overrides=set_ or [],
            overwrite=overwrite,
            as_json=as_json,
            listener=make_listener(),
        )
    to_stdout = is_stdout(output)
    for written in done:
        where = "stdout" if to_stdout else written.path
        say(f"{plural(written.predictions, 'prediction')} written to {where}", err=to_stdout)
