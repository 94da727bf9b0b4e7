"""DoRA under transformers' Trainer."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from dora_cli.errors import BudgetError, DeviceError, ModelError, RecipeError
from dora_cli.library.own_loop import shrink
from dora_cli.library.save_adapter import write_adapter
from dora_cli.methods import Dora
from dora_cli.methods.attached import carried
from dora_cli.methods.base import StepReport
from dora_cli.wording import plural


class DoraCallback(TrainerCallback):
    """Drives the phases of an adapted model under `transformers.Trainer`.

    A training is then::

        method = dora_cli.attach(model, rank=8, total_steps=1000)
        Trainer(model, TrainingArguments(max_steps=1000, ...), callbacks=[dora_cli.DoraCallback(method)], ...).train()

    Before every optimiser step the method adjusts the gradients, after it the components are scored and pruned; at the
    freeze the Trainer's optimiser is shrunk. The Trainer clips gradients *before* the callback is asked, so the
    regulariser's gradient (DEM) is added to clipped gradients and is not clipped itself; ``dora train`` and the loop in
    `dora_cli.attach` clip the sum.

    Whenever the Trainer saves, the adapter is written into ``checkpoint-N/adapter`` as `dora_cli.save_adapter` writes
    it (for PEFT too once the ranks are final). What the Trainer writes beside it, there and by its `save_model`, is the
    whole model with the adapters' names in it, which transformers does not load; save the result by
    ``dora_cli.save_adapter(model, folder)``, or after `dora_cli.merge`.

    Args:
        method: what `dora_cli.attach` returned. Its `total_steps` must be the Trainer's ``max_steps``, or what its
            epochs come to.

    Attributes:
        report: of the latest optimiser step; None before the first.
    """

    def __init__(self, method: Dora) -> None:
        self.method = method
        self.report: StepReport | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Refuses what cannot work, before the first step. Raises a DoraError."""
        method = self.method
        if method.schedule is None:
            raise BudgetError("the method was attached for evaluation alone; attach it by dora_cli.attach to train")
        if state.max_steps != method.schedule.total_steps:
            planned = method.schedule.total_steps
            raise BudgetError(
                f"the method was attached for total_steps={planned}, but the Trainer makes "
                f"{plural(state.max_steps, 'optimiser step')}; attach with total_steps={state.max_steps}, or set "
                f"max_steps={planned} in TrainingArguments"
            )
        if state.global_step != method.last_step:
            raise BudgetError(
                f"the Trainer starts after step {state.global_step}, but the method has made {method.last_step}; a "
                "training cannot be resumed under the Trainer: attach to a fresh model and train from the start, or "
                "use dora train, which resumes"
            )
        sharded = getattr(args, "deepspeed", None) or getattr(args, "fsdp", None)
        if sharded:
            raise DeviceError(
                f"the Trainer shards the model ({sharded}), which replaces the adapters' tensors; train without it"
            )
        if getattr(args, "world_size", 1) > 1 and method.compact:
            raise DeviceError(
                f"the Trainer runs {args.world_size} processes, and DistributedDataParallel cannot follow tensors "
                "that shrink; attach with compact=False, which changes no number"
            )
        if getattr(args, "fp16", False) and not args.max_grad_norm:
            raise RecipeError(
                f"max_grad_norm={args.max_grad_norm} with fp16: gradients may still be scaled when the method adjusts "
                "them; set a large max_grad_norm such as 1e9, or bf16"
            )
        if getattr(args, "load_best_model_at_end", False):
            raise RecipeError(
                "load_best_model_at_end=True may bring back weights from before the freeze, whose ranks are others; "
                "turn it off"
            )
        self._check_parameters(kwargs.get("model"), kwargs.get("optimizer"))

    def _check_parameters(self, model: nn.Module | None, optimizer: Any) -> None:
        mine = {id(parameter) for parameter in self.method.parameters()}
        if model is not None and not mine <= {id(parameter) for parameter in model.parameters()}:
            raise ModelError(
                "the Trainer's model is not the one that the method is attached to; give the Trainer that one"
            )
        groups = optimizer.param_groups if optimizer is not None else []
        if optimizer is not None and not mine <= {id(parameter) for group in groups for parameter in group["params"]}:
            raise ModelError(
                "the Trainer's optimiser does not hold the adapters; make it after dora_cli.attach, of the parameters "
                "that train"
            )

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After backward and clipping."""
        self.method.adjust_gradients()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After the optimiser, before the Trainer counts the step."""
        optimizer = kwargs["optimizer"]
        skipped = None
        if getattr(optimizer, "step_was_skipped", False):  # by the fp16 scaler, which has waited for the device already
            skipped = torch.tensor(True, device=self.method.parameters()[0].device)
        self.report = self.method.after_step(state.global_step + 1, skipped)
        shrink(optimizer, self.report)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After the Trainer's own checkpoint, by one process."""
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}" / "adapter"
            model = next(module for module in kwargs["model"].modules() if carried(module) is self.method)
            write_adapter(model, folder, for_peft=self.method.frozen, overwrite=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Says so if the training ended before the ranks were final."""
        schedule = self.method.schedule
        if schedule is not None and not self.method.frozen:
            warnings.warn(
                f"the training ended at step {state.global_step}, before the freeze at {schedule.freeze_step}: the "
                "ranks are not final",
                stacklevel=2,
            )
