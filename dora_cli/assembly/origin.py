"""What is known of an adapted model beyond its tensors, kept on the model and written beside a saved adapter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict
from torch import nn

from dora_cli.files import at_home
from dora_cli.methods import METHODS, Method
from dora_cli.recipe.schema import MethodSection
from dora_cli.runs.folders import read_folder
from dora_cli.runs.records import validated

RECORD = "adapter.json"
"""In a folder of `save_adapter`: the method with its settings, and the base model."""


class _Record(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class BaseRecord(_Record):
    """The base model an adapter belongs to.

    Attributes:
        name: hub id or folder it was loaded from; None if that is not known.
        revision: commit of a hub model.
        architecture: name of its class.
        dtype: of its weights.
        fingerprint: see `fingerprint_model`; of everything but the trained head.
        config: its transformers configuration; None if it has none.
    """

    name: str | None
    revision: str | None
    architecture: str
    dtype: str
    fingerprint: str
    config: dict[str, Any] | None

    @classmethod
    def of(cls, model: nn.Module, fingerprint: str) -> BaseRecord:
        config = getattr(model, "config", None)
        known = hasattr(config, "to_json_string")
        name = getattr(config, "_name_or_path", None) or None
        folder = at_home(name) if name else None
        return cls(
            name=str(folder.resolve()) if folder is not None and folder.is_dir() else name,
            revision=getattr(config, "_commit_hash", None),
            architecture=type(model).__name__,
            dtype=dtype_of(model),
            fingerprint=fingerprint,
            config=json.loads(config.to_json_string(use_diff=False)) if known else None,  # type: ignore[union-attr]
        )


class AdapterRecord(_Record):
    """adapter.json."""

    schema_version: Literal[1]
    method: MethodSection
    base: BaseRecord

    @classmethod
    def read(cls, folder: Path) -> AdapterRecord:
        """That of `folder`; raises CheckpointError."""
        return validated(cls, read_folder(folder, (RECORD,))[RECORD], folder / RECORD)


@dataclass(frozen=True)
class Origin:
    """How a model came to its adapter.

    Attributes:
        method: the settings; its targets are the full names of the projections.
        base: the model before.
        head: full names of the trained parameters outside the adapters.
        step: optimiser steps the weights had made when they were loaded; 0 where nothing was.
        phase: theirs, likewise.
    """

    method: MethodSection
    base: BaseRecord
    head: tuple[str, ...]
    step: int = 0
    phase: str = "start"

    def record(self) -> dict[str, Any]:
        """What adapter.json holds."""
        return AdapterRecord(schema_version=1, method=self.method, base=self.base).model_dump(mode="json")


def make(section: MethodSection) -> Method:
    """The method of a recipe's section; its keys are the method's arguments."""
    return METHODS[section.name](**section.model_dump(exclude={"name", "targets"}))


def with_targets(section: MethodSection, names: Sequence[str]) -> MethodSection:
    """`section` with these very projections as targets; unchanged for a method that adapts none."""
    return section.model_copy(update={"targets": tuple(names)}) if names else section


def dtype_of(model: nn.Module) -> str:
    """Name of the type of the first weights of `model`; empty if it has none."""
    return next((str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.is_floating_point()), "")
