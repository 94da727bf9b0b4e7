"""From a recipe to an adapted model on its device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dora_cli.assembly.averaged import AveragedSteps
from dora_cli.assembly.fingerprint import fingerprint_model
from dora_cli.assembly.origin import make, sites_of
from dora_cli.assembly.references import weights_at
from dora_cli.data import PairLayout
from dora_cli.data.cuts import UNCUT, Cuts
from dora_cli.data.padding import pad_multiple
from dora_cli.errors import DoraError, ModelError
from dora_cli.libraries import is_panic
from dora_cli.machine.environment import ModelSize
from dora_cli.machine.memory import Trained, is_out_of_memory
from dora_cli.methods import Method, triton_obstacle
from dora_cli.methods.base import Schedule, Site
from dora_cli.methods.linear import trained_type
from dora_cli.models import LoadedModel, ModelUnreachableError, head_parameters
from dora_cli.models.source import of_reference
from dora_cli.recipe import Recipe
from dora_cli.tasks import Task


@dataclass(frozen=True)
class AdaptedModel:
    """A base model with a method attached.

    Attributes:
        model: on its device; frozen but for what the method trains and the head.
        projections: what is adapted, in model order; empty for methods that adapt nothing.
        head: the trained parameters of the head by their full name (fp32).
        layout: how texts stand in its input, where the task has to know.
        schedule: None if built for evaluation only.
        fingerprint: of the base model's tensors, before anything was attached.
        size: of the base model with its head, likewise.
        pad_multiple: what the widths of its batches are rounded up to, as `padded_width` says.
        cuts: how batches that it is trained on are cut.
    """

    model: nn.Module
    tokenizer: Any
    method: Method
    projections: Sequence[Site]
    head: dict[str, nn.Parameter]
    layout: PairLayout | None
    schedule: Schedule | None
    commit: str | None
    fingerprint: str
    size: ModelSize
    pad_multiple: int
    cuts: Cuts = UNCUT

    @property
    def start_parameters(self) -> int:
        """Entries that train at once at the most, the head included. May wait for the device."""
        return self.method.size().trained + sum(parameter.numel() for parameter in self.head.values())

    @property
    def trained(self) -> Trained:
        """The adapters beside the base model, as they are now."""
        adapters = sum(parameter.numel() for parameter in self.method.parameters())
        return Trained(adapters, self.size.parameters, self.size.bytes)

    @property
    def trainable(self) -> list[nn.Parameter]:
        return [parameter for group in self.method.groups() for parameter in group.parameters]


def make_method(recipe: Recipe) -> Method:
    """The method of a recipe with its settings."""
    return make(recipe.method)


def targets_of(recipe: Recipe) -> Sequence[str]:
    """The targets of a recipe; none for methods that adapt nothing."""
    return getattr(recipe.method, "targets", ())


def load_base(recipe: Recipe, task: Task) -> LoadedModel:
    """The base model of a recipe, with the head of `task`."""
    model = recipe.model
    with _one_message(model.name):
        return task.head.load(
            model.name,
            revision=model.revision,
            dtype=model.dtype,
            seed=recipe.train.seed,
            trust_remote_code=model.trust_remote_code,
        )


def _beside(recipe: Recipe, name: str) -> Recipe:
    """The recipe with another base model, which is loaded as its own is, but never with code of its own."""
    other = recipe.model.model_copy(update={"name": name, "revision": None, "trust_remote_code": False})
    return recipe.model_copy(update={"model": other})


def _reference_weights(recipe: Recipe, task: Task, sites: Sequence[Site], name: str) -> Mapping[str, torch.Tensor]:
    with of_reference(name):
        return weights_at(sites, load_base(_beside(recipe, name), task).model, name)


def check_references(recipe: Recipe, task: Task, method: Method, sites: Sequence[Site], *, here: bool = False) -> None:
    """Raises ModelError where other base models that the method names are not there or have other shapes, all in one
    message; from their configurations, before a weight is loaded.

    Args:
        here: pass over those that are out of reach.
    """
    problems = []
    for name in method.reference_models:
        try:
            with of_reference(name):
                weights_at(sites, base_from_config(_beside(recipe, name), task), name)
        except ModelUnreachableError as error:
            problems += [] if here else [str(error)]
        except ModelError as error:
            problems.append(str(error))
    if problems:
        raise ModelError("\n".join(problems))


@contextmanager
def _one_message(name: str) -> Iterator[None]:
    """Turns whatever the files of a model make the libraries raise into a ModelError; where memory is short, that is
    said elsewhere.
    """
    try:
        yield
    except DoraError:
        raise
    except BaseException as error:
        if is_out_of_memory(error) or not (isinstance(error, Exception) or is_panic(error)):
            raise
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason is given")
        raise ModelError(
            f"model.name: the files of {name!r} do not make a model that can be used ({type(error).__name__}: "
            f"{reason[:300]}); download or build the model again"
        ) from error


def base_fingerprint(base: LoadedModel) -> str:
    """The identity of a base model's tensors before a training; of a head that a seed has drawn it says nothing."""
    return fingerprint_model(base.model, leave_out=frozenset(head_parameters(base.model, base.fresh)))


