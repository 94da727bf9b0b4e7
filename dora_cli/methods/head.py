"""Training the head alone: no projection changes. The floor that any adaptation has to beat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dora_cli.errors import BudgetError, CheckpointError
from dora_cli.methods.base import LoraFactors, ProjectionAllocation, Schedule, Shape, StepReport
from dora_cli.printable import shown

PHASE = "training"


@dataclass(frozen=True)
class PlainSchedule:
    """One phase, no components."""

    total_steps: int
    start_components: int = 0
    final_components: int = 0
    freeze_step: int = 0

    @property
    def phases(self) -> Sequence[tuple[str, int, int]]:
        return ((PHASE, 1, self.total_steps),)

    def phase(self, step: int) -> str:
        return PHASE

    def budget(self, step: int) -> int:
        return 0

    def next_event(self, step: int) -> int | None:
        return None

    def describe(self) -> Mapping[str, Any]:
        return {"total_steps": self.total_steps, "start_components": 0, "final_components": 0, "freeze_step": 0}


class HeadOnly:
    """The contract of a method that adapts nothing."""

    name = "head"
    frozen = True

    def plan(self, total_steps: int, shapes: Mapping[str, Shape]) -> PlainSchedule:
        if total_steps < 1:
            raise BudgetError(
                f"the run has {total_steps} optimiser steps; it needs at least 1: raise train.epochs or train.max_steps"
            )
        return PlainSchedule(total_steps)

    def attach(self, model: nn.Module, projections: Mapping[str, nn.Module], schedule: Schedule | None = None) -> None:
        pass

    def parameters(self) -> list[nn.Parameter]:
        return []

    def training_pass(self, dtype: torch.dtype | None = None) -> AbstractContextManager[None]:
        return nullcontext()

    def adjust_gradients(self, step: int) -> torch.Tensor | None:
        return None

    def observe(self, skipped: torch.Tensor | None = None) -> None:
        pass

    def advance(self, step: int) -> StepReport:
        return StepReport(PHASE, 0, 0)

    @contextmanager
    def folded(self) -> Iterator[None]:
        yield

    def merge(self) -> None:
        pass

    def allocation(self) -> list[ProjectionAllocation]:
        return []

    def to_lora(self) -> dict[str, LoraFactors]:
        return {}

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        if state:
            raise CheckpointError(
                f"tensor {shown(min(state))} is in the checkpoint, but the method {self.name} adapts nothing"
            )
