"""One optimiser step, without waiting for the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import AutocastKwargs
from torch import nn

from dora_cli.errors import CheckpointError, DivergedError
from dora_cli.methods.base import Method, StepReport
from dora_cli.training.graphs import CapturedModel, Graphs, shapes
from dora_cli.training.ledger import Ledger
from dora_cli.training.optimizer import shrink

if TYPE_CHECKING:
    from accelerate import Accelerator

Batch = Mapping[str, torch.Tensor]
LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of a parameter."""

_NO_CACHE = AutocastKwargs(cache_enabled=False)  # a cached copy would belong to one graph and be read by another
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class StepReading:
    """Numbers of the steps since the last reading; reading them waits for the device."""

    loss: float
    regulariser: float | None
    grad_norm: float


class TrainingStep:
    """Forward, backward, all-reduce, unscale, `adjust_gradients`, clip, AdamW, `observe`, `advance`: in this order
    (decision 5).

    The loss of a group of micro-batches is the sum over its examples divided by the group's global count of loss units,
    so neither accumulation, nor a smaller last group, nor the number of processes changes it. Gradients of all
    processes are summed in one flat buffer after the last micro-batch.

    A non-finite loss or gradient norm makes AdamW and the scores stand still, see `Ledger`; `check` reads its flag.

    With `cuda_graph`, a CUDA graph per shape of a batch does forward and backward, and one graph does all that follows
    but the sum over processes and events: between two launches the host has nothing to do. What a graph changes is
    changed in place. Gradients are zero between steps.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        method: Method,
        loss: LossFunction,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler,
        accelerator: Accelerator,
        max_grad_norm: float | None,
        skip_nonfinite: int = 0,
        locate: Callable[[int], str] | None = None,
        cuda_graph: bool = False,
    ) -> None:
        self.model = model
        self.method = method
        self.loss = loss
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.accelerator = accelerator
        self.max_grad_norm = max_grad_norm
        self.skip_nonfinite = skip_nonfinite
        self.locate = locate
        device = accelerator.device
        self.ledger = Ledger(device, skip_nonfinite=skip_nonfinite, scaled=accelerator.scaler is not None)
        self.learning_rate = 0.0  # of the latest step
        self._dtype = _AUTOCAST.get(accelerator.mixed_precision)
        self._regularised = False
        # Fused AdamW reads these two attributes as GradScaler would set them: where found_inf is 1 nothing moves.
        self._found_inf = torch.zeros((), device=device)
        optimizer.found_inf, optimizer.grad_scale = self._found_inf, None  # type: ignore[attr-defined]
        self._graphs = Graphs() if cuda_graph else None
        # What an evaluation of classes or numbers calls: the model, or what stands for it.
        self.evaluated_model: Any = model if self._graphs is None else CapturedModel(model, self._graphs)
        if cuda_graph:
            self._rate = torch.zeros((), device=device)
            for group in optimizer.param_groups:
                group.update(lr=self._rate, capturable=True)
        self._parameters = self._trainable()

    def _trainable(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def __call__(self, step: int, micro_batches: Sequence[Batch], units: int, *, event: bool) -> StepReport:
        """Runs step number `step` on this process's micro-batches; `units` counts the loss units of all processes.

        Args:
            event: whether a selection follows this step; the flag is read first, so that no selection is made on bad
                ground.
        """
        self.ledger.begin(step, units)
        self._set_learning_rate(step)
        for batch in micro_batches:
            self._run(shapes(batch), self._pass, batch)
        if self.accelerator.num_processes > 1:
            self._sum_over_processes()
        self._run("update", partial(self._update, step), {})
        if event:
            self.check_learned(step)
        report = self.method.advance(step)
        if report.replaced:
            shrink(self.optimizer, report.replaced)
            self._parameters = self._trainable()
        if self._graphs is not None and (report.replaced or report.frozen):
            self._graphs.forget()
        return report

    def _run(self, key: Hashable, work: Callable[[Batch], None], batch: Batch) -> None:
        if self._graphs is None:
            work(batch)
        else:
            self._graphs.run(key, work, batch)

    def _set_learning_rate(self, step: int) -> None:
        self.learning_rate = self._learning_rate_of(step)
        self.scheduler.last_epoch = step
        for group in self.optimizer.param_groups:
            if self._graphs is None:
                group["lr"] = self.learning_rate
        if self._graphs is not None:
            self._rate.fill_(self.learning_rate)

    def _pass(self, batch: Batch) -> None:
        """Forward and backward of one micro-batch."""
        accelerator, scaler = self.accelerator, self.accelerator.scaler
        inputs = {key: value for key, value in batch.items() if key != "labels"}
        with self.method.training_pass(self._dtype):
            with accelerator.autocast(_NO_CACHE):
                logits = self.model(**inputs).logits
            part = self.loss(logits, batch["labels"]).sum() / self.ledger.units
            # Not accelerator.backward: it divides by an accumulation count that the environment can set.
            (part if scaler is None else scaler.scale(part)).backward()
        self.ledger.loss += part.detach()

    def _update(self, step: int, _: Batch) -> None:
        """All that follows the gradients, but events."""
        scaler, ledger = self.accelerator.scaler, self.ledger
        if scaler is not None:
            scaler.unscale_(self.optimizer)
        regulariser = self.method.adjust_gradients(step)
        self._regularised = regulariser is not None
        if regulariser is not None:
            ledger.regulariser.copy_(regulariser)
        ledger.grad_norm.copy_(self._clip())
        skipped = ledger.judge()
        self._found_inf.copy_(skipped)
        self.optimizer.step()
        if scaler is not None:
            scaler.update()
        ledger.book()
        torch._foreach_zero_(self._gradients())
        self.method.observe(skipped)

    def _gradients(self) -> list[torch.Tensor]:
        return [parameter.grad for parameter in self._parameters if parameter.grad is not None]

    def _clip(self) -> torch.Tensor:
        """Clips to `max_grad_norm`, if there is one; returns the norm before."""
        if self.max_grad_norm is not None:
            return nn.utils.clip_grad_norm_(self._parameters, self.max_grad_norm)
        return nn.utils.get_total_norm(self._gradients())

    def _sum_over_processes(self) -> None:
        import torch.distributed as dist

        for parameter in self._parameters:
            if parameter.grad is None:  # a process without work in its first step still takes part in the sum
                parameter.grad = torch.zeros_like(parameter)
        gradients = self._gradients()
        flat = torch.cat(
            [*(gradient.reshape(-1) for gradient in gradients), self.ledger.loss.to(gradients[0].dtype).reshape(1)]
        )
        dist.all_reduce(flat)
        offset = 0
        for gradient in gradients:
            gradient.copy_(flat[offset : offset + gradient.numel()].view(gradient.shape))
            offset += gradient.numel()
        self.ledger.loss.copy_(flat[-1])

    def check(self, step: int) -> None:
        """Reads the flag; raises DivergedError naming the first bad step. Waits for the device."""
        if not bool(self.ledger.halted):
            return
        first = int(self.ledger.first_bad)
        where = f" ({self.locate(first)})" if self.locate is not None else ""
        before = (
            f", after {self.skip_nonfinite} that train.skip_nonfinite let pass"
            if self.skip_nonfinite and self.accelerator.scaler is None
            else ""
        )
        raise DivergedError(
            f"training diverged: the loss or gradient norm of step {first:,}{where} was not finite{before}, at "
            f"learning rate {self._learning_rate_of(first):.3g}; noticed at step {step:,}, and nothing was changed "
            "from that step on. Lower train.learning_rate, lengthen train.lr_warmup_fraction, or set train.precision: "
            "fp32"
        )

    def check_weights(self, step: int) -> None:
        """Like `check`, and the weights too, which `skip_nonfinite` may have let go on: nothing is chosen by them,
        nothing of them saved.

        Waits for the device once.
        """
        self._read_weights(step)

    def check_learned(self, step: int) -> None:
        """Like `check_weights`, and that a step has changed them at all: nothing is chosen by what was never learned.

        The fp16 scaler's own skipped steps do not count: it finds its scale by them.
        """
        if self._read_weights(step) and self.accelerator.scaler is None:
            raise DivergedError(
                f"training diverged: the loss or gradient norm of every step up to {step:,} was not finite, and "
                "train.skip_nonfinite let all of them pass: nothing was learned. Lower train.learning_rate, "
                "method.alpha or method.dem_weight, or set train.precision: fp32"
            )

    def _read_weights(self, step: int) -> bool:
        """Raises DivergedError where the flag is set or a weight is not finite; returns whether every step so far was a
        bad one.
        """
        ledger, largest = self.ledger, nn.utils.get_total_norm(self._parameters, math.inf)
        halted, finite, in_vain = torch.stack(
            [ledger.halted, largest.isfinite(), ledger.bad_steps >= ledger.number]
        ).tolist()
        if halted:
            self.check(step)
        if not finite:
            raise DivergedError(
                f"training diverged: the weights after step {step:,} are not finite, at learning rate "
                f"{self.learning_rate:.3g}; lower train.learning_rate, lengthen train.lr_warmup_fraction, or set "
                "train.precision: fp32"
            )
        return bool(in_vain)

    def _learning_rate_of(self, step: int) -> float:
        """The schedule's learning rate at step number `step`."""
        schedule: Any = self.scheduler
        return float(schedule.base_lrs[0] * schedule.lr_lambdas[0](step - 1))

    def state_dict(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Moments of the optimiser by ``INDEX.KEY``, and plain values of all the rest. Waits for the device."""
        tensors = {
            f"{index}.{key}": value
            for index, parameter in enumerate(self._parameters)
            for key, value in self.optimizer.state.get(parameter, {}).items()
        }
        scaler = self.accelerator.scaler
        plain = {
            "scheduler": int(self.scheduler.last_epoch),
            "scaler": None if scaler is None else {key: float(value) for key, value in scaler.state_dict().items()},
            **self.ledger.state_dict(),
        }
        return tensors, plain

    def load_state_dict(self, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave, on parameters of the same shapes.

        Raises CheckpointError on the first misfit.
        """
        known = [{key: f"{index}.{key}" for key in _MOMENTS} for index in range(len(self._parameters))]
        if unknown := set(tensors) - {name for names in known for name in names.values()}:
            raise CheckpointError(
                f"optimiser tensor {min(unknown)} is in the checkpoint, but this model and recipe have no place for it"
            )
        for index, (parameter, names) in enumerate(zip(self._parameters, known, strict=True)):
            if not any(name in tensors for name in names.values()):
                continue  # a parameter that no gradient has reached yet
            if missing := [name for name in names.values() if name not in tensors]:
                raise CheckpointError(f"optimiser tensor {missing[0]} is missing from the checkpoint; it is damaged")
            state = {key: tensors[name] for key, name in names.items()}
            for key, value in state.items():
                shape = () if key == "step" else parameter.shape
                if value.shape != shape or value.dtype != torch.float32:
                    raise CheckpointError(
                        f"optimiser tensor {index}.{key} is {value.dtype} {tuple(value.shape)} in the checkpoint; "
                        f"this model and recipe need torch.float32 {tuple(shape)}"
                    )
            finite = all(bool(value.isfinite().all()) for value in state.values())
            if not finite or float(state["step"]) < 0 or bool((state["exp_avg_sq"] < 0).any()):
                raise CheckpointError(
                    f"optimiser tensors {index}.* hold values that no training leaves (not finite, or below 0); the "
                    "checkpoint is damaged, use another one of the run"
                )
            self.optimizer.state[parameter] = {
                # In the storage order of the parameter, which fused kernels take for granted.
                key: value.to(parameter.device, copy=True)
                if key == "step"
                else torch.empty_like(parameter).copy_(value)
                for key, value in state.items()
            }
        try:
            self.scheduler.last_epoch = int(plain["scheduler"])
            scaler = self.accelerator.scaler
            if (scaler is None) != (plain["scaler"] is None):
                raise CheckpointError(
                    "the checkpoint was made in another precision (fp16 or not); set train.precision as it was"
                )
            if scaler is not None:
                scaling = dict(plain["scaler"])
                scaler.load_state_dict(
                    scaling | {key: int(scaling[key]) for key in ("growth_interval", "_growth_tracker")}
                )
            self.ledger.load_state_dict(plain)
        except CheckpointError:
            raise
        except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise CheckpointError(
                f"the checkpoint's progress.json is damaged ({error!r}); use another checkpoint of the run"
            ) from error

    def read(self, step: int) -> StepReading:
        """Mean loss since the last reading, latest regulariser and gradient norm; raises DivergedError.

        Waits for the device.
        """
        self.check(step)
        regulariser = float(self.ledger.regulariser) if self._regularised else None
        return StepReading(self.ledger.take_loss(), regulariser, float(self.ledger.grad_norm))
