"""Rotations in the course of training: all layers in place, whatever their ranks, with what the optimiser keeps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dora_cli.errors import CheckpointError
from dora_cli.methods.base import Mixture
from dora_cli.methods.low_rank.adapters import Adapters
from dora_cli.methods.low_rank.allocation.moments import SecondMoments
from dora_cli.methods.low_rank.allocation.rotation import ROTATIONS
from dora_cli.methods.low_rank.allocation.scores import Observed
from dora_cli.methods.low_rank.allocation.turner import Turner
from dora_cli.methods.low_rank.gradients.adjusted import Adjustment, Rule, equivalent, scaled
from dora_cli.methods.low_rank.layer import AdaptedProjection
from dora_cli.training.optimizer import mix

SCALE, BETA = 0.6, 0.9
both = pytest.mark.parametrize("name", ["weight", "input"])
gated = pytest.mark.parametrize("gates", [False, True], ids=["without gates", "gates"])


def drawn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


RANKS = {"a": 4, "b": 2, "c": 4, "d": 0, "e": 3}
"""Four projections from 7 to 9 and one, ``e``, from 9 to 5."""


class Case:
    """Adapted projections in two groups, inputs of each, and a rotation of all."""

    def __init__(self, name: str, *, gates: bool = False) -> None:
        self.model = nn.ModuleDict()
        for number, (key, rank) in enumerate(RANKS.items()):
            if gates and not rank:
                continue  # such a layer has left the model
            d_out, d_in = (5, 9) if key == "e" else (9, 7)
            base = nn.Linear(d_in, d_out, dtype=torch.float64)
            A, B = drawn(rank, d_in, seed=number), drawn(d_out, rank, seed=10 + number)
            c = drawn(rank, seed=20 + number) if gates else None
            self.model[key] = AdaptedProjection(base, A, B, c, scaling=SCALE, dropout=0.0)
        layers = {key: layer for key, layer in self.model.items() if isinstance(layer, AdaptedProjection)}
        bases = nn.ModuleDict({key: layer.base for key, layer in layers.items()})
        self.adapters = Adapters(bases, layers)
        self.inputs = {
            key: drawn(50, layer.in_features, seed=30 + number) * torch.logspace(1, -1, layer.in_features).double()
            for number, (key, layer) in enumerate(layers.items())
        }
        rotation = ROTATIONS[name]
        assert rotation is not None
        self.moments = SecondMoments(self.adapters, BETA)
        self.turner = Turner(rotation, self.moments)

    def seen(self) -> list[Observed]:
        """What passes show of the inputs."""
        names = iter(self.adapters.order)
        seen = []
        for group in self.adapters.groups():
            layout = group.layout
            products = group.A.new_zeros(len(group.layers), layout.width, layout.width)
            for number, layer in enumerate(group.layers):
                u = self.inputs[next(names)] @ layer.A.detach().T
                products[number, : layer.rank, : layer.rank] = u.T @ u
            tokens = torch.full((len(group.layers),), 50.0, dtype=torch.float64)
            sums = {"products": products, "tokens": tokens}
            rows = group.A, group.B_t, group.c
            seen.append(Observed(*rows, SCALE, torch.zeros_like(group.B_t), layout, sums))  # type: ignore[arg-type]
        return seen

    def step(self, skipped: bool = False) -> None:
        self.moments.stage(self.seen())
        self.moments.observe(torch.tensor(skipped))

    def rotate(self) -> tuple[dict[str, torch.Tensor], list[Mixture]]:
        """What the components of each projection are worth, and how moments follow."""
        worth: dict[str, torch.Tensor] = {}
        mixed: list[Mixture] = []
        names = iter(self.adapters.order)
        for group in self.adapters.groups():
            found, of_group = self.turner(group)
            for part in torch.split(found, [layer.rank for layer in group.layers]):
                worth[next(names)] = part
            mixed += of_group
        return worth, mixed

    def updates(self) -> dict[str, torch.Tensor]:
        return {name: layer.delta(torch.float64) for name, layer in self.adapters.layers.items()}


@both
@gated
def test_all_projections_rotate_in_place_whatever_their_ranks(name: str, gates: bool) -> None:
    case = Case(name, gates=gates)
    expected, groups = case.updates(), case.adapters.groups()
    places = [(group.A.data_ptr(), group.B_t.data_ptr()) for group in groups]
    case.step()
    worth, _ = case.rotate()
    assert case.adapters.groups() == groups
    assert all(group.holds for group in groups), "layers see what their group holds"
    assert [(group.A.data_ptr(), group.B_t.data_ptr()) for group in groups] == places
    for key, update in case.updates().items():
        torch.testing.assert_close(update, expected[key], rtol=0, atol=1e-12)
        layer, x = case.adapters.layers[key], case.inputs[key]
        assert (worth[key].diff() < 0).all()
        assert layer.c is None or torch.equal(layer.c, torch.ones(RANKS[key], dtype=torch.float64))
        output = expected[key] @ x.T / x.shape[0] ** 0.5 if name == "input" else expected[key]
        singular = torch.linalg.svdvals(output)[: RANKS[key]]
        # an average that begins at 0 has seen one step of a tenth
        share = 1 - BETA if name == "input" else 1.0
        torch.testing.assert_close(worth[key], singular.square() * share, rtol=1e-9, atol=1e-12)


@both
@pytest.mark.parametrize("adjusted", [equivalent, scaled])
def test_directions_turn_as_the_factors_do(name: str, adjusted: Rule) -> None:
    """What the old factors make of gradients, carried over, is what the new ones make of theirs, next to undamped."""
    case = Case(name)
    case.turner = Turner(case.turner._rotation, case.moments, directions=True)
    case.step()
    weights = {key: drawn(*layer.base.weight.shape, seed=40) for key, layer in case.adapters.layers.items()}

    def steps() -> dict[nn.Parameter, torch.Tensor]:
        for key, layer in case.adapters.layers.items():
            g = weights[key]
            layer.A.grad = SCALE * layer.B.detach().T @ g
            layer.B.grad = SCALE * g @ layer.A.detach().T
        Adjustment(adjusted, 1e-13)(case.adapters.groups())
        layers = [layer for layer in case.adapters.layers.values() if layer.rank]
        factors = [factor for layer in layers for factor in (layer.A, layer.B)]
        return {factor: factor.grad.clone() for factor in factors if factor.grad is not None}

    before = steps()
    _, mixed = case.rotate()
    assert len(mixed) == len(before) == 8
    after = steps()
    for item in mixed:
        assert bool(item.carry.known.all())
        old, new = (found[item.parameter].movedim(item.dimension, 0) for found in (before, after))
        torch.testing.assert_close(item.carry.matrix @ old, new, rtol=1e-8, atol=1e-9)


@both
@gated
def test_what_the_optimiser_keeps_is_of_the_new_components(name: str, gates: bool) -> None:
    """A step of Adam, then the rotation: the first moments are those of the same step taken after it."""
    case = Case(name, gates=gates)
    case.step()
    factors = [(layer.A, layer.B) for layer in case.adapters.layers.values() if layer.rank]
    parameters = [factor for pair in factors for factor in pair]
    opened = [layer.gates for layer in case.adapters.layers.values() if gates]
    optimizer = torch.optim.AdamW([*parameters, *opened], lr=0.0, weight_decay=0.0)

    def gradients() -> None:
        optimizer.zero_grad()
        loss = sum((layer(case.inputs[key]).sin()).sum() for key, layer in case.adapters.layers.items())
        assert isinstance(loss, torch.Tensor)
        loss.backward()

    gradients()
    optimizer.step()
    _, mixed = case.rotate()
    assert {id(item.parameter) for item in mixed} == {id(parameter) for parameter in [*parameters, *opened]}
    mix(optimizer, mixed)
    gradients()
    for parameter in parameters:
        assert parameter.grad is not None
        torch.testing.assert_close(optimizer.state[parameter]["exp_avg"], 0.1 * parameter.grad, rtol=0, atol=1e-9)
        assert (optimizer.state[parameter]["exp_avg_sq"] >= 0).all()
    assert not any(gate in optimizer.state for gate in opened), "they start anew, their count of steps too"


def test_inputs_are_followed_over_steps_but_not_over_skipped_ones() -> None:
    case, once = Case("input"), Case("input")
    once.step()
    for skipped in (False, True, False):
        case.step(skipped)
        if skipped:
            case.inputs["a"] = case.inputs["a"] * 100
    found, of_one = case.moments.state_dict(), once.moments.state_dict()
    assert {key: tuple(value.shape) for key, value in found.items()} == {
        "second_moments.0": (4, 4, 4),
        "second_moments.1": (1, 3, 3),
    }
    u = once.inputs["a"] @ once.adapters.layers["a"].A.detach().T
    torch.testing.assert_close(of_one["second_moments.0"][0], (1 - BETA) * u.T @ u / 50, rtol=1e-12, atol=0)
    torch.testing.assert_close(found["second_moments.0"][0], (BETA + 1e4) * of_one["second_moments.0"][0])
    torch.testing.assert_close(found["second_moments.1"], (BETA + 1) * of_one["second_moments.1"])
    # what has fewer components than others of its shape has zeros in their place
    assert not of_one["second_moments.0"][1, 2:].any()
    assert not of_one["second_moments.0"][3].any()


def test_where_ranks_change_the_average_begins_anew() -> None:
    case = Case("input")
    case.step()
    case.adapters.shrink("e", torch.tensor([0, 2]))
    case.adapters.regroup()
    state = case.moments.state_dict()
    assert state["second_moments.1"].shape == (1, 2, 2)
    assert not any(value.any() for value in state.values())
    case.step()
    assert case.moments.state_dict()["second_moments.1"].any()


def test_what_was_followed_comes_back() -> None:
    case, other = Case("input"), Case("input")
    case.step()
    state = {key: value.clone() for key, value in case.moments.state_dict().items()}
    other.moments.load_state_dict(state)
    for one, again in zip(case.rotate()[0].values(), other.rotate()[0].values(), strict=True):
        assert torch.equal(one, again)
    odd = {**state, "second_moments.1": torch.zeros(1, 2, 2, dtype=torch.float64)}
    for wrong in ({}, odd, {**state, "second_moments.2": state["second_moments.1"]}):
        with pytest.raises(CheckpointError):
            Case("input").moments.load_state_dict(wrong)
