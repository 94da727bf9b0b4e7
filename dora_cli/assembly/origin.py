"""What is known of an adapted model beyond its tensors, kept on the model and written beside a saved adapter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from dora_cli.files import at_home
from dora_cli.methods import METHODS, Method
from dora_cli.methods.base import Site
from dora_cli.models import find_projections
from dora_cli.recipe.methods import MethodSection, arguments
from dora_cli.runs.folders import read_folder
from dora_cli.runs.records.adapter import ADAPTER_RECORD, AdapterRecord, BaseRecord
from dora_cli.runs.records.fields import validated

RECORD = ADAPTER_RECORD


def base_record(model: nn.Module, fingerprint: str) -> BaseRecord:
    """What there is to know again of the base model `model`, whose fingerprint was taken without its trained head."""
    config = getattr(model, "config", None)
    known = hasattr(config, "to_json_string")
    name = getattr(config, "_name_or_path", None) or None
    folder = at_home(name) if name else None
    return BaseRecord(
        name=str(folder.resolve()) if folder is not None and folder.is_dir() else name,
        revision=getattr(config, "_commit_hash", None),
        architecture=type(model).__name__,
        dtype=dtype_of(model),
        fingerprint=fingerprint,
        config=json.loads(config.to_json_string(use_diff=False)) if known else None,  # type: ignore[union-attr]
    )


def read_adapter_record(folder: Path) -> AdapterRecord:
    """adapter.json of `folder`; raises CheckpointError."""
    return validated(AdapterRecord, read_folder(folder, (RECORD,))[RECORD], folder / RECORD)


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
    """The method of a section of a resolved recipe."""
    return METHODS[section.name](**arguments(section))


def sites_of(model: nn.Module, section: MethodSection, method: Method) -> list[Site]:
    """What `method`, made of `section`, adapts in `model`; nothing for a method without targets.

    Raises:
        ProjectionError: the targets do not go with the model or the method.
    """
    targets: Sequence[str] = getattr(section, "targets", ())
    return find_projections(model, targets, method.takes) if targets else []


def with_targets(section: MethodSection, names: Sequence[str]) -> MethodSection:
    """`section` with these very projections as targets; unchanged for a method that adapts none."""
    return section.model_copy(update={"targets": tuple(names)}) if names else section


def dtype_of(model: nn.Module) -> str:
    """Name of the type of the first weights of `model`; empty if it has none."""
    return next((str(p.dtype).removeprefix("torch.") for p in model.parameters() if p.is_floating_point()), "")
