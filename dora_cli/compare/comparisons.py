"""Every comparison of an experiment: the places where it is made, its differences, its verdict, and what is to be said
of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean
from typing import Any

from dora_cli.compare.cells import ComparedTask, cell_name
from dora_cli.compare.courses import CellResult
from dora_cli.compare.sizes import alike
from dora_cli.compare.statistics import Comparison, Differences, PairedTest, judge, paired_differences, paired_test
from dora_cli.compare.variants import Contrast, Pair
from dora_cli.recipe.problems import shorten
from dora_cli.runs.records.comparison import place_name
from dora_cli.wording import plural

LONGEST_NOTE = 300
"""Characters of a comparison's note, as its record has them."""


def compared(
    contrasts: Sequence[Contrast],
    tasks: Sequence[ComparedTask],
    done: Mapping[str, CellResult],
    *,
    seeds: Sequence[int],
    margin: float | None,
    planned_sd: float | None,
) -> list[dict[str, Any]]:
    """The comparisons as comparison.json holds them: those whose runs are all there. All that were declared are one
    family, in which one that is not there yet has no test.

    Args:
        done: results by the cell's name.
        seeds: those declared.
        margin: below which a difference does not count; None where there is none.
        planned_sd: see `judge`.
    """
    places = {contrast.name: _places(contrast, tasks) for contrast in contrasts}
    differences = {contrast.name: _differences(places[contrast.name], seeds, done) for contrast in contrasts}
    judged = judge(differences, margin=margin, planned_sd=planned_sd)
    return [
        _comparison(contrast, judged[contrast.name], places[contrast.name], done)
        for contrast in contrasts
        if all(place.is_done(done) for place in places[contrast.name])
    ]


@dataclass(frozen=True)
class _Place:
    """Where a part of a comparison is made: on a task and, where swept keys are pooled, at one value of each.

    Attributes:
        pooled: the pooled keys and their values.
    """

    task: ComparedTask
    pair: Pair
    pooled: Mapping[str, Any]

    @property
    def name(self) -> str:
        return place_name(self.task.name, self.pooled)

    @property
    def in_a_sentence(self) -> str:
        """Its name as a sentence about it goes on; closed where it has a value at its end."""
        return f"{self.name}:" if self.pooled else self.name

    @property
    def _names(self) -> tuple[str, str]:
        return cell_name(self.task, self.pair.variant), cell_name(self.task, self.pair.baseline)

    def is_done(self, done: Mapping[str, CellResult]) -> bool:
        """Whether the runs of both sides are there."""
        return all(name in done for name in self._names)

    def scores(self, done: Mapping[str, CellResult]) -> list[dict[int, float]]:
        """The method's and its baseline's scores by seed, as far as they are there."""
        known = [() if name not in done else done[name].scores for name in self._names]
        return [{score.seed: score.value for score in scores if score.value is not None} for scores in known]

    def results(self, done: Mapping[str, CellResult]) -> tuple[CellResult, CellResult]:
        """The method's and its baseline's; both must be done."""
        one, other = self._names
        return done[one], done[other]


def _places(contrast: Contrast, tasks: Iterable[ComparedTask]) -> list[_Place]:
    return [_Place(task, pair, contrast.values(pair)) for task in tasks for pair in contrast.pairs]


def _differences(places: Sequence[_Place], seeds: Sequence[int], done: Mapping[str, CellResult]) -> Differences:
    """Those of one comparison: its places are averaged within a seed."""
    scores = {place.name: place.scores(done) for place in places}
    return paired_differences(
        {name: theirs for name, (theirs, _) in scores.items()},
        {name: ours for name, (_, ours) in scores.items()},
        tasks=list(scores),
        seeds=seeds,
        lower_is_better={place.name: place.task.lower_is_better for place in places},
    )


def _tested(test: PairedTest) -> dict[str, Any]:
    return {"seeds": test.seeds, "mean": test.mean, "sd": test.sd, "low": test.low, "high": test.high, "p": test.p}


def _comparison(
    contrast: Contrast, found: Comparison, places: Sequence[_Place], done: Mapping[str, CellResult]
) -> dict[str, Any]:
    differences, reached = found.differences, found.reach
    bootstrap = paired_test(differences.values, test="bootstrap-t", resolution=differences.resolution)
    ends = (bootstrap.low, bootstrap.high)
    ratio, notes = _sizes(places, done)
    for seed, where in differences.dropped.items():
        notes.append(f"seed {seed} is left out: it has no score on {('; ' if contrast.pooled else ', ').join(where)}")
    if found.within_margin:
        notes.append("The difference is there, and smaller than the margin.")
    notes += _notes_on_collapse(places, done)
    return {
        **_tested(found.difference),
        "method": contrast.method,
        "baseline": contrast.baseline,
        "pairs": [{"method": pair.variant.name, "baseline": pair.baseline.name} for pair in contrast.pairs],
        "differences": list(differences.values),
        "of_seeds": list(differences.seeds),
        "dropped": list(differences.dropped),
        "p_holm": found.p_holm,
        "p_equivalent": found.p_equivalent,
        "p_non_inferior": found.p_non_inferior,
        "margin": None if found.equivalence is None else found.equivalence.margin,
        "detectable": None if reached is None else reached.detectable,
        "power_equivalent": None if reached is None else reached.power_of_equivalence,
        "seeds_needed": None if reached is None or reached.reached else reached.seeds_needed,
        "bootstrap": None if None in ends or not all(isfinite(end) for end in ends if end is not None) else ends,
        "verdict": found.verdict.value,
        "size_ratio": ratio,
        "by_task": [_at(place, found) for place in places],
        "notes": [shorten(note, LONGEST_NOTE) for note in notes],
    }


def _at(place: _Place, found: Comparison) -> dict[str, Any]:
    """What a comparison comes to in one place alone."""
    return {
        **_tested(found.by_task[place.name]),
        "task": place.task.name,
        "pooled": dict(place.pooled),
        "p_holm": found.p_by_task[place.name],
    }


def _sizes(places: Sequence[_Place], done: Mapping[str, CellResult]) -> tuple[float | None, list[str]]:
    """How many parameters the method stores, over those of its baseline; and where that is not the same."""
    sizes = []
    for place in places:
        results = place.results(done)
        component = max((cost for result in results for cost in result.cell.costs.values()), default=0)
        sizes.append((place, (results[0].stored(), results[1].stored()), component))
    known = [stored for _, stored, _ in sizes if None not in stored and stored[1]]
    if len(known) < len(sizes):
        return None, []
    ratio = fmean(one or 0.0 for one, _ in known) / fmean(other or 0.0 for _, other in known)
    notes = []
    for place, (one, other), component in sizes:
        assert one is not None
        assert other is not None
        if place.pair.variant.has_size and not alike(one, other, component):
            notes.append(f"On {place.in_a_sentence} it stores {one:,.0f} parameters, its baseline {other:,.0f}.")
    return ratio, notes


def _notes_on_collapse(places: Sequence[_Place], done: Mapping[str, CellResult]) -> list[str]:
    """Where one side collapses more often than the other, the mean is one of two kinds of run."""
    found = []
    for place in places:
        runs, theirs = (result.scores for result in place.results(done))
        one, other = (sum(score.collapsed for score in scores) for scores in (runs, theirs))
        if one != other:
            found.append(
                f"On {place.in_a_sentence} {one} of {plural(len(runs), 'run')} collapsed, {other} of {len(theirs)} of "
                "the baseline: few seeds tell little of how often that happens, and the mean hangs on it."
            )
    return found
