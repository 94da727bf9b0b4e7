"""What training passes show: both ways to compute, padding, micro-batches, processes, models that call twice."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from dora_cli.methods.base import Site
from dora_cli.methods.linear import shape_of
from dora_cli.methods.low_rank.allocation.followed import SUMS, Followed, Passed
from dora_cli.methods.low_rank.allocation.scores import SCORES
from dora_cli.training.step import Batch
from tests.methods.low_rank.allocation.scored import EXAMPLES, Scored, adapted, score_in_two, step_of, texts
from tests.methods.small import tiny_roberta
from tests.patience import PATIENCE
from tests.processes import CONTEXT

ALL = tuple(SUMS)


def sums_of(
    batches: list[Batch], *, masks: bool = True, change: Callable[[Scored], None] | None = None
) -> list[torch.Tensor]:
    """All statistics of one step's micro-batches; its loss is the mean over all examples."""
    method = Scored("fisher", wanted=ALL)
    step = step_of(method)
    if change is not None:
        change(method)
    units = sum(len(batch["labels"]) for batch in batches)
    for batch in batches:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        with method.training_pass(None, {"encoder": mask.bool()} if masks else None):
            logits = step.model(input_ids=ids, attention_mask=mask).logits
            (nn.functional.cross_entropy(logits, batch["labels"], reduction="sum") / units).backward()
    return [statistic.tensor for statistic in method.statistics()]


def all_close(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    assert len(found) == len(wanted) > len(ALL)
    for one, two in zip(found, wanted, strict=True):
        assert float(two.abs().sum()) > 0
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-18)


def halves() -> list[Batch]:
    return [texts(slice(0, 2)), texts(slice(2, None))]


# -- either way, however batched ---------------------------------------------------------------------------------------


def plainly(method: Scored) -> None:
    """Where a base trains, only autograd's own way knows how."""
    for layer in method.adapters.layers.values():
        layer.base.requires_grad_(True)


def test_the_lean_pass_shows_what_the_plain_one_does() -> None:
    lean, plain = sums_of(halves()), sums_of(halves(), change=plainly)
    all_close(lean, plain)


def test_two_micro_batches_equal_one() -> None:
    all_close(sums_of(halves()), sums_of([texts()]))


def test_padding_counts_for_nothing() -> None:
    all_close(sums_of([texts(length=9)]), sums_of([texts(length=7)]))


def test_without_a_mask_all_tokens_count() -> None:
    """Texts that are equally long have no padding."""
    batch = {name: tensor[[0, 4]] for name, tensor in texts(length=7).items()}
    assert batch["attention_mask"].all()
    all_close(sums_of([batch], masks=False), sums_of([batch]))


def _fail_after(loss: torch.Tensor) -> None:
    loss.backward()
    raise RuntimeError("planted")


def test_a_pass_that_fails_leaves_no_trace() -> None:
    method = Scored("kfac")
    step = step_of(method)
    with pytest.raises(RuntimeError, match="planted"), method.training_pass():
        _fail_after(step.model(input_ids=texts()["input_ids"]).logits.sum())
    assert not any(statistic.tensor.any() for statistic in method.statistics())
    assert all(layer.watch is None for layer in method.adapters.layers.values())


@pytest.mark.parametrize("score", [name for name, score in SCORES.items() if not score.passes])
def test_a_score_that_asks_nothing_of_passes_costs_them_nothing(score: str) -> None:
    method = Scored(score)
    step_of(method)
    assert method.statistics() == []
    with method.training_pass():
        assert all(layer.watch is None for layer in method.adapters.layers.values())


def test_only_what_is_wanted_is_summed() -> None:
    model = tiny_roberta()
    maps = {"map": model.roberta.encoder.layer[0].attention.self.query}
    followed = Followed(adapted(model, maps, lambda _: 2), [Site("map", maps["map"], (16, 16))], {"outputs"})
    assert [(list(item.tensor.shape), item.power) for item in followed.statistics()] == [([1], 0), ([1, 2], 2), ([], 0)]


