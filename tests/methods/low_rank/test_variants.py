"""Layers in chunks, with a frozen factor, and with tied components: the explicit matrix, autograd's way and the lean
way give the same.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from dora_cli.methods.linear import weight_of
from dora_cli.methods.low_rank.adapters import Adapters
from dora_cli.methods.low_rank.arithmetic.dropout import draw_mask
from dora_cli.methods.low_rank.layer import AdaptedProjection
from tests.methods.small import Block

WIDTH, HIDDEN, RANK = 8, 12, 4
SCALE = 0.7


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def in_chunks(base: nn.Module, dropout: float) -> AdaptedProjection:
    d_out, d_in = weight_of(base).shape
    A, B = drawn(1, RANK, d_in // 2), drawn(2, d_out // 2, RANK)
    return AdaptedProjection(base, A, B, scaling=SCALE, dropout=dropout, chunks=2)


def frozen(base: nn.Module, dropout: float) -> AdaptedProjection:
    d_out, d_in = weight_of(base).shape
    A, B = drawn(1, RANK, d_in), drawn(2, d_out, RANK)
    return AdaptedProjection(base, A, B, scaling=SCALE, dropout=dropout, frozen=("B",))


def tied(base: nn.Module, dropout: float) -> AdaptedProjection:
    """Two links of ranks 4 and 2, and a third of rank 1, which trains."""
    d_out, d_in = weight_of(base).shape
    layer = AdaptedProjection(base, drawn(1, 4, d_in), drawn(2, d_out, 4), scaling=SCALE, dropout=dropout)
    layer.tie(drawn(3, 2, d_in), drawn(4, d_out, 2), factor=0.5)
    layer.tie(drawn(5, 1, d_in), drawn(6, d_out, 1))
    return layer


def only_tied(base: nn.Module, dropout: float) -> AdaptedProjection:
    layer = tied(base, dropout)
    layer.tie(layer.A.new_empty(0, layer.in_features), layer.A.new_empty(layer.out_features, 0))
    return layer


def empty(base: nn.Module, dropout: float) -> AdaptedProjection:
    d_out, d_in = weight_of(base).shape
    return AdaptedProjection(base, drawn(1, 0, d_in), drawn(2, d_out, 0), scaling=SCALE, dropout=dropout)


MAKERS: dict[str, Callable[[nn.Module, float], AdaptedProjection]] = {
    maker.__name__: maker for maker in (in_chunks, frozen, tied, only_tied, empty)
}
every_kind = pytest.mark.parametrize("kind", MAKERS)


def adapted(kind: str, *, dropout: float = 0.0) -> tuple[nn.Module, Adapters]:
    torch.manual_seed(0)
    model = nn.Sequential(Block(WIDTH, HIDDEN), Block(WIDTH, HIDDEN)).double().requires_grad_(False)
    bases = {f"{index}.{name}": getattr(block, name) for index, block in enumerate(model) for name in ("att", "up")}
    return model, Adapters(model, {name: MAKERS[kind](base, dropout) for name, base in bases.items()})


def update(kind: str, d_in: int, d_out: int) -> torch.Tensor:
    """What the maker's factors say, by explicit matrices."""
    A, B = drawn(1, RANK, d_in), drawn(2, d_out, RANK)
    if kind == "in_chunks":
        A, B, half = drawn(1, RANK, d_in // 2), drawn(2, d_out // 2, RANK), RANK // 2
        whole = torch.zeros(d_out, d_in, dtype=torch.float64)
        whole[: d_out // 2, : d_in // 2] = B[:, :half] @ A[:half]
        whole[d_out // 2 :, d_in // 2 :] = B[:, half:] @ A[half:]
        return SCALE * whole
    if kind == "empty":
        return torch.zeros(d_out, d_in, dtype=torch.float64)
    if kind == "frozen":
        return SCALE * B @ A
    links = [(0.5, 1, 4), (1.0, 3, 2), (1.0, 5, 1)]
    parts = [factor * drawn(seed + 1, d_out, rank) @ drawn(seed, rank, d_in) for factor, seed, rank in links]
    return SCALE * sum(parts)  # type: ignore[return-value]


@every_kind
def test_the_update_is_what_the_factors_say(kind: str) -> None:
    _, adapters = adapted(kind)
    lora = adapters.to_lora()
    for name, layer in adapters.layers.items():
        expected = update(kind, layer.in_features, layer.out_features)
        torch.testing.assert_close(layer.delta(torch.float64), expected, rtol=1e-12, atol=1e-13)
        if kind == "empty":
            assert name not in lora
        else:
            torch.testing.assert_close((lora[name].B @ lora[name].A).double(), expected, rtol=1e-5, atol=1e-5)
        x = drawn(7, 5, layer.in_features)
        whole = weight_of(layer.base) + expected
        torch.testing.assert_close(layer(x), x @ whole.T + layer.base.bias, rtol=1e-12, atol=1e-12)


@every_kind
def test_the_lean_pass_gives_what_autograd_does(kind: str) -> None:
    model, adapters = adapted(kind)
    trained = adapters.parameters()
    assert bool(trained) == (kind not in ("only_tied", "empty"))
    x = drawn(8, 3, 5, WIDTH).requires_grad_()
    plain = model(x)
    plain.square().sum().backward()
    expected = [x.grad, *(parameter.grad for parameter in trained)]
    for tensor in (x, *trained):
        tensor.grad = None
    with adapters.training_pass():
        lean = model(x)
        lean.square().sum().backward()
    torch.testing.assert_close(lean, plain, rtol=1e-12, atol=1e-12)
    for tensor, wanted in zip((x, *trained), expected, strict=True):
        torch.testing.assert_close(tensor.grad, wanted, rtol=1e-10, atol=1e-10)
    everything = {parameter for layer in adapters.layers.values() for parameter in (layer.A, layer.B)}
    assert all(parameter.grad is None for parameter in everything - set(trained))


@every_kind
def test_what_is_tied_is_read_without_dropout(kind: str) -> None:
    _, adapters = adapted(kind, dropout=0.5)
    layer = adapters.layers["0.up"]
    x = drawn(9, 6, WIDTH)
    torch.manual_seed(3)
    mask, scale = draw_mask(x.shape, 0.5)
    dropped = x * mask * scale
    old = (
        layer.delta(torch.float64) - layer.scaling * layer.B @ layer.A if "tied" in kind else 0 * weight_of(layer.base)
    )
    new = layer.delta(torch.float64) - old
    weight, out = weight_of(layer.base), drawn(10, 6, layer.out_features)
    torch.manual_seed(3)
    x.requires_grad_()
    with adapters.training_pass():
        y = layer(x)
        (y * out).sum().backward()
    torch.testing.assert_close(y, x @ (weight + old).T + dropped @ new.T + layer.base.bias, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(x.grad, out @ (weight + old) + (out @ new) * mask * scale, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["tied", "only_tied"])
def test_loaded_into_layers_of_other_ranks(kind: str) -> None:
    _, adapters = adapted(kind)
    _, others = adapted("empty")
    others.resize(adapters.state_dict())
    others.load_state_dict(adapters.state_dict())
    for name, layer in others.layers.items():
        assert torch.equal(layer.delta(torch.float64), adapters.layers[name].delta(torch.float64))
    assert others.state_dict().keys() == adapters.state_dict().keys()


def test_links_of_other_ranks_in_one_group() -> None:
    """Two layers of a shape, one of which trains, and which hold different numbers of components."""
    model, adapters = adapted("empty")
    names = [name for name in adapters.layers if name.endswith("att")]
    for seed, name in enumerate((names[0], names[1], names[0]), 20):
        adapters.tie({name: (drawn(seed, 1, WIDTH), drawn(seed + 50, WIDTH, 1))})
    assert [(adapters.layers[name].tied, adapters.layers[name].rank) for name in names] == [(1, 1), (1, 0)]
    assert len(adapters.parameters()) == 2
    x = drawn(30, 4, 5, WIDTH)
    model(x).square().sum().backward()
    expected = [parameter.grad for parameter in adapters.parameters()]
    for parameter in adapters.parameters():
        parameter.grad = None
    with adapters.training_pass():
        model(x).square().sum().backward()
    for parameter, wanted in zip(adapters.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-10, atol=1e-10)


@every_kind
def test_saved_as_tensors_of_their_own(kind: str, tmp_path: Path) -> None:
    """Formats such as safetensors refuse views of shared memory."""
    model, _ = adapted(kind)
    save_file(model.state_dict(), tmp_path / "model.safetensors")


@pytest.mark.parametrize("kind", ["tied", "only_tied"])
def test_tied_components_that_are_loaded_count_in_the_next_pass(kind: str) -> None:
    model, adapters = adapted(kind)
    x = drawn(8, 3, 5, WIDTH)
    with adapters.training_pass():
        model(x)
    model.load_state_dict({key: value * 1.1 for key, value in model.state_dict().items()})
    with adapters.training_pass():
        lean = model(x)
    torch.testing.assert_close(lean, model(x), rtol=1e-12, atol=1e-12)


@every_kind
def test_a_model_that_is_moved_takes_its_components_along(kind: str) -> None:
    model, adapters = adapted(kind)
    model.float()
    assert {group.A.dtype for group in adapters.groups()} == {torch.float32}