def note_on_code(recipe: Recipe) -> str | None:
    """What whoever loads the base model of `recipe` must say first; None where no code of a stranger is run."""
    return (
        (f"model.trust_remote_code is on: code of {recipe.model.name} is run")
        if recipe.model.trust_remote_code
        else None
    )


def note_on_kernels(recipe: Recipe, device: torch.device) -> str | None:
    """Why adapters are computed slower on `device` than they could be; None where they are not."""
    obstacle = triton_obstacle() if device.type == "cuda" and targets_of(recipe) else None
    return obstacle and f"adapters are computed without Triton, which would be faster: {obstacle}"


def note_on_rank(method: Method, projections: Sequence[Site]) -> str | None:
    """Which projections start with more components than can be independent; None where none does.

    Not an error: ranks grow where they count, and a model with a few narrow projections may be given more than those
    can use.
    """
    ranks = method.start_ranks(projections)
    narrow = [projection for projection in projections if min(projection.shape) < ranks.get(projection.name, 0)]
    if not narrow:
        return None
    least = min(narrow, key=lambda projection: min(projection.shape))
    d_out, d_in = least.shape
    return (
        f"projections start with {ranks[least.name]:,} components, more than min(d_in, d_out) of {len(narrow):,} of "
        f"{len(projections):,} (least: {min(d_in, d_out):,} of {least.name}, {d_in:,} to {d_out:,}), where the rest "
        "adds nothing; lower their start rank"
    )


def base_from_config(recipe: Recipe, task: Task) -> nn.Module:
    """The model of `load_base` on the meta device: shapes without weights. Raises ModelUnreachableError."""
    model = recipe.model
    with _one_message(model.name):
        return task.head.from_config(model.name, revision=model.revision, trust_remote_code=model.trust_remote_code)


def check_early(recipe: Recipe, task: Task, method: Method, total_steps: int, *, fresh: bool) -> None:
    """Raises what `adapt` would, before a weight is loaded; silent where the model's shapes are out of reach."""
    try:
        model = base_from_config(recipe, task)
    except ModelError:
        return  # whoever loads it says what is wrong
    method.check(model, list(head_parameters(model).values()))
    sites = sites_of(model, recipe.method, method)
    AveragedSteps.of(recipe.train.average_last, method.plan(total_steps, sites), method.name)
    if fresh:
        check_references(recipe, task, method, sites)


def put_on(
    model: nn.Module,
    method: Method,
    sites: Sequence[Site],
    schedule: Schedule | None,
    head: Mapping[str, nn.Parameter],
    *,
    seed: int,
    references: Sequence[Mapping[str, torch.Tensor]] = (),
    fresh: bool = True,
) -> None:
    """Attaches `method` to `sites` of `model` in place, so that exactly what is the method's and `head` train."""
    model.requires_grad_(False)
    for parameter in head.values():
        parameter.data = parameter.data.to(trained_type(parameter.dtype))
        parameter.requires_grad_(True)
    method.attach(model, sites, list(head.values()), schedule, seed=seed, references=references, fresh=fresh)


def adapt(
    recipe: Recipe,
    task: Task,
    base: LoadedModel,
    method: Method,
    device: torch.device,
    *,
    total_steps: int | None,
    fresh: bool = False,
) -> AdaptedModel:
    """Attaches `method` to the recipe's targets in `base`, freezes the rest and moves everything to `device`.

    Args:
        total_steps: length of the run; None to build for evaluation only.
        fresh: whether a training begins; else the method will be loaded into, and asks for no other models.

    Raises:
        ModelError, BudgetError, ProjectionError: the method does not fit the model or the run's length.
    """
    model = base.model
    head = head_parameters(model, base.fresh)
    method.check(model, list(head.values()))
    projections = sites_of(model, recipe.method, method)
    schedule = None if total_steps is None else method.plan(total_steps, projections)
    fingerprint = base_fingerprint(base)
    size = ModelSize.of(model, head.values())
    names = method.reference_models if fresh else ()
    references = [_reference_weights(recipe, task, projections, name) for name in names]
    model.to(device)
    put_on(model, method, projections, schedule, head, seed=recipe.train.seed, references=references, fresh=fresh)
    return AdaptedModel(
        model,
        base.tokenizer,
        method,
        projections,
        head,
        task.layout(base),
        schedule,
        base.commit,
        fingerprint,
        size,
        pad_multiple(device.type),
    )
