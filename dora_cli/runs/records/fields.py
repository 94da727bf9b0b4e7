"""What all records have in common: the types of their fields, and the check at writing and at reading.

A record is closed: a key that its schema does not know is refused, as is a number that is not finite. So a later
version of dora that adds a key raises `schema_version`; what older ones did not write yet has a default in the schema.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from dora_cli.errors import CheckpointError
from dora_cli.json_text import plain
from dora_cli.printable import is_plain, shown
from dora_cli.runs.reading import COPY_AGAIN

SCHEMA_VERSION = 1

Count = Annotated[int, Field(ge=0, lt=2**53)]
"""What a float holds exactly, so that sums and shares of counts are numbers too."""


def _printable(text: str) -> str:
    if not is_plain(text):
        raise ValueError(f"{text[:40]!r} holds characters that cannot be printed")
    return text


Name = Annotated[str, Field(min_length=1, max_length=300), AfterValidator(_printable)]
"""A name that tables show: one line, no control characters, which a terminal would obey, and no longer than any name
is.
"""
Words = Annotated[str, Field(max_length=300), AfterValidator(_printable)]
"""The same of what may be empty: a value that somebody has given a key."""
Place = Annotated[str, Field(min_length=1, max_length=5000), AfterValidator(_printable)]
"""A name that may be the path of a folder."""
Metrics = Annotated[dict[Name, float | None], Field(max_length=100)]
"""Metric name to value; None where a metric is undefined (JSON has no NaN)."""


Fact = Annotated[str, Field(max_length=5000)]
"""Text that is shown with its control characters made visible: the machine's own words, or a path."""
Seconds = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
"""SHA-256 in hexadecimal."""


class Record(BaseModel):
    """Base of all schemas. Nothing is converted; `FILE` is what a record is called in messages."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)
    FILE: ClassVar[str] = "a record"


_Model = TypeVar("_Model", bound=Record)


def written(model: type[Record], content: Mapping[str, Any]) -> dict[str, Any]:
    """`content` as plain JSON values, to be written; a value that is not finite is null.

    Raises:
        AssertionError: it does not keep to the schema, which is a mistake of ours.
    """
    record: dict[str, Any] = plain(content)
    try:
        model.model_validate(record)
    except ValidationError as error:
        raise AssertionError(f"{model.FILE} would break its own schema: {_problems(error)}") from error
    return record


def validated(model: type[_Model], record: Any, source: Path | str) -> _Model:
    """`record`, which was read from `source`, as a `model`.

    Raises CheckpointError naming the key, the value and what was expected.
    """
    if (
        isinstance(record, Mapping)
        and isinstance(record.get("schema_version"), int)
        and record["schema_version"] != SCHEMA_VERSION
    ):
        raise CheckpointError(
            f"{source} has schema_version {record['schema_version']}; this dora reads {SCHEMA_VERSION}. "
            "Use the version of dora that wrote it."
        )
    try:
        return model.model_validate(record)
    except ValidationError as error:
        raise CheckpointError(
            f"{source} is damaged or was not written by dora: {_problems(error)}. {COPY_AGAIN}"
        ) from error


def _problems(error: ValidationError, most: int = 3) -> str:
    """The first few problems as ``layers[3].rank is -1: ...``, and how many more there are."""
    lines = []
    for problem in error.errors(include_url=False, include_context=False)[:most]:
        place = "".join(
            f"[{part}]" if isinstance(part, int) else f".{shown(part, 60)}"
            for part in problem["loc"]
            if part != "[key]"
        ).lstrip(".")
        message = problem["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
        if problem["type"] == "missing":
            lines.append(f"{place} is missing")
        elif problem["type"] == "value_error":
            lines.append(f"{place}: {message}" if place else message)
        else:
            if problem["type"] == "extra_forbidden":
                message = "no key that this version of dora knows"
            value = reprlib.repr(problem["input"])  # what a stranger wrote may be nested without end
            value = value if len(value) <= 60 else value[:57] + "..."
            lines.append(f"{place or 'the whole'} is {value}: {message}")
    more = error.error_count() - len(lines)
    return "; ".join(lines) + (f"; and {more} more" if more > 0 else "")
