"""What a run will do with its model, tried on a few rows before the run starts and its folder replaces anything.

Nothing is changed by it: the model evaluates, without dropout and gradients, and the caller seeds afterwards. Buffers
that a forward pass keeps are those of every evaluation.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from dora_cli.assembly.build import AdaptedModel
from dora_cli.data import Encoded, inputs_of, to_device
from dora_cli.data.cuts import UNCUT
from dora_cli.data.packed import Packing, training_batches
from dora_cli.data.transfer import Batch
from dora_cli.errors import DoraError, ModelError
from dora_cli.evaluation.base import Trial
from dora_cli.evaluation.measuring import Evaluator
from dora_cli.evaluation.passes import evaluation_mode, extremes
from dora_cli.machine.devices import autocast, autocast_type
from dora_cli.machine.memory import memory_advice
from dora_cli.models.ahead import compile_ahead
from dora_cli.models.packed_attention import PackedRows, in_rows
from dora_cli.recipe import Recipe
from dora_cli.tasks import Task

if TYPE_CHECKING:
    from accelerate import Accelerator


def rehearse(
    recipe: Recipe,
    task: Task,
    adapted: AdaptedModel,
    train: Encoded,
    evaluator: Evaluator,
    accelerator: Accelerator,
    packing: Packing | None = None,
) -> None:
    """Tries all of it in this process alone, in the order in which the run would come to it; `packing` is how it will
    put texts into rows.

    Raises:
        ModelError: names the model, its class, what failed and the reason that the model itself gave.
        OutOfMemoryError: not even a few rows fit.
    """
    forward = partial(_forward, recipe, task, adapted, train, packing, accelerator)
    first = Trial("a forward pass", "train", forward)
    with evaluation_mode(adapted.model):
        for trial in [first, *evaluator.trials(adapted.model, adapted.method)]:
            _attempt(trial, recipe, adapted)


def _forward(
    recipe: Recipe,
    task: Task,
    adapted: AdaptedModel,
    train: Encoded,
    packing: Packing | None,
    accelerator: Accelerator,
) -> None:
    """The widest and the narrowest batch of the training data, to their losses."""
    rows = None if packing is None else PackedRows(adapted.model, packing.longest)

    def losses(batch: Batch) -> None:
        with autocast(accelerator), in_rows(rows) as more:
            outputs = adapted.model(**inputs_of(batch), **more)
        # waits for what the device has to say
        task.losses(outputs, batch, label_smoothing=recipe.train.label_smoothing).cpu()

    kind = "rehearsal", type(adapted.model), recipe.method.name, autocast_type(accelerator)
    few = extremes(train.lengths, recipe.train.batch_size)
    for made in training_batches(train, few, UNCUT, packing):
        batch = to_device(made, accelerator.device)
        if adapted.method.announces:
            compile_ahead(partial(losses, batch), kind, adapted.model, (), ())
        losses(batch)


def _attempt(trial: Trial, recipe: Recipe, adapted: AdaptedModel) -> None:
    try:
        with memory_advice(recipe, trial.batch, adapted.trained):
            trial.attempt()
    except DoraError:
        raise
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
        raise ModelError(
            f"model.name: {recipe.model.name!r} ({type(adapted.model).__name__}) fails in {trial.what}, tried before "
            f"training: {type(error).__name__}: {reason[:300].rstrip('.')}; {trial.fix}, or see with --debug where"
        ) from error
