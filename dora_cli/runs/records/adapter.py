"""adapter.json in a folder of `save_adapter`: the method with its settings, and the base model."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from dora_cli.recipe.methods import MethodSection
from dora_cli.runs.records.fields import Fact, Record

ADAPTER_RECORD = "adapter.json"


class BaseRecord(Record):
    """The base model an adapter belongs to.

    Attributes:
        name: hub id or folder it was loaded from; None if that is not known.
        revision: commit of a hub model.
        architecture: name of its class.
        dtype: of its weights.
        fingerprint: see `dora_cli.assembly.fingerprint`; of everything but the trained head.
        config: its transformers configuration; None if it has none.
    """

    name: Fact | None
    revision: Fact | None
    architecture: Fact
    dtype: Fact
    fingerprint: Fact
    config: dict[str, Any] | None


class AdapterRecord(Record):
    """adapter.json."""

    FILE: ClassVar[str] = ADAPTER_RECORD

    schema_version: Literal[1]
    method: MethodSection
    base: BaseRecord
