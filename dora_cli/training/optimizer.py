"""The optimiser over the adapters and the head; what becomes of its state when tensors shrink or grow, and in
checkpoints.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from dora_cli.errors import CheckpointError
from dora_cli.methods.base import Method, Mixture, Replacement, StepReport
from dora_cli.methods.carry import carried
from dora_cli.printable import shown

_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_LARGEST = "max_exp_avg_sq"
"""What AdamW keeps of a parameter; the last where it is told to (amsgrad)."""


RATE, DECAY = "rate", "run_weight_decay"
"""Keys of a parameter group: its factor on the learning rate, which the step applies; the weight decay of groups that
name none.
"""


def make_optimizer(
    method: Method, *, learning_rate: float, weight_decay: float, betas: tuple[float, float], eps: float
) -> torch.optim.Optimizer:
    """The method's optimiser over all that trains, the head included.

    Weight decay falls on every tensor whose group does not say otherwise: on gates too, as in the published code.
    """
    common = {"lr": learning_rate, DECAY: weight_decay, "betas": betas, "eps": eps}
    return method.make_optimizer([common | own for own in _own(method, weight_decay)])


def _own(method: Method, weight_decay: float) -> list[dict[str, Any]]:
    """What the groups of `method` say themselves, with `weight_decay` for those that name none."""
    return [
        {
            "params": list(group.parameters),
            RATE: group.rate,
            "weight_decay": weight_decay if group.weight_decay is None else group.weight_decay,
        }
        for group in method.groups()
    ]


def make_scheduler(
    optimizer: torch.optim.Optimizer, *, warmup_steps: int, total_steps: int, restarts: Sequence[int] = ()
) -> LambdaLR:
    """Linear warm-up from zero, then linear decay to zero; stepped once per optimiser step.

    The same as transformers' ``get_linear_schedule_with_warmup``, which brings half of its Trainer, and PEFT, with it.

    Args:
        optimizer: whose learning rate it is.
        warmup_steps: of all steps; a part of them has its share.
        total_steps: of the run.
        restarts: steps after which it starts anew, over the steps up to the next restart or the end.
    """
    bounds = [0, *restarts, total_steps]
    return LambdaLR(optimizer, partial(_piecewise, bounds=bounds, warmup_steps=warmup_steps))


def _piecewise(step: int, *, bounds: Sequence[int], warmup_steps: int) -> float:
    """Share of the learning rate after `step` steps, of which those within `bounds` are one schedule."""
    part = min(bisect_right(bounds, step), len(bounds) - 1)
    first, last = bounds[part - 1], bounds[part]
    return _linear(step - first, warmup_steps=warmup_steps * (last - first) // bounds[-1], total_steps=last - first)


def _linear(step: int, *, warmup_steps: int, total_steps: int) -> float:
    """Share of the learning rate after `step` steps."""
    if step < warmup_steps:
        return step / warmup_steps
    return max(0.0, (total_steps - step) / max(1, total_steps - warmup_steps))


def parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """All that `optimizer` trains, in its order."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


@torch.no_grad()
def mix(optimizer: torch.optim.Optimizer, mixed: Sequence[Mixture]) -> None:
    """Carries moments over to parameters whose slices were mixed (see `Mixture`), in place. Waits for the device."""
    for item in mixed:
        state = optimizer.state.get(item.parameter)
        if not state:
            continue
        if set(state) != set(_MOMENTS) or not bool(item.carry.known.any()):
            del optimizer.state[item.parameter]
            continue
        moments = [state[key] for key in _MOMENTS[1:]]
        rows = [moment.movedim(item.dimension, 0).flatten(1) for moment in moments]
        for moment, new in zip(moments, carried(item.carry, *rows), strict=True):
            moment.copy_(new.view_as(moment.movedim(item.dimension, 0)).movedim(0, item.dimension))


def replace(optimizer: torch.optim.Optimizer, replaced: Sequence[Replacement]) -> None:
    """Puts parameters that shrank or grew in the place of the old ones and slices their state alike; forgets parameters
    that are gone.

    What an optimiser keeps in another shape than the parameter's (Adafactor's rows and columns) cannot be sliced; it
    starts anew.
    """
    by_old = {id(item.old): item for item in replaced}
    for group in optimizer.param_groups:
        kept = []
        for parameter in group["params"]:
            item = by_old.get(id(parameter))
            if item is None:
                kept.append(parameter)
                continue
            state = optimizer.state.pop(parameter, {})
            if item.new is None:
                continue
            kept.append(item.new)
            # a step counter is a scalar
            tensors = {key: value for key, value in state.items() if torch.is_tensor(value) and value.ndim}
            if state and all(value.shape == parameter.shape for value in tensors.values()):
                sliced = {key: _sliced(value, item, item.new) for key, value in tensors.items()}
                optimizer.state[item.new] = {**state, **sliced}
        group["params"] = kept


