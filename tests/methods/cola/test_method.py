"""Chain of LoRA behind its contract: what a knot changes and what it leaves, states, plain LoRA, skipped steps."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dora_cli.errors import CheckpointError
from dora_cli.machine.devices import make_accelerator
from dora_cli.methods import Cola
from dora_cli.methods.base import Method, StepReport
from dora_cli.methods.low_rank.layer import AdaptedProjection
from dora_cli.training.optimizer import make_optimizer, make_scheduler
from dora_cli.training.step import TrainingStep
from tests.methods.small import linear_maps, new_cola, new_lora, sites, small_encoder

STEPS = 12
KNOTS = (4, 8)
RANKS = (3, 2, 1)
Data = Iterator[tuple[torch.Tensor, torch.Tensor]]


def cola(**changes: Any) -> Cola:
    return new_cola(**({"links": 3, "ranks": RANKS, "alpha": 6.0, "dropout": 0.0} | changes))


class Run:
    """A small model under the product's own step; data are drawn step by step."""

    def __init__(self, method: Method, *, steps: int = STEPS, warmup: int = 3, model: nn.Module | None = None) -> None:
        self.model = small_encoder() if model is None else model
        self.model.requires_grad_(False)
        places = sites(linear_maps(self.model, "blocks"))
        self.method, self.schedule = method, method.plan(steps, places)
        head = [p.requires_grad_() for name, p in self.model.named_parameters() if name.startswith("head")]
        method.attach(self.model, places, head, self.schedule, seed=1)
        self.optimizer = make_optimizer(method, learning_rate=2e-2, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8)
        self.scheduler = make_scheduler(
            self.optimizer, warmup_steps=warmup, total_steps=steps, restarts=self.schedule.restarts
        )
        self.step = TrainingStep(
            model=self.model,
            method=method,
            loss=lambda outputs, batch: F.cross_entropy(outputs, batch["labels"], reduction="none"),
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            accelerator=make_accelerator(torch.device("cpu"), "fp32"),
            max_grad_norm=1.0,
            skip_nonfinite=1,
        )

    def train(self, first: int, last: int, *, broken: int = 0) -> StepReport:
        """Steps `first` to `last`; the input of step `broken` is not finite."""
        self.model.train()
        for step in range(first, last + 1):
            generator = torch.Generator().manual_seed(step)
            x = torch.randn(8, 10, generator=generator, dtype=torch.float64)
            labels = torch.randint(3, (8,), generator=generator)
            batch = {"x": x * (torch.inf if step == broken else 1.0), "labels": labels}
            report = self.step(step, [batch], 8, event=self.schedule.next_event(step - 1) == step)
        return report


@torch.no_grad()
def answers(model: nn.Module) -> torch.Tensor:
    return model(torch.randn(5, 10, generator=torch.Generator().manual_seed(2), dtype=torch.float64))


def layers(model: nn.Module) -> list[AdaptedProjection]:
    return [module for module in model.modules() if isinstance(module, AdaptedProjection)]


def test_one_link_is_lora() -> None:
    runs = [Run(cola(links=1, ranks=None, rank=3)), Run(new_lora(rank=3, alpha=6.0, dropout=0.0))]
    for run in runs:
        run.train(1, STEPS)
    ours, theirs = (run.method.state_dict() for run in runs)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert torch.equal(answers(runs[0].model), answers(runs[1].model))


def test_a_chain_is_a_run_of_lora_after_the_other_each_on_the_merged_model_of_the_last() -> None:
    """Also in its learning rates: a link has the warm-up and the decay of a run of its length."""
    chain, alone = Run(cola()), copy.deepcopy(small_encoder())
    link, first = None, 1
    for number, rank in enumerate(RANKS):
        last = STEPS * (number + 1) // 3
        link = Run(new_lora(rank=rank, alpha=6.0, dropout=0.0), steps=last - first + 1, warmup=1, model=alone)
        start = {key: tensor.clone() for key, tensor in chain.method.state_dict().items() if "tied" not in key}
        link.method.load_state_dict(start)
        for step in range(first, last + 1):
            chain.train(step, step)
            generator = torch.Generator().manual_seed(step)
            x = torch.randn(8, 10, generator=generator, dtype=torch.float64)
            batch = {"x": x, "labels": torch.randint(3, (8,), generator=generator)}
            link.step(step - first + 1, [batch], 8, event=False)
            assert link.step.learning_rate == chain.step.learning_rate
        link.method.merge()
        torch.testing.assert_close(answers(alone), answers(chain.model), rtol=0, atol=1e-9)
        first = last + 1
    assert not torch.allclose(answers(alone), answers(small_encoder()))


