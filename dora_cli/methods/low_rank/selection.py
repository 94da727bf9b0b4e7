"""Adapters of which a selection lives: scores, removal, freeze and compaction, for methods that prune ranks.

What is removed is a gate at zero until the freeze, so that it may come back; or, where removals are `final`, a row less
in memory from the event on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from dora_cli.errors import CheckpointError, DivergedError, ProjectionError
from dora_cli.methods.base import (
    Allocation,
    Calibration,
    LoraFactors,
    Mixture,
    Replacement,
    Site,
    Size,
    StepReport,
    check_tensor,
)
from dora_cli.methods.low_rank.adapters import Adapters
from dora_cli.methods.low_rank.allocation.budget import select
from dora_cli.methods.low_rank.allocation.cut import Choose, Cut, Refit, Rotate, by_components, masked
from dora_cli.methods.low_rank.components import Components
from dora_cli.methods.low_rank.schedule import PruningSchedule


class Selection:
    """The components of `adapters`, which all have one start rank, and which of them live.

    Args:
        adapters: a layer for each of `sites`; with gates, unless removals are final.
        sites: in the order of the model.
        start_rank: components of a site at the start.
        compact: whether tensors shrink at the freeze.
        final: whether what an event removes is gone for good; tensors shrink at every event.
        choose: the budget.
        worth: what `scores` are worth in the budget; the scores themselves unless given.
        rotate: done before every cut; only where removals are final.
        refit: how what is kept makes up for what is cut; only where removals are final. None leaves it as it is.
        guard: how many components each projection would have at uniform ranks, which take the place of the selection at
            the freeze unless that has a lower held-out loss; None leaves the selection alone.

    Attributes:
        scores: of every component, ``(projections, r0)``, by the position in `sites`; the method keeps them.
        frozen: whether the selection is final.
        compacted: whether what does not live has left memory.
        keep: which of them live, boolean, likewise.
        live: how many do, as of the latest event.
    """

    def __init__(
        self,
        adapters: Adapters,
        sites: Sequence[Site],
        start_rank: int,
        *,
        compact: bool,
        final: bool = False,
        choose: Choose = by_components,
        worth: Callable[[torch.Tensor], torch.Tensor] | None = None,
        rotate: Rotate | None = None,
        refit: Refit | None = None,
        guard: int | None = None,
    ) -> None:
        assert compact or not final, "what is gone for good is not kept"
        assert final or (rotate is None and refit is None), "components that come back cannot be mixed"
        self.adapters, self.start_rank, self.compact, self.final = adapters, start_rank, compact, final
        self._choose, self._worth, self._rotate, self._guard = choose, worth, rotate, guard
        self._refit = refit
        self._cut: Cut | None = None
        self._names = [site.name for site in sites]
        self._shapes = {site.name: site.shape for site in sites}
        first = adapters.layers[self._names[0]].A
        self.scores = torch.zeros(len(sites), start_rank, dtype=first.dtype, device=first.device)
        self.keep = torch.ones_like(self.scores, dtype=torch.bool)
        self.live = self.keep.numel()
        self._gated = adapters.layers[self._names[0]].c is not None
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
            order = [place[name] for name in self.adapters.order]
            self.order = torch.tensor(order, device=device)
            self._rows = torch.tensor(self._places_of_rows(order), device=device)
            self._grouping = self.adapters.groupings
        return groups

    def _places_of_rows(self, order: Sequence[int]) -> list[int]:
        """Which of the start components each row of `groups` is, as a place in ``scores.view(-1)``; waits for the
        device where some have left memory.
        """
        keep = self.keep.tolist() if self.compacted else [[True] * self.start_rank] * len(self._names)
        return [place * self.start_rank + index for place in order for index, there in enumerate(keep[place]) if there]

    def in_order(self, grouped: torch.Tensor) -> torch.Tensor:
        """Values of the components of `groups`, one group after the other, as `scores` holds them; of what has left
        memory the score that it had.

        Args:
            grouped: ``(components,)``.
        """
        self.groups()
        return self.scores.view(-1).index_copy(0, self._rows, grouped.to(self.scores.dtype)).view_as(self.scores)

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
        """What follows `step`: at an event the selection, at the freeze the permanent mask or compaction. With a guard
        the freeze wants losses first.

        Raises:
            DivergedError: an event finds scores that are not finite; no selection is made.
        """
        phase, budget = schedule.phase(step), schedule.budget(step)
        if self.frozen or not schedule.is_event(step):
            return StepReport(phase, budget, self.live)
        if self._cut is None:
            self._cut = self._begin_cut(step, schedule)
        cut = self._cut
        if len(cut.losses) < len(cut.rivals):
            self._show(cut, cut.rivals[len(cut.losses)])
            return StepReport(phase, budget, self.live, wanted=Calibration("loss"))
        self._show(cut, None)
        if self._refit is not None:
            cut.kept = cut.kept or [group.B_t for group in self.groups()]
            self._show(cut, cut.winner)
        self._cut = None
        self.keep.copy_(cut.winner)
        self.live = int(self.keep.sum())
        if not self.final:
            self.apply()
        self.frozen = step == schedule.freeze_step
        replaced = self._compact() if self.final or (self.frozen and self.compact) else ()
        if self.masked:
            self._quieten()
        return StepReport(
            phase,
            budget,
            self.live,
            event=True,
            frozen=self.frozen,
            mixed=cut.mixed,
            replaced=replaced,
            remark=cut.remark,
        )

    def _begin_cut(self, step: int, schedule: PruningSchedule) -> Cut:
        """Rotates, selects, and where there is a guard finds what the selection has to beat."""
        try:
            mixed = self._mix()
        except torch.linalg.LinAlgError:
            raise _without_ranks(step) from None
        gone, worth = self._gone(), self.worth()
        if not bool((worth.isfinite() | gone).all()):
            raise _without_ranks(step)
        there = worth.masked_fill(gone, -torch.inf)
        cut = Cut(self._choose(there, schedule, step), mixed)
        if self._guard is not None and step == schedule.freeze_step:
            uniform = select(
                worth, self._guard * len(self._names), candidates=~gone, least=self._guard, most=self._guard
            )
            if not torch.equal(uniform, cut.keep):
                cut.rivals = [cut.keep, uniform]
                cut.kept = [group.B_t.clone() for group in self.groups()]
        return cut

    def calibrate(self, loss: float) -> None:
        """Takes the held-out loss that a report has wanted."""
        assert self._cut is not None, "nothing was wanted"
        self._cut.losses.append(loss)

    def _show(self, cut: Cut, keep: torch.Tensor | None) -> None:
        """Has the model compute with the components `keep` alone; None for all that are there."""
        if not cut.kept:
            return
        rows = None if keep is None else keep.view(-1)[self._rows]
        first = 0
        for group, kept in zip(self.groups(), cut.kept, strict=True):
            part = slice(first, first + len(kept))
            group.B_t.copy_(kept if rows is None else (self._refit or masked)(group, kept, rows[part]))
            first = part.stop

    def _gone(self) -> torch.Tensor:
        """Which of the start components have left memory."""
        return ~self.keep if self.compacted else torch.zeros_like(self.keep)

    def worth(self) -> torch.Tensor:
        """What each component is worth in the budget, ``(projections, r0)``."""
        return self.scores if self._worth is None else self._worth(self.scores)

    def _mix(self) -> list[Mixture]:
        """Rotates every layer's components, and takes what they are worth then for their scores."""
        if self._rotate is None:
            return []
        worth, mixed = [], []
        for group in self.groups():
            found, follow = self._rotate(group)
            worth.append(found)
            mixed += follow
        self.scores.copy_(self.in_order(torch.cat(worth)))
        return mixed

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
        keep, rows = self.keep.cpu(), self._rows.cpu()
        there = torch.zeros(keep.numel(), dtype=torch.bool).index_fill(0, rows, True).view_as(keep)
        for name, row, present in zip(self._names, keep, there, strict=True):
            if name in self.adapters.layers:
                replaced.extend(self.adapters.shrink(name, row[present].nonzero().squeeze(1)))
        self.compacted = True
        self.adapters.regroup()
        return replaced

    # -- what came of it -----------------------------------------------------------------------------------------------

    def size(self, stored_bytes: int) -> Size:
        """Stored are `A` and `B` of live components, without gates (reference section 1.8); the gates train too."""
        stored = sum(allocation.rank * sum(allocation.shape) for allocation in self.allocation())
        gate = 1 if self._gated else 0
        trained = sum(self.start_rank * (sum(shape) + gate) for shape in self._shapes.values())
        return Size(stored, trained, stored_bytes)

    def allocation(self) -> list[Allocation]:
        """Ranks in the order of attachment, scores as what they are worth. Waits for the device."""
        found = []
        for name, keep, worth in zip(self._names, self.keep.tolist(), self.worth().tolist(), strict=True):
            # what left memory at an earlier event keeps the score of then, which may be above those of now
            live = tuple(index for index, there in enumerate(keep) if there) if self.final else None
            found.append(Allocation(name, self._shapes[name], self.start_rank, sum(keep), tuple(worth), live=live))
        return found

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
        if compacted and not frozen and not self.final:
            raise CheckpointError("the checkpoint calls itself compacted but not frozen; it is damaged")
        rows = state["keep"].cpu()
        factors = {key: value for key, value in state.items() if key not in ("scores", "keep", "frozen", "compacted")}
        kept = {name: row.nonzero().squeeze(1) for name, row in zip(self._names, rows, strict=True)}
        self.adapters.load_state_dict(factors, kept if compacted else None)
        self.scores.copy_(state["scores"])
        self.keep.copy_(state["keep"])
        self.live = int(rows.sum())
        self.frozen, self.compacted = frozen, compacted
        self._grouping = 0  # rows are others
        self.groups()
        if frozen and self.compact and not compacted:
            self._compact()
        if self.masked:
            self._quieten()


def _without_ranks(step: int) -> DivergedError:
    return DivergedError(
        f"training diverged: scores after step {step:,} are not finite, so no ranks can be chosen by them; lower the "
        "learning rate"
    )


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
