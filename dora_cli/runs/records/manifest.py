"""manifest.json: the files of a folder that is written as a whole."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from dora_cli.runs.records.fields import Count, Digest, Fact, Record


class FileRecord(Record):
    """A file as it was written."""

    bytes: Count
    sha256: Digest


class ManifestRecord(Record):
    """manifest.json: the files beside it, by name."""

    FILE: ClassVar[str] = "manifest.json"

    schema_version: Literal[1]
    files: Annotated[dict[Fact, FileRecord], Field(max_length=100)]
