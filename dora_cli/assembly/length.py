"""How long a run is, in optimiser steps."""

from __future__ import annotations

from dataclasses import dataclass

from dora_cli.data import steps_per_epoch
from dora_cli.errors import BudgetError
from dora_cli.recipe import Recipe
from dora_cli.wording import plural


@dataclass(frozen=True)
class RunLength:
    """Derived from the data, never asked of the user.

    In a federated training a round stands for an epoch, and steps and batches are those of one client.

    Attributes:
        examples: training examples per epoch; of a federated training those of all clients together.
        global_batch: examples per optimiser step, over micro-batches and processes.
        steps_per_epoch: the last step of an epoch may hold fewer examples; none is dropped.
        total_steps: `T`, attempted optimiser steps.
        epochs: epochs begun; the last one is cut short where ``train.max_steps`` ends the run.
        lr_warmup: steps of learning-rate warm-up.
        federated: whether its epochs are rounds.
    """

    examples: int
    global_batch: int
    steps_per_epoch: int
    total_steps: int
    epochs: int
    lr_warmup: int
    federated: bool = False

    @classmethod
    def of(cls, recipe: Recipe, examples: int, processes: int) -> RunLength:
        """The length of `recipe` over `examples` training examples; raises BudgetError, also where there are none."""
        if examples < 1:
            raise BudgetError("split train has no example to learn from; give more, or raise data.max_train_samples")
        train, federated = recipe.train, recipe.federated
        if federated is not None:
            batch, total = train.batch_size * train.gradient_accumulation, federated.steps
            warmup = _lr_warmup(recipe, total)
            return cls(examples, batch, federated.local_steps, total, federated.rounds, warmup, federated=True)
        global_batch = train.batch_size * train.gradient_accumulation * processes
        per_epoch = steps_per_epoch(examples, global_batch)
        total = per_epoch * train.epochs if train.max_steps is None else train.max_steps
        return cls(examples, global_batch, per_epoch, total, -(-total // per_epoch), _lr_warmup(recipe, total))

    def steps_in(self, epoch: int) -> int:
        """Optimiser steps of `epoch`, counted from 1; fewer in the last one where ``train.max_steps`` cuts it short."""
        return min(self.steps_per_epoch, self.total_steps - (epoch - 1) * self.steps_per_epoch)

    def locate(self, step: int) -> str:
        """Where step number `step` is, in words."""
        epoch, batch = divmod(step - 1, self.steps_per_epoch)
        if self.federated:
            return f"round {epoch + 1}, step {batch + 1} of {self.steps_in(epoch + 1)}"
        return f"epoch {epoch + 1}, batch {batch + 1} of {self.steps_in(epoch + 1)}"


def _lr_warmup(recipe: Recipe, total_steps: int) -> int:
    """``train.lr_warmup_steps`` if given, else ``floor(lr_warmup_fraction * T)`` with the fraction read as a decimal;
    BudgetError.
    """
    from fractions import Fraction

    steps = recipe.train.lr_warmup_steps
    if steps is not None:
        if steps >= total_steps:
            raise BudgetError(
                f"train.lr_warmup_steps is {steps}, but the run has {plural(total_steps, 'optimiser step')}; lower it "
                "below that, or train for longer"
            )
        return steps
    return int(Fraction(str(recipe.train.lr_warmup_fraction)) * total_steps)
