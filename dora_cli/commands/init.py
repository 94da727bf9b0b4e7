"""``dora init``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from dora_cli.commands.options import check_overwrite
from dora_cli.errors import OptionError
from dora_cli.printable import pour, say

EPILOG = "Example:  dora init classification --data reviews.csv -o reviews.yaml"


def _tasks() -> list[str]:
    from dora_cli.tasks import task_names

    return list(task_names())


def _methods() -> list[str]:
    from dora_cli.recipe.methods import METHODS

    return list(METHODS)


Method = Annotated[
    str | None,
    typer.Option(
        "--method",
        metavar="NAME",
        help="By what weights adapt (default: dora): with its published settings where there are some, else with "
        "its preset auto, or its defaults.",
        show_default=False,
        autocompletion=_methods,
    ),
]

Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="FILE|DIR",
        help="Your own examples, for classification and regression: csv, tsv, json, jsonl or parquet, or a folder "
        "with a file for each split. Columns, labels and sizes are guessed from it, and said.",
        show_default=False,
    ),
]
TextColumns = Annotated[
    list[str] | None,
    typer.Option(
        "--text",
        metavar="NAME",
        help="With --data: the column of the text; twice for pairs of texts.",
        show_default=False,
    ),
]
LabelColumn = Annotated[
    str | None,
    typer.Option("--label", metavar="NAME", help="With --data: the column of the label.", show_default=False),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME",
        help="Hub id, local folder or builtin:NAME (default: that of the published settings); dora models lists "
        "what is known.",
        show_default=False,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write to this new file (default, and -: to stdout).",
        show_default=False,
    ),
]


def init(
    task: Annotated[
        str | None,
        typer.Argument(
            metavar="TASK",
            help="What the recipe is for, such as glue/rte; dora tasks lists them.",
            show_default=False,
            autocompletion=_tasks,
        ),
    ] = None,
    model: Model = None,
    method: Method = None,
    data: Data = None,
    text: TextColumns = None,
    label: LabelColumn = None,
    output: Output = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it is there already.")] = False,
    schema: Annotated[
        bool,
        typer.Option(
            "--schema", help="Write the JSON Schema of recipes instead, by which editors complete and check them."
        ),
    ] = False,
) -> None:
    """Write a recipe to start from: the published settings of a task, or numbers fit for data of your own (--data);
    every key with what it is for.
    """
    if data is None and (text or label is not None):
        raise OptionError("--text and --label name columns of the data; add --data FILE")
    if schema and any(given is not None for given in (task, model, method, data)):
        raise OptionError(
            "--schema is about recipes of every task, model and method; leave TASK, --model and --method out"
        )
    from dora_cli.runs.output_files import check_output_file, is_stdout, write_output

    check_overwrite(output, overwrite=overwrite)
    if is_stdout(output):
        output = None
    if output is not None:
        check_output_file(output, overwrite=overwrite, example="recipe.schema.json" if schema else "recipe.yaml")
    said: tuple[str, ...] = ()
    if schema:
        written, then, unchecked = _schema(), None, None
    elif task is None:
        raise OptionError("which task? Give one, such as: dora init glue/rte; dora tasks lists them")
    else:
        from dora_cli.assembly.first_recipe import default_file, first_recipe

        file = str(output) if output is not None else None
        if data is None:
            made = first_recipe(task, model, method, file=file)
        else:
            from dora_cli.assembly.own_recipe import own_recipe

            made = own_recipe(task, data, model, method, texts=text or (), label=label, file=file)
        written, unchecked, said, then = made.text, made.unchecked, made.said, str(output or default_file(task))
    for line in said:
        say(f"dora: note: {line}", err=True)
    if output is not None:
        write_output(output, written)
        say(
            f"{output} written"
            + ("" if schema else f"; see what it would do:  dora train {_quoted(str(output))} --dry-run")
        )
    else:
        pour(written)
        if then is not None and sys.stdout.isatty():
            say(f"dora: note: to keep it, add: --output {then}", err=True)
    if unchecked is not None:
        say(
            f"dora: note: {unchecked!r} is not in the local cache, so it was not checked whether it can do {task}; a "
            "dry run checks it",
            err=True,
        )


def _schema() -> str:
    import json

    from dora_cli.recipe.writing.json_schema import recipe_json_schema

    return json.dumps(recipe_json_schema(_tasks()), indent=2, ensure_ascii=False) + "\n"


def _quoted(path: str) -> str:
    import shlex

    return shlex.quote(path)
