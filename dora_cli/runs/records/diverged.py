"""diverged.json: that a run of an experiment ended because its loss or its gradients were no numbers any more."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dora_cli.runs.records.fields import Record


class DivergedRecord(Record):
    """diverged.json; `message` is what the run said. It is a result: the same recipe would diverge again."""

    FILE: ClassVar[str] = "diverged.json"
    LONGEST: ClassVar[int] = 2000

    schema_version: Literal[1]
    message: Annotated[str, Field(max_length=LONGEST)]
