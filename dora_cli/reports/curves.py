"""What pictures show, made once from plain records: for the terminal, the plots and the HTML report alike.

A record is the content of ranks.json or metrics.json, or the lines of log.jsonl (`read_log`). All functions are pure
but that one. Missing values (a loss that was not finite, a metric that is undefined) are None and stay in their place:
a gap in the line.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from dora_cli.files import parse_json
from dora_cli.reports.grid import Cell, full_rank, sections
from dora_cli.reports.headings import headings
from dora_cli.runs.reading import read_lines
from dora_cli.runs.records.log import is_line

Record = Mapping[str, Any]
Value = int | float | None
Phase = tuple[str, int, int]
"""``(name, first step, last step)``."""

# Ranks ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RankMap:
    """The ranks of one stack; encoder, decoder, and cross-attention are maps of their own.

    Attributes:
        title: of the stack (``Encoder``, ``Decoder, cross attention``, ...), for where there are several maps.
        projections: the rows: paths within the block, in the order of the model.
        headings: a short name for each row, unique in this map.
        groups: ``attention`` or ``ffn`` for each row.
        blocks: the columns: numbers of the blocks, ascending.
        cells: a rank for each row and column; a float where it is a mean over runs, None where a block lacks the
            projection.
        members: for each cell all that is known of its projection, or None.
        full: the rank of the strongest colour, that of the whole record, so that colours compare over its maps.
        full_name: which one it is, in words, see `dora_cli.reports.grid.full_rank`.
    """

    title: str
    projections: tuple[str, ...]
    headings: tuple[str, ...]
    groups: tuple[str, ...]
    blocks: tuple[int, ...]
    cells: tuple[tuple[Value, ...], ...]
    members: tuple[tuple[Cell | None, ...], ...]
    full: int
    full_name: str

    def share(self, row: int, column: int) -> float | None:
        """The rank of a cell as a share of the strongest colour's, for `palette.shade`; None where there is no
        projection.
        """
        cell = self.members[row][column]
        return None if cell is None else cell.share


def cells(ranks: Record) -> list[Cell]:
    """One cell for each projection of ranks.json, or of the mean of several; only `layers` is read."""
    keys = ("name", "stack", "block", "attention", "projection", "group", "start_rank", "rank")
    full, _ = full_rank((layer["start_rank"], layer["rank"]) for layer in ranks["layers"])
    return [
        Cell(
            shape=(layer["shape"][0], layer["shape"][1]),
            full=full,
            stored=layer.get("parameters"),
            **{key: layer[key] for key in keys},
        )
        for layer in ranks["layers"]
    ]


def rank_maps(ranks: Record) -> tuple[RankMap, ...]:
    """The maps of ranks.json, or of the mean of several: encoder, decoder (self-attention and FFN), decoder
    cross-attention.

    Only `layers` is read, so that the ranks of a run that goes on can be shown too. Empty for a method that adapts no
    projection.
    """
    found = cells(ranks)
    full = full_rank((cell.start_rank, cell.rank) for cell in found)
    return tuple(_map(title, members, *full) for title, members in sections(found))


def _map(title: str, members: Sequence[Cell], full: int, full_name: str) -> RankMap:
    blocks = sorted({cell.block for cell in members})
    rows: dict[str, dict[int, Cell]] = {}
    for cell in members:
        rows.setdefault(cell.projection, {})[cell.block] = cell
    table = tuple(tuple(row.get(block) for block in blocks) for row in rows.values())
    return RankMap(
        title=title,
        projections=tuple(rows),
        headings=tuple(headings(list(rows))),
        groups=tuple(next(iter(row.values())).group for row in rows.values()),
        blocks=tuple(blocks),
        cells=tuple(tuple(None if cell is None else cell.rank for cell in row) for row in table),
        members=table,
        full=full,
        full_name=full_name,
    )


# Phases and budget ----------------------------------------------------------------------------------------------------


def phases(ranks: Record | None = None, metrics: Record | None = None, log: Iterable[Record] = ()) -> tuple[Phase, ...]:
    """The phases of a run as far as its records say, in order.

    A finished run has written them down. Of any other, a phase ends at the last step that a record ascribes to it, and
    the last one at the last step recorded.
    """
    if ranks is not None and ranks.get("phases"):
        return tuple((phase["name"], phase["first"], phase["last"]) for phase in ranks["phases"])
    seen = {int(entry["step"]): str(entry["phase"]) for entry in _entries(ranks, metrics, log)}
    result: list[Phase] = []
    for name, steps in groupby(sorted(seen), key=seen.__getitem__):
        first = result[-1][2] + 1 if result else 1
        result.append((name, first, list(steps)[-1]))
    return tuple(result)


def _entries(ranks: Record | None, metrics: Record | None, log: Iterable[Record]) -> list[Record]:
    """Everything that has a step and a phase."""
    found = [*(ranks or {}).get("history", ()), *(metrics or {}).get("epochs", ()), *log]
    return [entry for entry in found if "step" in entry and "phase" in entry]


@dataclass(frozen=True)
class BudgetCurve:
    """Budget and live components over steps: values hold from their step to the next one, so draw them as stairs.

    Attributes:
        steps: ascending; 0 (the start), every event, the last step of the run. From a log alone: the logged steps.
        budget: how many components may live after each step.
        live: how many live.
        events: the steps of pruning events; empty if they are not known.
        freeze: the step of the last event; None if the run had not come to it, or the method has no budget.
        phases: as `phases` gives them.
        planned: whether there is a budget in components; where there is none, `budget` is what lives.
        remarks: what was found at events, by their step.
    """

    steps: tuple[int, ...]
    budget: tuple[int, ...]
    live: tuple[int, ...]
    events: tuple[int, ...]
    freeze: int | None
    phases: tuple[Phase, ...]
    planned: bool = True
    remarks: Mapping[int, str] = field(default_factory=dict)

    @property
    def constant(self) -> bool:
        """Whether budget and live components were one number all along."""
        return len({*self.budget, *self.live}) == 1


def budget_curve(ranks: Record | None, metrics: Record | None = None, log: Sequence[Record] = ()) -> BudgetCurve | None:
    """The budget of a run. None where there is none: a method without components, or nothing recorded yet.

    Args:
        ranks: ranks.json; None for a run that has not written it. Then the curve is that of the log.
        metrics: metrics.json, which knows the last step.
        log: log.jsonl, which does too.
    """
    known = phases(ranks, metrics, log)
    if ranks is not None and ranks.get("history"):
        history = _events(ranks)
        start = _start(ranks)
        points = [(0, start, start), *((entry["step"], entry["budget"], entry["live"]) for entry in history)]
        if known[-1][2] > points[-1][0]:
            points.append((known[-1][2], *points[-1][1:]))
        events = tuple(entry["step"] for entry in history)
        frozen = known[-1][0] != history[-1]["phase"] or ranks["live_components"] == _final_budget(ranks)
        if counts_parameters(ranks):
            frozen = frozen or history[-1]["step"] == known[-1][2]
            points = [(step, live, live) for step, _, live in points]
    else:
        points = [(entry["step"], entry["budget"], entry["live"]) for entry in log if entry.get("type") == "train"]
        events, frozen = (), False
    shown = planned(ranks) and not counts_parameters(ranks)
    if not any(budget or live for _, budget, live in points):
        return None
    steps, budget, live = (tuple(column) for column in zip(*points, strict=True))
    remarks = {entry["step"]: entry["remark"] for entry in (ranks or {}).get("history", ()) if entry.get("remark")}
    freeze = events[-1] if frozen else None
    return BudgetCurve(steps, budget, live, events, freeze, known, planned=shown, remarks=remarks)


def planned(ranks: Record | None) -> bool:
    """Whether what a run prunes follows a budget: where it has none, how many components are left emerges."""
    return ranks is None or ranks["target_rank"] is not None or not ranks.get("history")


def counts_parameters(ranks: Record | None) -> bool:
    """Whether the budget of a run counts parameters: then how many components it leaves is not planned."""
    return ranks is not None and ranks.get("counts") == "parameters"


def _events(ranks: Record) -> Sequence[Record]:
    """The history without what older runs call an event although nothing changes at it; the last one may be the
    freeze, and stays. Where there is no budget, every one counts.
    """
    history = ranks["history"]
    if not planned(ranks):
        return history  # type: ignore[no-any-return]
    start = _start(ranks)
    return [entry for entry in history[:-1] if entry["budget"] != start] + history[-1:]


def _start(ranks: Record) -> int:
    """Components at the start; of ranks that grow those of the first link."""
    return sum(
        layer["start_rank"] if layer.get("links") is None else layer["links"].count(1) for layer in ranks["layers"]
    )


def _final_budget(ranks: Record) -> int | None:
    return None if ranks["target_rank"] is None else ranks["target_rank"] * len(ranks["layers"])


# Loss and metrics -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    name: str
    steps: tuple[int, ...]
    values: tuple[float | None, ...]

    @property
    def known(self) -> bool:
        """Whether there is anything to draw."""
        return any(value is not None for value in self.values)


def losses(log: Iterable[Record]) -> Series:
    """The training loss, each value the mean since the logged step before."""
    found = [(entry["step"], entry.get("loss")) for entry in log if entry.get("type") == "train"]
    return Series("training loss", tuple(step for step, _ in found), tuple(value for _, value in found))


def metric_names(source: Record | Iterable[Record]) -> tuple[str, ...]:
    """The metrics of the evaluations of metrics.json or log.jsonl; a task lists its primary one first."""
    names: dict[str, None] = {}
    for entry in _evaluations(source):
        names.update(dict.fromkeys(entry["metrics"]))
    return tuple(names)


def metric_curve(source: Record | Iterable[Record], name: str | None = None) -> Series:
    """A metric after each epoch.

    Args:
        source: metrics.json or log.jsonl.
        name: None takes the first metric the task lists, its primary one.
    """
    entries = _evaluations(source)
    if name is None:
        name = next(iter(metric_names(entries)), "metric")
    return Series(
        name, tuple(entry["step"] for entry in entries), tuple(entry["metrics"].get(name) for entry in entries)
    )


def _evaluations(source: Record | Iterable[Record]) -> list[Record]:
    entries: Iterable[Record] = source["epochs"] if isinstance(source, Mapping) else source
    return [entry for entry in entries if isinstance(entry.get("metrics"), Mapping)]


# Scores ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scores:
    """The importance of components at the latest selection, which of a finished run is the freeze.

    A selection keeps the components with the highest scores, of equal ones those that stand first in their projection,
    so a projection's live ones are its `rank` best, unless the record says which they are: what an earlier event has
    removed for good has the score that it had then. Live ones and pruned ones are in descending order.
    """

    live: tuple[float, ...]
    pruned: tuple[float, ...]


def scores(layer: Record) -> Scores | None:
    """Scores of one entry of `layers` in ranks.json; None where the method has no scores."""
    values = layer.get("scores")
    if values is None:
        return None
    if (live := layer.get("live")) is not None:
        both: tuple[list[float], list[float]] = [], []
        for place, value in enumerate(values):
            if value is not None:
                both[place not in live].append(value)
        return Scores(*(tuple(sorted(part, reverse=True)) for part in both))
    known = [value for value in values if value is not None]
    ordered = sorted(known, reverse=True)
    return Scores(tuple(ordered[: layer["rank"]]), tuple(ordered[layer["rank"] :]))


def all_scores(ranks: Record) -> Scores | None:
    """Scores of every component of ranks.json; None where the method has none, or `ranks` is a mean of runs."""
    found = [found for layer in ranks["layers"] if (found := scores(layer)) is not None]
    if not found:
        return None
    return Scores(
        tuple(value for one in found for value in one.live), tuple(value for one in found for value in one.pruned)
    )


# The log --------------------------------------------------------------------------------------------------------------


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of log.jsonl that are whole: a run that is going on, or was killed, may have left half a line.

    Raises CheckpointError if there is no such file. A line that is no record of ours is passed over: the log is for
    looking at.
    """
    entries = []
    for line in read_lines(path):
        try:
            entry = parse_json(line)
        except ValueError:
            continue
        if is_line(entry):
            entries.append(entry)
    return entries
