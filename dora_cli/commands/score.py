"""``dora score``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dora_cli.commands.inputs import is_stdin, readable
from dora_cli.errors import OptionError
from dora_cli.printable import say

EPILOG = "Example:  dora score e2e --predictions out.txt --references ref.txt"


def _scored() -> list[str]:
    from dora_cli.tasks import get_task, task_names

    return [name for name in task_names() if get_task(name).decodes]


def score(
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK",
            help="What the outputs were generated for: e2e.",
            show_default=False,
            autocompletion=_scored,
        ),
    ],
    predictions: Annotated[
        Path,
        typer.Option(
            "--predictions",
            "-p",
            metavar="FILE",
            help="Plain text, one output a line; or a run's predictions.jsonl. -: stdin.",
            show_default=False,
        ),
    ],
    references: Annotated[
        Path | None,
        typer.Option(
            "--references",
            "-r",
            metavar="FILE",
            help="Plain text: a block of references for each output, one a line, blank lines between blocks. Not "
            "needed with a predictions.jsonl that holds them. -: stdin.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the metrics as JSON.")] = False,
) -> None:
    """Score generated texts against references: BLEU, NIST, METEOR, ROUGE-L and CIDEr as the E2E challenge does."""
    import json

    from dora_cli.tasks import get_task
    from dora_cli.wording import plural

    found = get_task(task)
    if not found.decodes:
        raise OptionError(f"outputs of {task} are no texts; texts are those of {', '.join(_scored())}")
    if is_stdin(predictions) and is_stdin(references):
        raise OptionError(
            "--predictions and --references are both stdin, which can be read once; give one of them as a file"
        )
    with readable(predictions, "--predictions") as given, readable(references, "--references") as against:
        assert given is not None
        outputs, wanted = found.read_scored(given, against)
    scores = found.score(outputs, wanted)
    if as_json:
        say(json.dumps({"metrics": dict(scores.metrics)}, indent=2))
    else:
        say(f"{task}: {plural(len(outputs), 'output')}, {plural(sum(map(len, wanted)), 'reference')}")
        for name, value in scores.metrics.items():
            say(f"{name:8}{'-' if value is None else f'{value:.4f}':>8}")
    for note in scores.notes:
        say(f"dora: note: {note}", err=True)