def test_a_knot_changes_what_trains_and_nothing_that_is_computed() -> None:
    run = Run(cola())
    bases = {name: p.detach().clone() for name, p in run.model.named_parameters() if ".base." in name}
    run.train(1, KNOTS[0] - 1)
    with_link = [(layer.A.detach().clone(), layer.B.detach().clone()) for layer in layers(run.model)]
    assert all(bool(B.any()) for _, B in with_link)
    report = run.train(KNOTS[0], KNOTS[0])
    assert (report.event, report.regrouped, report.frozen, run.method.frozen) == (True, True, False, False)
    assert not run.optimizer.state, "moments start anew, those of the head too"
    assert {id(p) for p in report.restarted} == {id(p) for p in run.method.head}
    for layer in layers(run.model):
        assert (layer.tied, layer.rank, layer.scaling) == (3, 2, 3.0)
        assert not layer.B.any()
        assert 0 < float(layer.A.detach().abs().max()) <= layer.in_features**-0.5
        update = layer.delta(torch.float64)
        x = torch.randn(4, layer.in_features, dtype=torch.float64)
        torch.testing.assert_close(layer(x), layer.base(x) + x @ update.T, rtol=0, atol=1e-12)
    for name, before in bases.items():
        assert torch.equal(run.model.get_parameter(name), before), "nothing is added into the base"
    trained = {id(p) for group in run.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in [*run.method.parameters(), *run.method.head]}
    report = run.train(KNOTS[0] + 1, KNOTS[1])
    assert (report.frozen, run.method.frozen, report.budget) == (True, True, 6 * 6)


def test_the_last_link_s_answers_are_those_before_its_knot() -> None:
    run, other = Run(cola()), Run(cola())
    run.train(1, KNOTS[1])
    other.train(1, KNOTS[1] - 1)
    other.schedule = other.method._schedule = other.method.plan(STEPS * 10, other.method.sites)  # no knot here
    other.train(KNOTS[1], KNOTS[1])
    torch.testing.assert_close(answers(run.model), answers(other.model), rtol=0, atol=1e-12)


def test_dropout_is_before_the_link_that_trains_alone() -> None:
    """Right after a knot that link adds nothing, so nothing is random, in either pass."""
    run = Run(cola(dropout=0.5))
    run.train(1, KNOTS[0])
    run.model.train()
    first = answers(run.model)
    assert torch.equal(answers(run.model), first)
    with run.method.training_pass():
        torch.testing.assert_close(answers(run.model), first, rtol=0, atol=1e-12)
    with torch.no_grad():
        for layer in layers(run.model):
            layer.B.add_(1.0)
    assert not torch.equal(answers(run.model), answers(run.model))


def test_links_keep_what_a_base_in_bf16_would_lose() -> None:
    torch.manual_seed(0)
    base = nn.Linear(8, 6).to(torch.bfloat16)
    model = nn.Sequential(base)
    method = cola(links=2, ranks=(1, 1), alpha=1.0)
    places = sites({"0": base})
    method.attach(model, places, schedule=method.plan(4, places))
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.fill_(1e-3)
    method.advance(2)
    state = method.state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    torch.testing.assert_close(method.delta(method.sites[0], torch.float32), torch.full((6, 8), 1e-6))
    assert torch.equal(base.weight.detach() + torch.full((6, 8), 1e-6, dtype=torch.bfloat16), base.weight)


