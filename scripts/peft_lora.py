"""PEFT's LoRA behind the contract of a method, so that it trains under the same loop, data order and records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from dora_cli.methods.base import LoraFactors, ProjectionAllocation, Schedule, Shape, StepReport
from dora_cli.methods.head import PlainSchedule
from dora_cli.methods.linear import shape_of


class PeftLora:
    """PEFT's LoRA behind the contract of a method.

    Its ranks never change; `freeze_step` is DoRA's, so that both select alike.
    """

    name = "peft-lora"
    frozen = True

    def __init__(self, rank: int, alpha: float, dropout: float) -> None:
        self.rank, self.alpha, self.dropout = rank, alpha, dropout

    def plan(self, total_steps: int, shapes: Mapping[str, Shape]) -> PlainSchedule:
        return PlainSchedule(total_steps)

    def attach(self, model: nn.Module, projections: Mapping[str, nn.Module], schedule: Schedule | None = None) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        self._shapes = {name: shape_of(module) for name, module in projections.items()}
        config = LoraConfig(
            r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=list(projections)
        )
        inject_adapter_in_model(config, model)
        self._model = model
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        assert len(self._parameters) == 2 * len(projections)

    def parameters(self) -> list[nn.Parameter]:
        return self._parameters

    def training_pass(self, dtype: torch.dtype | None = None) -> AbstractContextManager[None]:
        return nullcontext()

    def adjust_gradients(self, step: int) -> torch.Tensor | None:
        return None

    def observe(self, skipped: torch.Tensor | None = None) -> None:
        pass

    def advance(self, step: int) -> StepReport:
        return StepReport("training", 0, 0)

    @contextmanager
    def folded(self) -> Iterator[None]:
        from peft.tuners.lora import LoraLayer

        layers = [module for module in self._model.modules() if isinstance(module, LoraLayer)]
        weights = [layer.get_base_layer().weight.detach().clone() for layer in layers]
        for layer in layers:
            layer.merge()
        try:
            yield
        finally:
            for layer, weight in zip(layers, weights, strict=True):
                layer.unmerge()
                layer.get_base_layer().weight.data.copy_(weight)  # subtracting again is not exact

    def allocation(self) -> list[ProjectionAllocation]:
        return [ProjectionAllocation(name, shape, self.rank, self.rank) for name, shape in self._shapes.items()]

    def to_lora(self) -> dict[str, LoraFactors]:
        raise NotImplementedError("not compared")

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {str(index): parameter.detach() for index, parameter in enumerate(self._parameters)}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        raise NotImplementedError("not compared")
