"""The bottleneck adapters of a method on a model, and the norms that train with them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn

from dora_cli.errors import BudgetError
from dora_cli.methods.base import Group, Site, load_tensors
from dora_cli.methods.bottleneck.layer import Activation, Bottleneck
from dora_cli.methods.bottleneck.lean import LeanPass
from dora_cli.methods.bottleneck.norms import trained_norms
from dora_cli.methods.frozen import FrozenMaps
from dora_cli.methods.linear import swap_modules, trained_type, weight_of


def check_width(sites: Sequence[Site], bottleneck: int) -> None:
    """Raises BudgetError where a bottleneck is wider than what a site gives; sites out of reach have no name."""
    narrow = [site for site in sites if site.name and site.shape[0] < bottleneck]
    if narrow:
        least = min(narrow, key=lambda site: site.shape[0])
        raise BudgetError(
            f"method.bottleneck is {bottleneck:,}, wider than the {least.shape[0]:,} that {least.name} gives; set it "
            f"to at most {least.shape[0]:,}"
        )


class Adapters:
    """Puts an adapter of `bottleneck` at each of `places` of `model`, whose own parameters are frozen.

    Args:
        places: for each site the full path of the module whose output is adapted.
        start_std: both weights start from a normal distribution around 0 of this standard deviation, cut off at two of
            them; the biases from 0.
        generator: what the start is drawn from.
        train_norms: whether the norms of the sites' blocks train, too.
    """

    def __init__(
        self,
        model: nn.Module,
        places: Sequence[tuple[Site, str]],
        *,
        bottleneck: int,
        activation: Activation,
        start_std: float,
        generator: torch.Generator,
        train_norms: bool,
    ) -> None:
        modules = {site.name: model.get_submodule(path) for site, path in places}
        blocks = dict.fromkeys(site.name.removesuffix(f".{site.projection}") for site, _ in places)
        self.norms = trained_norms(model, blocks) if train_norms else {}
        self.layers: dict[str, Bottleneck] = {}
        for site, _ in places:
            weight, base = weight_of(site.module), modules[site.name]
            dtype, d = trained_type(weight.dtype), site.shape[0]
            down, up = torch.empty(bottleneck, d, dtype=dtype), torch.empty(d, bottleneck, dtype=dtype)
            for start in (down, up):
                nn.init.trunc_normal_(start, std=start_std, a=-2 * start_std, b=2 * start_std, generator=generator)
            self.layers[site.name] = Bottleneck(
                base.requires_grad_(False), down.to(weight.device), up.to(weight.device), activation
            )
        for norm in self.norms.values():
            norm.requires_grad_(True)
        swap_modules(model, {layer.base: layer for layer in self.layers.values()})
        self._lean: LeanPass | None = None
        self._frozen = FrozenMaps(model)

    # -- training ------------------------------------------------------------------------------------------------------

    def parameters(self) -> list[nn.Parameter]:
        """The adapters' tensors, adapter by adapter, then those of the norms."""
        return [*self._adapted(), *self._norms().values()]

    def groups(self, head: Sequence[nn.Parameter]) -> list[Group]:
        """Weight decay is for weights and `head`, not for biases and norms, as in Houlsby et al.'s code."""
        adapted = self._adapted()
        weights = [tensor for tensor in adapted if tensor.ndim == 2]
        rest = [tensor for tensor in adapted if tensor.ndim == 1]
        return [Group([*weights, *head]), Group([*rest, *self._norms().values()], weight_decay=0.0)]

    @contextmanager
    def training_pass(self, dtype: torch.dtype | None = None) -> Iterator[None]:
        """One forward and backward pass with less work than autograd's own way, up to rounding the same.

        The adapters' gradients are complete when it ends, not before; within it only `backward` gives them, not
        `torch.autograd.grad`.

        Args:
            dtype: autocast's, where autocast is entered within; None means that of the autocast around it, or else the
                adapters' own.
        """
        first = next(iter(self.layers.values())).W_down
        device = first.device.type
        if dtype is None and torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        with self._frozen.cast(dtype), self._adapters_pass(dtype or first.dtype):
            yield

    def _adapters_pass(self, dtype: torch.dtype) -> AbstractContextManager[None]:
        layers = list(self.layers.values())
        if len({(layer.W_down.device, layer.W_down.dtype) for layer in layers}) > 1:
            return nullcontext()  # a model that is spread over devices
        if self._lean is None or self._lean.dtype != dtype or not self._lean.holds:
            self._lean = LeanPass(layers, dtype)
        return self._lean.around()

    def release(self) -> None:
        """Frees what only training passes need."""
        self._lean = None
        self._frozen.release()

    # -- saving and loading --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Every tensor as ``SITE.W_down``, ``SITE.b_down``, ``SITE.W_up``, ``SITE.b_up``, and those of norms by their
        own names.
        """
        return {name: tensor.detach().contiguous() for name, tensor in self._places().items()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restores `state_dict`. Raises CheckpointError on the first misfit."""
        load_tensors(self._places(), state)

    def _places(self) -> dict[str, nn.Parameter]:
        adapted = {
            f"{name}.{key}": tensor for name, layer in self.layers.items() for key, tensor in layer.tensors().items()
        }
        return {**adapted, **self._norms()}

    def _adapted(self) -> list[nn.Parameter]:
        return [tensor for layer in self.layers.values() for tensor in layer.tensors().values()]

    def _norms(self) -> dict[str, nn.Parameter]:
        return {
            f"{name}.{key}": tensor
            for name, norm in self.norms.items()
            for key, tensor in norm.named_parameters(recurse=False)
        }
