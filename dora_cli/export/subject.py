"""What is exported, wherever it comes from: a run, or an adapter that `save_adapter` wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dora_cli.assembly.adapter import AdapterSource, load_onto
from dora_cli.assembly.origin import read_adapter_record
from dora_cli.assembly.weights import load_weights
from dora_cli.errors import ExportError, RecipeError
from dora_cli.export.card import Written, adapter_card
from dora_cli.export.probe import probe_batch
from dora_cli.files import at_home
from dora_cli.methods import Method
from dora_cli.methods.base import Site
from dora_cli.models.family import auto_class_of
from dora_cli.models.loading import DTYPES, load_checkpoint
from dora_cli.models.source import BUILTIN_PREFIX, find_source
from dora_cli.recipe.changes import keys_of
from dora_cli.recipe.effects import Effect
from dora_cli.recipe.overrides import parse_override
from dora_cli.runs.records.adapter import BaseRecord

_CHANGEABLE = tuple(key for key in keys_of(Effect.PLACE, Effect.SOURCE) if key.startswith("model."))


@dataclass(frozen=True)
class Subject:
    """A model with its adapter, and what an export must know of them.

    Attributes:
        model: with the method attached, on the CPU.
        head: its trained parameters outside the adapters.
        place: the weights, in words.
        state: where they were taken, as state.json holds it.
        base: what loads the base model, a hub id or a folder; with `revision`, the commit of a hub model.
        dtype: of the base model.
        auto_class: the transformers class that loads the model.
        task: its name; None where that is not known.
        dropout: on the adapters' input.
        batch: what the export is tried on.
        autocast: of the precision in which the model computes.
        generation: how an exported generator decodes; None for what the model has.
        card: the model card, from what was written.
    """

    model: nn.Module
    tokenizer: Any
    method: Method
    projections: Sequence[Site]
    head: Mapping[str, nn.Parameter]
    place: str
    state: Mapping[str, Any]
    base: str
    revision: str | None
    dtype: str
    auto_class: str
    task: str | None
    dropout: float
    trust_remote_code: bool
    batch: dict[str, torch.Tensor]
    autocast: Callable[[], AbstractContextManager[Any]]
    generation: Any | None
    card: Callable[[Written], str]


def saved_subject(folder: Path, overrides: Sequence[str]) -> Subject:
    """An adapter that `save_adapter` wrote, on its base model, which is loaded.

    Args:
        folder: what `save_adapter` wrote.
        overrides: ``model.name=...`` and ``model.revision=...``, where the base model is now.

    Raises:
        DoraError: it is damaged, or its base model cannot be found or is another one.
    """
    record, weights = read_adapter_record(folder), load_weights(folder)
    base, changes = record.base, _changes(overrides)
    name = changes.get("model.name", base.name)
    revision = changes.get("model.revision", None if "model.name" in changes else base.revision)
    if name is None:
        raise ExportError(
            f"{folder} does not say where its base model is; say so with --set model.name=DIR, a folder "
            "of save_pretrained"
        )
    chosen = _choose(base, folder)
    loaded = load_checkpoint(
        name, revision=revision, dtype=base.dtype, seed=0, trust_remote_code=False, choose=lambda source: chosen
    )
    model = loaded.model.eval()
    auto_class = auto_class_of(model)
    if auto_class is None:
        raise ExportError(
            f"{folder} belongs to a {base.architecture}, which neither classifies texts nor generates them; in Python "
            "dora_cli.load_adapter puts it on that model and dora_cli.merge makes it plain"
        )
    method = load_onto(AdapterSource.saved(folder), model, allow_unfrozen=True)  # whether it may be is asked elsewhere
    parameters = dict(model.named_parameters())
    start = getattr(model.config, "decoder_start_token_id", None) if auto_class == "AutoModelForSeq2SeqLM" else None
    labels = int(model.config.num_labels) if auto_class == "AutoModelForSequenceClassification" else None  # type: ignore[union-attr, arg-type]

    def card(written: Written) -> str:
        return adapter_card(written, record.method, place_of(name), base.architecture, labels)

    return Subject(
        model=model,
        tokenizer=loaded.tokenizer,
        method=method,
        projections=method.sites,
        head={head: parameters[head] for head in weights.head},
        place=str(folder),
        state=weights.state,
        base=place_of(name),
        revision=loaded.commit,
        dtype=base.dtype,
        auto_class=auto_class,
        task=None,
        dropout=float(getattr(record.method, "dropout", 0.0)),
        trust_remote_code=False,
        batch=probe_batch(model, loaded.tokenizer, () if start is None else (start,)),
        autocast=nullcontext,
        generation=None,
        card=card,
    )


def place_of(name: str) -> str:
    """What loads the base model `name`: a hub id, or the folder it is in."""
    if name.startswith(BUILTIN_PREFIX):
        return find_source(name).location
    folder = at_home(name)
    return str(folder.resolve()) if folder.is_dir() else name


def _changes(overrides: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in overrides:
        override = parse_override(text)
        if isinstance(override, str):
            raise RecipeError(override)
        key = ".".join(map(str, override.path))
        if key not in _CHANGEABLE:
            raise RecipeError(
                f"--set {key}: the export of a saved adapter can change {' and '.join(_CHANGEABLE)}, "
                "where its base model is"
            )
        found[key] = str(override.value)
    return found


def _choose(base: BaseRecord, folder: Path) -> tuple[Any, Any]:
    """The class of the base model and its configuration as they were; classes of transformers alone, whatever a
    stranger's file says.
    """
    import transformers

    known = getattr(transformers, base.architecture, None)
    if base.config is None or not (isinstance(known, type) and issubclass(known, transformers.PreTrainedModel)):
        raise ExportError(
            f"{folder} belongs to a {base.architecture}, which is no model class of transformers; in Python "
            "dora_cli.load_adapter puts it on that model and dora_cli.merge makes it plain"
        )
    if base.dtype not in DTYPES:
        raise ExportError(
            f"{folder} belongs to a model in {base.dtype}; an export is made of {', '.join(DTYPES)}; use "
            "dora_cli.merge in Python"
        )
    content = {key: value for key, value in base.config.items() if key not in ("quantization_config", "auto_map")}
    try:
        return known, known.config_class.from_dict(content)  # type: ignore[attr-defined]
    except Exception as error:  # a stranger's numbers fail anywhere below
        raise ExportError(
            f"the configuration in {folder} is none of a {base.architecture}: {str(error)[:200]}"
        ) from error
