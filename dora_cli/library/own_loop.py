"""DoRA in a training loop of the user's own."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Sequence
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from dora_cli.assembly.adapter import refuse_unsuitable
from dora_cli.assembly.build import put_on
from dora_cli.assembly.fingerprint import fingerprint_model
from dora_cli.assembly.origin import Origin, base_record, make, with_targets
from dora_cli.errors import ModelError, RecipeError
from dora_cli.library.watch import Watch
from dora_cli.methods import Dora
from dora_cli.methods.attached import mark
from dora_cli.methods.base import StepReport
from dora_cli.models import find_projections, head_parameters, left_out
from dora_cli.recipe.methods import rules_of
from dora_cli.recipe.methods.dora import DoraMethod
from dora_cli.recipe.problems import dotted, error_path, explain
from dora_cli.recipe.rules import broken_rules
from dora_cli.training import optimizer as optimizers

WARN_AFTER = 500
"""Training passes without `after_step` that are no accident any more: far more micro-batches than one optimiser step
has.
"""


def attach(
    model: nn.Module,
    *,
    rank: int = 8,
    total_steps: int,
    targets: Sequence[str] = ("attention", "ffn"),
    head: bool = True,
    fresh: Collection[str] = (),
    warn_after: int | None = WARN_AFTER,
    seed: int | None = None,
    **settings: Any,
) -> Dora:
    """Adapts `model` in place, so that exactly the adapters and the head train (``requires_grad``).

    After every backward pass of an optimiser step, `step` counting from 1::

        method.adjust_gradients()            # before clipping
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        dora_cli.shrink(optimizer, method.after_step(step))
        optimizer.zero_grad()

    What trains is fp32, or float64 in a float64 model: a
    half-precision model needs `torch.autocast` around its forward pass.

    Args:
        model: a transformer of blocks, on its device.
        rank: mean final rank of a projection.
        total_steps: optimiser steps of the whole training; warm-up, pruning and final phase are shares of it.
        targets: ``"attention"``, ``"ffn"`` or glob patterns of projections; a warning says what the two leave out of
            state-space mixers.
        head: whether what lies outside the base model (a classifier) trains too; a language-modelling head never does.
        fresh: names of parameters that the checkpoint did not fill, if they are in the base model, such as a new
            pooler's; their modules train with the head. ``from_pretrained(..., output_loading_info=True)`` lists them
            as ``missing_keys``.
        warn_after: training passes without a call of `after_step` after which a warning is given; None for never.
        seed: what the factors and the noise of `flatness` are drawn from, the same in all processes; None draws one
            from torch's global generator.
        settings: the other keys of a recipe's ``method`` section, such as `start_rank`, `alpha` and `dropout`.

    Raises:
        RecipeError: a setting that is unknown or out of bounds, or settings that do not go together.
        BudgetError: the budget does not fit `total_steps`.
        ModelError: the model cannot be adapted, or is already.
    """
    section = _section(rank, targets, settings)
    method = make(section)
    if warn_after is not None and warn_after < 1:
        raise RecipeError(f"warn_after is {warn_after}; it must be at least 1, or None for no warning")
    refuse_unsuitable(model)
    projections = find_projections(model, targets, method.takes)
    assert isinstance(method, Dora)
    schedule = method.plan(total_steps, projections)
    unknown = set(fresh) - {name for name, _ in model.named_parameters()}
    if unknown:
        raise ModelError(f"fresh names {min(unknown)}, which is no parameter of this {type(model).__name__}")
    heads = head_parameters(model, fresh) if head else {}
    base = base_record(model, fingerprint_model(model, leave_out=frozenset(heads)))
    if seed is None:
        seed = int(torch.randint(2**63 - 1, ()))
    put_on(model, method, projections, schedule, heads, seed=seed)
    mark(model, method, Origin(with_targets(section, [p.name for p in projections]), base, tuple(heads)))
    if note := left_out(model, targets):
        warnings.warn(note, stacklevel=2)
    if warn_after is not None:
        model.register_forward_pre_hook(Watch(method, warn_after))
    return method


_OF_A_RUN: dict[str, tuple[object, ...]] = {
    "guard": (True,),
    "score": ("output", "taylor", "fisher", "kfac"),
    "rotate": ("input",),
    "refit": (True,),
    "start": ("gradient", "inputs"),
}
"""Settings of DoRA that a loop of the user's own cannot serve."""


def shrink(optimizer: torch.optim.Optimizer, report: StepReport) -> None:
    """Puts the parameters that shrank at this step in the place of the old ones in `optimizer`, and slices their
    moments alike.

    Does nothing at a step at which nothing shrank, so it may follow every step. Also for optimisers that Accelerate
    wraps.
    """
    optimizers.mix(optimizer, report.mixed)
    if report.replaced:
        optimizers.replace(optimizer, report.replaced)


def _section(rank: int, targets: Sequence[str], settings: dict[str, Any]) -> DoraMethod:
    # the score of the published method needs nothing that only a run has at hand
    keys: dict[str, Any] = {"rank": rank, "targets": tuple(targets), "score": "published", **settings}
    for key, values in _OF_A_RUN.items():
        if settings.get(key) in values:
            raise RecipeError(
                f"method.{key} {settings[key]} needs what only a run of a recipe has at hand (its examples, "
                "or what its training passes show); leave it out, or use dora train"
            )
    try:
        section = DoraMethod.model_validate(keys)
    except ValidationError as error:
        tree = {"method": {"name": "dora", **keys}}
        details = [{**detail, "loc": ("method", *detail["loc"])} for detail in error.errors(include_url=False)]
        raise RecipeError([f"{dotted(error_path(detail))}: {explain(detail, tree)}" for detail in details]) from None  # type: ignore[arg-type]
    given = {f"method.{key}": value for key, value in section.model_dump().items()}
    if broken := [f"{key}: {said}" for key, said in broken_rules(lambda key: given[key], rules_of(section.name))]:
        raise RecipeError(broken)
    return section
