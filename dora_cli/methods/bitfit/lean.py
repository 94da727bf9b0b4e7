"""A training pass over linear maps of which the bias alone trains, with as little work as it takes.

Per pass, not per map: one copy of all biases in the precision of the arithmetic, one sum of all their gradients into
those of the parameters. Per map: one autograd function, which saves nothing and adds the gradient where it belongs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from dora_cli.methods.linear import shape_of, weight_of
from dora_cli.methods.low_rank.arithmetic.kernels import Kernels, kernels_for

Place = tuple[nn.Module, str, nn.Module]
"""A linear map, and its parent with the name by which that holds it: ``(parent, name, map)``."""


def maps_of(model: nn.Module, biases: Collection[nn.Parameter]) -> list[Place]:
    """Every place of a linear map in `model` whose bias is one of `biases`; a map that is shared has several."""
    wanted = {id(bias) for bias in biases}
    return [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent._modules.items()  # `named_children` would leave out one that stands there twice
        # Not of subclasses: these may read their weight in another way.
        if isinstance(child, nn.Module) and type(child) in (nn.Linear, Conv1D) and id(child.bias) in wanted
    ]


class LeanPass:
    """What the passes of a training share.

    Args:
        places: of all maps; on one device, their biases of one type.
        dtype: of the arithmetic: autocast's, or that of the biases where there is none.
    """

    def __init__(self, places: Sequence[Place], dtype: torch.dtype) -> None:
        self.dtype, self._places = dtype, list(places)
        bases = list({id(base): base for _, _, base in places}.values())
        owned: list[nn.Parameter] = [base.bias for base in bases]  # type: ignore[misc]
        self.biases = list({id(bias): bias for bias in owned}.values())  # two maps may share one
        first = self.biases[0]
        kernels = kernels_for(first.device, dtype, len(bases), ranks=[1])
        of_width: dict[int, list[int]] = defaultdict(list)
        for index, bias in enumerate(self.biases):
            of_width[len(bias)].append(index)
        self._sums: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._gradients = [first.detach()] * len(self.biases)
        self._maps: dict[nn.Module, _Map] = {}  # by the module, which a copy of all of it carries along
        ones: dict[int, torch.Tensor] = {}
        rows: dict[int, tuple[int, torch.Tensor]] = {}
        for width, indices in of_width.items():
            totals = first.new_zeros(kernels.splits(width), len(indices), width)
            gradient = first.new_zeros(len(indices), width)
            self._sums.append((totals, gradient))
            for row, index in enumerate(indices):
                self._gradients[index] = gradient[row]
                rows[id(self.biases[index])] = index, totals[:, row : row + 1]
        for base, bias in zip(bases, owned, strict=True):
            index, total = rows[id(bias)]
            self._maps[base] = _Map(base, index, kernels, total, dtype, ones)
        self._kernels = kernels

    @property
    def holds(self) -> bool:
        """Whether the maps still have the biases it was made for, where they were."""
        return all(
            map_.bias is self.biases[map_.index]
            and (map_.bias.device, map_.bias.dtype) == (self._gradients[0].device, self._gradients[0].dtype)
            for map_ in self._maps.values()
        )

    @contextmanager
    def around(self) -> Iterator[None]:
        """One forward and backward pass; the biases' gradients are complete when it ends, not before."""
        copies = [bias.detach() for bias in self.biases]
        if self.dtype != copies[0].dtype:
            copies = list(torch.split(torch.cat(copies).to(self.dtype), [len(bias) for bias in copies]))
        for map_ in self._maps.values():
            map_.copy = copies[map_.index]
        try:
            for parent, name, base in self._places:
                setattr(parent, name, self._maps[base])
            yield
        finally:
            for parent, name, base in self._places:
                setattr(parent, name, base)
            for map_ in self._maps.values():
                map_.copy = None
        self._finish()

    @torch.no_grad()
    def _finish(self) -> None:
        for totals, gradient in self._sums:
            gradient.zero_()
            self._kernels.collect(totals, gradient)
        for bias in self.biases:
            if bias.grad is None:
                bias.grad = torch.zeros_like(bias)
        torch._foreach_add_([bias.grad for bias in self.biases if bias.grad is not None], self._gradients)


class _Map(nn.Module):
    """``y = W x + b`` within a pass, in the place of `base`.

    Attributes:
        copy: the bias in the precision of the arithmetic; None outside a pass.
        totals: partial sums of its gradient, ``(splits, 1, d_out)``.
    """

    def __init__(
        self,
        base: nn.Module,
        index: int,
        kernels: Kernels,
        totals: torch.Tensor,
        dtype: torch.dtype,
        ones: dict[int, torch.Tensor],
    ) -> None:
        super().__init__()
        self.base, self.index, self.kernels, self.totals, self.dtype = base, index, kernels, totals, dtype
        self.out_features, self.in_features = shape_of(base)
        self.copy: torch.Tensor | None = None
        self._ones = ones

    @property
    def weight(self) -> torch.Tensor:
        """The base's, in its own storage order; some models ask for its type."""
        return self.base.weight  # type: ignore[return-value]

    @property
    def bias(self) -> torch.Tensor:
        return self.base.bias  # type: ignore[return-value]

    def ones(self, rows: torch.Tensor) -> torch.Tensor:
        """A one for each of `rows`; kept, so that it is written once."""
        if len(rows) not in self._ones:
            self._ones[len(rows)] = rows.new_ones(len(rows), 1)
        return self._ones[len(rows)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(..., d_in) -> (..., d_out)``."""
        y: torch.Tensor = _Biased.apply(x, self.bias, self)  # type: ignore[no-untyped-call]
        # Shaped here, not in the function: autograd refuses in-place changes of a view that a function returns, and
        # some models make them.
        return y.view(*x.shape[:-1], y.shape[-1])


class _Biased(torch.autograd.Function):
    """From `x`, ``(..., d_in)``, to rows, ``(N, d_out)``.

    The bias is an argument so that the output requires a gradient; its own is added in place, none is returned.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bias: torch.Tensor, map_: _Map) -> torch.Tensor:
        weight = weight_of(map_.base).detach().to(map_.dtype)  # under autocast a copy that is in it already
        y = F.linear(x.reshape(-1, x.shape[-1]).to(map_.dtype), weight, map_.copy)
        ctx.map, ctx.weight, ctx.shape, ctx.dtype = map_, weight, x.shape, x.dtype
        # Outside autocast a map answers in the type of its input.
        return y if torch.is_autocast_enabled(x.device.type) else y.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:
        map_: _Map = ctx.map
        if map_.copy is None:
            raise RuntimeError(
                "backward came after the end of its training pass; call it within `with method.training_pass():`"
            )
        dy = gradient.to(map_.dtype).contiguous()
        map_.kernels.outer(map_.totals, map_.ones(dy), dy, None)
        dx = (dy @ ctx.weight).to(ctx.dtype).view(ctx.shape) if ctx.needs_input_grad[0] else None
        return dx, None, None
