"""dora_export.json: what an export is, and which files belong to it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dora_cli.runs.records.fields import Count, Fact, Name, Record

FILES = 1000  # more than any model is cut into


class ProbeRecord(Record):
    """How far the export's logits are from the run's own on a few tokens, see `dora_cli.export.probe.Agreement`."""

    difference: Annotated[float, Field(ge=0)]
    largest: Annotated[float, Field(ge=0)]
    tokens: Count
    by: Fact | None
    approximated: Annotated[float, Field(ge=0)] | None = None


class CompressionRecord(Record):
    """What an approximation of bounded rank has left out, see `dora_cli.export.compression.Compression`."""

    rank: Annotated[Count, Field(ge=1)]
    cut: Count
    error: Annotated[float, Field(ge=0)]
    worst: Annotated[float, Field(ge=0)]
    worst_projection: Fact | None
    components: Count
    parameters: Count


class ExportRecord(Record):
    """dora_export.json. `files` maps a name to its bytes; components and parameters are of the factors as exported
    (padded) and live. `task` is None where that is not known, `layout` where there is none or an older export does not
    say, `compression` where none was asked for; the components and parameters in it are those before.
    """

    FILE: ClassVar[str] = "dora_export.json"

    schema_version: Literal[1]
    dora: Fact
    format: Literal["peft", "merged"]
    dtype: Name
    layout: Name | None = None
    task: Name | None
    method: Name
    step: Count
    frozen: bool
    components: Count
    live_components: Count
    adapter_parameters: Count
    live_parameters: Count
    head_parameters: Count
    compression: CompressionRecord | None = None
    probe: ProbeRecord
    files: Annotated[dict[Fact, Count], Field(max_length=FILES)]


class UnfinishedExportRecord(Record):
    """Stands for it in a folder where files still come and go; their sizes are not known."""

    FILE: ClassVar[str] = "dora_export.json"

    schema_version: Literal[1]
    unfinished: Literal[True]
    files: Annotated[dict[Fact, None], Field(max_length=FILES)]
