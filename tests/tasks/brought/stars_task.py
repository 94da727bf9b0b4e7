"""The task `stars`, as another package would bring it: how good a film is, where a step more counts more.

Of three classes in an order, the model says with two numbers whether the class is above the first and above the second;
what is measured is by how many classes it is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dora_cli.data.sources.fields import Fields, Labels
from dora_cli.tasks import Answers, Task

if TYPE_CHECKING:
    from torch import Tensor

    from dora_cli.data import Encoded, Examples
    from dora_cli.models import Head
    from dora_cli.recipe import Recipe


@dataclass(frozen=True)
class Stars(Task):
    names: tuple[str, ...] = ("bad", "fine", "good")

    kind = "ordinal"
    epoch_metrics = ("mean_error", "exact")

    @property
    def labels(self) -> tuple[str, ...]:
        return self.names

    @property
    def fields(self) -> Fields:
        return Fields(self.name, (self.text_columns,), Labels(self.names), tuple(self.splits), self.eval_splits)

    @property
    def head(self) -> Head:
        from dora_cli.models import ClassifierHead

        return ClassifierHead(len(self.names) - 1)

    def lower_is_better(self, metric: str) -> bool:
        return metric == "mean_error"

    def losses(self, outputs: Any, batch: Mapping[str, Tensor], *, label_smoothing: float = 0.0) -> Tensor:
        import torch

        above = batch["labels"][:, None] > torch.arange(outputs.logits.shape[1], device=outputs.logits.device)
        wanted = above.float() * (1 - label_smoothing) + label_smoothing / 2
        losses = torch.nn.functional.binary_cross_entropy_with_logits(outputs.logits.float(), wanted, reduction="none")
        return losses.sum(1)

    def keep(self, outputs: Any, batch: Mapping[str, Tensor]) -> Tensor:
        return (outputs.logits > 0).sum(1)

    def measure(self, kept: Sequence[Any], split: Encoded) -> dict[str, float]:
        wrong = np.abs(np.asarray(kept) - np.asarray(split.labels))  # type: ignore[attr-defined]
        return {"mean_error": float(wrong.mean()), "exact": float((wrong == 0).mean())}

    def answer(self, kept: Sequence[Any], examples: Examples, recipe: Recipe) -> Answers:
        rows = zip(examples.texts[0], kept, strict=True)
        return Answers([{"review": text, "stars": int(stars) + 1} for text, stars in rows])


STARS = Stars(
    name="film/stars",
    text_columns=("review",),
    splits={"train": 0, "validation": 0, "test": 0},
    eval_splits=("validation",),
    primary="mean_error",
)
