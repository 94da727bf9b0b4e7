"""What was trained, on a model that the user has loaded: from a run, or from what `save_adapter` wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dora_cli.assembly.build import load_base
from dora_cli.assembly.fingerprint import fingerprint_model
from dora_cli.assembly.origin import RECORD, Origin, base_record, make, read_adapter_record, with_targets
from dora_cli.assembly.resolve import resolve
from dora_cli.assembly.restore import SavedRun, hint_where, read_recipe
from dora_cli.assembly.weights import Weights, load_weights
from dora_cli.errors import CheckpointError, ProjectionError
from dora_cli.library.own_loop import refuse_unsuitable
from dora_cli.methods import Method
from dora_cli.methods.attached import lora_of, mark
from dora_cli.methods.base import LoraFactors
from dora_cli.models import find_projections, head_parameters
from dora_cli.recipe import Recipe, load_recipe
from dora_cli.recipe.schema import MethodSection
from dora_cli.runs.records.adapter import BaseRecord
from dora_cli.runs.run_folder import RunRecords

_WHOSE = {False: "the run", True: "the adapter"}


def load_adapter(path: str | Path, model: nn.Module, *, allow_unfrozen: bool = False) -> Method:
    """Puts the adapters and the head of a run, or those that `save_adapter` wrote, on `model`, in place.

    Afterwards the adapters and the head may train and the rest is frozen; the model stays in the mode and on the device
    it was. Adapters are fp32 and convert by themselves; a head takes the model's own type.

    Args:
        path: run folder (its selected adapter), or one checkpoint of it; or a folder that `save_adapter` wrote.
        model: the base model of the run with the head for its task, such as
            ``AutoModelForSequenceClassification.from_pretrained(NAME, num_labels=2)``, in the type of the run's
            ``model.dtype``. What is in its head does not matter. A decoder's classification also needs the
            ``pad_token_id`` of the tokenizer in its config.
        allow_unfrozen: take weights from before the freeze too, with all their components.

    Returns:
        The method: `folded`, `to_lora`, `allocation` and so on. `dora_cli.merge` makes the model plain.

    Raises:
        CheckpointError: the run is damaged or its ranks are not final, or `model` does not fit it; names the first
            difference. The model is then as it was.
        ModelError: the model carries an adapter already, or is quantised.
    """
    path = Path(path)
    if (path / RECORD).is_file():
        return _load(_Source.saved(path), model, allow_unfrozen)
    run = SavedRun.at(path, flag="")
    recipe, _ = resolve(load_recipe(RunRecords(run.folder).recipe))
    return _load(_Source.run(run, recipe), model, allow_unfrozen)


def to_lora(
    model_or_path: nn.Module | str | Path, *, overrides: Sequence[str] = (), allow_unfrozen: bool = False
) -> dict[str, LoraFactors]:
    """Plain LoRA factors by the full name of their projection: ``B @ A`` is the update of its weight, scale 1, fp32 on
    the CPU.

    Projections without components are left out.

    Args:
        model_or_path: a model that `attach` or `load_adapter` adapted; or a run folder or one checkpoint of it, whose
            base model is then loaded.
        overrides: of a path: ``key=value`` changes, such as where the base model is.
        allow_unfrozen: of a path: take weights from before the freeze too.

    Raises:
        ModelError: the model carries no adapter, or the base model cannot be loaded.
        CheckpointError: the run is damaged or its ranks are not final.
    """
    if isinstance(model_or_path, nn.Module):
        return lora_of(model_or_path)
    run = SavedRun.at(Path(model_or_path), flag="")
    recipe, task = resolve(read_recipe(run, overrides))
    with hint_where(run, recipe):
        base = load_base(recipe, task)
    return _load(_Source.run(run, recipe), base.model, allow_unfrozen).to_lora()


@dataclass(frozen=True)
class _Source:
    """Weights, and what is known of how they came about.

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
    def run(cls, run: SavedRun, recipe: Recipe) -> _Source:
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
    def saved(cls, folder: Path) -> _Source:
        record, weights = read_adapter_record(folder), load_weights(folder)
        base = record.base
        return cls(folder, weights, record.method, True, base.name, base.revision, base.dtype, base.fingerprint)

    @property
    def targets(self) -> Sequence[str]:
        """None for a method that adapts nothing."""
        return getattr(self.settings, "targets", ())


def _load(source: _Source, model: nn.Module, allow_unfrozen: bool) -> Method:
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
        projections = _projections(model, source)
        model.requires_grad_(False)
        with torch.random.fork_rng(devices=list({p.device for p in model.parameters() if p.device.type == "cuda"})):
            method.attach(model, projections)  # draws factors, which the next line replaces
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
    settings = with_targets(source.settings, list(projections))
    mark(model, method, Origin(settings, base, tuple(head), weights.state["step"], weights.state["phase"]))
    return method


def _projections(model: nn.Module, source: _Source) -> dict[str, nn.Module]:
    """What is adapted in `model`, by full name; raises CheckpointError if it is not what was adapted."""
    if not source.targets:
        return {}
    try:
        found = {p.name: p.module for p in find_projections(model, source.targets)}
    except ProjectionError as error:
        raise CheckpointError(f"this model is not the one {_WHOSE[source.exact]} adapted: {error}") from error
    if source.exact and (other := sorted(found.keys() ^ set(source.targets))):
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


def _other_base(source: _Source, found: BaseRecord) -> str:
    at = f" at revision {source.revision}" if source.revision else ""
    return (
        f"this model is not the one {_WHOSE[source.exact]} was trained on (fingerprint {found.fingerprint[:12]}, not "
        f"{source.fingerprint[:12]}); load {source.name or 'that one'}{at}, unchanged"
    )


@contextmanager
def _unchanged_on_error(model: nn.Module) -> Iterator[None]:
    """Puts every module of `model` back, and what trains, if something fails inside."""
    modules = {module: dict(module._modules) for module in model.modules()}
    training = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        yield
    except BaseException:
        for module, children in modules.items():
            module._modules.update(children)
        for parameter, trains in training.items():
            parameter.requires_grad_(trains)
        raise