def test_plain_lora_of_a_chain_is_its_links_one_after_the_other() -> None:
    run = Run(cola())
    run.train(1, STEPS)
    state, found = run.method.state_dict(), run.method.to_lora()
    for site in run.method.sites:
        A, B = found[site.name].A.double(), found[site.name].B.double()
        assert (A.shape, B.shape) == ((6, site.shape[1]), (site.shape[0], 6))
        assert torch.equal(A[:5].float(), state[f"{site.name}.tied_A"].float())
        torch.testing.assert_close(B[:, 5:], 6.0 * state[f"{site.name}.B"], rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(B @ A, run.method.delta(site, torch.float64), rtol=0, atol=1e-6)
    each = sum(sum(site.shape) for site in run.method.sites)
    size = run.method.size()
    assert (size.stored, size.trained, size.bytes) == (6 * each, 3 * each, 6 * each * 8)
    assert {(item.start_rank, item.rank) for item in run.method.allocation()} == {(3, 6)}


@pytest.mark.parametrize("step", [2, 4, 6, 8, 11])
def test_a_state_of_any_link_is_loaded_for_training_and_for_evaluation(step: int) -> None:
    """Within a link and exactly at a knot; the draws that follow are the generator's."""
    run, again = Run(cola()), Run(cola())
    run.train(1, step)
    state = copy.deepcopy(run.method.state_dict())
    model, method = small_encoder(), cola()
    method.attach(model, sites(linear_maps(model, "blocks")))
    for other in (method, again.method):
        other.load_state_dict(state)
        assert other.frozen == (step >= KNOTS[1])
        loaded = other.state_dict()
        assert loaded.keys() == state.keys()
        assert all(torch.equal(loaded[key], state[key]) for key in state)
    assert [item.rank for item in method.allocation()] == [item.rank for item in run.method.allocation()]
    assert all(
        torch.equal(method.delta(site, torch.float64), run.method.delta(site, torch.float64)) for site in method.sites
    )
    assert [layer.scaling for layer in layers(model)] == [layer.scaling for layer in layers(run.model)]


def test_states_that_do_not_fit_are_refused() -> None:
    run = Run(cola())
    run.train(1, 6)
    state = run.method.state_dict()
    first = run.method.sites[0].name
    broken = {
        "tied components are 3": (cola(ranks=(4, 2, 1)), state),
        f"{first}.A is": (cola(ranks=(3, 3, 1)), state),
        "tied components are 2": (cola(), {**state, f"{first}.tied_A": state[f"{first}.tied_A"][:2]}),
        f"{first}.tied_B is missing": (cola(), {key: state[key] for key in state if key != f"{first}.tied_B"}),
        "no place for it": (cola(), {**state, "other.A": state[f"{first}.A"]}),
    }
    for message, (method, tensors) in broken.items():
        method.attach(model := small_encoder(), sites(linear_maps(model, "blocks")))
        with pytest.raises(CheckpointError, match=message):
            method.load_state_dict(tensors)


def test_a_step_that_is_skipped_at_a_knot_changes_nothing_and_is_counted() -> None:
    """The link ends where it was planned to, with what the step before had made of it."""
    run = Run(cola())
    run.train(1, KNOTS[0] - 1)
    before = copy.deepcopy(run.method.state_dict())
    head = [p.detach().clone() for p in run.method.head]
    report = run.train(KNOTS[0], KNOTS[0], broken=KNOTS[0])
    assert report.event
    after = run.method.state_dict()
    for site in run.method.sites:
        assert torch.equal(after[f"{site.name}.tied_A"], before[f"{site.name}.A"])
        torch.testing.assert_close(after[f"{site.name}.tied_B"], 2.0 * before[f"{site.name}.B"], rtol=1e-15, atol=0)
    assert all(torch.equal(p, was) for p, was in zip(run.method.head, head, strict=True))
    run.train(KNOTS[0] + 1, STEPS)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in run.method.state_dict().values())


def test_a_chain_learns_a_change_of_a_higher_rank_than_any_link_has() -> None:
    """Three projections are changed by rank 3; the head alone cannot follow, one link of rank 1 not as far."""
    torch.manual_seed(3)
    teacher = small_encoder()
    with torch.no_grad():
        for name in ("blocks.0.att", "blocks.1.att", "blocks.1.down"):
            weight = teacher.get_submodule(name).weight
            rows, columns = (torch.linalg.qr(torch.randn(size, 3, dtype=torch.float64))[0] for size in weight.shape)
            weight += 1.5 * rows @ columns.T
        x = torch.randn(64, 10, dtype=torch.float64)
        y = teacher(x)

    def error(**settings: Any) -> float:
        model = small_encoder().requires_grad_(False)
        head = [p.requires_grad_() for name, p in model.named_parameters() if name.startswith("head")]
        method = cola(alpha=4.0, **settings)
        places = sites(linear_maps(model, "blocks")) if settings else []
        schedule = method.plan(180, places) if places else None
        method.attach(model, places, head, schedule, seed=1) if places else None
        optimizer = torch.optim.AdamW([*(method.parameters() if places else ()), *head], lr=2e-2, weight_decay=0.0)
        for step in range(1, 181):
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
            if schedule is not None and method.advance(step).event:
                optimizer = torch.optim.AdamW([*method.parameters(), *head], lr=2e-2, weight_decay=0.0)
        return float(F.mse_loss(model(x), y).detach())

    alone, one, chain = error(), error(links=1, ranks=(1,)), error(links=3, ranks=(1, 1, 1))
    assert chain < 0.2 * alone
    assert chain < 0.8 * one
