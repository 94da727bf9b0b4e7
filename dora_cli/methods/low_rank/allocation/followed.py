"""What training passes show of components on their way: sums over a step's real tokens and examples.

In a training pass every projection has ``u = A x`` (after dropout) and, in the backward pass, ``v = dL/du`` at hand:
``(tokens, r)`` each, whichever way the pass is computed. They are kept until the pass ends, and summed there for all
projections of a shape at once, so that what it costs does not grow with their number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch.nn import functional as F

from dora_cli.methods.base import Site, Statistic
from dora_cli.methods.low_rank.adapters import Adapters
from dora_cli.methods.low_rank.allocation.scores import Observed, Shown
from dora_cli.methods.low_rank.components import Components

Pair = tuple[torch.Tensor, torch.Tensor]
"""`u` and `v` of one projection, ``(..., r)``."""


class Passed:
    """`u` and `v` of `m` projections in one pass, ``(m, batch, tokens, r)``, zero where a token is padding.

    Args:
        pairs: of each projection, ``(batch, tokens, r)``; ranks may differ.
        real: which tokens are no padding, ``(batch, tokens)``.
        width: `r`, the largest rank; zeros where a projection has fewer.
        dtype: at least fp32.
        texts: of a batch of one row, which tokens are of which text, ``(texts, tokens)``.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        real: torch.Tensor,
        width: int,
        dtype: torch.dtype,
        *,
        texts: torch.Tensor | None = None,
    ) -> None:
        self._pairs, self.real, self._width, self._dtype, self._texts = pairs, real, width, dtype, texts

    def __len__(self) -> int:
        return len(self._pairs)

    @cached_property
    def u(self) -> torch.Tensor:
        return self._stacked([u for u, _ in self._pairs])

    @cached_property
    def v(self) -> torch.Tensor:
        return self._stacked([v for _, v in self._pairs])

    @property
    def by_example(self) -> torch.Tensor:
        """``sum_{t in x} u_i v_i`` for each example `x`, ``(m, examples, r)``."""
        products = self.u * self.v
        if self._texts is None:
            return products.sum(2)
        return self._texts.to(products.dtype) @ products[:, 0]  # a product is the same whichever order sums run in

    @property
    def examples(self) -> torch.Tensor:
        """How many examples there are, on the device."""
        return (self.real if self._texts is None else self._texts).any(1).sum()

    def _stacked(self, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        room = [self._width - part.shape[-1] for part in parts]
        wide = [F.pad(part, (0, lacking)) if lacking else part for part, lacking in zip(parts, room, strict=True)]
        return torch.stack(wide).to(self._dtype).masked_fill_(~self.real.unsqueeze(-1), 0)


@dataclass(frozen=True)
class Sum:
    """Something that is summed over the passes of a step.

    Attributes:
        of: its part of one pass, for each of `m` projections.
        dimensions: it has one entry for each component (1), each pair of them (2), or the projection alone (0).
        power: how often the gradient of the loss is a factor in it.
    """

    of: Callable[[Passed], torch.Tensor]
    dimensions: int = 1
    power: int = 0


def _products(passed: Passed) -> torch.Tensor:
    u = passed.u.flatten(1, 2)
    return u.mT @ u


SUMS: dict[Shown, Sum] = {
    "tokens": Sum(lambda passed: passed.real.sum().expand(len(passed)), dimensions=0),
    "inputs": Sum(lambda passed: passed.u.square().sum((1, 2))),
    "products": Sum(_products, dimensions=2),
    "outputs": Sum(lambda passed: passed.v.square().sum((1, 2)), power=2),
    "examples": Sum(lambda passed: passed.by_example.square().sum(1), power=2),
}
"""Sums over real tokens `t`, all on from zero at every step:

* ``tokens``: 1, so `N`;
* ``inputs``: ``u_i^2``; over `N` the second moment ``E[u_i^2]``;
* ``products``: ``u_i u_j``, likewise ``E[u u^T]``;
* ``outputs``: ``v_i^2``;
* ``examples``: the squares, over examples `x`, of ``sum_{t in x} u_i v_i``.
"""


@dataclass(frozen=True)
class _Group:
    """The projections of one weight shape: their sums, and what the stack is called whose tokens each reads."""

    components: Components
    reads: tuple[str, ...]
    sums: dict[Shown, torch.Tensor]


class Followed:
    """Sums of what the training passes of a step show of `adapters`, as statistics of a method.

    The method gives its training pass by `training_pass` and its statistics by `statistics`; when these are complete,
    in its `adjust_gradients`, `observed` tells all that a score may ask for. Where nothing is `wanted`, a pass is as it
    would be without.

    Args:
        adapters: ranks may shrink on the way; sums then begin anew, as they do after every step.
        sites: of all layers of `adapters`.
        wanted: what scores and rotations need of passes.
    """

    def __init__(self, adapters: Adapters, sites: Sequence[Site], wanted: Collection[Shown]) -> None:
        self._adapters = adapters
        self._reads = {site.name: site.reads for site in sites}
        self._wanted: tuple[Shown, ...] = tuple(name for name in SUMS if wanted and name in {"tokens", *wanted})
        self._grouping = 0  # the latest that the sums follow
        self._follow()

    def _follow(self) -> list[_Group]:
        """All groups; where components were put together anew, with sums anew."""
        groups = self._adapters.groups()
        if self._grouping != self._adapters.groupings:
            names = iter(self._adapters.order)
            reads = [tuple(self._reads[next(names)] for _ in group.layers) for group in groups]
            self._groups = [self._begun(group, stacks) for group, stacks in zip(groups, reads, strict=True)]
            self._examples = groups[0].A.new_zeros(()) if groups else torch.zeros(())
            self._grouping = self._adapters.groupings
        return self._groups

    def _begun(self, group: Components, reads: tuple[str, ...]) -> _Group:
        width = group.layout.width
        shape = (len(reads), width, width)
        sums = {name: group.A.new_zeros(shape[: 1 + SUMS[name].dimensions]) for name in self._wanted}
        return _Group(group, reads, sums)

    @contextmanager
    def training_pass(
        self, dtype: torch.dtype | None = None, masks: Mapping[str, torch.Tensor] | None = None
    ) -> Iterator[None]:
        """`Adapters.training_pass`; what it shows is added to the sums when it ends, unless by an error.

        Args:
            dtype: autocast's; None without autocast.
            masks: see `Method.training_pass`.
        """
        groups = self._follow() if self._wanted else []
        shown: list[list[list[Pair]]] = [[[] for _ in group.reads] for group in groups]
        try:
            for group, pairs in zip(groups, shown, strict=True):
                for layer, own in zip(group.components.layers, pairs, strict=True):
                    layer.watch = partial(_keep, own)
            with self._adapters.training_pass(dtype):
                yield
        finally:
            for group in groups:
                for layer in group.components.layers:
                    layer.watch = None
        self._add(groups, shown, masks or {})

    @torch.no_grad()
    def _add(
        self, groups: Sequence[_Group], shown: Sequence[list[list[Pair]]], masks: Mapping[str, torch.Tensor]
    ) -> None:
        """Adds one pass to the sums, all projections that read alike at once. Of one that was called several times, the
        calls of an example count as more of its tokens.
        """
        counted = False
        for group, of_group in zip(groups, shown, strict=True):
            for places, passed in _alike(group, of_group, masks):
                with torch.autocast(passed.real.device.type, enabled=False):
                    for name, total in group.sums.items():
                        parts = SUMS[name].of(passed).to(total.dtype).unbind()
                        torch._foreach_add_([total[place] for place in places], list(parts))
                if not counted:  # every projection sees the same examples
                    self._examples += passed.examples
                    counted = True

    def statistics(self) -> list[Statistic]:
        """The sums, which the step sets to zero together with the gradients; none where nothing is wanted."""
        if not self._wanted:
            return []
        groups = self._follow()
        sums = [Statistic(total, SUMS[name].power) for group in groups for name, total in group.sums.items()]
        return [*sums, Statistic(self._examples)]

    def observed(self) -> list[Observed]:
        """What is known of the components of every group: weights, gradients and the step's sums."""
        seen = []
        for group in self._follow():
            rows = group.components
            _, grad_B_t, _ = rows.take_gradients()
            seen.append(
                Observed(rows.A, rows.B_t, rows.c, rows.scaling, grad_B_t, rows.layout, group.sums, self._examples)
            )
        return seen


def _keep(pairs: list[Pair], u: torch.Tensor, v: torch.Tensor) -> None:
    pairs.append((u.detach(), v.detach()))


def _alike(
    group: _Group, shown: Sequence[Sequence[Pair]], masks: Mapping[str, torch.Tensor]
) -> Iterator[tuple[list[int], Passed]]:
    """The projections that read the same tokens, by their place in the group, and what they have shown."""
    alike: dict[tuple[torch.Size, str | None], list[tuple[int, Pair]]] = defaultdict(list)
    for place, (pairs, stack) in enumerate(zip(shown, group.reads, strict=True)):
        if pairs:
            (u, v), masked = _by_example(pairs, masks.get(stack))
            alike[u.shape[:2], stack if masked else None].append((place, (u, v)))
    for (shape, read), found in alike.items():
        if read is None:
            real, texts = torch.ones(shape, dtype=torch.bool, device=group.components.A.device), None
        else:
            calls = shape[1] // masks[read].shape[1]
            real, texts = masks[read].repeat(1, calls), masks.get("texts")
            texts = None if texts is None else texts.repeat(1, calls)
        width, dtype = group.components.layout.width, group.components.A.dtype
        passed = Passed([pair for _, pair in found], real, width, dtype, texts=texts)
        yield [place for place, _ in found], passed


def _by_example(pairs: Sequence[Pair], mask: torch.Tensor | None) -> tuple[Pair, bool]:
    """What one projection has shown of every example in all its calls, ``(batch, tokens, r)``, and whether `mask` is of
    these tokens.

    The model may have flattened them. Calls with something else than the batch's tokens are left out, such as
    DeBERTa's with what all examples share, its positions; where all are such (a vector per text), no mask is of them.
    """
    calls = [pair for pair in pairs if mask is not None and pair[0].shape[:-1].numel() == mask.numel()]
    masked = bool(calls)
    batch = len(mask) if masked and mask is not None else max(len(u) for u, _ in pairs)
    calls = calls or [pair for pair in pairs if len(pair[0]) == batch]
    u, v = (_in_a_row(parts, batch) for parts in zip(*calls, strict=True))
    return (u, v), masked


def _in_a_row(calls: Sequence[torch.Tensor], batch: int) -> torch.Tensor:
    """``(batch, tokens of all calls, r)``; of one call alone no copy."""
    parts = [call.reshape(batch, call.shape[:-1].numel() // batch, call.shape[-1]) for call in calls]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)
