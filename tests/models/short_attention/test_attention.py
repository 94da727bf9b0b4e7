"""Attention of short texts: every family of `FAMILIES` computes by it what it computes by PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import BertForSequenceClassification

from dora_cli import train
from dora_cli.errors import ModelError
from dora_cli.methods.low_rank.lean import lean_pass as lean_module
from dora_cli.models import shortcuts as shortcuts_room
from dora_cli.models.fused.fused_blocks import FusedBlocks
from dora_cli.models.short_attention import attention as room
from dora_cli.models.short_attention.attention import (
    FAMILIES,
    ShortAttention,
    attend,
    short_attention,
    suits,
)
from dora_cli.models.short_attention.operators import LONGEST, Kernels, is_within
from dora_cli.models.shortcuts import shortcuts
from tests.methods.low_rank.same_input.plain_many import TogetherKernels
from tests.methods.small import new_lora, sharpen, sites
from tests.models.short_attention.plain import PlainAttention
from tests.training.conftest import MakeRecipe

SIZES: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 160,
    "hidden_dropout_prob": 0.0,
}


def _of(kind: str) -> Callable[[float], Any]:
    def make(dropout: float) -> Any:
        config = getattr(transformers, f"{kind}Config")(**SIZES, attention_probs_dropout_prob=dropout)
        return getattr(transformers, f"{kind}ForSequenceClassification")(config)

    return make


MODELS: dict[str, Callable[[float], Any]] = {
    "bert": _of("Bert"),
    "camembert": _of("Camembert"),
    "distilbert": lambda dropout: transformers.DistilBertForSequenceClassification(
        transformers.DistilBertConfig(
            vocab_size=60, dim=32, n_layers=2, n_heads=4, hidden_dim=48, max_position_embeddings=160, dropout=0.0,
            attention_dropout=dropout, seq_classif_dropout=0.0,
        )
    ),
    "electra": _of("Electra"),
    "roberta": _of("Roberta"),
    "xlm-roberta": _of("XLMRoberta"),
}  # fmt: skip


def model_of(family: str, dropout: float = 0.0) -> Any:
    torch.manual_seed(1)
    return MODELS[family](dropout).double().train()


needs_masks = pytest.mark.skipif(not suits(model_of("bert")), reason="this transformers cannot be told")


def batch_of(*lengths: int) -> dict[str, torch.Tensor]:
    generator, widest = torch.Generator().manual_seed(2), max(lengths)
    seen = torch.stack([torch.arange(widest) < length for length in lengths]).long()
    ids = torch.randint(5, 60, seen.shape, generator=generator)
    return {"input_ids": ids * seen + (1 - seen), "attention_mask": seen}


def learned(model: Any, batch: dict[str, torch.Tensor], attention: ShortAttention | None) -> list[torch.Tensor]:
    """The outputs of a training pass, and all gradients."""
    model.zero_grad()
    with nullcontext() if attention is None else attention.around():
        logits = model(**batch).logits
        logits.square().sum().backward()
    return [logits.detach(), *(one.grad.clone() for one in model.parameters() if one.grad is not None)]


def adapted(model: Any, family: str) -> Any:
    """LoRA at queries, keys and values, all of whose factors are drawn."""
    method = new_lora(rank=2, dropout=0.0)
    ends = ("q_lin", "k_lin", "v_lin") if family == "distilbert" else ("query", "key", "value")
    found = sites({name: module for name, module in model.named_modules() if name.endswith(ends)})
    method.attach(model, found, [], method.plan(10, found))
    with torch.no_grad():
        for group in method.groups():
            for parameter in group.parameters:
                parameter.normal_(std=0.1)
    return method


def test_all_families_are_held_against_it() -> None:
    assert set(MODELS) == FAMILIES


@needs_masks
@pytest.mark.parametrize("lengths", [(7, 3, 5), (6, 6)], ids=["padded", "nothing padded"])
@pytest.mark.parametrize("family", sorted(MODELS))
def test_it_computes_what_pytorchs_does(family: str, lengths: tuple[int, ...]) -> None:
    model, batch, kernels = model_of(family), batch_of(*lengths), PlainAttention()
    expected = learned(model, batch, None)
    found = learned(model, batch, ShortAttention(model, kernels))
    assert kernels.calls == [0, 0]
    assert model.config._attn_implementation == "sdpa"
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@needs_masks
def test_no_two_layers_or_passes_drop_the_same() -> None:
    model, batch = model_of("bert", 0.5), batch_of(7, 3)
    kernels = PlainAttention()
    attention = ShortAttention(model, kernels)
    torch.manual_seed(3)
    first, seed = learned(model, batch, attention), int(attention.state.seed)
    second = learned(model, batch, attention)
    assert int(attention.state.seed) != seed
    assert not torch.equal(first[0], second[0])
    torch.manual_seed(3)
    for one, other in zip(learned(model, batch, attention), first, strict=True):
        assert torch.equal(one, other)
    assert kernels.calls == [1, 2] * 3


@needs_masks
def test_a_look_at_the_model_is_no_use_of_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pass of a process looks for what reads the same input; a run that goes on draws as the straight one."""
    monkeypatch.setattr(lean_module, "kernels_for", lambda device, *_: TogetherKernels(device))
    model, batch = model_of("bert", 0.5).requires_grad_(False), batch_of(7, 3)
    method, attention = adapted(model, "bert"), ShortAttention(model, PlainAttention())
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        with method.training_pass(), attention.around():
            found.append(model(**batch).logits)
    assert torch.equal(*found)


