"""What a model with a head gives."""

from __future__ import annotations

from typing import Any

import torch


def logits_in(outputs: Any) -> dict[str, torch.Tensor]:
    """The tensors of a model's output that a task reads, by name: ``logits``, or ``start_logits`` and ``end_logits``
    where the head marks a span.
    """
    return {name: value for name, value in vars(outputs).items() if name.endswith("logits") and value is not None}
