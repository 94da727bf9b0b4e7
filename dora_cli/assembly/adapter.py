"""A trained adapter put on a base model that is already loaded, after a look whether the two belong together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dora_cli.assembly.fingerprint import fingerprint_model
from dora_cli.assembly.origin import Origin, base_record, make, read_adapter_record, sites_of, with_targets
from dora_cli.assembly.restore import SavedRun
from dora_cli.assembly.weights import Weights, load_weights
from dora_cli.errors import CheckpointError, ModelError, ProjectionError
from dora_cli.methods import Method
from dora_cli.methods.attached import carried, mark
from dora_cli.methods.base import Site
from dora_cli.models import head_parameters
from dora_cli.recipe import Recipe
from dora_cli.recipe.methods import MethodSection
from dora_cli.runs.records.adapter import BaseRecord

_WHOSE = {False: "the run", True: "the adapter"}


@dataclass(frozen=True)
class AdapterSource:
    """The weights of an adapter, and what is known of how they came about.

    Attributes:
        place: the folder they are in.
        settings: of the method.
        exact: whether the targets in them are the full names of the projections, and the head is all that trained
            beside these.
        name, revision, dtype, fingerprint: of the base model.
    """

    place: Path
    weights: Weights
    settings: MethodSection
    exact: bool
    name: str | None
    revision: str | None
    dtype: str
    fingerprint: str

    @classmethod
    def run(cls, run: SavedRun, recipe: Recipe) -> AdapterSource:
        base = recipe.model
        return cls(
            run.weights,
            run.read_weights(),
            recipe.method,
            False,
            base.name,
            base.revision,
            base.dtype,
            run.base_fingerprint(),
        )

    @classmethod
    def saved(cls, folder: Path) -> AdapterSource:
        record, weights = read_adapter_record(folder), load_weights(folder)
        base = record.base
        return cls(folder, weights, record.method, True, base.name, base.revision, base.dtype, base.fingerprint)


def load_onto(source: AdapterSource, model: nn.Module, *, allow_unfrozen: bool) -> Method:
    """Puts the adapter of `source` on `model`, in place; the model is as it was if anything is refused.

    Args:
        source: the weights.
        model: the base model they belong to.
        allow_unfrozen: take weights from before the freeze too, with all their components.

    Raises:
        CheckpointError: the adapter does not fit the model, or its ranks are not final.
        ModelError: the model carries an adapter already, or is quantised.
    """
    refuse_unsuitable(model)
    weights, method = source.weights, make(source.settings)
    base = base_record(model, fingerprint_model(model, leave_out=frozenset(weights.head)))
    head = _fitting_head(model, weights, whole=not source.exact)
    if base.dtype != source.dtype:
        whose = _WHOSE[source.exact]
        raise CheckpointError(
            f"this model is {base.dtype}, {whose}'s base was {source.dtype}; load it with dtype=torch.{source.dtype}"
        )
    with _unchanged_on_error(model):
        projections, own = _projections(model, source, method), list(model.parameters())
        model.requires_grad_(False)
        method.attach(model, projections, list(head.values()), fresh=False)
        if base.fingerprint != source.fingerprint and any(parameter.requires_grad for parameter in own):
            raise CheckpointError(_other_base(source, base))  # loading would write into the model itself
        weights.restore_method(method)
        if base.fingerprint != source.fingerprint:
            raise CheckpointError(_other_base(source, base))
        if not method.frozen and not allow_unfrozen:
            raise CheckpointError(
                f"{source.place} is from before the freeze (step {weights.state['step']}): its ranks are not final; "
                "use a later checkpoint, or allow_unfrozen=True to take all components"
            )
        for name, parameter in head.items():
            with torch.no_grad():
                parameter.copy_(weights.head[name])
            parameter.requires_grad_(True)
    settings = with_targets(source.settings, [site.name for site in projections])
    mark(model, method, Origin(settings, base, tuple(head), weights.state["step"], weights.state["phase"]))
    return method


def _projections(model: nn.Module, source: AdapterSource, method: Method) -> list[Site]:
    """What is adapted in `model`; raises CheckpointError if it is not what was adapted."""
    try:
        found = sites_of(model, source.settings, method)
    except ProjectionError as error:
        raise CheckpointError(f"this model is not the one {_WHOSE[source.exact]} adapted: {error}") from error
    targets = getattr(source.settings, "targets", ())
    if source.exact and (other := sorted({site.name for site in found} ^ set(targets))):
        raise CheckpointError(
            f"this model is not the one {_WHOSE[True]} adapted: {other[0]} is a projection of one of them alone"
        )
    return found


def _fitting_head(model: nn.Module, weights: Weights, *, whole: bool) -> Mapping[str, nn.Parameter]:
    """The parameters of `model` that the saved head goes to; `whole` if that must be all of its head."""
    parameters = dict(model.named_parameters())
    for name, saved in sorted(weights.head.items()):
        if name not in parameters:
            raise CheckpointError(
                f"head tensor {name} is in the checkpoint but not in this {type(model).__name__}; load the base model "
                "of the run with the head for its task"
            )
        if saved.shape != parameters[name].shape:
            raise CheckpointError(
                f"head tensor {name} is {tuple(saved.shape)} in the checkpoint and {tuple(parameters[name].shape)} in "
                f"this {type(model).__name__}; load the model with the num_labels of the run's task"
            )
    for name in sorted(head_parameters(model).keys() - weights.head.keys()) if whole else ():
        raise CheckpointError(
            f"head tensor {name} of this {type(model).__name__} is missing from the checkpoint; load the base model "
            "of the run with the head for its task"
        )
    return {name: parameters[name] for name in weights.head}


def _other_base(source: AdapterSource, found: BaseRecord) -> str:
    at = f" at revision {source.revision}" if source.revision else ""
    return (
        f"this model is not the one {_WHOSE[source.exact]} was trained on (fingerprint {found.fingerprint[:12]}, not "
        f"{source.fingerprint[:12]}); load {source.name or 'that one'}{at}, unchanged"
    )


@contextmanager
def _unchanged_on_error(model: nn.Module) -> Iterator[None]:
    """Puts every module of `model` back, with its parameters, and what trains, if something fails inside."""
    modules = {module: (dict(module._modules), dict(module._parameters)) for module in model.modules()}
    training = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        yield
    except BaseException:
        for module, (children, own) in modules.items():
            module._modules.update(children)
            module._parameters.update(own)  # norms that train are given copies
        for parameter, trains in training.items():
            parameter.requires_grad_(trains)
        raise


def refuse_unsuitable(model: nn.Module) -> None:
    """Raises ModelError for a model that is adapted already, or whose weights are quantised."""
    if carried(model) is not None:
        raise ModelError(
            f"this {type(model).__name__} carries an adapter of dora already; dora_cli.merge it, or load "
            "the base model anew"
        )
    if getattr(model, "is_quantized", False) or getattr(getattr(model, "config", None), "quantization_config", None):
        raise ModelError(
            f"this {type(model).__name__} holds quantised weights, which cannot be adapted; load it "
            "without quantisation"
        )
