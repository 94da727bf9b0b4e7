"""What a run writes down: the numbers of the loop as the records of `dora_cli.runs.records`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dora_cli.assembly.build import AdaptedModel
from dora_cli.evaluation.base import Finished
from dora_cli.methods.base import Method
from dora_cli.models import Projection
from dora_cli.recipe import Recipe
from dora_cli.runs.records.metrics import metrics_record
from dora_cli.runs.records.ranks import ranks_record
from dora_cli.training.selection import Selection


def adapter_parameters(method: Method) -> int:
    """Entries of `A` and `B` of live components, without gates and head: what published sizes count (reference section
    1.8).
    """
    return sum(allocation.rank * sum(allocation.shape) for allocation in method.allocation())


def build_ranks(
    recipe: Recipe,
    projections: Sequence[Projection],
    method: Method,
    phases: Sequence[tuple[str, int, int]],
    history: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The content of ranks.json."""
    allocations = method.allocation()
    start = allocations[0].start_rank if allocations else None
    return ranks_record(
        projections if allocations else [],
        allocations,
        unit="component",
        start_rank=start,
        target_rank=getattr(recipe.method, "rank", None),
        live_components=sum(allocation.rank for allocation in allocations),
        phases=phases,
        history=history,
    )


def live_layers(projections: Sequence[Projection], method: Method) -> tuple[dict[str, Any], ...]:
    """Every adapted projection as in ranks.json, without its scores. Waits for the device."""
    allocations = {allocation.name: allocation for allocation in method.allocation()}
    keys = ("name", "stack", "block", "attention", "projection", "group")
    return tuple(
        {
            **{key: getattr(projection, key) for key in keys},
            "shape": list(allocations[projection.name].shape),
            "start_rank": allocations[projection.name].start_rank,
            "rank": allocations[projection.name].rank,
        }
        for projection in projections
        if projection.name in allocations
    )


def describe_budget(adapted: AdaptedModel, *, trainable_start: int) -> dict[str, int]:
    """The section `budget` of metrics.json; `trainable_start`: parameters that trained at the start."""
    schedule, method = adapted.schedule, adapted.method
    assert schedule is not None
    return {
        "start_components": schedule.start_components,
        "final_components": schedule.final_components,
        "live_components": sum(allocation.rank for allocation in method.allocation()),
        "trainable_parameters_start": trainable_start,
        "trainable_parameters_final": sum(parameter.numel() for parameter in adapted.trainable),
        "adapter_parameters_final": adapter_parameters(method),
    }


def build_metrics(
    recipe: Recipe,
    *,
    method: str,
    selection: Selection,
    finished: Finished | None,
    epochs: Sequence[Mapping[str, Any]],
    budget: Mapping[str, int],
    timing: Mapping[str, float | int | None],
) -> dict[str, Any]:
    """The content of metrics.json.

    Args:
        method: its name.
        finished: what the selected weights came to at the end; None where their epoch's evaluation says all.
    """
    assert selection.epoch is not None
    return metrics_record(
        task=recipe.task,
        model=recipe.model.name,
        method=method,
        seed=recipe.train.seed,
        metrics=selection.metrics if finished is None else finished.metrics,
        last=epochs[-1]["metrics"],
        best_epoch=selection.epoch,
        selection=selection.rule,
        epochs=epochs,
        budget=budget,
        timing=timing,
    )
