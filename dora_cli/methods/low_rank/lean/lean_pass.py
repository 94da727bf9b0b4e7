"""A training pass over a model with adapted projections, with as little work and memory as it takes.

Per pass, not per projection: copies of all factors in the precision of the arithmetic, with gates and scale folded into
one of them; the seeds of all dropouts; the gradients of all gates. Per projection: the frozen map and the products of
`kernels`, in one autograd function that saves its input once (shared by the projections that read the same one) and
adds gradients of the factors where they belong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING
from weakref import ref

import torch
from torch import nn

from dora_cli.methods.linear import weight_of
from dora_cli.methods.low_rank.arithmetic.dropout import ModelDropouts
from dora_cli.methods.low_rank.arithmetic.factor import Factor
from dora_cli.methods.low_rank.arithmetic.kernels import Kernels, kernels_for
from dora_cli.methods.low_rank.lean.branches import Branches, branches_for
from dora_cli.methods.low_rank.lean.lean_pair import LeanPair
from dora_cli.methods.low_rank.lean.projection import Inputs, LeanProjection, Part
from dora_cli.methods.low_rank.noise.flatness import by_triton, draws_on_host
from dora_cli.methods.low_rank.protocols import Group, Layer
from dora_cli.methods.low_rank.same_input.products import MANY
from dora_cli.methods.low_rank.same_input.readers import Readers, is_gelu
from dora_cli.methods.low_rank.same_input.together import Together, can_be_together, is_plain

if TYPE_CHECKING:
    from dora_cli.methods.low_rank.noise.triton_flatness import ManyDraws


class LeanPass:
    """What the passes of a training share until ranks change.

    Args:
        model: what they are attached to.
        groups: all components that are trained.
        dtype: of the arithmetic: autocast's, or that of factors and activations where there is none.
        serial: whether captured passes too have one stream.
    """

    def __init__(self, model: nn.Module, groups: Sequence[Group], dtype: torch.dtype, *, serial: bool = False) -> None:
        self._groups, self.dtype = groups, dtype
        layers = [layer for group in groups for layer in group.layers]
        ranks = {(layer.tied + layer.rank) // layer.chunks for layer in layers}
        self.kernels: Kernels = kernels_for(layers[0].A.device, dtype, len(layers), ranks)
        self._many = self.kernels.many()
        self._branches = Branches() if serial else branches_for(self.kernels, layers[0].A.device)
        self._gelus = {path: module for path, module in model.named_modules() if is_gelu(module)}
        self._together: list[Together | LeanPair] = []
        self._inputs = Inputs(dtype)
        self._may_compute_twice = [module for module in model.modules() if hasattr(module, "gradient_checkpointing")]
        self._model_dropouts = ModelDropouts(model) if layers[0].A.device.type == "cpu" else None
        self.drops = any(layer.dropout for layer in layers)
        self._shared = [_Shared(group, dtype, self.kernels) for group in groups]
        self._lean: list[tuple[Layer, LeanProjection]] = []
        for shared in self._shared:
            for layer, part in zip(shared.group.layers, shared.parts(), strict=True):
                shares = self.kernels, self._inputs, self._branches
                self._lean.append((layer, LeanProjection(*shares, len(self._lean), layer, part)))
        noisy = [lean for layer, lean in self._lean if layer.noise is not None]
        self._noise = _NoisyWeights(noisy) if noisy else None

    @property
    def computes_twice(self) -> bool:
        """Whether gradient checkpointing computes forward passes again in the backward pass, as
        transformers notes it.
        """
        return any(vars(module).get("gradient_checkpointing") for module in self._may_compute_twice)

    @property
    def layers(self) -> list[Layer]:
        """All projections, those of a group after those of the group before."""
        return [layer for layer, _ in self._lean]

    @property
    def computes_together(self) -> bool:
        """Whether `put_together` can make a pass shorter."""
        return self._many is not None and sum(is_plain(lean) for _, lean in self._lean) > 1

    @torch.no_grad()
    def put_together(self, readers: Readers, paths: Mapping[int, str]) -> None:
        """From here on those of `layers` that read the same input are computed together, where they may be, and those
        with a GELU between them compute it.

        Within a pass it holds for that pass already.

        Args:
            readers: what reads the same input in the model.
            paths: where the `layers` are in it, by their place here.
        """
        if self._many is None:
            return
        for _, lean in self._lean:
            lean.readers = readers
        for places in readers.among(paths):
            plain = [lean for _, lean in (self._lean[place] for place in places) if is_plain(lean)]
            for start in range(0, len(plain), MANY):
                members = plain[start : start + MANY]
                if can_be_together(members):
                    self._put(Together(self._many, members))
        by_path = {path: self._lean[place][1] for place, path in paths.items()}
        for first, path, second in readers.across(by_path):
            leans = by_path[first], by_path[second]
            if path in self._gelus and all(lean.together() is None for lean in leans):
                self._put(LeanPair(leans[0], self._gelus[path], leans[1]))

    def _put(self, together: Together | LeanPair) -> None:
        for lean in together.members:
            lean.together = ref(together)  # no cycle
        together.begin()
        self._together.append(together)

    @torch.no_grad()
    def begin(self) -> None:
        """Before a forward pass: takes over the present weights."""
        self._branches.begin()
        for shared in self._shared:
            shared.group.take_gradients()
            shared.group.begin_pass()
            shared.prepare()
        if self.drops:
            self.kernels.begin()
        if self._model_dropouts is not None:
            self._model_dropouts.begin()
        for layer, lean in self._lean:
            layer.lean = lean if lean.follow_base() else None
        for together in self._together:
            together.begin()
        if self._noise is not None:
            self._noise.begin()

    def end(self) -> None:
        """After a pass, also one that failed, or that did not get beyond its beginning."""
        self._inputs.forget()
        for together in self._together:
            together.end()
        if self._model_dropouts is not None:
            self._model_dropouts.end()
        for layer, _ in self._lean:
            layer.lean = None

    def give_up(self) -> None:
        """After a pass that failed: a capture ends with the error that there was if all its branches have met."""
        with suppress(RuntimeError):  # the capture itself is lost already
            self._branches.join()

    @torch.no_grad()
    def finish(self) -> None:
        """After the backward pass: gradients of `B`, and of the gates, from those of their product."""
        self._branches.join()
        for shared in self._shared:
            shared.finish()
            shared.group.end_pass()


class _NoisyWeights:
    """The weights of projections that have noise on them (see `flatness`), for passes in training.

    What has a copy in the precision of the arithmetic is drawn into it when a pass begins; what is in that precision
    itself is drawn into one room whenever it is read, so that no weight is stored twice. A pass may be captured, so
    each draws all anew; only on the CPU, where none is, the first of a step draws for all of the step.
    """

    def __init__(self, projections: Sequence[LeanProjection]) -> None:
        self._projections = list(projections)
        self._rooms: dict[torch.dtype, torch.Tensor] = {}
        self._many: ManyDraws | None = None
        self._drawn: list[torch.Tensor] = []  # the weights that `_many` is for

    def begin(self) -> None:
        noisy = []
        for lean in self._projections:
            if lean.layer.lean is lean and lean.layer.training:
                noisy.append(lean)
            else:
                lean.calm()
        if len(noisy) == len(self._projections) and all(by_triton(lean.weight, lean.layer) for lean in noisy):
            self._draw_many()
        else:
            for lean in noisy:
                self._draw(lean)

    def _draw(self, lean: LeanProjection) -> None:
        noise = lean.layer.noise
        assert noise is not None
        on_host = draws_on_host(lean.weight.device)
        if on_host and lean.turn == noise.flatness.turn:
            return
        lean.turn = noise.flatness.turn
        lean.deviations = noise.deviations(lean.layer, lean.deviations)
        room = self._room(lean.weight, lean.deviations.dtype) if on_host else None
        if lean.copied:
            noise.perturb(weight_of(lean.layer.base).detach(), lean.deviations, lean.weight, room)
        else:
            self._read_in_room(lean)

    def _draw_many(self) -> None:
        from dora_cli.methods.low_rank.noise.triton_flatness import ManyDraws

        leans = self._projections
        weights = [lean.weight for lean in leans]
        if self._many is None or any(old is not new for old, new in zip(self._drawn, weights, strict=True)):
            copies = [lean.weight if lean.copied else None for lean in leans]
            self._many, self._drawn = ManyDraws([lean.layer for lean in leans], copies), weights
            for lean, deviations in zip(leans, self._many.deviations, strict=True):
                lean.deviations = deviations
        self._many.draw()
        for lean in leans:
            assert lean.layer.noise is not None
            lean.turn = lean.layer.noise.flatness.turn
            if not lean.copied:
                self._read_in_room(lean)

    def _read_in_room(self, lean: LeanProjection) -> None:
        assert lean.layer.noise is not None and lean.deviations is not None
        room = self._room(lean.weight, lean.weight.dtype)
        scratch = self._room(lean.weight, lean.deviations.dtype)  # on the CPU the same, but for half-precision bases
        lean.read = partial(lean.layer.noise.perturb, lean.weight, lean.deviations, room, scratch)

    def _room(self, like: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Memory for a weight, the same for all."""
        if dtype not in self._rooms:
            size = max(lean.weight.numel() for lean in self._projections)
            self._rooms[dtype] = torch.empty(size, dtype=dtype, device=like.device)
        return self._rooms[dtype][: like.numel()].view(like.shape)