def test_arithmetic_in_half_precision_is_summed_in_full() -> None:
    """Activations are in bfloat16, sums are not: many squares would not change a sum of eight bits."""
    model = nn.Linear(6, 5)
    adapters = adapted(nn.Sequential(model), {"0": model}, lambda _: 2)
    layer = adapters.layers["0"]
    followed = Followed(adapters, [Site("0", model, (5, 6))], ALL)
    x = torch.randn(4, 500, 6, generator=torch.Generator().manual_seed(1))
    with followed.training_pass(torch.bfloat16), torch.autocast("cpu", torch.bfloat16):
        layer(x).float().square().mean().backward()
    (seen,) = followed.observed()
    assert {total.dtype for total in seen.sums.values()} == {torch.float32}
    u = (x.bfloat16() @ layer.A.detach().bfloat16().T).float().flatten(0, 1)
    torch.testing.assert_close(seen.sums["products"][0], u.T @ u, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(seen.sums["inputs"][0], u.square().sum(0), rtol=1e-5, atol=0)
    assert seen.sums["tokens"].tolist() == [2000]


@pytest.mark.parametrize("name", SUMS)
def test_a_sum_waits_for_nothing(name: str) -> None:
    """Without any data there is nothing to wait for."""
    pairs = [(torch.zeros(2, 3, rank, device="meta"),) * 2 for rank in (1, 4)]
    real = torch.ones(2, 3, dtype=torch.bool, device="meta")
    found = SUMS[name].of(Passed(pairs, real, 4, torch.float64))  # type: ignore[index,arg-type]
    assert found.shape == (2, 4, 4)[: 1 + SUMS[name].dimensions]  # type: ignore[index]


# -- models that call their projections in other ways ------------------------------------------------------------------


class Odd(nn.Module):
    """A decoder whose query reads its own tokens and whose key reads an encoder's; `twice` is called on both results of
    a text, and once more on what all texts share, as in DeBERTa; `flat` has its tokens flattened, `pooled` one vector
    a text.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        for name in ("query", "key", "twice", "flat", "pooled"):
            setattr(self, name, nn.Linear(6, 6, dtype=torch.float64))

    def forward(self, x: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        q, k = torch.tanh(self.query(x)), torch.tanh(self.key(z))
        twice = torch.tanh(self.twice(torch.tanh(self.twice(q))))
        shared = self.twice(torch.ones(1, 8, 6, dtype=torch.float64)).sum()
        flat = torch.tanh(self.flat(twice.reshape(-1, 6))).view(x.shape)
        return self.pooled(flat.sum(1) + k.sum(1)) * shared


def test_every_projection_counts_the_tokens_that_it_reads() -> None:
    """Against what is read off: inputs of each call by hooks, gradients of what it gives by autograd."""
    model = Odd()
    maps = dict(model.named_children())
    sites = [Site(name, module, shape_of(module), stack="decoder") for name, module in maps.items()]
    sites[1] = Site("key", maps["key"], (6, 6), stack="decoder", attention="cross", role="key")
    adapters = adapted(model, maps, lambda number: (2, 2, 2, 1, 3)[number])
    followed = Followed(adapters, sites, ALL)
    generator = torch.Generator().manual_seed(1)
    x, z = (torch.randn(4, length, 6, generator=generator, dtype=torch.float64) for length in (4, 5))
    masks = {
        "decoder": torch.arange(4) < torch.tensor([[4], [2], [3], [0]]),
        "encoder": torch.arange(5) < torch.tensor([[1], [5], [2], [0]]),
    }
    calls: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {name: [] for name in maps}

    def kept(name: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        y.retain_grad()
        calls[name].append((x.detach(), y))
        return y * 1  # the lean pass gives a view

    hooks = [
        adapters.layers[name].register_forward_hook(lambda _, x, y, name=name: kept(name, x[0], y)) for name in maps
    ]
    with followed.training_pass(None, masks):
        model(x, z).square().sum().backward()
    for hook in hooks:
        hook.remove()
    (seen,) = followed.observed()
    assert seen.examples is not None
    assert float(seen.examples) == 3  # the last is all padding
    assert seen.sums["tokens"].tolist() == [9, 8, 18, 9, 4]
    for place, name in enumerate(maps):
        layer = adapters.layers[name]
        mask = masks["encoder" if name == "key" else "decoder"]
        r = layer.rank
        tau, inputs, outputs, products = (
            torch.zeros(*size, dtype=torch.float64) for size in ((4, r), (r,), (r,), (r, r))
        )
        for read, given in calls[name]:
            if len(read) == 1:
                continue
            u = read @ layer.A.detach().T
            v = given.grad @ (layer.B * layer.gates * layer.scaling).detach()
            if name == "pooled":
                u, v = u[:, None], v[:, None]
            u, v = u.view(4, -1, r), v.view(4, -1, r)
            real = torch.ones_like(u) if name == "pooled" else mask[..., None]
            u, v = u * real, v * real
            tau += (u * v).sum(1)
            inputs += u.square().sum((0, 1))
            outputs += v.square().sum((0, 1))
            products += torch.einsum("bti,btj->ij", u, u)
        wanted = {"inputs": inputs, "outputs": outputs, "examples": tau.square().sum(0)}
        for key, value in wanted.items():
            torch.testing.assert_close(seen.sums[key][place, :r], value, rtol=1e-9, atol=0)  # type: ignore[index]
            assert not seen.sums[key][place, r:].any()  # type: ignore[index]
        torch.testing.assert_close(seen.sums["products"][place, :r, :r], products, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_shows_every_token_once(reentrant: bool) -> None:
    """Forward passes that are computed again in the backward pass are no second call."""

    def checkpoint(method: Scored) -> None:
        model = method._model
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        model.enable_input_require_grads()

    def plain_checkpoint(method: Scored) -> None:
        checkpoint(method)
        plainly(method)

    wanted = sums_of([texts()])
    all_close(sums_of([texts()], change=checkpoint), wanted)
    all_close(sums_of([texts()], change=plain_checkpoint), wanted)


# -- in training -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", SCORES)
def test_a_step_scores_alike_however_its_examples_fall_and_whatever_scales_its_loss(score: str) -> None:
    """Values of the weights before each step; the loss scale (a power of two) is undone exactly, up to subnormals."""
    ways: list[tuple[list[Batch], float | None]] = [([texts()], None), (halves(), None), ([texts()], 2.0**10)]
    found = []
    for batches, scale in ways:
        method = Scored(score)
        step = step_of(method, scale=scale)
        places = [statistic.tensor.data_ptr() for statistic in method.statistics()]
        for number in (1, 2, 3):
            step(number, batches, EXAMPLES, event=False)
            # what a captured step adds to is where it was
            assert [statistic.tensor.data_ptr() for statistic in method.statistics()] == places
            assert not any(statistic.tensor.any() for statistic in method.statistics())
        assert len({float(values.sum()) for values in method.shown}) == 3
        found.append([*method.shown, method.average])
    for other in found[1:]:
        for one, two in zip(other, found[0], strict=True):
            torch.testing.assert_close(one, two, rtol=1e-6, atol=0)


@pytest.mark.parametrize("score", SCORES)
def test_a_skipped_step_leaves_scores_as_they_were(score: str) -> None:
    method = Scored(score)
    step = step_of(method, scale=2.0**10)
    step(1, [texts()], EXAMPLES, event=False)
    before = method.average.clone()
    with torch.no_grad():
        poisoned = step.model.classifier.out_proj.weight
        kept = poisoned.clone()
        poisoned.fill_(math.nan)
    step(2, [texts()], EXAMPLES, event=False)
    assert torch.equal(method.average, before)
    with torch.no_grad():
        poisoned.copy_(kept)
    step(3, [texts()], EXAMPLES, event=False)
    assert method.average.isfinite().all()
    assert not torch.equal(method.average, before)


def test_two_processes_equal_one(tmp_path: Path) -> None:
    pair = [CONTEXT.Process(target=score_in_two, args=(rank, str(tmp_path)), daemon=True) for rank in (0, 1)]
    for process in pair:
        process.start()
    for process in pair:
        process.join(PATIENCE)
        assert process.exitcode == 0
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for score in SCORES:
        method = Scored(score)
        step = step_of(method)
        for number in (1, 2, 3):
            step(number, [texts(slice(0, 2), seed=number), texts(slice(2, 6), seed=number)], EXAMPLES, event=False)
        torch.testing.assert_close(first[score], method.average, rtol=1e-9, atol=1e-18)
        assert torch.equal(first[score], second[score])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("score", SCORES)
def test_captured_steps_score_as_eager_ones(score: str) -> None:
    found = []
    for captured in (False, True):
        method = Scored(score, wanted=ALL if SCORES[score].passes else ())
        step = step_of(method, device="cuda", dtype=torch.float32, captured=captured)
        for number in range(1, 7):
            batches = [{name: tensor.cuda() for name, tensor in texts(seed=number + part).items()} for part in (0, 9)]
            step(number, batches, 2 * EXAMPLES, event=False)
        found.append(method.average)
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5 * float(found[0].abs().max()))


def test_sums_follow_ranks_that_shrink() -> None:
    """Afterwards the rest shows what it did, without what is gone."""
    method = Scored("fisher", wanted=ALL)
    step = step_of(method)

    def run() -> None:
        batch = texts()
        with method.training_pass(None, {"encoder": batch["attention_mask"].bool()}):
            step.loss(step.model(batch["input_ids"], batch["attention_mask"]), batch).mean().backward()

    def inputs() -> dict[str, torch.Tensor]:
        sums = [own for group in method.followed.observed() for own in group.sums["inputs"]]
        return {
            name: own[: method.adapters.layers[name].rank]
            for name, own in zip(method.adapters.order, sums, strict=True)
        }

    with torch.no_grad():  # without a part in what the model computes
        for layer in method.adapters.layers.values():
            layer.gates[0] = 0
    run()
    before = inputs()
    for name, layer in list(method.adapters.layers.items()):
        method.adapters.shrink(name, torch.arange(1, layer.rank))
    method.adapters.regroup()
    assert not any(statistic.tensor.any() for statistic in method.statistics())
    run()
    after = inputs()
    assert {len(own) for own in after.values()} == {1, 2}
    assert len(after) < len(before)  # those of rank 1 are gone
    for name, own in after.items():
        torch.testing.assert_close(own, before[name][1:], rtol=1e-9, atol=0)