def _sliced(value: torch.Tensor, item: Replacement, new: nn.Parameter) -> torch.Tensor:
    """What is kept of a state in the shape of the old parameter, zeros for what was added."""
    # In the storage order of the parameter, which fused kernels take for granted.
    found = torch.zeros_like(new, dtype=value.dtype)
    found.narrow(item.dimension, 0, len(item.kept)).copy_(value.index_select(item.dimension, item.kept))
    return found


def follow(optimizer: torch.optim.Optimizer, method: Method, report: StepReport) -> None:
    """Has `optimizer` train what `method` trains after `report`, in the order of its groups.

    State stays with its parameter; it is dropped where the report has it start anew, and where a parameter ceases to
    train.
    """
    mix(optimizer, report.mixed)
    replace(optimizer, report.replaced)
    for parameter in report.restarted:
        optimizer.state.pop(parameter, None)
    if not report.regrouped:
        return
    groups = optimizer.param_groups
    first, present = dict(groups[0]), _own(method, groups[0][DECAY])
    for group, own in zip(groups, present, strict=False):
        group.update(own)
    del groups[len(present) :]
    for own in present[len(groups) :]:
        # captured work reads the rate of each group by itself
        rate = first["lr"].clone() if torch.is_tensor(first["lr"]) else first["lr"]
        optimizer.add_param_group({**first, **own, "lr": rate})
    training = {id(parameter) for parameter in parameters_of(optimizer)}
    for gone in [kept for kept in optimizer.state if id(kept) not in training]:
        del optimizer.state[gone]


class Unless:
    """Does the optimiser's step unless a flag on the device says otherwise: then neither weights nor state change.

    Fused AdamW reads the flag itself, and so does an optimiser with an attribute `found_inf`. What any other changes is
    copied before and put back. State that its first step makes is put back to zeros, from which these optimisers begin.

    Args:
        optimizer: whose step it is.
        device: of the flag.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self._optimizer = optimizer
        self._reads_flag = is_fused_adamw(optimizer) or hasattr(optimizer, "found_inf")
        if self._reads_flag:
            # These two attributes are read as GradScaler would set them: where found_inf is 1 nothing moves.
            self._found_inf = torch.zeros((), device=device)
            optimizer.found_inf, optimizer.grad_scale = self._found_inf, None  # type: ignore[attr-defined]
        elif device.type == "cuda":  # else counters of steps are on the CPU, and the flag would have to come there
            for group in optimizer.param_groups:
                if "capturable" in group:
                    group["capturable"] = True

    @torch.no_grad()
    def __call__(self, skipped: torch.Tensor) -> None:
        """One step; `skipped` is a boolean scalar."""
        if self._reads_flag:
            self._found_inf.copy_(skipped)
            self._optimizer.step()
            return
        before = {key: tensor.detach().clone() for key, tensor in self._changing()}
        self._optimizer.step()
        for key, tensor in self._changing():
            was = before[key] if key in before else torch.zeros_like(tensor)
            tensor.copy_(torch.where(skipped.to(tensor.device), was, tensor))

    def _changing(self) -> Iterator[tuple[Hashable, torch.Tensor]]:
        for index, parameter in enumerate(parameters_of(self._optimizer)):
            yield index, parameter
            for key, value in _tensors(self._optimizer, parameter).items():
                yield (index, key), value


def is_fused_adamw(optimizer: torch.optim.Optimizer) -> bool:
    """Whether it is PyTorch's, in its fused way, as methods have it that say nothing else."""
    return isinstance(optimizer, torch.optim.AdamW) and all(group.get("fused") for group in optimizer.param_groups)


def has_hooks(optimizer: torch.optim.Optimizer) -> bool:
    """Whether something is to be called around its step."""
    own = vars(optimizer)  # there is no other way to ask
    return bool(own.get("_optimizer_step_pre_hooks") or own.get("_optimizer_step_post_hooks"))


def make_capturable(optimizer: torch.optim.Optimizer) -> None:
    """Has all that a step changes on the device, where captured steps change it."""
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = True


