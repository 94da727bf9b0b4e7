"""environment.json: what a run was made with."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dora_cli.recipe.fields import MAX_THREADS
from dora_cli.runs.records.fields import Count, Fact, Name, Record


class BaseModelRecord(Record):
    """The base model: its commit on the hub, and its size, which older runs did not record."""

    commit: Fact | None
    fingerprint: Fact
    parameters: Count | None = None
    bytes: Count | None = None
    head_parameters: Count | None = None


class SplitRecord(Record):
    """The examples of one split."""

    examples: Count
    fingerprint: Fact


class BatchPartsRecord(Record):
    """How batches were cut: see `dora_cli.data.cuts.Cuts`."""

    most: Annotated[Count, Field(ge=1)]
    pass_tokens: Count
    pieces: Annotated[Count, Field(ge=1)]
    dealt: bool = False


class EnvironmentRecord(Record):
    """environment.json. `packages` maps a distribution to its version, None where it is not installed.

    `pad_multiple` is what the widths of batches were rounded up to: of batches of other widths, other dropout would be
    drawn. Nor would they be the same of batches that were cut in other ways (`batch_parts`). The oldest runs have no
    `cpu_threads`, older ones no `pad_multiple` and no `batch_parts`.
    """

    FILE: ClassVar[str] = "environment.json"

    schema_version: Literal[1]
    dora: Fact
    python: Fact
    platform: Fact
    packages: Annotated[dict[Name, Fact | None], Field(max_length=100)]
    device: Fact
    cpu_threads: Annotated[int, Field(ge=1, le=MAX_THREADS)] | None = None
    precision: Fact
    processes: Annotated[Count, Field(ge=1)]
    pad_multiple: Annotated[int, Field(ge=1, le=1024)] | None = None
    batch_parts: BatchPartsRecord | None = None
    model: BaseModelRecord
    data: Annotated[dict[Name, SplitRecord], Field(max_length=100)]
