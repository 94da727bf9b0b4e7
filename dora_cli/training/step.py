"""One optimiser step, without waiting for the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dora_cli.assembly.averaged import AveragedSteps
from dora_cli.data import inputs_of
from dora_cli.data.masks import real_tokens
from dora_cli.errors import CheckpointError, DivergedError
from dora_cli.evaluation.passes import Run, directly
from dora_cli.machine.devices import autocast, autocast_type, without_cache
from dora_cli.machine.graphs import Graphs, shapes
from dora_cli.methods.base import Calibration, Measured, Method, StepReport
from dora_cli.models.ahead import compile_ahead
from dora_cli.models.packed_attention import PackedRows, in_rows
from dora_cli.models.shortcuts import Shortcut, taking
from dora_cli.training.averaging import Averaging
from dora_cli.training.capture.passes import CapturedPasses
from dora_cli.training.ledger import Ledger
from dora_cli.training.optimizer import (
    RATE,
    follow,
    load_moments,
    make_capturable,
    moments_of,
    parameters_of,
)
from dora_cli.training.pieces import pieces
from dora_cli.training.update.weights import Update

if TYPE_CHECKING:
    from accelerate import Accelerator

    from dora_cli.models.fused.fused_blocks import FusedBlocks

Batch = Mapping[str, torch.Tensor]
LossFunction = Callable[[Any, Batch], torch.Tensor]


@dataclass(frozen=True)
class StepReading:
    """Numbers of the steps since the last reading; reading them waits for the device."""

    loss: float
    regulariser: float | None
    grad_norm: float


class TrainingStep:
    """One optimiser step, in the order in which it stands below: `__call__`, `_forward_backward`,
    `_sum_over_processes`, `_update`.

    The loss of a group of micro-batches is the sum over its examples divided by the group's global count of loss units,
    so neither accumulation, nor a smaller last group, nor the number of processes changes it. Gradients of all
    processes are summed after the last micro-batch, in one flat buffer unless they are many. Gradients are zero between
    steps.

    A non-finite loss or gradient norm makes the optimiser, whichever it is, and the scores stand still, see `Ledger`;
    `check` reads its flag.

    Over the last steps of a run the weights that a step leaves are averaged, where that is asked for; see `Averaging`.

    With `cuda_graph`, a CUDA graph per shape of a batch does forward and backward, and one graph does all of `_update`:
    between two launches the host has nothing to do. What a graph changes is changed in place.

    Args:
        model: called with a micro-batch without its labels.
        method: what adapts the model.
        loss: of each unit, from what the model gave and the micro-batch.
        optimizer: over all that trains.
        scheduler: asked for the learning rate of a step by its number, never stepped.
        accelerator: device, processes and mixed precision.
        max_grad_norm: of all gradients together; None not to clip.
        skip_nonfinite: how many bad steps are let pass.
        locate: where a step is in the run, in words, for messages.
        cuda_graph: whether to capture; only where that is known to work.
        evaluations: how many come between the steps, in all.
        measure: answers what a method wants measured at an event.
        alone: whether this process trains by itself, whatever others do: nothing is summed over processes.
        averaged: which steps have their weights averaged; None for none.
        fused: compiles the blocks of the model within a pass; None computes them as they stand.
        packed: how the model computes batches whose texts stand in one row; None where batches are padded.
        shortcuts: how parts of the model are computed in a pass.
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
        evaluations: int = 1,
        measure: Callable[[Calibration], Measured] | None = None,
        alone: bool = False,
        averaged: AveragedSteps | None = None,
        fused: FusedBlocks | None = None,
        packed: PackedRows | None = None,
        shortcuts: Sequence[Shortcut] = (),
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
        self.measure = measure
        self.fused = fused
        self.packed = packed
        self.shortcuts = shortcuts
        self.alone = alone or accelerator.num_processes == 1
        device = accelerator.device
        self.ledger = Ledger(device, skip_nonfinite=skip_nonfinite, scaled=accelerator.scaler is not None)
        self.learning_rate = 0.0  # of the latest step
        self._dtype, self._without_cache = autocast_type(accelerator), without_cache()
        self._regularised = False
        self._update_weights = Update(optimizer, device, scaled=accelerator.scaler is not None, captured=cuda_graph)
        self._graphs = _graphs() if cuda_graph else None
        # How passes of an evaluation between steps are done.
        self.run_evaluation: Run = directly if self._graphs is None else CapturedPasses(self._graphs, evaluations)
        if cuda_graph:
            make_capturable(optimizer)
        self._parameters = parameters_of(optimizer)
        self.averaging = None if averaged is None else Averaging(averaged, self._parameters)
        self._reached: set[nn.Parameter] = set()  # those that have a gradient in every process
        self._compiled_ahead = device.type != "cuda"

    # -- the step ------------------------------------------------------------------------------------------------------

    def __call__(self, step: int, micro_batches: Sequence[Batch], units: int, *, event: bool) -> StepReport:
        """Runs step number `step` on this process's micro-batches; `units` counts the loss units of all processes.

        Args:
            event: whether a selection follows this step; the flag is read first, so that no selection is made on bad
                ground.
        """
        self.ledger.begin(step, units)
        self._set_learning_rate(step)
        self.method.begin_step(step, self.learning_rate)
        if micro_batches and not self._compiled_ahead:
            self._compile_ahead(micro_batches[0])
        for batch in micro_batches:
            self._run(shapes(batch), self._forward_backward, batch)
        if not self.alone:
            self._sum_over_processes()
        self._run("update", self._update, {})
        if self.averaging is not None and self.averaging.begin(step):
            self._run("average", self.averaging.accumulate, {})
        if event:
            self.check_learned(step)
        report = self.method.advance(step)
        while report.wanted is not None:
            assert self.measure is not None, "this method wants something measured"
            self.method.calibrate(self.measure(report.wanted))
            report = self.method.advance(step)
        self._follow(report)
        return report

    @property
    def is_fused(self) -> bool:
        """Whether the blocks of the model are compiled, so far."""
        return self.fused is not None and self.fused.failure is None

    def _set_learning_rate(self, step: int) -> None:
        self.learning_rate = self.learning_rate_of(step)
        self.scheduler.last_epoch = step
        for group in self.optimizer.param_groups:
            rate = self.learning_rate * group.get(RATE, 1.0)
            if torch.is_tensor(group["lr"]):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def _compile_ahead(self, batch: Batch) -> None:
        """Has the kernels of a step compiled side by side, before the first one launches them one by one."""
        self._compiled_ahead = True
        shapes_of_all = frozenset(parameter.shape for parameter in self._parameters)
        clips = self.max_grad_norm is not None
        kind = type(self.model), self.method.name, self._dtype, self.is_fused, clips, shapes_of_all
        zero = self.ledger.loss, *self._statistics()
        compile_ahead(partial(self._announce, batch), kind, self.model, self._parameters, zero)

    def _announce(self, batch: Batch) -> None:
        """Launches what a step launches by way of `triton_launch`."""
        if self.method.announces:
            self._forward_backward(batch)
            self.method.announce()
        self.ledger.announce()
        self._update_weights.announce(self.max_grad_norm)

    def _forward_backward(self, batch: Batch) -> None:
        """Adds the gradients of one micro-batch."""
        accelerator, scaler = self.accelerator, self.accelerator.scaler
        fused = nullcontext() if self.fused is None else self.fused.around(self._dtype)
        training = self.method.training_pass(self._dtype, real_tokens(batch))
        with training, fused, taking(self.shortcuts), in_rows(self.packed) as more:
            with autocast(accelerator, self._without_cache):
                outputs = self.model(**inputs_of(batch), **more)
            part = self.loss(outputs, batch).sum() / self.ledger.units
            # Not accelerator.backward: it divides by an accumulation count that the environment can set.
            (part if scaler is None else scaler.scale(part)).backward()
        self.ledger.loss += part.detach()

    def _sum_over_processes(self) -> None:
        """Sums gradients, the method's statistics and the loss, so that every process goes on with the same numbers."""
        import torch.distributed as dist

        if len(self._reached) < len(self._parameters):
            self._agree_on_gradients()
        gradients = self._gradients()
        summed = [*gradients, *self._statistics(), self.ledger.loss]
        for tensors in (summed[part] for part in pieces(summed)):
            flat = torch.cat([tensor.reshape(-1).to(gradients[0].dtype) for tensor in tensors])
            dist.all_reduce(flat)
            offset = 0
            for tensor in tensors:
                tensor.copy_(flat[offset : offset + tensor.numel()].view(tensor.shape))
                offset += tensor.numel()

    def _agree_on_gradients(self) -> None:
        """Gives zeros to each parameter that other processes have a gradient for: of layers that were left out here,
        or of all where there was no work. What no process has reached yet (a pooler that no head reads) has none in any
        of them, so that it stays as it is, as in a run of one process.

        It waits for the device: in the first step, and as long as there are such parameters.
        """
        import torch.distributed as dist

        waiting = [parameter for parameter in self._parameters if parameter not in self._reached]
        found = torch.tensor([parameter.grad is not None for parameter in waiting], dtype=torch.int32)
        found = found.to(self.accelerator.device)
        dist.all_reduce(found)
        for parameter, processes in zip(waiting, found.tolist(), strict=True):
            if processes:
                self._reached.add(parameter)
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)

    def _update(self, _: Batch) -> None:
        """From gradients to weights, on the device alone and the same work every step, so that a graph can repeat
        it.
        """
        scaler, ledger = self.accelerator.scaler, self.ledger
        if scaler is not None:
            scaler.unscale_(self.optimizer)
            self._unscale_statistics()
        regulariser = self.method.adjust_gradients()
        self._regularised = regulariser is not None
        if regulariser is not None:
            ledger.regulariser.copy_(regulariser)
        skipped = ledger.judge(self._update_weights.clip(self._parameters, self.max_grad_norm))
        self._update_weights.step(skipped)
        if scaler is not None:
            scaler.update()
        self.method.observe(skipped)
        self._update_weights.clear(self._parameters, self._statistics())

    def _unscale_statistics(self) -> None:
        """Undoes the scaling of the loss as often as its gradient is a factor of a statistic."""
        scaler = self.accelerator.scaler
        assert scaler is not None
        scale = scaler.scale(torch.ones((), device=self.accelerator.device))
        for statistic in self.method.statistics():
            if statistic.power:
                statistic.tensor.div_(scale**statistic.power)

    def _follow(self, report: StepReport) -> None:
        """Has the optimiser and the graphs follow what an event has changed."""
        follow(self.optimizer, self.method, report)
        if report.changes_work:
            self._parameters = parameters_of(self.optimizer)
            self._reached.clear()
            if self.averaging is not None:
                self.averaging.follow(self._parameters)
            if self._graphs is not None:
                self._graphs.forget()

    def _run(self, key: Hashable, work: Callable[[Batch], None], batch: Batch) -> None:
        """Does ``work(batch)``, as a graph where steps are captured."""
        if self._graphs is None:
            work(batch)
        else:
            self._graphs.run(key, work, batch)

    def _gradients(self) -> list[torch.Tensor]:
        return [parameter.grad for parameter in self._parameters if parameter.grad is not None]

    def _statistics(self) -> list[torch.Tensor]:
        return [statistic.tensor for statistic in self.method.statistics()]

    def learning_rate_of(self, step: int) -> float:
        """The schedule's, for step number `step`."""
        schedule: Any = self.scheduler
        return float(schedule.base_lrs[0] * schedule.lr_lambdas[0](step - 1))

    # -- what the host reads: each waits for the device ----------------------------------------------------------------

    def read(self, step: int) -> StepReading:
        """Mean loss since the last reading, latest regulariser and gradient norm; raises DivergedError."""
        self.check(step)
        regulariser = float(self.ledger.regulariser) if self._regularised else None
        return StepReading(self.ledger.take_loss(), regulariser, float(self.ledger.grad_norm))

    def check(self, step: int) -> None:
        """Reads the flag; raises DivergedError naming the first bad step."""
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
            f"learning rate {self.learning_rate_of(first):.3g}; noticed at step {step:,}, and nothing was changed "
            "from that step on. Lower train.learning_rate, lengthen train.lr_warmup_fraction, or set train.precision: "
            "fp32"
        )

    def check_weights(self, step: int) -> None:
        """Like `check`, and the weights too, which `skip_nonfinite` may have let go on: nothing is chosen by them,
        nothing of them saved. It waits once.
        """
        self._read_weights(step)

    def check_learned(self, step: int) -> None:
        """Like `check_weights`, and that a step has changed them at all: nothing is chosen by what was never learned.

        The fp16 scaler's own skipped steps do not count: it finds its scale by them.
        """
        if self._read_weights(step) and self.accelerator.scaler is None:
            raise learned_nothing(step)

    def _read_weights(self, step: int) -> bool:
        """Raises DivergedError where the flag is set or a weight is not finite; returns whether every step so far was a
        bad one.
        """
        ledger, largest = self.ledger, nn.utils.get_total_norm(self._parameters, math.inf)
        # where nothing is left to train, as all gates may end at zero, the norm is on the CPU
        finite_there = largest.isfinite().to(ledger.halted.device)
        halted, finite, in_vain = torch.stack([ledger.halted, finite_there, ledger.bad_steps >= ledger.number]).tolist()
        if halted:
            self.check(step)
        if not finite:
            raise DivergedError(
                f"training diverged: the weights after step {step:,} are not finite, at learning rate "
                f"{self.learning_rate:.3g}; lower train.learning_rate, lengthen train.lr_warmup_fraction, or set "
                "train.precision: fp32"
            )
        return bool(in_vain)

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Moments of the optimiser by ``INDEX.KEY``, and plain values of all the rest. Waits for the device."""
        scaler = self.accelerator.scaler
        plain = {
            "scheduler": int(self.scheduler.last_epoch),
            "scaler": None if scaler is None else {key: float(value) for key, value in scaler.state_dict().items()},
            **self.ledger.state_dict(),
        }
        return moments_of(self.optimizer), plain

    def load_state_dict(self, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None:
        """Restores what `state_dict` gave, on parameters of the same shapes.

        Raises CheckpointError on the first misfit.
        """
        load_moments(self.optimizer, tensors)
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.grad.zero_()  # in place, where captured steps read it
            elif parameter in self.optimizer.state:  # it had a gradient: in the next step too, if only of zeros
                parameter.grad = torch.zeros_like(parameter)
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


def _graphs() -> Graphs:
    fix = "set train.cuda_graph: off, and go on from the newest checkpoint or start again"
    return Graphs("a training step or evaluation of this model", fix)


def learned_nothing(step: int) -> DivergedError:
    """The end of a run whose every step up to `step` was a bad one that was let pass."""
    return DivergedError(
        f"training diverged: the loss or gradient norm of every step up to {step:,} was not finite, and "
        "train.skip_nonfinite let all of them pass: nothing was learned. Lower train.learning_rate or what "
        "scales the method's update, or set train.precision: fp32"
    )
