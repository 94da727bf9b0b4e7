"""What a method asks to know of model and data: second moments of inputs, gradients of weights, a held-out loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dora_cli.data import Encoded, inputs_of, to_device
from dora_cli.data.masks import real_tokens
from dora_cli.evaluation.passes import Indices, batches_by_length, evaluation_mode
from dora_cli.machine.devices import autocast
from dora_cli.methods.base import Calibration, Measured, Site
from dora_cli.methods.linear import is_transposed, weight_of

if TYPE_CHECKING:
    from accelerate import Accelerator

LossFunction = Callable[[Any, Mapping[str, torch.Tensor]], torch.Tensor]


@dataclass(frozen=True)
class Calibrator:
    """Answers a method's `Calibration`: every process calls it, and all get the same numbers.

    Attributes:
        model: with the method in its place, its dropout off meanwhile.
        sites: what the method adapts.
        loss: of each loss unit, from what the model gave and the batch; what is held out is judged by it.
        trained_loss: the same as it is trained on, with smoothed labels; what gradients are of.
        train: the examples that are learned from.
        held_out: those that are kept from it; None where there are none.
        batch_size: of a micro-batch.
        seed: by which examples are drawn.
    """

    model: nn.Module
    sites: Sequence[Site]
    loss: LossFunction
    trained_loss: LossFunction
    train: Encoded
    held_out: Encoded | None
    batch_size: int
    accelerator: Accelerator
    seed: int

    def __call__(self, wanted: Calibration) -> Measured:
        """Measures what is `wanted`; waits for the device."""
        if wanted.kind == "loss":
            assert self.held_out is not None, "the method holds nothing out"
            batches = batches_by_length(self.held_out.lengths, self.batch_size, self.accelerator)
            return Measured(loss=self._mean_loss(self.held_out, batches))
        if wanted.kind == "inputs":
            return Measured(inputs=self._second_moments(self._drawn(wanted.examples)))
        return Measured(gradients=self._gradients(self._drawn(wanted.examples)))

    def _drawn(self, count: int) -> list[Indices]:
        """This process's share of batches over `count` examples of the training split, the same ones for any number of
        processes and any size of a batch.
        """
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(self.train), generator=generator)[:count].numpy()
        batches = [order[first : first + self.batch_size] for first in range(0, len(order), self.batch_size)]
        return batches[self.accelerator.process_index :: self.accelerator.num_processes]

    def _batches(self, data: Encoded, batches: Sequence[Indices]) -> Iterator[dict[str, torch.Tensor]]:
        for indices in batches:
            yield to_device(data.collate(indices), self.accelerator.device)

    def _outputs(self, batch: Mapping[str, torch.Tensor], *, plain: bool = False) -> Any:
        # fp16 would lose gradients that nobody scales, and an event is too rare for its speed to matter
        plain = plain or self.accelerator.mixed_precision == "fp16"
        with nullcontext() if plain else autocast(self.accelerator):
            return self.model(**inputs_of(batch))

    def _mean_loss(self, data: Encoded, batches: Sequence[Indices]) -> float:
        total = torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)
        # losses that are compared differ by less than bf16 rounds to
        fine = all(parameter.dtype.itemsize >= 4 for parameter in self.model.parameters())
        with evaluation_mode(self.model):
            for indices, batch in zip(batches, self._batches(data, batches), strict=True):
                total[0] += self.loss(self._outputs(batch, plain=fine), batch).sum(dtype=torch.float64)
                total[1] += int(data.units[indices].sum())
        loss, units = self._summed([total])[0].tolist()
        return float(loss / units)

    def _second_moments(self, batches: Sequence[Indices]) -> dict[str, torch.Tensor]:
        moments = {
            site.name: torch.zeros(site.shape[1], site.shape[1], device=weight_of(site.module).device)
            for site in self.sites
        }
        rows = torch.zeros(len(self.sites), device=self.accelerator.device)
        masks: dict[str, torch.Tensor] = {}

        def read(index: int, site: Site, x: torch.Tensor) -> None:
            mask = masks.get(site.reads)
            real = x.reshape(-1, x.shape[-1])
            if mask is not None and mask.numel() == len(real):  # else it reads no tokens, such as one vector per text
                real = real[mask.reshape(-1)]
            real = real.float()
            moments[site.name].addmm_(real.T, real)
            rows[index] += len(real)

        with evaluation_mode(self.model), self._reading(read):
            for batch in self._batches(self.train, batches):
                masks = real_tokens(batch) or {}
                self._outputs(batch)
        *summed, counts = self._summed([*moments.values(), rows])
        return {name: moment / count for name, moment, count in zip(moments, summed, counts, strict=True)}

    @contextmanager
    def _reading(self, read: Callable[[int, Site, torch.Tensor], None]) -> Iterator[None]:
        """Shows `read` what every site reads."""
        handles = []
        for index, site in enumerate(self.sites):

            def hook(_: nn.Module, inputs: tuple[Any, ...], index: int = index, site: Site = site) -> None:
                read(index, site, inputs[0].detach())

            handles.append(self.model.get_submodule(site.name).register_forward_pre_hook(hook))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _gradients(self, batches: Sequence[Indices]) -> dict[str, torch.Tensor]:
        """The gradients of the base weights: an update is added to them, so theirs are those of the whole weights."""
        weights = [weight for site in self.sites if isinstance(weight := site.module.weight, nn.Parameter)]
        assert len(weights) == len(self.sites)
        kept = [weight.grad for weight in weights]  # of those that train: captured work writes there
        found = {site.name: torch.zeros(site.shape, device=weight_of(site.module).device) for site in self.sites}
        units = torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        training = self.model.training
        self.model.eval()
        try:
            self.model.requires_grad_(False)
            for weight in weights:
                weight.requires_grad_(True)
                weight.grad = None
            for indices, batch in zip(batches, self._batches(self.train, batches), strict=True):
                self.trained_loss(self._outputs(batch), batch).sum().backward()
                units += int(self.train.units[indices].sum())
                for site, weight in zip(self.sites, weights, strict=True):
                    if weight.grad is not None:
                        stored = weight.grad.float()
                        found[site.name] += stored.T if is_transposed(site.module) else stored
                        weight.grad = None
        finally:
            for weight, gradient in zip(weights, kept, strict=True):
                weight.requires_grad_(False)
                weight.grad = gradient
            for parameter in trained:
                parameter.requires_grad_(True)
            self.model.train(training)
        *summed, count = self._summed([*found.values(), units])
        return {name: gradient / count.to(gradient.dtype) for name, gradient in zip(found, summed, strict=True)}

    def _summed(self, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        """The sums over all processes."""
        if self.accelerator.num_processes > 1:
            for tensor in tensors:
                torch.distributed.all_reduce(tensor)
        return tensors
