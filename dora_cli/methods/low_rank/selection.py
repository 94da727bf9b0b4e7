"""Gated adapters of which a selection lives: scores, mask, freeze and compaction, for methods that prune ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from dora_cli.errors import CheckpointError, DivergedError, ProjectionError
from dora_cli.methods.base import Allocation, LoraFactors, Replacement, Site, Size, StepReport, check_tensor
from dora_cli.methods.low_rank.adapters import Adapters
from dora_cli.methods.low_rank.allocation.budget import select
from dora_cli.methods.low_rank.components import Components
from dora_cli.methods.low_rank.schedule import PruningSchedule


class Selection:
    """The components of `adapters`, which all have gates and one start rank, and which of them live.

    Args:
        adapters: a layer for each of `sites`.
        sites: in the order of the model.
        start_rank: components of a site at the start.
        compact: whether tensors shrink at the freeze.

    Attributes:
        scores: of every component, ``(projections, r0)``, by the position in `sites`; the method keeps them.
        frozen: whether the selection is final.
        compacted: whether what does not live has left memory.
        keep: which of them live, boolean, likewise.
        live: how many do, as of the latest event.
    """

    def __init__(self, adapters: Adapters, sites: Sequence[Site], start_rank: int, *, compact: bool) -> None:
        self.adapters, self.start_rank, self.compact = adapters, start_rank, compact
        self._names = [site.name for site in sites]
        self._shapes = {site.name: site.shape for site in sites}
        first = adapters.layers[self._names[0]].gates
        self.scores = torch.zeros(len(sites), start_rank, dtype=first.dtype, device=first.device)
        self.keep = torch.ones_like(self.scores, dtype=torch.bool)
        self.live = self.keep.numel()
        self.frozen = self.compacted = False
        self._grouping = 0  # the latest that scores and mask follow
        self.groups()

    # -- components by shape -------------------------------------------------------------------------------------------

    def groups(self) -> list[Components]:
        """All components by shape; where they were put together anew, scores and mask follow them."""
        groups = self.adapters.groups()
        if groups and self._grouping != self.adapters.groupings:
            device = groups[0].A.device
            self.scores, self.keep = self.scores.to(groups[0].A), self.keep.to(device)
            place = {name: row for row, name in enumerate(self._names)}
            # position among all projections of each grouped one
            self.order = torch.tensor([place[name] for name in self.adapters.order], device=device)
            self._grouping = self.adapters.groupings
        return groups

    def in_order(self, grouped: torch.Tensor) -> torch.Tensor:
        """Values of the components of `groups`, one group after the other, as `scores` holds them. Before compaction.

        Args:
            grouped: ``(components,)``.
        """
        assert not self.compacted, "rows are those of the start"
        found = torch.empty_like(self.scores)
        found[self.order] = grouped.view(-1, self.start_rank)
        return found

    @property
    def masked(self) -> bool:
        """Whether components that are gone for good are still in memory."""
        return self.frozen and not self.compacted

    def masks(self) -> list[torch.Tensor]:
        """Which rows of each group live, as numbers. Before compaction."""
        assert not self.compacted, "rows are those of the start"
        groups = self.groups()
        rows = self.keep[self.order].to(groups[0].gates.dtype).view(-1)
        return list(torch.split(rows, [len(group.A) for group in groups]))

    def apply(self) -> None:
        """Sets the gates of all that does not live to zero."""
        for group, mask in zip(self.groups(), self.masks(), strict=True):
            group.gates.mul_(mask)

    # -- events --------------------------------------------------------------------------------------------------------

    def advance(self, step: int, schedule: PruningSchedule) -> StepReport:
        """What follows `step`: at an event the selection, at the freeze the permanent mask or compaction.

        Raises:
            DivergedError: an event finds scores that are not finite; nothing is changed.
        """
        phase, budget = schedule.phase(step), schedule.budget(step)
        if self.frozen or not schedule.is_event(step):
            return StepReport(phase, budget, self.live)
        keep = select(self.scores, budget)
        live, finite = torch.stack([keep.sum(), self.scores.isfinite().all()]).tolist()
        if not finite:
            raise DivergedError(
                f"training diverged: scores after step {step:,} are not finite, so no ranks can be chosen by them; "
                "lower the learning rate"
            )
        self.keep.copy_(keep)
        self.live = int(live)
        self.apply()
        self.frozen = step == schedule.freeze_step
        replaced = self._compact() if self.frozen and self.compact else ()
        if self.masked:
            self._quieten()
        return StepReport(phase, budget, self.live, event=True, frozen=self.frozen, replaced=replaced)

    def _quieten(self) -> None:
        """Takes the noise from projections of which nothing lives, as compaction does with all of them.

        Waits for the device where there is noise.
        """
        if any(layer.noise is not None for layer in self.adapters.layers.values()):
            left = self.keep.any(1).tolist()
            self.adapters.quieten([name for name, lives in zip(self._names, left, strict=True) if not lives])

    def _compact(self) -> list[Replacement]:
        """Drops masked components from memory; a projection without any becomes its base module again.

        Waits for the device once.
        """
        replaced: list[Replacement] = []
        keep = self.keep.cpu()
        for name, row in zip(self._names, keep, strict=True):
            replaced.extend(self.adapters.shrink(name, row.nonzero().squeeze(1)))
        self.compacted = True
        self.adapters.regroup()
        return replaced

    # -- what came of it -----------------------------------------------------------------------------------------------

    def size(self, stored_bytes: int) -> Size:
        """Stored are `A` and `B` of live components, without gates (reference section 1.8); the gates train too."""
        stored = sum(allocation.rank * sum(allocation.shape) for allocation in self.allocation())
        trained = sum(self.start_rank * (sum(shape) + 1) for shape in self._shapes.values())
        return Size(stored, trained, stored_bytes)

    def allocation(self) -> list[Allocation]:
        """Ranks in the order of attachment. Waits for the device."""
        ranks, scores = self.keep.sum(1).tolist(), self.scores.tolist()
        return [
            Allocation(name, self._shapes[name], self.start_rank, rank, tuple(row))
            for name, rank, row in zip(self._names, ranks, scores, strict=True)
        ]

    def to_lora(self) -> dict[str, LoraFactors]:
        """``A`` and ``s B diag(c)`` of every projection that has components left; before the freeze, of all of them."""
        # masked components count as gone
        return self.adapters.to_lora(dict(zip(self._names, self.keep, strict=True)) if self.masked else None)

    # -- saving and loading --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Factors and gates per projection (``NAME.A``, ``.B``, ``.c``), scores, the keep mask, and whether frozen and
        compacted.
        """
        flags = {"frozen": torch.tensor(self.frozen), "compacted": torch.tensor(self.compacted)}
        return self.adapters.state_dict() | {"scores": self.scores, "keep": self.keep} | flags

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Restores `state_dict` into fresh adapters, shrinking ranks first. Raises CheckpointError on the first misfit.

        A masked state is compacted on the way in where `compact` asks for it; a compacted one stays so.
        """
        fresh = not self.frozen and len(self.adapters.layers) == len(self._names)
        assert fresh, "load into a freshly attached method"
        flag = torch.tensor(True)
        for key, like in (("scores", self.scores), ("keep", self.keep), ("frozen", flag), ("compacted", flag)):
            check_tensor(key, state, like.shape, like.dtype)
        frozen, compacted = bool(state["frozen"]), bool(state["compacted"])
        if compacted and not frozen:
            raise CheckpointError("the checkpoint calls itself compacted but not frozen; it is damaged")
        rows = state["keep"].cpu()
        factors = {key: value for key, value in state.items() if key not in ("scores", "keep", "frozen", "compacted")}
        kept = {name: row.nonzero().squeeze(1) for name, row in zip(self._names, rows, strict=True)}
        self.adapters.load_state_dict(factors, kept if compacted else None)
        self.scores.copy_(state["scores"])
        self.keep.copy_(state["keep"])
        self.live = int(rows.sum())
        self.frozen, self.compacted = frozen, compacted
        self.groups()
        if frozen and self.compact and not compacted:
            self._compact()
        if self.masked:
            self._quieten()


def check_one_device(sites: Sequence[Site]) -> None:
    """Raises ProjectionError where the weights of `sites` are on several devices: ranks are chosen among all of them
    on one.
    """
    devices = {str(parameter.device) for site in sites for parameter in site.module.parameters()}
    if len(devices) > 1:
        raise ProjectionError(
            f"the projections are spread over {', '.join(sorted(devices))}, but ranks are chosen among all of "
            "them on one device; load the model for training without a device_map"
        )
