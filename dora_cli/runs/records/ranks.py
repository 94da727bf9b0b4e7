"""ranks.json: where the ranks of a run went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

from pydantic import Field, model_validator

from dora_cli.runs.records.fields import SCHEMA_VERSION, Count, Name, Record, validated, written


class LayerRecord(Record):
    """One projection in ranks.json. `scores` are by original component, one for each of `start_rank`, or None. Where
    ranks grow, `links` says which link, from 1, each component came with; it is missing elsewhere. `live` are the
    positions of the components that were selected, from 0; it is missing where they are those of the highest scores.

    `parameters` are entries that the adapter stores for this projection alone; None, and missing from older runs, where
    they follow from rank and shape.
    """

    name: Name
    stack: Literal["encoder", "decoder"]
    block: Count
    attention: Literal["self", "cross"] | None
    projection: Name
    group: Literal["attention", "ffn"]
    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2)]
    start_rank: Count
    rank: Count
    scores: list[float | None] | None
    links: list[Annotated[Count, Field(ge=1)]] | None = None
    parameters: Count | None = None
    live: list[Count] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> LayerRecord:
        if self.links is not None and len(self.links) != self.rank:
            raise ValueError(f"{len(self.links)} links for rank {self.rank}")
        if self.links is None and self.rank > self.start_rank:
            raise ValueError(f"rank {self.rank} is above its start rank {self.start_rank}")
        if self.scores is not None and len(self.scores) != self.start_rank:
            raise ValueError(f"{len(self.scores)} scores for {self.start_rank} components")
        if self.live is not None and (
            len(set(self.live)) != self.rank
            or len(self.live) != self.rank
            or max(self.live, default=-1) >= self.start_rank
        ):
            raise ValueError(f"{self.live} are not {self.rank} of {self.start_rank} components")
        return self


class HistoryRecord(Record):
    """The budget and the live components after `step`; `remark` says what was found there, where something was."""

    step: Count
    phase: Name
    budget: Count
    live: Count
    remark: str | None = None


class PhaseRecord(Record):
    """A phase of the run and the steps that belong to it."""

    name: Name
    first: Annotated[Count, Field(ge=1)]
    last: Count


class RanksRecord(Record):
    """ranks.json. `start_rank` and `target_rank` are per projection; None for a method without ranks, or where each
    projection has one of its own. `target_rank` is None too where how many components are left emerges.

    `score` says in words what scores are; it is missing where there are none, and from older runs. `counts` is
    ``parameters`` where the budget counts those that are stored, as many as `target_rank` of each projection have;
    `budget` in `history` is then as many components as it pays for at equal ranks. It is missing where the budget
    counts components, as ranks do.

    Older runs have no `phases`, and events in their `history` that prune nothing.
    """

    FILE: ClassVar[str] = "ranks.json"

    schema_version: Literal[1]
    unit: Name
    start_rank: Count | None
    target_rank: Count | None
    score: str | None = None
    counts: Literal["parameters"] | None = None
    live_components: Count
    layers: list[LayerRecord]
    phases: list[PhaseRecord] = Field(default_factory=list)
    history: list[HistoryRecord]

    @model_validator(mode="after")
    def _consistent(self) -> RanksRecord:
        total = sum(layer.rank for layer in self.layers)
        if total != self.live_components:
            raise ValueError(
                f"live_components is {self.live_components}, but the ranks of the layers add up to {total}"
            )
        twice = [name for name, count in Counter(layer.name for layer in self.layers).items() if count > 1]
        if twice:
            raise ValueError(f"layer {twice[0]} is listed twice")
        return self


def validate_ranks(record: Any, source: Path | str = "ranks.json") -> RanksRecord:
    """The checked record. Raises CheckpointError naming `source`, the key, the value and what was expected."""
    return validated(RanksRecord, record, source)


class ProjectionLike(Protocol):
    """What a rank record needs to know of a projection; `dora_cli.methods.base.Site` is one."""

    @property
    def name(self) -> str: ...
    @property
    def stack(self) -> str: ...
    @property
    def block(self) -> int: ...
    @property
    def attention(self) -> str | None: ...
    @property
    def projection(self) -> str: ...
    @property
    def group(self) -> str: ...


class AllocationLike(Protocol):
    """The rank of one projection; `dora_cli.methods.base.Allocation` is one."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def start_rank(self) -> int: ...
    @property
    def rank(self) -> int: ...
    @property
    def scores(self) -> Sequence[float] | None: ...
    @property
    def links(self) -> Sequence[int] | None: ...
    @property
    def parameters(self) -> int | None: ...
    @property
    def live(self) -> Sequence[int] | None: ...


def ranks_record(
    projections: Sequence[ProjectionLike],
    allocations: Sequence[AllocationLike],
    *,
    unit: str,
    start_rank: int | None,
    target_rank: int | None,
    live_components: int,
    history: Sequence[Mapping[str, Any]],
    phases: Sequence[tuple[str, int, int]] = (),
    score: str | None = None,
    counts: str = "components",
) -> dict[str, Any]:
    """The content of ranks.json.

    Args:
        projections: the adapted projections, in model order; the order of `layers`.
        allocations: one for each projection, matched by name, in any order; empty for a method that adapts none.
        unit: what ranks count, ``"component"``.
        start_rank: components a projection starts with.
        target_rank: mean final rank of a projection.
        live_components: the sum of all ranks.
        history: ``step, phase, budget, live`` of each event, ascending.
        phases: ``(name, first step, last step)`` of each phase, in order.
        score: what scores are, in words.
        counts: what the budget counts, ``"components"`` or ``"parameters"``.
    """
    by_name = {allocation.name: allocation for allocation in allocations}
    adapted = [projection for projection in projections if projection.name in by_name]
    assert len(adapted) == len(by_name) == len(allocations), "allocations must name known projections, each once"
    assert not allocations or len(adapted) == len(projections), "a projection has no allocation"
    layers = []
    for projection in adapted:
        allocation = by_name[projection.name]
        layers.append(
            {
                "name": projection.name,
                "stack": projection.stack,
                "block": projection.block,
                "attention": projection.attention,
                "projection": projection.projection,
                "group": projection.group,
                "shape": list(allocation.shape),
                "start_rank": allocation.start_rank,
                "rank": allocation.rank,
                "scores": None if allocation.scores is None else list(allocation.scores),
                **({} if allocation.links is None else {"links": list(allocation.links)}),
                **({} if allocation.parameters is None else {"parameters": allocation.parameters}),
                **({} if allocation.live is None else {"live": list(allocation.live)}),
            }
        )
    return written(
        RanksRecord,
        {
            "schema_version": SCHEMA_VERSION,
            "unit": unit,
            "start_rank": start_rank,
            "target_rank": target_rank,
            **({} if score is None else {"score": score}),
            **({} if counts == "components" else {"counts": counts}),
            "live_components": live_components,
            "layers": layers,
            "phases": [{"name": name, "first": first, "last": last} for name, first, last in phases],
            "history": [
                {key: entry[key] for key in ("step", "phase", "budget", "live", "remark") if key in entry}
                for entry in history
            ],
        },
    )
