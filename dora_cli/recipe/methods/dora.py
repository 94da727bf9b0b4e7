"""The keys of DoRA, what holds between them, and their defaults, which are the published ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

from dora_cli.recipe.about import About
from dora_cli.recipe.effects import ForRun
from dora_cli.recipe.fields import Count, CountOrZero, FractionBelowOne, NonNegative, Positive, Section, Targets
from dora_cli.recipe.methods.lora import OF_GRADIENTS, noise_note, notes_on_gradients, notes_on_steps
from dora_cli.recipe.rules import RANKS_AND_PHASES, Rule, fits_fp16
from dora_cli.wording import plural

Scaling = Literal["start", "root", "final", "none"]


AUTO: Mapping[str, Any] = {
    "budget": "parameters",
    "start": "lora",
    "gates": "fixed",
    "alpha": 4.0,
    "scaling": "none",
    "ema_beta": 0.98,
    "events": 5,
    "dem_weight": 0.0,
    "step_bound": 3e-3,
}
"""What ``preset: auto`` has in place of published defaults; chosen on held-out training data
(docs/results/allocation.md).
"""


class DoraMethod(Section):
    """DoRA, Dynamic Low-Rank Adaptation (Mao et al. 2024).

    Attributes:
        name: which method: ``dora`` adapts every projection and prunes ranks to the budget.
        preset: what keys are that the recipe does not have: ``published``, or ``auto``, the settings that did best on
            held-out data, which are ours.
        rank: average final rank per projection.
        start_rank: rank of every projection at the start; None is ``ceil(1.5 * rank)``.
        min_rank: what every projection keeps, whatever its components are worth.
        max_rank: what no projection has more of in the end; None is no bound. It falls from the start rank as the
            budget does.
        budget: what is counted: ``components``, or the ``parameters`` that are stored of them, so that the final size
            is that of LoRA at `rank`, to less than one component.
        start: how factors and gates begin: ``published``; ``unit``, components of length 1 whatever the width and the
            rank, with gates at 0; ``lora``, as in LoRA, with gates at 1; that, with `A` in the steepest directions of
            the weight's ``gradient`` (as in LoRA-One), or in the leading ones of its ``inputs`` (as in EVA).
        calibration_examples: of the training split, from which a start ``gradient`` or ``inputs`` is measured.
        gates: whether they are ``trained``, or ``fixed``: then what is pruned is gone for good, at once.
        learning_rate_ratio: learning rate of `B` over that of `A`.
        gate_rate: learning rate of the gates over that of `A`.
        alpha: the update is scaled by ``alpha / start rank``, or as `scaling` says.
        scaling: what alpha is divided by: the rank at the ``start``, the ``final`` mean rank, the ``root`` of their
            product, or ``none``.
        dropout: on the adapters' input.
        gradients: what the optimiser is given of the factors: ``plain``; without gates that train also ``pro``
            (LoRA-Pro), adjusted so that a step follows the gradient of the whole weight, or ``riemannian``, scaled by
            the other factor.
        damping: added to the factors' Gram matrices for ``pro`` and ``riemannian``; None is 1e-8 and 1e-2.
        targets: ``attention``, ``ffn`` or glob patterns of projections; out_proj and the like of Mamba-type models only
            by pattern.
        score: what components are ranked by: their share of their projection's update (``published``), the ``norm``
            of their own, that of their ``output``, the change of the loss without them to first order (``taylor``) or
            to second order by examples (``fisher``), or the latter from inputs and gradients apart (``kfac``). Where
            nothing is said it is ``published`` with ``start: published`` and where components are rotated, else
            ``fisher``.
        ema_beta: decay of the moving average of the scores.
        rotate: what components become before each event: nothing else (``none``), or the singular ones of their
            projection's update, by the ``weight`` or by the output that each ``input`` gives; the function stays.
        refit: whether what is kept of a projection makes up for what is pruned, by least squares over the inputs met;
            with gates that are ``fixed``.
        warmup_fraction: share of the steps before pruning starts.
        final_fraction: share of the steps after the ranks are frozen.
        events: how many pruning events there are, evenly spread, the last at the freeze; takes precedence over
            `prune_interval`.
        prune_interval: optimiser steps between two pruning events.
        curve: how the budget falls: slowly then fast (``published``), or fast then slowly (``adalora``).
        guard: whether ranks become uniform at the freeze where chosen ones do not help on held-out training data.
        dem_weight: weight of the regulariser (DEM); 0 turns it off.
        dem_scale: ``published`` (as in the authors' code) or ``paper`` (twice that).
        dem_until: whether the regulariser stops at the freeze or runs to the end.
        compact: whether pruned components leave memory at the freeze.
        flatness: sigma of the noise on the adapted weights in training (Flat-LoRA); 0 is none.
        step_bound: how far a step may move a projection's weight, over the norm of the weight; it falls to 0 as the
            learning rate does. None is no bound; with gates that are ``fixed``.
    """

    name: ForRun[Literal["dora"]] = "dora"
    preset: ForRun[Literal["published", "auto"]] = "published"
    rank: ForRun[Count] = 8
    start_rank: ForRun[Count | None] = None
    min_rank: ForRun[CountOrZero] = 0
    max_rank: ForRun[Count | None] = None
    budget: ForRun[Literal["components", "parameters"]] = "components"
    start: ForRun[Literal["published", "unit", "lora", "gradient", "inputs"]] = "published"
    calibration_examples: ForRun[Count] = 256
    gates: ForRun[Literal["trained", "fixed"]] = "trained"
    learning_rate_ratio: ForRun[Positive] = 1.0
    gate_rate: ForRun[Positive] = 1.0
    alpha: ForRun[Positive] = 8.0
    scaling: ForRun[Scaling] = "start"
    dropout: ForRun[FractionBelowOne] = 0.1
    gradients: ForRun[Literal["plain", "pro", "riemannian"]] = "plain"
    damping: ForRun[Positive | None] = None
    targets: ForRun[Targets] = ("attention", "ffn")
    score: ForRun[Literal["published", "norm", "output", "taylor", "fisher", "kfac"]] = "published"
    ema_beta: ForRun[FractionBelowOne] = 0.9
    rotate: ForRun[Literal["none", "weight", "input"]] = "none"
    refit: ForRun[bool] = False
    warmup_fraction: ForRun[FractionBelowOne] = 0.15
    final_fraction: ForRun[FractionBelowOne] = 0.5
    events: ForRun[Count | None] = None
    prune_interval: ForRun[Count] = 10
    curve: ForRun[Literal["published", "adalora"]] = "published"
    guard: ForRun[bool] = False
    dem_weight: ForRun[NonNegative] = 0.5
    dem_scale: ForRun[Literal["published", "paper"]] = "published"
    dem_until: ForRun[Literal["freeze", "end"]] = "freeze"
    compact: ForRun[bool] = True
    flatness: ForRun[NonNegative] = 0.0
    step_bound: ForRun[Positive | None] = None

    @classmethod
    def filled(cls, keys: Mapping[str, Any]) -> Mapping[str, Any]:
        """By the preset, and a score by the start."""
        return _with_score(_with_preset(keys))


def _with_preset(keys: Mapping[str, Any]) -> Mapping[str, Any]:
    """The keys of ``preset: auto`` beside those that the recipe has, but for what would go against these."""
    if keys.get("preset") != "auto":
        return keys
    filled = {**AUTO, **keys}
    opened = keys.get("start") in ("published", "unit") or keys.get("gate_rate", 1) != 1 or keys.get("compact") is False
    if opened and "gates" not in keys:
        filled["gates"] = "trained"
    if filled["gates"] != "fixed" and "step_bound" not in keys:
        filled["step_bound"] = None  # it is one on two factors
    if "prune_interval" in keys and "events" not in keys:
        filled["events"] = None  # which takes precedence
    return filled


def _with_score(keys: Mapping[str, Any]) -> Mapping[str, Any]:
    """The score that loses least when components are cut (docs/results/scores.md), where the method is not the
    published one anyway and nothing else ranks them.
    """
    if "score" in keys or keys.get("rotate", "none") != "none" or keys.get("start", "published") == "published":
        return keys
    return {**keys, "score": "fisher"}


_MEASURED = ("gradient", "inputs")
"""Starts that look at training data."""

_DIVISORS: Mapping[Scaling, Callable[[int, int], float]] = {
    "start": lambda start_rank, rank: start_rank,
    "root": lambda start_rank, rank: math.sqrt(start_rank * rank),
    "final": lambda start_rank, rank: rank,
    "none": lambda start_rank, rank: 1,
}
"""What alpha is divided by, from the start rank and the mean final rank."""

_IN_WORDS: Mapping[Scaling, tuple[str, str]] = {
    "start": ("the start rank of {:g}", "alpha / start rank"),
    "root": ("the root of start rank x rank, {:g}", "alpha / sqrt(start rank x rank)"),
    "final": ("the rank of {:g}", "alpha / rank"),
    "none": ("{:g}", "alpha"),
}
"""That, and the formula it belongs to."""


def _scale_fits_fp16(
    alpha: float, rank: int, start_rank: int | None, scaling: Scaling, precision: str, dtype: str
) -> str | None:
    divisor = _DIVISORS[scaling](-(-3 * rank // 2) if start_rank is None else start_rank, rank)
    over, formula = _IN_WORDS[scaling]
    return fits_fp16(alpha / divisor, f"{alpha:g}", over.format(divisor), formula, precision, dtype)


def _least_rank(min_rank: int, rank: int) -> str | None:
    if min_rank > rank:
        return f"must be at most method.rank = {rank}, the mean, got {min_rank}; lower it, or raise the rank"
    return None


def _highest_rank(max_rank: int | None, rank: int) -> str | None:
    if max_rank is not None and max_rank < rank:
        return (
            f"must be at least method.rank = {rank}, the mean, got {max_rank}; raise it, lower the rank, or set null "
            "for no bound"
        )
    return None


def _gates_open(gates: str, start: str) -> str | None:
    if gates == "fixed" and start in ("published", "unit"):
        return (
            f"is fixed, but method.start {start} begins with gates at 0, so that nothing would ever be learned; set "
            "start: lora, or gates: trained"
        )
    return None


def _something_to_measure(calibration_examples: int, start: str) -> str | None:
    if calibration_examples != 256 and start not in _MEASURED:
        return (
            f"is for a start that is measured, and method.start {start} is drawn; remove it, or set start: gradient or "
            "inputs"
        )
    return None


def _gates_move(gate_rate: float, gates: str) -> str | None:
    if gate_rate != 1 and gates == "fixed":
        return "is a rate of gates that train, but method.gates is fixed; remove it, or set gates: trained"
    return None


def _two_factors(gradients: str, gates: str) -> str | None:
    if gradients != "plain" and gates != "fixed":
        return (
            f"is {gradients}, which adjusts gradients of two factors, and method.gates trained puts a gate between "
            "them; set gates: fixed and start: lora, or gradients: plain"
        )
    return None


def _held_factors(step_bound: float | None, gates: str) -> str | None:
    if step_bound is not None and gates == "trained":
        return (
            "bounds the steps of two factors, and method.gates trained puts a gate between them; set gates: fixed and "
            "start: lora, or remove it"
        )
    return None


def _one_measure(score: str, rotate: str) -> str | None:
    if score != "published" and rotate != "none":
        return (
            f"is {score}, but method.rotate {rotate} ranks components by their singular values; remove it, or set "
            "rotate: none"
        )
    return None


def _something_to_guard(
    guard: bool, rank: int, start_rank: int | None, max_rank: int | None, min_rank: int
) -> str | None:
    bounds = {"start_rank": start_rank, "max_rank": max_rank, "min_rank": min_rank}
    if guard and (equal := [key for key, value in bounds.items() if value == rank]):
        return (
            f"is true, but with method.{equal[0]} {rank}, which is method.rank, ranks are uniform anyway, and a tenth "
            "of the training split would be held out for nothing; remove one of them"
        )
    return None


def _makes_up(refit: bool, gates: str, rotate: str) -> str | None:
    if refit and gates == "trained":
        return "is true, but with method.gates trained what is pruned may come back; remove it, or set gates: fixed"
    if refit and rotate != "none":
        return (
            f"is true, but method.rotate {rotate} leaves components that hold nothing of each other; remove it, or set "
            "rotate: none"
        )
    return None


def _leaves_memory(compact: bool, gates: str, rotate: str) -> str | None:
    if not compact and (gates == "fixed" or rotate != "none"):
        what = "method.gates fixed" if gates == "fixed" else f"method.rotate {rotate}"
        return f"is false, but with {what} what is pruned leaves memory at once; remove it"
    return None


SECTION = DoraMethod
RULES = (
    *RANKS_AND_PHASES,
    Rule(
        ("method.alpha", "method.rank", "method.start_rank", "method.scaling", "train.precision", "model.dtype"),
        _scale_fits_fp16,
    ),
    Rule(("method.min_rank", "method.rank"), _least_rank),
    Rule(("method.max_rank", "method.rank"), _highest_rank),
    Rule(("method.gates", "method.start"), _gates_open),
    Rule(("method.calibration_examples", "method.start"), _something_to_measure),
    Rule(("method.gate_rate", "method.gates"), _gates_move),
    Rule(("method.gradients", "method.gates"), _two_factors),
    *OF_GRADIENTS,
    Rule(("method.step_bound", "method.gates"), _held_factors),
    Rule(("method.score", "method.rotate"), _one_measure),
    Rule(
        ("method.guard", "method.rank", "method.start_rank", "method.max_rank", "method.min_rank"), _something_to_guard
    ),
    Rule(("method.refit", "method.gates", "method.rotate"), _makes_up),
    Rule(("method.compact", "method.gates", "method.rotate"), _leaves_memory),
)


def _scale(section: DoraMethod, start_rank: int, rank: int) -> float:
    """That of all projections, also of what is left of them at the end: by the mean final rank, not by their own."""
    return section.alpha / _DIVISORS[section.scaling](start_rank, section.rank)


_SAID = {
    ("budget", "parameters"): "The budget counted parameters: as many as LoRA at the mean rank has.",
    ("start", "unit"): "Components started at length 1, with gates of 0.",
    ("start", "lora"): "Factors started as in LoRA, with gates of 1.",
    ("start", "gradient"): "`A` started in the leading right singular vectors of its weight's gradient, `B` at 0.",
    ("start", "inputs"): "`A` started in the leading right singular vectors of its inputs, `B` at 0.",
    ("gates", "fixed"): "Gates did not train: what was pruned was gone for good.",
    ("scaling", "root"): "The update is scaled by `alpha / sqrt(start rank x rank)`.",
    ("scaling", "final"): "The update is scaled by `alpha / rank`, the mean final rank.",
    ("scaling", "none"): "The update is scaled by `alpha`, whatever the ranks.",
    ("score", "norm"): "Components were ranked by their Frobenius norms.",
    ("score", "output"): "Components were ranked by the mean square of what each adds to its projection's output.",
    ("score", "taylor"): "Components were ranked by the change of the loss without each, to first order.",
    ("score", "fisher"): "Components were ranked by the Fisher information of each, from single examples.",
    ("score", "kfac"): "Components were ranked by a Kronecker-factored Fisher information of each.",
    ("rotate", "weight"): "Before each pruning they were rotated to the singular components of the update.",
    ("rotate", "input"): "Before each pruning they were rotated to the singular components of the output.",
    ("refit", True): "What was kept made up for what was pruned, by least squares over the inputs met.",
    ("guard", True): "Ranks became uniform unless chosen ones helped on held-out training data.",
}
"""What a model card says of options that differ from the published ones."""


def _unlike_preset(section: DoraMethod) -> list[str]:
    """Keys of ``preset: auto`` that have another value; none with another preset."""
    return [key for key, value in AUTO.items() if section.preset == "auto" and getattr(section, key) != value]


def _oddities(section: DoraMethod) -> list[str]:
    unlike = _unlike_preset(section)
    if not unlike:
        return []
    them = "it" if len(unlike) == 1 else "them"
    said = f"method.preset is auto, but what the recipe says holds: {', '.join(unlike)}"
    return [f"{said}; remove {them} for the preset's"]


def _notes(section: DoraMethod) -> list[str]:
    found = []
    if section.preset == "auto":
        unlike = ", ".join(f"`{key}`" for key in _unlike_preset(section))
        found.append(f"Settings are those of `preset: auto`{f', but for {unlike}' if unlike else ''}.")
    found += [said for (key, value), said in _SAID.items() if getattr(section, key) == value]
    if section.start in _MEASURED:
        found.append(f"That was measured over {plural(section.calibration_examples, 'training example')}.")
    if section.learning_rate_ratio != 1:
        found.append(f"`B` learned at {section.learning_rate_ratio:g} times the rate of `A`.")
    found += notes_on_gradients(section.gradients)
    if section.gate_rate != 1:
        found.append(f"Gates learned at {section.gate_rate:g} times the rate of `A`.")
    if section.min_rank:
        found.append(f"Every projection kept at least {plural(section.min_rank, 'component')}.")
    if section.max_rank is not None:
        found.append(f"None kept more than {plural(section.max_rank, 'component')}.")
    if section.events is not None:
        found.append(f"Components were pruned at {plural(section.events, 'event')}, evenly spread.")
    found += notes_on_steps(section.step_bound)
    return [*found, noise_note(section.flatness)] if section.flatness else found


ABOUT = About(
    title="DoRA, Dynamic Low-Rank Adaptation",
    summary="prunes single-rank components by importance until a budget is met",
    paper="Mao et al. 2024, arXiv 2405.17357",
    adapts="attention and FFN projections",
    ranks="pruned",
    mergeable=True,
    lora=True,
    card="""\
Trained with **DoRA, Dynamic Low-Rank Adaptation** (Mao et al., ACL 2024,
[arXiv 2405.17357](https://arxiv.org/abs/2405.17357)): every adapted projection starts with more single-rank components
than the budget allows, the least important are pruned while training goes on, then the ranks are frozen and the rest is
fine-tuned.

This is *not* the weight-decomposed DoRA of Liu et al. (arXiv 2402.09353; PEFT's `use_dora`), an unrelated method of the
same name.""",
    tags=("dynamic-low-rank-adaptation",),
    notes=_notes,
    oddities=_oddities,
    scale=_scale,
)
