"""RMS norms by PyTorch's own kernel: which modules they are, and that a pass computes the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from dora_cli.models.rms_norms import RmsNorms, rms_norms, spelt_out
from dora_cli.models.shortcuts import shortcuts, taking
from tests.methods.small import tiny_roberta

IDS = torch.arange(3, 12).view(1, -1)
SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
}
SHARP = {"initializer_range": 0.3}


def llama() -> nn.Module:
    return LlamaForCausalLM(LlamaConfig(**SIZES, **SHARP))


def qwen3() -> nn.Module:
    return Qwen3ForCausalLM(Qwen3Config(**SIZES, **SHARP, head_dim=8))


def t5() -> nn.Module:
    return T5ForConditionalGeneration(T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2))


def gemma() -> nn.Module:
    return GemmaForCausalLM(GemmaConfig(**SIZES, head_dim=8))


def drawn(model: nn.Module) -> nn.Module:
    """With norms that are none of ones alone."""
    torch.manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if "Norm" in type(module).__name__:
                module.weight.add_(torch.rand_like(module.weight))  # type: ignore[arg-type, operator]
    return model


@pytest.mark.parametrize(("make", "count"), [(llama, 5), (qwen3, 9), (t5, 12), (gemma, 0), (tiny_roberta, 0)])
def test_norms_of_families(make: Any, count: int) -> None:
    """Two of a block and the last one, with those of queries and keys, of encoder and decoder; Gemma's multiply by one
    more than their weight, RoBERTa's subtract a mean.
    """
    assert len(spelt_out(make())) == count


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("make", [llama, qwen3])
def test_a_pass_computes_the_same(make: Any, dtype: torch.dtype) -> None:
    """To the rounding of the type: the norm's product is rounded once where it was twice."""
    torch.manual_seed(0)
    model: Any = drawn(make()).to(dtype).train()

    def learned() -> list[torch.Tensor]:
        model.zero_grad()
        logits = model(input_ids=IDS).logits
        logits.float().square().mean().backward()
        return [logits.detach(), *(parameter.grad.clone() for parameter in model.parameters())]

    expected = learned()
    with RmsNorms(spelt_out(model)).around():
        assert all("forward" in vars(module) for module in spelt_out(model))
        found = learned()
    assert not any("forward" in vars(module) for module in model.modules())
    for one, other in zip(found, expected, strict=True):
        assert float((one - other).float().norm()) <= 20 * torch.finfo(dtype).eps * float(other.float().norm())


class Spelt(nn.Module):
    """What may be tried."""

    def __init__(self, width: int = 6, eps: Any = 1e-6) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * self.scaled(x)

    def scaled(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)


class Subtracts(Spelt):
    def scaled(self, x: torch.Tensor) -> torch.Tensor:
        return super().scaled(x - x.mean(-1, keepdim=True))


class AddsElsewhere(Spelt):
    def scaled(self, x: torch.Tensor) -> torch.Tensor:
        return x / (x.square().mean(-1, keepdim=True).sqrt() + self.eps)


class Refuses(Spelt):
    def forward(self, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return self.weight * self.scaled(x) * gate


class HasMore(Spelt):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(6))


class HoldsAnother(Spelt):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()


class OfAll(Spelt):
    """Over all dimensions but the first."""

    def scaled(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.square().mean(tuple(range(1, x.dim())), keepdim=True) + self.eps)


class Drops(Spelt):
    def scaled(self, x: torch.Tensor) -> torch.Tensor:
        return super().scaled(torch.nn.functional.dropout(x, 0.5, self.training))


class Widens(Spelt):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).double()


class Flattens(Spelt):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).flatten(0, -2)


class Roughly(Spelt):
    def scaled(self, x: torch.Tensor) -> torch.Tensor:
        return super().scaled(x) * (1 + 1e-4)


def of_zeros() -> nn.Module:
    """Whatever it computes, it gives zeros."""
    module = Subtracts()
    nn.init.zeros_(module.weight)
    return module


def of_two_dimensions() -> nn.Module:
    module = Spelt()
    module.weight = nn.Parameter(torch.ones(1, 6))
    return module


OTHERS = [
    Subtracts(), AddsElsewhere(), Refuses(), HasMore(), HoldsAnother(), OfAll(), Drops(), Widens(), Flattens(),
    Roughly(), of_zeros(), of_two_dimensions(), Spelt(eps=torch.tensor(1e-6)), nn.RMSNorm(6, eps=1e-6),
    nn.Embedding(6, 6),
]  # fmt: skip


