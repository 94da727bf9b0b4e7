"""Evaluating a classifier or a regression: predictions over a split, and the task's metrics of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dora_cli.data import EncodedSplit, to_device
from dora_cli.evaluation.base import Finished, Metrics, Progress, Trial, silent
from dora_cli.evaluation.passes import Indices, batches_by_length, evaluation_mode, extremes, in_order
from dora_cli.libraries import loading
from dora_cli.machine.memory import enough_memory, evaluation_advice
from dora_cli.methods import Method
from dora_cli.tasks import ClassificationTask

if TYPE_CHECKING:
    from accelerate import Accelerator


def compute_logits(
    model: nn.Module,
    split: EncodedSplit,
    *,
    batch_size: int,
    accelerator: Accelerator,
    progress: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """What the model's head gives for every example of `split`, in its order: ``(N, num_labels)``, fp32 on the CPU.

    Processes share the batches and all return the whole.
    """
    mine = batches_by_length(split.lengths, batch_size, accelerator)
    found: list[torch.Tensor] = []
    with evaluation_mode(model):
        for done, indices in enumerate(mine):
            found.append(_logits(model, split, indices, accelerator))
            if progress is not None:
                progress(done + 1, len(mine))
    rows = list(torch.cat(found).cpu().numpy()) if found else []
    return torch.from_numpy(np.stack(in_order(mine, rows, accelerator)))


def _logits(model: nn.Module, split: EncodedSplit, indices: Indices, accelerator: Accelerator) -> torch.Tensor:
    """Logits of one batch, in fp32 on the device."""
    batch = to_device(split.collate(indices), accelerator.device)
    batch.pop("labels", None)
    with accelerator.autocast():
        logits: torch.Tensor = model(**batch).logits
    return logits.float()


def predict(
    model: nn.Module,
    split: EncodedSplit,
    task: ClassificationTask,
    *,
    batch_size: int,
    accelerator: Accelerator,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Predictions for every example of `split`, in its order: class indices, or float64 values for a regression."""
    logits = compute_logits(model, split, batch_size=batch_size, accelerator=accelerator, progress=progress)
    return task.predictions(logits).numpy().astype(np.float64 if task.regression else np.int64)


def evaluate(
    model: nn.Module,
    splits: Mapping[str, EncodedSplit],
    task: ClassificationTask,
    *,
    batch_size: int,
    accelerator: Accelerator,
    progress: Progress = silent,
) -> dict[str, float]:
    """The task's metrics over its evaluation splits, combined as the task does (MNLI: the mean of both)."""
    compute_metrics = _metric_function(task.metric)
    per_split = {}
    for name, split in splits.items():
        report = partial(progress, name)
        predictions = predict(model, split, task, batch_size=batch_size, accelerator=accelerator, progress=report)
        assert split.labels is not None, f"split {name} has no labels"
        per_split[name] = compute_metrics(predictions, np.asarray(split.labels))
    return task.combine(per_split)


def _metric_function(name: str) -> Callable[[npt.ArrayLike, npt.ArrayLike], dict[str, float]]:
    """`compute_metrics` of that name, whose libraries take a second to load when they are first needed."""
    with loading(f"what computes the metric {name}"):
        from dora_cli.metrics.glue import compute_metrics, load_libraries

        load_libraries(name)
    return partial(compute_metrics, name)


class ClassificationEvaluator:
    """`evaluate` over the same splits again and again. See `dora_cli.evaluation.base.Evaluator`."""

    generates = False

    def __init__(
        self,
        splits: Mapping[str, EncodedSplit],
        task: ClassificationTask,
        *,
        batch_size: int,
        accelerator: Accelerator,
        progress: Progress = silent,
    ) -> None:
        self.splits = splits
        self._task = task
        self._batch_size = batch_size
        self._accelerator = accelerator
        self._evaluate = partial(
            evaluate, splits=splits, task=task, batch_size=batch_size, accelerator=accelerator, progress=progress
        )

    def prepare(self) -> None:
        two = np.array([0, 1], dtype=np.float64 if self._task.regression else np.int64)
        with loading(f"what computes the metric {self._task.metric}"):
            _metric_function(self._task.metric)(two, two)

    def trials(self, model: nn.Module, method: Method) -> Sequence[Trial]:
        return [Trial("an evaluation", "eval", partial(self._try, model))]

    def _try(self, model: nn.Module) -> None:
        for split in self.splits.values():
            for indices in extremes(split.lengths, self._batch_size):
                self._task.predictions(_logits(model, split, indices, self._accelerator)).cpu()

    def epoch(self, model: nn.Module, method: Method) -> Metrics:
        with enough_memory(evaluation_advice(self._batch_size)):
            return dict(self._evaluate(model))

    def finish(self, model: nn.Module, method: Method) -> Finished:
        return Finished(self.epoch(model, method))
