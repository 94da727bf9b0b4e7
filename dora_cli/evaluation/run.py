"""Running a model over a split."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from dora_cli.data import EncodedSplit
from dora_cli.evaluation.metrics import compute_metrics
from dora_cli.tasks import Task

if TYPE_CHECKING:
    from accelerate import Accelerator

Progress = Callable[[str, int, int], None]


def _silent(split: str, done: int, total: int) -> None: ...


def predict(
    model: nn.Module,
    split: EncodedSplit,
    task: Task,
    *,
    batch_size: int,
    accelerator: Accelerator,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Predictions for every example of `split`, in its order: class indices, or float64 values for a regression.

    Batches gather examples of similar length, so that little is padded, and do not depend on anything but the split and
    `batch_size`: the same weights give the same numbers. Processes share the batches and all return the whole.
    """
    order = np.argsort(split.lengths, kind="stable")[::-1]
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    mine = batches[accelerator.process_index :: accelerator.num_processes]
    training = model.training
    model.eval()
    found: list[torch.Tensor] = []
    with torch.no_grad():
        for done, indices in enumerate(mine):
            batch = {
                key: value.to(accelerator.device, non_blocking=True) for key, value in split.collate(indices).items() if key != "labels"
            }
            with accelerator.autocast():
                logits = model(**batch).logits
            found.append(task.predictions(logits))
            if progress is not None:
                progress(done + 1, len(mine))
    model.train(training)
    predictions = torch.cat(found).double().cpu().numpy() if found else np.empty(0)
    positions = np.concatenate(mine) if mine else np.empty(0, dtype=np.int64)
    if accelerator.num_processes > 1:
        from accelerate.utils import gather_object

        gathered = gather_object([(positions, predictions)])
        positions = np.concatenate([part for part, _ in gathered])
        predictions = np.concatenate([part for _, part in gathered])
    result = np.empty(len(order), dtype=np.float64)
    result[positions] = predictions
    return result if task.regression else result.astype(np.int64)


def evaluate(
    model: nn.Module,
    splits: Mapping[str, EncodedSplit],
    task: Task,
    *,
    batch_size: int,
    accelerator: Accelerator,
    progress: Progress = _silent,
) -> dict[str, float]:
    """The task's metrics over its evaluation splits, combined as the task does (MNLI: the mean of both)."""
    per_split = {}
    for name, split in splits.items():
        report = partial(progress, name)
        predictions = predict(model, split, task, batch_size=batch_size, accelerator=accelerator, progress=report)
        assert split.labels is not None, f"split {name} has no labels"
        per_split[name] = compute_metrics(task.metric, predictions, np.asarray(split.labels))
    return task.combine(per_split)