def rates_on_device(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Puts learning rates on `device`, where captured steps and Triton's kernels read them."""
    for group in optimizer.param_groups:
        group["lr"] = torch.zeros((), device=device)


def _tensors(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
    """What `optimizer` keeps of `parameter`; some keep None where there is nothing."""
    return {key: value for key, value in optimizer.state.get(parameter, {}).items() if torch.is_tensor(value)}


# In checkpoints -------------------------------------------------------------------------------------------------------


def moments_of(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """What `optimizer` keeps of its parameters, by ``INDEX.KEY``."""
    return {
        f"{index}.{key}": value
        for index, parameter in enumerate(parameters_of(optimizer))
        for key, value in _tensors(optimizer, parameter).items()
    }


def load_moments(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Restores what `moments_of` gave, on parameters of the same shapes. What is there already is written to in place,
    as captured steps need it; it becomes zeros where `tensors` hold nothing, as before a first step.

    Of AdamW all is known that can be wrong with it. What another optimiser keeps must be finite, and a scalar, in the
    parameter's shape, or in that of what is there from the beginning. Raises CheckpointError on the first misfit.
    """
    adam = isinstance(optimizer, torch.optim.AdamW)
    states: dict[int, dict[str, torch.Tensor]] = {}
    numbers = {str(index) for index in range(len(parameters_of(optimizer)))}
    for name, value in tensors.items():
        number, _, key = name.partition(".")
        known = key in (*_MOMENTS, _LARGEST) if adam else key != ""
        if not known or number not in numbers:
            raise CheckpointError(
                f"optimiser tensor {shown(name)} is in the checkpoint, but this model and recipe have no place for it"
            )
        states.setdefault(int(number), {})[key] = value
    places = [(parameter, group) for group in optimizer.param_groups for parameter in group["params"]]
    for index, (parameter, group) in enumerate(places):
        there = _tensors(optimizer, parameter)
        if (state := states.get(index)) is None:  # a parameter that no gradient has reached yet
            for value in there.values():
                value.zero_()
            continue
        if adam:
            _check_adam(index, parameter, state, (*_MOMENTS, *([_LARGEST] if group.get("amsgrad") else [])))
        else:
            _check_kept(index, parameter, state, there)
        # what is there already may be a part of something larger
        optimizer.state[parameter] = {
            key: there[key].copy_(value) if key in there else _placed(key, value, parameter, group)
            for key, value in state.items()
        }


def _placed(key: str, value: torch.Tensor, parameter: nn.Parameter, group: Mapping[str, Any]) -> torch.Tensor:
    """A copy of `value` where the optimiser expects it."""
    if value.shape == parameter.shape and key != "step":
        # In the storage order of the parameter, which fused kernels take for granted.
        return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    if key == "step" and not (group.get("fused") or group.get("capturable")):
        return value.clone()  # PyTorch's own keep it on the CPU then
    return value.to(parameter.device, copy=True)


def _check_adam(index: int, parameter: nn.Parameter, state: Mapping[str, torch.Tensor], wanted: Sequence[str]) -> None:
    if odd := set(state) ^ set(wanted):
        said = "is missing from the checkpoint" if min(odd) in wanted else "is in the checkpoint, but not kept here"
        raise CheckpointError(f"optimiser tensor {index}.{min(odd)} {said}; it is damaged")
    for key, value in state.items():
        shape, dtype = ((), torch.float32) if key == "step" else (parameter.shape, parameter.dtype)
        if value.shape != shape or value.dtype != dtype:
            raise CheckpointError(
                f"optimiser tensor {index}.{key} is {value.dtype} {tuple(value.shape)} in the checkpoint; "
                f"this model and recipe need {dtype} {tuple(shape)}"
            )
    finite = all(bool(value.isfinite().all()) for value in state.values())
    if not finite or float(state["step"]) < 0 or bool((state["exp_avg_sq"] < 0).any()):
        raise _impossible(index)


def _check_kept(
    index: int, parameter: nn.Parameter, state: Mapping[str, torch.Tensor], there: Mapping[str, torch.Tensor]
) -> None:
    if missing := there.keys() - state.keys():
        raise CheckpointError(f"optimiser tensor {index}.{min(missing)} is missing from the checkpoint; it is damaged")
    for key, value in state.items():
        wanted = there[key].shape if key in there else parameter.shape
        if value.shape != wanted and (value.ndim or key in there):
            raise CheckpointError(
                f"optimiser tensor {index}.{shown(key)} is {tuple(value.shape)} in the checkpoint; this model and "
                f"recipe need {tuple(wanted)}{'' if key in there else ' or a scalar'}"
            )
    if not all(bool(value.isfinite().all()) for value in state.values()):
        raise _impossible(index)


def _impossible(index: int) -> CheckpointError:
    return CheckpointError(
        f"optimiser tensors {index}.* hold values that no training leaves (not finite, or below 0); the "
        "checkpoint is damaged, use another one of the run"
    )