class _Shared:
    """Copies and gradients of one group: `A`, times the scale of its dropout where the kernels want it so, and ``s B
    diag(c)`` (by rows) in the precision of the arithmetic, each projection's tied components before those that train.
    """

    def __init__(self, group: Group, dtype: torch.dtype, kernels: Kernels) -> None:
        self.group, self.kernels, self.scaling = group, kernels, group.scaling
        tied, trained, self._slices = self._places()
        length = self._slices[-1].stop
        dropouts = {layer.dropout for layer in group.layers}
        self._scale = 1.0 if tied or len(dropouts) > 1 else kernels.scale(*dropouts)
        in_place = length == len(trained)  # nothing between the rows that train
        self._trained = None if in_place else torch.tensor(trained, dtype=torch.int64, device=group.A.device)
        own = group.A.dtype == dtype and in_place and self._scale == 1
        self.A = group.A if own else group.A.new_zeros(length, group.A.shape[1], dtype=dtype)
        self.B_t = group.B_t.new_zeros(length, group.B_t.shape[1], dtype=dtype)
        self._tied = torch.tensor(tied, device=group.A.device) if tied else None
        self._copied: list[tuple[int, int]] = []  # where the tied components that were copied stand, and their version
        frozen = group.layers[0].frozen
        self.grad_A = None if "A" in frozen else self._sums(group.take_gradients()[0])
        # of what multiplies `u`, without gate and scale
        splits = kernels.splits(group.B_t.shape[1])
        needed = "B" not in frozen or group.c is not None
        self.grad_up = group.B_t.new_zeros(splits, *group.B_t.shape) if needed else None

    def _sums(self, gradient: torch.Tensor) -> torch.Tensor:
        """Where the gradient of `A` is added up: the gradient itself, unless in several sums."""
        splits = self.kernels.splits(gradient.shape[1])
        return gradient[None] if splits == 1 else gradient.new_zeros(splits, *gradient.shape)

    def _places(self) -> tuple[list[int], list[int], list[slice]]:
        """Rows of tied components, rows of those that train, and all rows of each projection; what has nothing tied is
        filled up as the kernels like it best.
        """
        tied: list[int] = []
        trained: list[int] = []
        places: list[slice] = []
        first = 0
        for layer in self.group.layers:
            begin = first + layer.tied
            tied.extend(range(first, begin))
            trained.extend(range(begin, begin + layer.rank))
            filled = 0 if layer.tied else -layer.rank % self.kernels.multiple
            places.append(slice(first, begin + layer.rank + filled))
            first = places[-1].stop
        return tied, trained, places

    def parts(self) -> Iterator[Part]:
        """Each projection's, in the order of the group."""
        for start, place, layer in zip(self.group.starts, self._slices, self.group.layers, strict=True):
            rank, trained = layer.tied + layer.rank, slice(start, start + layer.rank)
            sums = (None if total is None or not layer.rank else total[:, trained] for total in self._totals())
            plain = None if self._scale == 1 else self.group.A[trained]
            yield Part(
                Factor(self.A[place], rank, scale=self._scale, plain=plain), Factor(self.B_t[place], rank), *sums
            )

    def _totals(self) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        return self.grad_A, self.grad_up

    def prepare(self) -> None:
        if self._tied is not None:
            self._follow_tied(self._tied)
        factors = self.group.A, self.group.B_t, self.group.c
        self.kernels.prepare(factors, self.A, self.B_t, self.scaling, scale=self._scale, places=self._trained)

    def _follow_tied(self, index: torch.Tensor) -> None:
        """Takes over tied components where they are others than before."""
        factors = [layer.tied_factors() for layer in self.group.layers]
        present = [(factor.data_ptr(), factor._version) for both in factors for factor in both]
        if present != self._copied:
            self.A.index_copy_(0, index, torch.cat([A for A, _ in factors]).to(self.A.dtype))
            self.B_t.index_copy_(0, index, torch.cat([B.T for _, B in factors]).to(self.B_t.dtype))
            self._copied = present

    def finish(self) -> None:
        group = self.group
        grad_A, grad_B_t, grad_c = group.take_gradients()
        if not len(group.A):  # nothing of it trains
            return
        if self.grad_A is not None and len(self.grad_A) > 1:
            self.kernels.collect(self.grad_A, grad_A)
        if self.grad_up is None:
            return
        if group.c is None or grad_c is None:
            self.kernels.collect(self.grad_up, grad_B_t, self.scaling)
        else:
            self.kernels.collect_gated(self.grad_up, group.B_t, group.c, grad_B_t, grad_c, self.scaling)
