"""What is said of values of DoRA that do not go together."""

from __future__ import annotations

from typing import get_args

import pytest

from dora_cli.errors import RecipeError
from dora_cli.recipe import parse_recipe
from dora_cli.recipe.methods.dora import ABOUT, DoraMethod


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ("method: {start_rank: 7}", "method.start_rank: must be at least method.rank = 8, got 7"),
        (
            "method: {alpha: 786049}\ntrain: {precision: fp16}",
            "method.alpha: must be at most 65504 times the start rank of 12",
        ),
        (
            "method: {alpha: 524033, scaling: final}\ntrain: {precision: fp16}",
            "method.alpha: must be at most 65504 times the rank of 8, got 524033: updates are scaled by alpha / rank",
        ),
        (
            "method: {rank: 2, start_rank: 8, alpha: 262017, scaling: root}\ntrain: {precision: fp16}",
            "method.alpha: must be at most 65504 times the root of start rank x rank, 4,",
        ),
        ("method: {min_rank: 9}", "method.min_rank: must be at most method.rank = 8, the mean, got 9"),
        ("method: {max_rank: 7}", "method.max_rank: must be at least method.rank = 8, the mean, got 7"),
        ("method: {gates: fixed}", "method.gates: is fixed, but method.start published begins with gates at 0"),
        ("method: {gates: fixed, start: unit}", "method.gates: is fixed, but method.start unit begins"),
        (
            "method: {gates: fixed, start: lora, gate_rate: 2}",
            "method.gate_rate: is a rate of gates that train, but method.gates is fixed",
        ),
        (
            "method: {start: lora, gradients: riemannian}",
            "method.gradients: is riemannian, which adjusts gradients of two factors, and method.gates trained puts a",
        ),
        (
            "method: {start: lora, gates: fixed, gradients: pro, learning_rate_ratio: 2}",
            "method.learning_rate_ratio: must be 1 with method.gradients pro",
        ),
        (
            "method: {calibration_examples: 9}",
            "method.calibration_examples: is for a start that is measured, and method.start published is drawn",
        ),
        (
            "method: {start: lora, step_bound: 0.01}",
            "method.step_bound: bounds the steps of two factors, and method.gates trained puts a gate between them",
        ),
        ("method: {damping: 0.1}", "method.damping: is for method.gradients pro and riemannian"),
        ("method: {guard: true, start_rank: 8}", "method.guard: is true, but with method.start_rank 8"),
        ("method: {guard: true, min_rank: 8}", "method.guard: is true, but with method.min_rank 8"),
        ("method: {guard: true, max_rank: 8}", "method.guard: is true, but with method.max_rank 8"),
        ("method: {refit: true}", "method.refit: is true, but with method.gates trained"),
        (
            "method: {refit: true, gates: fixed, start: lora, rotate: input}",
            "method.refit: is true, but method.rotate input leaves",
        ),
        ("method: {warmup_fraction: 0.5}", "must be below 1, got 0.5 + 0.5 = 1.0"),
    ],
)
def test_what_is_said(section: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(f"task: glue/rte\nmodel: {{name: some/model}}\n{section}", "r.yaml")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    "section",
    [
        "method: {gates: fixed, start: lora, min_rank: 8, max_rank: 8, refit: true}",
        "method: {guard: true, max_rank: 9, min_rank: 7}",
        "method: {start: lora, gates: fixed, gradients: pro, damping: 1.0e-6}",
        "method: {start: gradient, gates: fixed}",
        "method: {start: inputs, calibration_examples: 9}",
        "method: {start: lora, gates: fixed, gradients: riemannian, learning_rate_ratio: 4}",
        "method: {gate_rate: 10, learning_rate_ratio: 4, start: unit, max_rank: 40}",
        "method: {alpha: 524032, scaling: final}\ntrain: {precision: fp16}",
        "method: {rank: 2, start_rank: 8, alpha: 262016, scaling: root}\ntrain: {precision: fp16}",
    ],
)
def test_what_goes_together_is_taken(section: str) -> None:
    parse_recipe(f"task: glue/rte\nmodel: {{name: some/model}}\n{section}", "r.yaml")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("r_max: 9", "method.max_rank"),
        ("score: sensitivity", "taylor"),
        ("score: energy", "norm"),
        ("rotate: svd", "weight"),
        ("budget: params", "parameters"),
        ("gates: frozen", "fixed"),
    ],
)
def test_other_words_for_the_same(given: str, meant: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(f"task: glue/rte\nmodel: {{name: some/model}}\nmethod: {{{given}}}", "r.yaml")
    assert f"did you mean {meant}" in str(caught.value).replace("'", "")


def test_scales_by_hand() -> None:
    """By the mean final rank 2, whatever a projection has in the end: 8 / 8, 8 / sqrt(16), 8 / 2; and 8 itself."""
    scales = {
        scaling: ABOUT.scale(DoraMethod(rank=2, start_rank=8, alpha=8, scaling=scaling), 8, 5)
        for scaling in ("start", "root", "final", "none")
    }
    assert scales == {"start": 1.0, "root": 2.0, "final": 4.0, "none": 8.0}


def test_a_card_says_what_is_not_as_published() -> None:
    assert not ABOUT.notes(DoraMethod())
    changes: dict[str, object] = {
        "min_rank": 1,
        "max_rank": 9,
        "budget": "parameters",
        "start": "lora",
        "gates": "fixed",
        "learning_rate_ratio": 4,
        "gradients": "riemannian",
        "scaling": "final",
        "score": "kfac",
        "rotate": "input",
        "events": 5,
        "refit": True,
        "guard": True,
        "flatness": 0.05,
    }
    alone = [
        ABOUT.notes(DoraMethod.model_validate({"score": "published", key: value})) for key, value in changes.items()
    ]
    assert all(len(notes) == 1 for notes in alone)
    together = ABOUT.notes(DoraMethod.model_validate(changes))
    assert set(together) == {note for (note,) in alone}


def test_every_option_is_told() -> None:
    """A value that is added to a key needs a sentence too."""
    keys = ("budget", "start", "gates", "gradients", "scaling", "score", "rotate")
    for key in keys:
        field = DoraMethod.model_fields[key]
        for value in get_args(field.annotation):
            told = ABOUT.notes(DoraMethod.model_validate({key: value}))
            assert bool(told) == (value != field.default), (key, value)


@pytest.mark.parametrize(
    ("section", "score"),
    [
        ("method: {}", "published"),
        ("method: {gates: trained, budget: parameters}", "published"),
        ("method: {start: unit}", "fisher"),
        ("method: {start: lora, rotate: none}", "fisher"),
        ("method: {start: lora, score: published}", "published"),
        ("method: {start: lora, rotate: weight}", "published"),  # what rotates is ranked by its singular values
    ],
)
def test_the_score_that_is_meant_where_none_is_named(section: str, score: str) -> None:
    recipe = parse_recipe(f"task: glue/rte\nmodel: {{name: some/model}}\n{section}", "r.yaml")
    assert isinstance(recipe.method, DoraMethod)
    assert recipe.method.score == score
    again = parse_recipe(
        f"task: glue/rte\nmodel: {{name: some/model}}\nmethod: {recipe.method.model_dump_json()}", "r.yaml"
    )
    assert again.method == recipe.method
