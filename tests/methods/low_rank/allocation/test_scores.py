"""Every score against its definition: explicit matrices, and the gradients of one example after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dora_cli.methods.low_rank.allocation import scores
from dora_cli.methods.low_rank.allocation.followed import Followed
from dora_cli.methods.low_rank.allocation.scores import SCORES, Observed
from dora_cli.methods.low_rank.allocation.values import values
from dora_cli.methods.low_rank.layer import AdaptedProjection
from dora_cli.methods.low_rank.layout import Layout
from dora_cli.training.step import Batch
from tests.methods.dora.test_importance import explicit_scores
from tests.methods.low_rank.allocation.scored import EXAMPLES, Scored, step_of, texts
from tests.methods.small import linear_maps, new_dora, sites, tiny_roberta


@dataclass
class Literal:
    """What one layer computes for one example alone, token by token, padding left out: `x`, ``(T, d_in)``, and the
    gradient of that example's own loss for what the layer gives, ``(T, d_out)``.
    """

    layer: AdaptedProjection
    x: torch.Tensor
    dy: torch.Tensor

    def matrices(self) -> list[torch.Tensor]:
        """The components, each as a whole matrix."""
        layer = self.layer
        c = torch.ones(layer.rank) if layer.c is None else layer.c.detach()
        return [
            layer.scaling * c[i] * torch.outer(layer.B.detach()[:, i], layer.A.detach()[i]) for i in range(layer.rank)
        ]


def literal(model: nn.Module, layers: dict[str, AdaptedProjection], batch: Batch) -> list[dict[str, Literal]]:
    """All layers, for one example after the other, without a training pass."""
    found = []
    for e in range(len(batch["labels"])):
        tokens = int(batch["attention_mask"][e].sum())
        kept: dict[str, list[torch.Tensor]] = {}

        def keep(name: str, inputs: tuple[torch.Tensor, ...], y: torch.Tensor, kept=kept) -> None:
            y.retain_grad()
            kept[name] = [inputs[0].detach()[0], y]

        handles = [
            layer.register_forward_hook(lambda _, x, y, name=name, keep=keep: keep(name, x, y))
            for name, layer in layers.items()
        ]
        logits = model(
            input_ids=batch["input_ids"][e : e + 1, :tokens], attention_mask=batch["attention_mask"][e : e + 1, :tokens]
        ).logits
        F.cross_entropy(logits, batch["labels"][e : e + 1]).backward()
        for handle in handles:
            handle.remove()
        found.append({name: Literal(layers[name], x, y.grad[0]) for name, (x, y) in kept.items()})
        model.zero_grad()
    return found


def expected(score: str, examples: list[Literal]) -> Iterator[float]:
    """By definition, for one layer; the mean of the examples' losses is the loss of the step."""
    n, tokens = len(examples), sum(len(example.x) for example in examples)
    matrices = examples[0].matrices()
    layer = examples[0].layer
    if score == "published":
        c = torch.ones(layer.rank) if layer.c is None else layer.c.detach()
        yield from explicit_scores(layer.A.detach(), layer.B.detach(), c.double()).tolist()
        return
    for i, matrix in enumerate(matrices):
        # of every example's own loss, the derivative for a factor before the component
        slopes = [float(((example.x @ matrix.T) * example.dy).sum()) for example in examples]
        b, a = layer.B.detach()[:, i], layer.A.detach()[i]
        if score == "norm":
            yield float(torch.linalg.matrix_norm(matrix) ** 2)
        elif score == "output":
            yield sum(float((example.x @ matrix.T).square().sum()) for example in examples) / tokens
        elif score == "taylor":
            yield sum(slopes) / n
        elif score == "fisher":
            yield sum(slope**2 for slope in slopes) / n
        elif score == "kfac":
            e = layer.scaling * (1.0 if layer.c is None else float(layer.c.detach()[i]))
            u_squared = sum(float((example.x @ a).square().sum()) for example in examples) / tokens
            v_squared = sum(float((e * (example.dy / n) @ b).square().sum()) for example in examples) / tokens
            yield n * tokens * u_squared * v_squared


