"""The statistics of a comparison: numbers in, numbers and one word out. No files, no printing, no recipes.

* `paired`: the estimand, paired differences, their test by paired t or bootstrap-t (`one_sample`);
* `holm`: several comparisons;
* `equivalence`: TOST, non-inferiority, and the margin from the pilot;
* `power`: what a number of seeds can show, and how many it takes;
* `verdicts`: which tests make which verdict;
* `rates`: choosing a rate from a grid.

Scores go in as they are measured, in any unit; differences are turned so that above 0 is better.
`scripts/simulate_comparison.py` measures what is promised here.
"""

from dora_cli.compare.statistics.equivalence import EquivalenceTest, PilotSpread, equivalence_test, pilot_spread
from dora_cli.compare.statistics.holm import holm
from dora_cli.compare.statistics.one_sample import Test
from dora_cli.compare.statistics.paired import (
    Differences,
    NoTest,
    PairedTest,
    Scores,
    paired_differences,
    paired_test,
)
from dora_cli.compare.statistics.power import (
    Reach,
    detectable_difference,
    difference_sd,
    planning_level,
    power_of_difference,
    power_of_equivalence,
    reach,
    seeds_for_difference,
    seeds_for_equivalence,
)
from dora_cli.compare.statistics.rates import (
    ChosenRate,
    Growth,
    RatePoint,
    cells_near_best,
    choose_rate,
    collapsed_share,
    expected_best,
    grow_grid,
    lagging_neighbours,
    rate_grid,
    surviving_rates,
)
from dora_cli.compare.statistics.verdicts import Comparison, Verdict, adjusted, judge

__all__ = [
    "ChosenRate",
    "Comparison",
    "Differences",
    "EquivalenceTest",
    "Growth",
    "NoTest",
    "PairedTest",
    "PilotSpread",
    "RatePoint",
    "Reach",
    "Scores",
    "Test",
    "Verdict",
    "adjusted",
    "cells_near_best",
    "choose_rate",
    "collapsed_share",
    "detectable_difference",
    "difference_sd",
    "equivalence_test",
    "expected_best",
    "grow_grid",
    "holm",
    "judge",
    "lagging_neighbours",
    "paired_differences",
    "paired_test",
    "pilot_spread",
    "planning_level",
    "power_of_difference",
    "power_of_equivalence",
    "rate_grid",
    "reach",
    "seeds_for_difference",
    "seeds_for_equivalence",
    "surviving_rates",
]
