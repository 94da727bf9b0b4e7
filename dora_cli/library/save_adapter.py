"""What a model carries, in a folder: the counterpart of `load_adapter`.

Beside the weights of a run's adapter and their manifest lies what PEFT reads, so that one folder serves
``load_adapter``, ``dora export`` and ``PeftModel.from_pretrained``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from dora_cli.assembly.origin import RECORD, Origin
from dora_cli.assembly.weights import Weights, not_finite
from dora_cli.errors import CheckpointError, ExportError, ModelError, OutputError
from dora_cli.export import peft
from dora_cli.export.card import TASK_TYPES
from dora_cli.export.factors import balance
from dora_cli.files import at_home
from dora_cli.methods import Method
from dora_cli.methods.attached import attached, origin_of
from dora_cli.methods.linear import swap_modules
from dora_cli.models.family import auto_class_of
from dora_cli.runs.checkpoints import ADAPTER, HEAD, STATE
from dora_cli.runs.folders import MANIFEST, Part, recover, write_folder


def save_adapter(
    model: nn.Module, folder: str | Path, *, allow_unfrozen: bool = False, overwrite: bool = False
) -> None:
    """Writes the adapters and the trained head of `model`, and nothing of its base, into `folder`.

    `load_adapter` puts them on the same base model again, bit for bit; ``dora export --checkpoint`` makes a merged
    model of them, or an adapter with other types and ranks; and ``PeftModel.from_pretrained(base, folder)`` loads them
    as plain LoRA. A warning says why where PEFT cannot have them. The folder is whole or not there. What the base's
    checkpoint did not fill and `attach` was not told of as `fresh` is neither trained nor saved: no model is then the
    same base again.

    Args:
        model: what `attach` or `load_adapter` adapted, in any phase and on any device; it is not changed.
        allow_unfrozen: save before the freeze too, with all start components.
        overwrite: whether an adapter that is already in `folder` may be replaced. Nothing else ever is.

    Raises:
        ModelError: the model carries no adapter, or one with values that are not finite.
        CheckpointError: its ranks are not final.
        OutputError: the folder must not or cannot be written.
    """
    if not attached(model).frozen and not allow_unfrozen:
        raise CheckpointError(
            "the ranks of this model are not final: the freeze is still to come; save it later, or pass "
            "allow_unfrozen=True to save all start components"
        )
    write_adapter(model, Path(folder), for_peft=True, overwrite=overwrite)


def write_adapter(model: nn.Module, folder: Path, *, for_peft: bool, overwrite: bool) -> None:
    """Does what `save_adapter` does, in any phase; `for_peft` if PEFT is to load it as well."""
    method, origin = attached(model), origin_of(model)
    assert isinstance(origin, Origin), "attach and load_adapter say where a model comes from"
    parameters = dict(model.named_parameters())
    head = {name: parameters[name] for name in origin.head}
    weights = Weights.of(method.state_dict(), head, _state(method, origin))
    if bad := not_finite({**weights.adapter, **weights.head}):
        raise ModelError(
            f"values are not finite (NaN or infinite) in {bad}: the training diverged; nothing is written to {folder}"
        )
    parts: dict[str, Part] = {**weights.parts, RECORD: origin.record()}
    if for_peft:
        try:
            parts |= _for_peft(model, method, origin)
        except ExportError as error:
            warnings.warn(f"{folder} is not written for PEFT: {error}", stacklevel=3)
    place = at_home(folder).resolve()
    recover(place)
    _check_place(folder, place, overwrite=overwrite)
    write_folder(place, parts, then="save again")


def _state(method: Method, origin: Origin) -> dict[str, object]:
    schedule, step = getattr(method, "schedule", None), getattr(method, "last_step", None)
    made = origin.step if step is None else step
    return {
        "schema_version": 1,
        "method": method.name,
        "step": made,
        "epoch": 0,
        "phase": schedule.phase(made) if schedule is not None and made else origin.phase,
        "frozen": method.frozen,
        "metrics": None,
    }


def _for_peft(model: nn.Module, method: Method, origin: Origin) -> dict[str, Part]:
    """The files PEFT reads; raises ExportError where it could not."""
    if (plain := method.to_lora()) is None:
        raise peft.no_lora(method)
    factors = {name: balance(one) for name, one in plain.items()}
    auto_class = auto_class_of(model)
    kind = TASK_TYPES[auto_class][0] if auto_class else None
    with _plain(model, method):
        saved = peft.head_modules(model, origin.head)
        config = peft.adapter_config(
            model,
            factors,
            saved,
            # PEFT looks for the head of a classifier in the file by itself
            task_type=None if kind == "SEQ_CLS" and not saved else kind,
            base=origin.base.name,
            revision=origin.base.revision,
            dropout=float(getattr(origin.method, "dropout", 0.0)),
        )
        return {peft.WEIGHTS: peft.adapter_tensors(model, factors, saved, torch.float32), peft.CONFIG: config}


@contextmanager
def _plain(model: nn.Module, method: Method) -> Iterator[None]:
    """Inside, the base's own projections are in their places."""
    there = {model.get_submodule(site.name): site.module for site in method.sites}
    layers = {layer: base for layer, base in there.items() if layer is not base}
    swap_modules(model, layers)
    try:
        yield
    finally:
        swap_modules(model, {base: layer for layer, base in layers.items()})


def _check_place(folder: Path, place: Path, *, overwrite: bool) -> None:
    """Refuses a place that holds anything but what `save_adapter` wrote."""
    if place.exists() and not place.is_dir():
        raise OutputError(f"{folder} is a file; name a folder")
    held = {path.name for path in place.iterdir()} if place.is_dir() else set()
    foreign = sorted(held - {*_FILES, MANIFEST})
    if held and (RECORD not in held or foreign):
        what = (
            (f"holds {foreign[0]}, which is no part of an adapter")
            if foreign
            else "is not empty and holds no adapter of save_adapter"
        )
        raise OutputError(f"{folder} {what}, so nothing is written there; name another folder")
    if held and not overwrite:
        raise OutputError(
            f"{folder} holds an adapter already; name another folder, or pass overwrite=True to replace it"
        )


_FILES = (ADAPTER, HEAD, STATE, RECORD, peft.WEIGHTS, peft.CONFIG)
