"""Where predictions go: JSON lines, plain text, or the files that the GLUE benchmark takes."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dora_cli.data import Input
from dora_cli.data.sources.forms import Form
from dora_cli.errors import OutputError
from dora_cli.files import real_path
from dora_cli.json_text import to_jsonl
from dora_cli.printable import shown
from dora_cli.runs.output_files import check_output_file, is_stdout, write_output
from dora_cli.tasks import Task
from dora_cli.wording import plural

FORMS = (
    "a .jsonl or .csv file (texts, prediction, probabilities), - (the same on stdout), a .tsv file as the benchmark "
    "takes it, or a folder for the benchmark's files"
)


@dataclass(frozen=True)
class Part:
    """What a run says of one split or file.

    Attributes:
        name: of the split, or the file's path.
        records: what JSON lines hold.
        official: the predictions as the benchmark writes them; None where there is none.
        source: the user's own file as it was read; None of another source.
    """

    name: str
    records: list[dict[str, Any]]
    official: Sequence[str] | None
    source: Input | None = None


@dataclass(frozen=True)
class Destination:
    """The files that predictions go to.

    A file that ends in ``.jsonl`` gets every record. Texts go to any other file, one a line. Classes and numbers go to
    a ``.tsv`` file as the benchmark takes them, or, if the output is a folder (it is there, or ends with ``/``), to
    files in it with the benchmark's names; to a ``.csv`` file (of a task without a benchmark a ``.tsv`` file too) with
    all columns of the user's own table, and what is predicted beside them. ``-`` is stdout: texts, one a line; of
    classes and numbers such a table if the user's own file is a csv or tsv, else every record, as JSON lines.

    Attributes:
        task: whose predictions they are.
        paths: one file for all, or one for each split.
        official: whether they are files of the benchmark.
        as_json: whether stdout gets JSON lines whatever was read.
    """

    task: Task
    paths: Sequence[Path]
    official: bool
    as_json: bool = False

    @classmethod
    def plan(
        cls,
        output: str,
        task: Task,
        splits: Sequence[str],
        *,
        overwrite: bool,
        as_json: bool = False,
        source: Path | None = None,
    ) -> Destination:
        """What `output` says for `splits` of `task`, none for a file of the user's own. Writes nothing; raises
        OutputError.

        Args:
            overwrite: whether files that are there may be replaced.
            as_json: as the attribute.
            source: the file of the user's own, which is not replaced even so.
        """
        path, folder = Path(output), output.endswith(("/", os.sep)) or Path(output).is_dir()
        suffix = path.suffix.lower()
        if as_json and not is_stdout(output):
            raise OutputError(f"--json is for stdout, but --output is {output}; leave one out, or name a .jsonl file")
        if is_stdout(output):
            paths, official = [path], False
        elif folder and not task.submissions:
            name = "out.txt" if task.decodes else "out.jsonl"
            raise OutputError(f"--output {output} is a folder; name a file in it, such as {path / name}")
        elif task.decodes:
            paths, official = [path], False
        elif folder:
            paths, official = [path / name for name in _names(output, task, splits)], True
        elif suffix in (".jsonl", ".csv") or (suffix == ".tsv" and not task.submissions):
            paths, official = [path], False
        elif not task.submissions:
            raise OutputError(
                f"--output {output}: predictions of {task.name} go to a .jsonl, .csv or .tsv file, or to - (stdout)"
            )
        elif suffix != ".tsv":
            raise OutputError(
                f"--output {output}: predictions of {task.name} go to {FORMS}, which is there already or ends with /"
            )
        elif len(splits) > 1:
            raise OutputError(
                f"--output {output} is one file, but the benchmark takes one for each of {', '.join(splits)}; name a "
                f"folder, such as {path.with_suffix('')}/, or one split by --split"
            )
        else:
            paths, official = [path], True
        for file in paths:
            if source is not None and real_path(source) == real_path(file):
                raise OutputError(
                    f"--output {output} would replace the examples of --input {source}; name another file"
                )
            check_output_file(file, overwrite=overwrite, example="out.txt")
        return cls(task, paths, official, as_json)

    def write(self, parts: Sequence[Part], note: Callable[[str], None]) -> list[tuple[Path, int]]:
        """Writes the files; returns each with the number of its predictions.

        Args:
            parts: in the order of the splits.
            note: told where a file is not what the benchmark expects.
        """
        if self.official:
            for path, part in zip(self.paths, parts, strict=True):
                assert part.official is not None
                size = self.task.splits.get(part.name)
                if size not in (None, len(part.official)):
                    note(
                        f"{path} has {plural(len(part.official), 'prediction')}; the benchmark's {part.name} has "
                        f"{size:,} examples"
                    )
                rows = (f"{row}\t{prediction}\n" for row, prediction in enumerate(part.official))
                write_output(path, "index\tprediction\n" + "".join(rows))
            return [(path, len(part.records)) for path, part in zip(self.paths, parts, strict=True)]
        records = [record for part in parts for record in part.records]
        (path,) = self.paths
        if (form := self._table_form(path, parts)) is not None:
            write_output(path, as_table(parts, form))
            return [(path, len(records))]
        as_text = path.suffix.lower() != ".jsonl" and self.task.decodes and not self.as_json
        write_output(path, "".join(f"{record['output']}\n" for record in records) if as_text else to_jsonl(records))
        return [(path, len(records))]

    def _table_form(self, path: Path, parts: Sequence[Part]) -> Form | None:
        """How a table is written to `path`, where one is: separated as the user's own csv is."""
        if self.task.decodes or self.as_json:
            return None
        given = next((part.source.form for part in parts if part.source is not None), None)
        table = given if given is not None and given.kind in ("csv", "tsv") else None
        kind = table and table.kind if is_stdout(path) else path.suffix.lower().removeprefix(".")
        if kind not in ("csv", "tsv"):
            return None
        return table if table is not None and table.kind == kind else Form(kind)