@pytest.mark.parametrize("gates", [True, False], ids=["gates", "no gates"])
@pytest.mark.parametrize("score", SCORES)
def test_a_score_is_what_it_is_defined_to_be(score: str, gates: bool) -> None:
    """Values of the first step: of the weights before it, or after it where the score needs nothing else."""
    method = Scored(score, gates=gates)
    step = step_of(method)
    layers = {name: method.adapters.layers[name] for name in method.adapters.order}
    staged = method.score.staged
    before = literal(step.model, layers, texts()) if staged else []
    wanted = [value for name in layers for value in expected(score, [own[name] for own in before])] if staged else []
    step(1, [texts()], EXAMPLES, event=False)
    if not staged:
        after = literal(step.model, layers, texts())
        wanted = [value for name in layers for value in expected(score, [own[name] for own in after])]
    found = method.average / 0.25  # one minus the decay
    assert len(found) == len(wanted) == sum(layer.rank for layer in layers.values())
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=1e-8, atol=1e-20)
    assert float(found.abs().min()) > 0


@pytest.mark.parametrize("score", SCORES)
def test_what_a_score_is_worth_is_not_negative_and_grows_with_what_is_lost(score: str) -> None:
    average = torch.tensor([0.0, 0.5, 2.0])
    wanted = {"fisher": average / 2, "kfac": average / 2}.get(score, average)
    assert torch.equal(SCORES[score].worth(average), wanted)
    if score == "taylor":  # a change of the loss, up or down
        assert torch.equal(SCORES[score].worth(-average), average)


def observed(device: str = "cpu") -> Observed:
    """Two projections, of one component and of two."""
    generator = torch.Generator().manual_seed(3)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64).to(device)

    sums = {"tokens": drawn(2) * 9, "inputs": drawn(2, 2), "outputs": drawn(2, 2), "examples": drawn(2, 2)}
    layout = Layout([1, 2], torch.device(device))
    return Observed(drawn(3, 5), drawn(3, 4), drawn(3), 0.5, drawn(3, 4), layout, sums, drawn())  # type: ignore[arg-type]


@pytest.mark.parametrize("score", sorted(set(SCORES) - {"published"}))
def test_how_a_component_shares_its_size_does_not_matter(score: str) -> None:
    """``(k a, m b, c / (k m))`` is the same component; what passes and gradients show of it changes likewise."""
    seen = observed()
    k, m = torch.tensor([3.0, 0.5, 7.0]).double(), torch.tensor([0.1, 4.0, 2.0]).double()
    stacked = seen.layout.stacked(k)
    assert seen.c is not None
    sums = dict(seen.sums) | {
        "inputs": seen.sums["inputs"] * stacked**2,
        "outputs": seen.sums["outputs"] / stacked.clamp_min(1e-9) ** 2,
    }
    other = Observed(
        seen.A * k[:, None], seen.B_t * m[:, None], seen.c / (k * m), seen.scaling, seen.grad_B_t / m[:, None],
        seen.layout, sums, seen.examples,
    )  # fmt: skip
    torch.testing.assert_close(SCORES[score].of(other), SCORES[score].of(seen), rtol=1e-12, atol=0)


@pytest.mark.parametrize("score", SCORES)
def test_a_score_waits_for_nothing(score: str) -> None:
    """Without any data there is nothing to wait for: what read a value or made a shape of it would fail."""
    assert SCORES[score].of(observed("meta")).shape == (3,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_published_is_the_score_of_the_published_recipes_to_the_bit(dtype: torch.dtype) -> None:
    model = tiny_roberta(dtype=dtype)
    projections = sites(linear_maps(model, "encoder.layer"))
    dora = new_dora(rank=4)
    dora.attach(model, projections, (), dora.plan(40, projections))
    with torch.no_grad():
        for group in dora._selection.groups():
            group.gates.copy_(torch.linspace(-1, 2, len(group.gates)))
    followed = Followed(dora._adapters, projections, ())
    found = values(SCORES["published"], followed.observed())
    assert torch.equal(dora._selection.in_order(found), dora.scores())


def test_values_are_those_of_all_groups_in_order() -> None:
    seen, score = observed(), SCORES["norm"]
    assert torch.equal(values(score, [seen, seen]), torch.cat([score.of(seen)] * 2))


def test_an_average_follows_unless_the_step_was_skipped() -> None:
    average, value = torch.tensor([1.0, 2.0]), torch.tensor([3.0, float("nan")])
    scores.follow(average, value, 0.9, torch.tensor(True))
    assert average.tolist() == [1.0, 2.0]
    scores.follow(average, torch.tensor([3.0, 2.0]), 0.75, torch.tensor(False))
    assert average.tolist() == [1.5, 2.0]
    scores.follow(average, torch.tensor([5.5, 2.0]), 0.75, None)
    assert average.tolist() == [2.5, 2.0]
