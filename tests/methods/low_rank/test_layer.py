"""The adapted projection against explicit matrices."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from dora_cli.methods.linear import shape_of, swap_modules, weight_of
from dora_cli.methods.low_rank.layer import AdaptedProjection
from tests.methods.small import gated

D_IN, D_OUT, RANK = 5, 7, 3


def linear(bias: bool = True, d_in: int = D_IN, d_out: int = D_OUT) -> nn.Module:
    return nn.Linear(d_in, d_out, bias=bias)


def conv1d(d_in: int = D_IN, d_out: int = D_OUT) -> nn.Module:
    module = Conv1D(d_out, d_in)
    nn.init.normal_(module.weight)
    nn.init.normal_(module.bias)
    return module


BASES = {"linear": linear, "no bias": lambda: linear(bias=False), "conv1d": conv1d}
base_kinds = pytest.mark.parametrize("kind", BASES)


def adapted(
    kind: str = "linear",
    *,
    dtype: torch.dtype = torch.float64,
    rank: int = RANK,
    scaling: float = 0.75,
    dropout: float = 0.0,
) -> AdaptedProjection:
    """A layer whose gates are not zero."""
    torch.manual_seed(0)
    layer = gated(BASES[kind]().to(dtype), rank=rank, scaling=scaling, dropout=dropout)
    with torch.no_grad():
        layer.c.normal_()
    return layer


def explicit_weight(layer: AdaptedProjection) -> torch.Tensor:
    """``W0 + s sum_i c_i b_i a_i^T``, by the sum over components."""
    base = layer.base.weight.detach()
    whole = (base.T if isinstance(layer.base, Conv1D) else base).clone()
    for i in range(layer.rank):
        whole += layer.scaling * layer.c[i].detach() * torch.outer(layer.B[:, i].detach(), layer.A[i].detach())
    return whole


@base_kinds
@pytest.mark.parametrize("shape", [(D_IN,), (2, D_IN), (2, 4, D_IN)])
def test_forward_equals_the_explicit_matrix(kind: str, shape: tuple[int, ...]) -> None:
    layer = adapted(kind)
    x = torch.randn(*shape, dtype=torch.float64)
    expected = x @ explicit_weight(layer).T
    if layer.bias is not None:
        expected = expected + layer.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-13)


@base_kinds
def test_gradients_equal_the_explicit_matrix(kind: str) -> None:
    # dL/dc_i = s b_i^T G a_i, and so on, by autograd through the sum of outer products.
    layer = adapted(kind)
    x, g = torch.randn(4, D_IN, dtype=torch.float64), torch.randn(4, D_OUT, dtype=torch.float64)
    (layer(x) * g).sum().backward()
    G = g.T @ x  # dL/dW
    with torch.no_grad():
        s, A, B, c = layer.scaling, layer.A, layer.B, layer.c
        torch.testing.assert_close(
            layer.c.grad, s * torch.stack([B[:, i] @ G @ A[i] for i in range(RANK)]), rtol=1e-12, atol=1e-13
        )
        torch.testing.assert_close(
            layer.A.grad, s * torch.stack([c[i] * B[:, i] @ G for i in range(RANK)]), rtol=1e-12, atol=1e-13
        )
        torch.testing.assert_close(
            layer.B.grad, s * torch.stack([c[i] * G @ A[i] for i in range(RANK)], dim=1), rtol=1e-12, atol=1e-13
        )


@base_kinds
def test_a_fresh_layer_computes_its_base_bit_for_bit(kind: str) -> None:
    torch.manual_seed(1)
    base = BASES[kind]()
    x = torch.randn(3, D_IN)
    before = base(x).detach().clone()
    layer = gated(base, rank=RANK, scaling=2.0, dropout=0.5)
    assert torch.equal(layer(x), before)
    assert layer.c.tolist() == [0.0] * RANK
    assert not layer.delta(layer.A.dtype).any()


def test_only_the_gates_get_a_task_gradient_at_the_start() -> None:
    layer = gated(linear(), rank=RANK, scaling=1.0, dropout=0.0)
    layer(torch.randn(4, D_IN)).square().sum().backward()
    assert layer.c.grad is not None
    assert bool((layer.c.grad != 0).all())
    assert layer.A.grad is not None
    assert not layer.A.grad.any()
    assert layer.B.grad is not None
    assert not layer.B.grad.any()


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize(("d_in", "d_out", "rank"), [(96, 400, 12), (400, 96, 6), (200, 200, 1)])
def test_initial_bounds_and_variances(kind: str, d_in: int, d_out: int, rank: int) -> None:
    torch.manual_seed(2)
    layer = gated((conv1d if kind == "conv1d" else linear)(d_in=d_in, d_out=d_out), rank=rank, scaling=1.0, dropout=0.0)
    for factor, fan_in, shape in ((layer.A.detach(), d_in, (rank, d_in)), (layer.B.detach(), rank, (d_out, rank))):
        bound = math.sqrt(6 / fan_in)
        assert factor.shape == shape
        assert 0.9 * bound < float(factor.max()) <= bound
        assert -bound <= float(factor.min()) < -0.9 * bound
        # Var U(+-b) = b^2/3 = 2/fan_in; the sample variance of n uniform values has relative deviation sqrt(0.8/n): six
        # of them.
        assert abs(float(factor.var()) * fan_in / 2 - 1) < 6 * math.sqrt(0.8 / factor.numel())


def test_initial_draw_is_kaiming_uniform_of_torch() -> None:
    torch.manual_seed(3)
    layer = gated(linear(), rank=RANK, scaling=1.0, dropout=0.0)
    torch.manual_seed(3)
    linear()
    A, B = torch.empty(RANK, D_IN), torch.empty(D_OUT, RANK)
    nn.init.kaiming_uniform_(A)
    nn.init.kaiming_uniform_(B)
    torch.testing.assert_close(layer.A.detach(), A)
    torch.testing.assert_close(layer.B.detach(), B)


def test_dropout_falls_on_the_adapters_input_only() -> None:
    layer = adapted(dropout=0.5)
    x = torch.randn(200, D_IN, dtype=torch.float64)
    torch.manual_seed(5)
    y = layer(x)
    torch.manual_seed(5)
    mask = nn.functional.dropout(torch.ones_like(x), 0.5)
    assert set(mask.unique().tolist()) == {0.0, 2.0}
    torch.testing.assert_close(y, layer.base(x) + (mask * x) @ layer.delta(layer.A.dtype).T, rtol=1e-12, atol=1e-12)
    layer.eval()
    torch.testing.assert_close(layer(x), layer.base(x) + x @ layer.delta(layer.A.dtype).T, rtol=1e-12, atol=1e-12)


def masks_of(layer: AdaptedProjection, x: torch.Tensor) -> torch.Tensor:
    """Which inputs reached the adapter in one forward: A = I, B = I, c = 1, so the update is the dropped-out input."""
    return (layer(x) - layer.base(x)) != 0


def test_dropout_masks_are_independent_per_call_and_per_projection() -> None:
    layers = []
    for _ in range(2):
        layer = gated(linear(d_in=8, d_out=8).double(), rank=8, scaling=1.0, dropout=0.5)
        with torch.no_grad():
            layer.A.copy_(torch.eye(8))
            layer.B.copy_(torch.eye(8))
            layer.c.fill_(1)
        layers.append(layer)
    torch.manual_seed(6)
    x = torch.ones(1000, 8, dtype=torch.float64)
    masks = [masks_of(layers[0], x), masks_of(layers[0], x), masks_of(layers[1], x)]
    for first in range(3):
        assert abs(float(masks[first].double().mean()) - 0.5) < 6 * 0.5 / math.sqrt(8000)
        for second in range(first):
            # Independent fair coins agree half of the time: n = 8000, six deviations of 0.5 / sqrt(n).
            assert abs(float((masks[first] == masks[second]).double().mean()) - 0.5) < 6 * 0.5 / math.sqrt(8000)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["linear", "conv1d"])
def test_adapter_over_a_half_precision_base(kind: str, dtype: torch.dtype) -> None:
    layer = adapted(kind, dtype=dtype)
    assert {layer.A.dtype, layer.B.dtype, layer.c.dtype} == {torch.float32}
    assert layer.weight.dtype == dtype
    x = torch.randn(4, D_IN).to(dtype)
    y = layer(x)
    assert y.dtype == dtype
    # The update is computed in fp32 and rounded once.
    expected = layer.base(x) + (x.float() @ layer.delta(layer.A.dtype).T).to(dtype)
    torch.testing.assert_close(y, expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)
    y.float().sum().backward()
    assert layer.A.grad is not None
    assert layer.A.grad.dtype == torch.float32


def test_adapter_under_autocast() -> None:
    layer = adapted(dtype=torch.float32)
    x = torch.randn(4, D_IN)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), layer(x), rtol=0.05, atol=0.15)


def test_adapter_over_a_double_base_is_double() -> None:
    assert {parameter.dtype for parameter in (adapted().A, adapted().B, adapted().c)} == {torch.float64}


@base_kinds
def test_it_answers_what_models_ask_a_linear_map(kind: str) -> None:
    layer = adapted(kind)
    assert (layer.in_features, layer.out_features) == (D_IN, D_OUT)
    assert layer.weight is layer.base.weight
    assert layer.bias is layer.base.bias
    assert layer.weight.shape == ((D_IN, D_OUT) if kind == "conv1d" else (D_OUT, D_IN))
    assert layer.rank == RANK
    assert "rank=3" in repr(layer)


def test_a_fresh_layer_is_in_the_mode_of_its_base() -> None:
    # Loading a model leaves it in evaluation mode; adapting it must not switch dropout on behind the caller's back.
    base = linear().eval()
    assert not gated(base, rank=RANK, scaling=1.0, dropout=0.5).training
    assert gated(linear(), rank=RANK, scaling=1.0, dropout=0.5).training


@base_kinds
def test_shape_and_weight_in_mathematical_order(kind: str) -> None:
    module = BASES[kind]()
    assert shape_of(module) == (D_OUT, D_IN)
    x = torch.randn(2, D_IN)
    y = x @ weight_of(module).T + (0 if module.bias is None else module.bias)
    torch.testing.assert_close(module(x), y)


def test_swap_replaces_a_module_under_every_name() -> None:
    shared, other = linear(), linear()
    model = nn.ModuleDict({"first": shared, "second": nn.Sequential(shared, nn.ReLU()), "third": other})
    replacement = nn.Identity()
    swap_modules(model, {shared: replacement})
    assert model["first"] is replacement
    assert model["second"][0] is replacement
    assert model["third"] is other