@needs_masks
def test_gradients_are_those_of_what_was_dropped() -> None:
    """By finite differences, the seed put back each time."""
    model, batch = model_of("bert", 0.4), batch_of(6, 4)
    attention = ShortAttention(model, PlainAttention())
    torch.manual_seed(4)
    gradient = learned(model, batch, attention)[1:]
    weight = model.bert.encoder.layer[0].attention.self.query.weight
    place = [name for name, one in model.named_parameters() if one.grad is not None].index(
        "bert.encoder.layer.0.attention.self.query.weight"
    )
    losses = []
    for change in (1e-6, -2e-6):
        with torch.no_grad():
            weight[3, 5] += change
        torch.manual_seed(4)
        losses.append(learned(model, batch, attention)[0].square().sum())
    assert float(gradient[place][3, 5]) == pytest.approx(float(losses[0] - losses[1]) / 2e-6, rel=1e-4)


@needs_masks
@pytest.mark.parametrize("together", [False, True], ids=["each alone", "as one"])
@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_within_compiled_blocks(family: str, together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One code for all blocks and lengths, and the same as without a compiler; where queries, keys and values are one
    operator's, they and their gradients are handed over in one tensor.
    """
    if together:
        monkeypatch.setattr(lean_module, "kernels_for", lambda device, *_: TogetherKernels(device))
    model = model_of(family, 0.3).requires_grad_(False)
    method = adapted(model, family)
    attention = ShortAttention(model, PlainAttention())
    compiled: list[Any] = []

    def backend(graph: Any, _: object) -> Any:
        compiled.append(graph)
        return graph

    fused = FusedBlocks(model, method.sites, note=pytest.fail, backend=backend)
    for lengths in ((7, 3), (9, 9, 4)):
        batch, results = batch_of(*lengths), []
        for around in (fused.around(None), nullcontext()):
            torch.manual_seed(5)
            for group in method.groups():
                for parameter in group.parameters:
                    parameter.grad = None
            with method.training_pass(), attention.around(), around:
                logits = model(**batch).logits
                logits.sum().backward()
            results.append([logits, *(one.grad for group in method.groups() for one in group.parameters)])
        for one, other in zip(*results, strict=True):
            torch.testing.assert_close(one, other)
    called = [str(node.target) for graph in compiled for node in graph.graph.nodes]
    wanted = {"dora.short_attention_beside.default" if together else "dora.short_attention.default": len(compiled)}
    assert {name: called.count(name) for name in called if "short_attention" in name} == wanted
    assert len(compiled) == 1


# -- where PyTorch's has to do -----------------------------------------------------------------------------------------


@needs_masks
def test_long_texts_and_other_masks_are_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "short", pytest.fail)
    module = SimpleNamespace(is_causal=False)
    for length, mask in ((LONGEST + 1, None), (5, torch.zeros(1, 1, 5, 5))):
        query, key, value = torch.randn(3, 1, 2, length, 8)
        found, _ = attend(module, query, key, value, mask)  # type: ignore[arg-type]
        expected = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        torch.testing.assert_close(found, expected.transpose(1, 2))


@needs_masks
def test_which_models_suit() -> None:
    assert suits(model_of("bert"))
    assert not suits(nn.Linear(2, 2))
    eager = model_of("bert")
    eager.set_attn_implementation("eager")
    assert not suits(eager)
    again = model_of("bert")
    again.bert.encoder.gradient_checkpointing = True
    assert not suits(again)
    decoder = transformers.BertLMHeadModel(transformers.BertConfig(**SIZES, is_decoder=True))
    assert not suits(decoder)


def test_on_a_cpu_it_is_pytorchs() -> None:
    assert short_attention(model_of("bert"), torch.bfloat16, 8) is None


@needs_masks
def test_models_that_cannot_be_told_do_not_suit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of transformers 4.53 have no such method, and those of 4.54 to 4.57 warn and go on as before."""

    class Older(nn.Module):
        config = model_of("bert").config

    assert not suits(Older())
    model = model_of("bert")
    monkeypatch.setattr(type(model), "_can_set_attn_implementation", classmethod(lambda _: False))
    assert not suits(model)


def test_gpus_without_tensor_cores_of_bf16_have_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """There Triton multiplies otherwise, and blocks need more memory than they are said to."""
    monkeypatch.setattr(room, "takes_triton", lambda device: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert short_attention(model_of("bert"), torch.float16, 8) is None


@needs_masks
def test_a_pass_that_fails_before_it_begins_leaves_the_model_as_it_was() -> None:
    class Broken:
        def random_(self) -> None:
            raise RuntimeError("the device says no")

    model = model_of("bert")
    attention: Any = ShortAttention(model, PlainAttention())
    attention.state.seed = Broken()
    with pytest.raises(RuntimeError, match="the device says no"), attention.around():
        pass
    assert not is_within()
    assert model.config._attn_implementation == "sdpa"


@needs_masks
@pytest.mark.parametrize("within", [False, True], ids=["after the pass", "within it"])
def test_a_pass_that_computes_it_twice_is_refused(within: bool) -> None:
    """Its second mask would be another; also where autograd has the thread of the forward pass."""
    model = model_of("bert", 0.1)
    attention = ShortAttention(model, PlainAttention())
    query, key, value = torch.randn(3, 1, 2, 4, 8, requires_grad=True)

    def work(*parts: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = attend(model, *parts, None, dropout=0.1)[0]
        return found

    with attention.around():
        out = checkpoint(work, query, key, value, use_reentrant=False)
        if within:
            with pytest.raises(ModelError, match="computes its attention again"):
                out.sum().backward()
            return
    with pytest.raises(ModelError, match="computes its attention again"):
        out.sum().backward()
    assert model.config._attn_implementation == "sdpa"


def test_a_run_asks_for_it_with_the_widest_batch(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(shortcuts_room, "short_attention", lambda *given: asked.append(given))
    widths: list[int] = []
    forward = BertForSequenceClassification.forward

    def noted(self: Any, *given: Any, input_ids: torch.Tensor, **more: Any) -> Any:
        if self.training:
            widths.append(input_ids.shape[1])
        return forward(self, *given, input_ids=input_ids, **more)

    monkeypatch.setattr(BertForSequenceClassification, "forward", noted)
    train(make_recipe("train.epochs=1"), tmp_path / "run")
    ((model, dtype, widest),) = asked
    assert isinstance(model, BertForSequenceClassification)
    assert dtype is None
    assert widest == max(widths)


# -- on a GPU ----------------------------------------------------------------------------------------------------------


def steps_of(kernels: Kernels | None, *, graph: bool = False, fused: bool = False, seed: int = 0) -> torch.Tensor:
    """Losses and gradient norms, ``(steps, 2)``, of nine steps over three widths under bf16, each of a seed of its own
    and changing nothing, of a model so sharp that both tell masks apart.
    """
    from tests.training.test_captured import Run

    run = Run(graph=graph, precision="bf16", dropout=0.3, rate=1e-30)
    sharpen(run.model)
    if kernels is not None:
        run.step.shortcuts = [ShortAttention(run.model, kernels)]
    if fused:
        run.step.fused = FusedBlocks(run.model, run.method.sites, note=pytest.fail)
    found = []
    for number in range(1, 10):
        torch.cuda.manual_seed(seed + number)
        run.step(number, [run.batch(number)], 8, event=False)
        reading = run.step.read(number)
        found.append((reading.loss, reading.grad_norm))
    return torch.tensor(found)


@pytest.mark.gpu
@needs_masks
@pytest.mark.parametrize("fused", [False, True], ids=["as it stands", "compiled"])
def test_captured_steps_are_eager_ones_and_those_of_plain_operations(fused: bool) -> None:
    """With the same masks, forward and backward: others are told from them."""
    from dora_cli.models.short_attention.triton_kernels import TritonAttention

    eager = steps_of(TritonAttention(), fused=fused)
    captured = steps_of(TritonAttention(), graph=True, fused=fused)
    others = steps_of(TritonAttention(), graph=True, fused=fused, seed=100)
    torch.testing.assert_close(captured, eager, rtol=1e-2, atol=0)
    if not fused:  # plain operations wait for the device, and draw outside of blocks as compiled ones do not
        torch.testing.assert_close(eager, steps_of(PlainAttention()), rtol=6e-2, atol=0)
    assert bool(((others - eager).abs() > 0.1 * eager.abs()).any(0).all())


@pytest.mark.gpu
@needs_masks
def test_a_run_on_a_gpu_computes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """In every layer, eager and captured; and a replay drops anew."""
    from dora_cli.models.short_attention.triton_kernels import TritonAttention
    from tests.training.test_captured import Run

    run = Run(graph=True, precision="bf16", dropout=0.3)
    (attention,) = run.step.shortcuts = shortcuts(run.model, torch.bfloat16, longest=24)
    assert isinstance(attention, ShortAttention)
    calls, forward = [], TritonAttention.forward
    monkeypatch.setattr(TritonAttention, "forward", lambda self, *given: (calls.append(1), forward(self, *given))[1])
    seeds = []
    for number in range(1, 7):
        run.step(number, [run.batch(0)], 8, event=False)
        seeds.append(int(attention.state.seed))
    assert len(set(seeds)) == len(seeds)
    assert len(calls) >= 2 * 2  # in a step that is eager and in the one that is captured
