"""How much a run trains, beside LoRA of the same rank and full fine-tuning, from its records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

BYTES = 4
"""Bytes of one parameter: what trains is float32."""


@dataclass(frozen=True)
class Size:
    """One way to train a model.

    Attributes:
        name: of the way.
        adapter: parameters of the adapters' factors; None for a way that has none.
        trained: everything that trains, with gates and head; None if it was not recorded.
        own: whether it is what the run did.
    """

    name: str
    adapter: float | None
    trained: float | None
    own: bool = False

    @property
    def bytes(self) -> float | None:
        return None if self.trained is None else self.trained * BYTES


def model_size(environment: Mapping[str, Any] | None) -> Mapping[str, int | None]:
    """``parameters, bytes, head_parameters`` of the base model; None what a run of an older version has
    not recorded.
    """
    model = environment["model"] if environment is not None else {}
    return {key: model.get(key) for key in ("parameters", "bytes", "head_parameters")}


def sizes(metrics: Mapping[str, Any], ranks: Mapping[str, Any], environment: Mapping[str, Any] | None) -> list[Size]:
    """From the largest to the smallest in kind: full fine-tuning, LoRA of the run's rank, the run's start, its end.

    Start and end are one where nothing shrank, and LoRA is left out where the run is just that.

    Args:
        metrics: metrics.json.
        ranks: ranks.json, not a mean.
        environment: environment.json.
    """
    budget, base = metrics["budget"], model_size(environment)
    layers, target = ranks["layers"], ranks["target_rank"]
    found = [Size("full fine-tuning", None, base["parameters"])]
    if not layers:
        this = Size("this run", None, budget["trainable_parameters_final"], own=True)
        return [this] if this.trained == base["parameters"] else [*found, this]  # full fine-tuning itself
    per_rank = sum(sum(layer["shape"]) for layer in layers)
    start = sum(layer["start_rank"] * sum(layer["shape"]) for layer in layers)
    head = base["head_parameters"]
    if head is None:  # what trains at the start is A, B, one gate for each component, and the head
        head = budget["trainable_parameters_start"] - start - budget["start_components"]
    first = Size("this run, at its start", start, budget["trainable_parameters_start"])
    last = Size(
        "this run, in the end", budget["adapter_parameters_final"], budget["trainable_parameters_final"], own=True
    )
    stays = all(layer.get("parameters") is not None for layer in layers)  # no factors whose rank falls
    grows = any(layer.get("links") for layer in layers)  # a part after the other: nothing is large at the start
    if stays or grows or (first.adapter, first.trained) == (last.adapter, last.trained):
        own = [replace(last, name="this run")]
    else:
        own = [first, last]
    if target is not None and head >= 0:
        lora = Size(f"LoRA, rank {target} everywhere", target * per_rank, target * per_rank + head)
        if (lora.adapter, lora.trained) != (own[0].adapter, own[0].trained):  # a run of LoRA itself
            found.append(lora)
    return [*found, *own]
