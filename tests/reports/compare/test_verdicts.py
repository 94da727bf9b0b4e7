"""Every sentence about a comparison: its words are tested here, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest

from dora_cli.reports.compare.results import Results
from dora_cli.reports.compare.verdicts import (
    each_place,
    estimand,
    foreseen,
    inference,
    interval,
    listed,
    over_values,
    p_value,
    remarks,
    signed,
    tuning,
    typeset,
    unfinished,
    verdict,
    warnings,
)
from dora_cli.runs.records.comparison import ComparisonOfRecord, ComparisonRecord
from tests.reports.compare.examples import experiment, pooled

KNOWN: dict[str, Any] = {
    "seeds": 10, "mean": 0.0123, "sd": 0.01, "low": 0.002, "high": 0.0226, "p": 0.02, "p_holm": 0.034,
    "p_equivalent": 0.003, "p_non_inferior": 0.0004, "margin": 0.01, "verdict": "better",
}  # fmt: skip


def compared(**changes: Any) -> ComparisonOfRecord:
    record = experiment(1, 2)
    return ComparisonOfRecord.model_validate({**record["comparisons"][0], **KNOWN, **changes})


def of(**options: Any) -> ComparisonRecord:
    return Results.of(experiment(**options)).record


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {},
            (
                "dora is better than lora: difference +0.0123, 95 % interval +0.0020 to +0.0226, over 10 seeds, "
                "adjusted "
                "p = 0.034."
            ),
        ),
        (
            {"verdict": "worse", "mean": -0.0123, "low": -0.0226, "high": -0.002, "p_holm": 0.00001},
            (
                "dora is worse than lora: difference -0.0123, 95 % interval -0.0226 to -0.0020, over 10 seeds, "
                "adjusted "
                "p < 0.0001."
            ),
        ),
        (
            {"verdict": "equivalent", "mean": 0.001, "low": -0.003, "high": 0.005},
            (
                "dora and lora are equivalent within a margin of +/-0.0100: difference +0.0010, 95 % interval "
                "-0.0030 to "
                "+0.0050, over 10 seeds, adjusted p of equivalence = 0.0030."
            ),
        ),
        (
            {"verdict": "non-inferior", "mean": 0.001, "low": -0.003, "high": 0.02},
            (
                "dora is not worse than lora by the margin of 0.0100 or more: difference +0.0010, 95 % interval "
                "-0.0030 to "
                "+0.0200, over 10 seeds, adjusted p of non-inferiority = 0.0004."
            ),
        ),
        (
            {"verdict": "undecided", "mean": 0.001, "low": -0.03, "high": 0.02, "p_holm": 0.4},
            (
                "Undecided: dora beside lora shows neither a difference nor equivalence within a margin of +/-0.0100: "
                "difference +0.0010, 95 % interval -0.0300 to +0.0200, over 10 seeds, adjusted p = 0.400."
            ),
        ),
        (
            {"verdict": "undecided", "margin": None, "mean": 0.0, "low": -0.03, "high": 0.02, "p_holm": None},
            (
                "Undecided: dora beside lora shows no difference, nor that there is none: difference 0.0000, 95 "
                "% interval "
                "-0.0300 to +0.0200, over 10 seeds."
            ),
        ),
        (
            {"verdict": "withheld", "seeds": 3, "seeds_needed": 14},
            (
                "Withheld: 3 seeds cannot show what is asked of dora beside lora; it takes 14 seeds. So far: "
                "difference "
                "+0.0123, 95 % interval +0.0020 to +0.0226, over 3 seeds."
            ),
        ),
        (
            {"verdict": "withheld", "seeds": 1, "low": None, "high": None, "sd": None},
            (
                "Withheld: 1 seed cannot show what is asked of dora beside lora. So far: difference +0.0123, "
                "without an "
                "interval, over 1 seed."
            ),
        ),
        (
            {"verdict": "withheld", "seeds": 0, "mean": None, "low": None, "high": None, "seeds_needed": 5},
            (
                "Withheld: no seed has a run on both sides, so nothing shows what is asked of dora beside lora; "
                "it takes 5 "
                "seeds."
            ),
        ),
        (
            {"verdict": "better", "mean": None, "p_holm": None},
            "dora is better than lora: the difference is not known.",
        ),
    ],
)
def test_every_verdict_is_a_sentence(changes: dict[str, Any], said: str) -> None:
    assert verdict(compared(**changes)) == said


def test_what_must_be_known_with_it() -> None:
    assert warnings(compared()) == []
    assert warnings(compared(dropped=[13])) == ["Seed 13 lacks a run on one side and is left out."]
    assert warnings(compared(dropped=[11, 12, 13, 15], seeds_needed=20, notes=["Mind this."])) == [
        "Seeds 11-13, 15 lack a run on one side and are left out.",
        "To reach what is asked takes 20 seeds.",
        "Mind this.",
    ]
    assert warnings(compared(verdict="withheld", seeds_needed=20)) == [], "the verdict says it"
    assert warnings(compared(dropped=[1, 11], notes=["seed 11 is left out: a run is missing on rte"])) == [
        "Seed 1 lacks a run on one side and is left out.",
        "seed 11 is left out: a run is missing on rte",
    ], "once each"


def test_what_else_is_known() -> None:
    found = compared(detectable=0.0141, power_equivalent=0.181, bootstrap=[-0.001, 0.02], size_ratio=0.9981)
    assert remarks(found) == [
        "A true difference of 0.0141 would be found with 80 % power.",
        "If nothing differed, equivalence would be shown with 18 % power.",
        "By bootstrap-t the interval is -0.0010 to +0.0200.",
        "It stores 0.998 times the parameters of its baseline.",
    ]
    nothing = dict.fromkeys(("detectable", "power_equivalent", "bootstrap", "size_ratio"))
    assert remarks(compared(**nothing)) == []


def test_the_experiment_in_words() -> None:
    two = of(tasks=2, methods=4, seeds=10)
    assert estimand(two) == (
        "Estimated is the mean over these 2 tasks (they are fixed, no sample of others) of the mean difference in "
        "score between a method and lora with the same seed, over 10 seeds. Above 0 is better."
    )
    assert inference(two) == (
        "Intervals (95 %) and p by paired t over seeds; p adjusted by Holm over 3 comparisons. Equivalence and "
        "non-inferiority by one-sided tests (TOST) within a margin of +/-0.0100 (from the spread of the pilot), "
        "adjusted likewise."
    )
    assert tuning(two) == (
        "train.learning_rate was chosen for each method on each task among 5 values from 0.0001 to 0.01 on 10 % of the "
        "training split, held out by rows, with seeds 1, 2, by successive halving."
    )
    assert foreseen(two) == (
        "Known before the tuning: 10 seeds find a difference of 1.00 standard deviations of the paired difference with "
        "80 % power, at the level of 3 comparisons."
    )
    assert unfinished(two) is None
    one = of(tasks=1, methods=2, seeds=1, tune=False, margin=False, complete=False)
    assert estimand(one).startswith("Estimated is the mean difference in score between a method and lora")
    assert inference(one) == (
        "Intervals (95 %) and p by paired t over seeds; p of the one comparison. No margin is set, so equivalence is "
        "not tested."
    )
    assert tuning(one).startswith("Nothing was tuned")
    assert (unfinished(one) or "").startswith("The experiment is not finished")


def test_what_is_pooled_is_said_in_words() -> None:
    both = Results.of(pooled(2, (1, 2, 8))).record
    assert estimand(both) == (
        "Estimated is the mean over these 2 tasks and over rank 1, 2, 8 (they are fixed, no sample of others) of the "
        "mean difference in score between a method and lora with the same rank and seed, over 10 seeds. Above 0 is "
        "better."
    )
    assert estimand(Results.of(pooled(1)).record).startswith(
        "Estimated is the mean over rank 1, 2 (they are fixed, no sample of others) of the mean difference"
    )
    assert "difference +0.0123 (mean over rank 1, 2, 8), 95 % interval +0.0020 to +0.0226, over 10 seeds" in verdict(
        both.comparisons[0].model_copy(update=KNOWN)
    )
    assert [each_place(record) for record in (both, Results.of(pooled(1)).record, of(tasks=2), of(tasks=1))] == [
        "task and rank", "rank", "task", "task",
    ]  # fmt: skip


def test_pooled_keys_of_one_last_name_are_told_apart() -> None:
    settings = [{"method.batch_size": 1, "train.batch_size": 2, "method.rank": "a"}, {"method.rank": 0.5}]
    assert over_values(settings) == "method.batch_size 1, train.batch_size 2 and rank a, 0.5"
    assert over_values([{}, {}]) == ""


def test_a_metric_of_which_less_is_better_is_said() -> None:
    record = experiment(2, 2)
    record["tasks"][1]["lower_is_better"] = True
    assert "(cola: less is better, so the sign is turned)" in estimand(Results.of(record).record)


def test_methods_with_baselines_of_their_own_setting() -> None:
    record = experiment(1, 4, names=["lora r=2", "lora r=8", "dora r=2", "dora r=8"])
    record["baseline"] = "lora"
    record["comparisons"][2]["baseline"] = "lora r=8"
    assert "between a method and lora of the same setting" in estimand(Results.of(record).record)


def test_numbers() -> None:
    assert [signed(value) for value in (0.01, -0.01, 0.0, 0.00001, -0.00001, None)] == [
        "+0.0100", "-0.0100", "0.0000", "0.0000", "0.0000", "-",
    ]  # fmt: skip
    assert [p_value(p) for p in (0.5, 0.0123, 0.00456, 0.00001, 0.0, None)] == [
        "0.500", "0.012", "0.0046", "< 0.0001", "< 0.0001", "-",
    ]  # fmt: skip
    assert interval(compared(low=None)) == "-"
    assert listed([3, 1, 2, 7, 9, 10]) == "1-3, 7, 9, 10"


def test_print_has_signs_that_terminals_may_lack_and_names_stay() -> None:
    assert typeset("a-1 r=2-8 of x-0.5: -0.0030 to +0.0050, +/-0.0100, (-1.2)") == (
        "a-1 r=2-8 of x-0.5: \u22120.0030 to +0.0050, \u00b10.0100, (\u22121.2)"
    )
    assert verdict(compared()).isascii()