def as_table(parts: Sequence[Part], form: Form) -> str:
    """A header, and a row for each record: the columns of the user's own table, else the record's texts and label; then
    ``prediction``, and ``probability_NAME`` of each class.

    Args:
        parts: what to write.
        form: a csv, quoted as RFC 4180 says, or a tsv, which is not quoted.

    Raises:
        OutputError: the table has a column of such a name already; a tsv cannot hold a tab or a line break.
    """
    rows = [row for part in parts for row in _rows(part)]
    lines: list[list[Any]] = [list(rows[0]) if rows else ["prediction"], *(list(row.values()) for row in rows)]
    if form.kind == "tsv":
        return "".join(_unquoted(line) for line in lines)
    text = io.StringIO()
    plain = csv.writer(text, delimiter=form.sign, lineterminator="\n")
    quoted = csv.writer(text, delimiter=form.sign, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for line in lines:  # a carriage return alone ends a line for some readers, but is not quoted by every Python
        (quoted if any(isinstance(value, str) and "\r" in value for value in line) else plain).writerow(line)
    return text.getvalue()


def _unquoted(line: Sequence[Any]) -> str:
    fields = ["" if value is None else str(value) for value in line]
    if odd := next((field for field in fields if re.search(r"[\t\n\r]", field)), None):
        raise OutputError(
            f"{shown(odd, 60)!r} holds a tab or a line break, which no tsv can; write a .csv or .jsonl file"
        )
    return "\t".join(fields) + "\n"


def _rows(part: Part) -> Iterator[dict[str, Any]]:
    table = None if part.source is None else part.source.columns
    for index, record in enumerate(part.records):
        answer = {"prediction": record["prediction"]} if "prediction" in record else {}
        answer |= {f"probability_{name}": share for name, share in record.get("probabilities", {}).items()}
        if table is None:
            given = {key: value for key, value in record.items() if key not in ("prediction", "probabilities")}
        else:
            given = {name: column[index] for name, column in table.items()}
        if twice := given.keys() & answer.keys():
            raise OutputError(
                f"{part.name}: has a column {sorted(twice)[0]!r} already, which the predictions are written to; rename "
                "it, or write JSON lines (.jsonl, --json)"
            )
        yield {**given, **answer}


def _names(output: str, task: Task, splits: Sequence[str]) -> list[str]:
    """The benchmark's names for the files of `splits`; for a file of the user's own that of the one test split, if
    there is but one.
    """
    files = task.submissions
    wanted = splits or tuple(files)
    strangers = [split for split in wanted if split not in files]
    if strangers or (not splits and len(files) > 1):
        what = (
            f"of {', '.join(strangers)} it has none"
            if strangers
            else f"for a file of your own there is none among {', '.join(files.values())}"
        )
        raise OutputError(
            f"--output {output} is a folder, which gets the benchmark's files of {', '.join(files)}; {what}: name a "
            ".tsv or .jsonl file"
        )
    return [files[split] for split in wanted]