@pytest.mark.parametrize("module", OTHERS, ids=lambda module: type(module).__name__)
def test_what_gives_something_else_is_no_norm(module: nn.Module) -> None:
    """Whatever its mode is at the moment, and whatever another of its class gives."""
    norm, state = Spelt(), torch.get_rng_state()
    assert spelt_out(nn.Sequential(norm, module.eval())) == [norm]
    assert torch.equal(torch.get_rng_state(), state)
    assert not module.training


def test_each_of_a_class_is_tried() -> None:
    class Offset(Spelt):
        offset = 0.0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + self.offset

    plain, other = Offset(), Offset()
    other.offset = 1.0
    assert spelt_out(nn.Sequential(plain, other)) == [plain]


class Gated(Spelt):
    """A norm where there is no gate, which Mamba2 has."""

    def forward(self, x: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
        return super().forward(x if gate is None else x * gate)


CALLS: dict[str, tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]] = {
    "another type": ((torch.ones(3, 6, dtype=torch.float64),), {}),
    "a gate": ((torch.ones(3, 6), torch.rand(3, 6)), {}),
    "a gate by name": ((torch.ones(3, 6),), {"gate": torch.rand(3, 6)}),
    "by name": ((), {"x": torch.rand(3, 6)}),
    "a row that is wider": ((torch.rand(3, 6, 1),), {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_the_kernel_does_not_take_is_computed_as_it_stands(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    args, kwargs = CALLS[name]
    module = Gated()
    assert spelt_out(module) == [module]
    monkeypatch.setattr("torch.nn.functional.rms_norm", pytest.fail)
    with RmsNorms([module]).around():
        assert torch.equal(module(*args, **kwargs), Gated()(*args, **kwargs))


def test_what_somebody_has_put_there_stays_theirs() -> None:
    mine = lambda x: x  # noqa: E731
    before, meanwhile = Spelt(), Spelt()
    before.forward = mine  # type: ignore[method-assign]
    with RmsNorms([before, meanwhile]).around():
        assert before.forward is mine
        meanwhile.forward = mine  # type: ignore[method-assign]
    assert before.forward is meanwhile.forward is mine


def test_a_pass_that_fails_leaves_modules_as_they_were() -> None:
    module = Spelt()
    with pytest.raises(RuntimeError), RmsNorms([module]).around():
        module(torch.ones(2, 5))
    assert "forward" not in vars(module)


def test_a_cpu_has_none() -> None:
    assert rms_norms(llama()) is None
    assert shortcuts(llama(), None, longest=24) == []


def test_compiled_blocks_have_their_compilers(monkeypatch: pytest.MonkeyPatch) -> None:
    found = RmsNorms([])
    monkeypatch.setattr("dora_cli.models.shortcuts.rms_norms", lambda model: found)
    assert shortcuts(llama(), None, longest=24) == [found]
    assert shortcuts(llama(), None, longest=24, compiled=True) == []


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_steps_on_a_gpu(precision: str) -> None:
    """Eager and captured, by the kernel and without: one after the other each changes the weights, so that what is
    rounded otherwise drifts apart.
    """
    from tests.training.test_together import Run

    losses = {}
    for graph in (False, True):
        for norms in (False, True):
            run = Run("llama", "dora", precision, single=False, graph=graph)
            found = shortcuts(run.model, None, longest=None)
            assert len(found) == 1
            run.step.shortcuts = found if norms else []
            losses[graph, norms] = torch.tensor(run.losses(6))
    for one in losses.values():
        torch.testing.assert_close(one, losses[False, False], rtol=1e-4 if precision == "fp32" else 2e-2, atol=0)


@pytest.mark.gpu
def test_a_gpu_computes_each_by_one_kernel() -> None:
    from torch.profiler import ProfilerActivity, profile

    model = drawn(llama()).to("cuda")
    counts = []
    for taken in ([], shortcuts(model, None, longest=None)):
        with taking(taken):
            for _ in range(2):
                with profile(activities=[ProfilerActivity.CUDA]) as profiled:
                    model(input_ids=IDS.cuda())
                    torch.cuda.synchronize()
        counts.append(sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profiled.events()))
    assert counts[0] - counts[1] >= 4 * 5  # each norm of several operations
