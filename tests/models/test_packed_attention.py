"""A row of several texts gives every model of `FAMILIES` what a padded batch of them gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional

from dora_cli.data.layout import PairLayout
from dora_cli.data.packed import BOUNDARIES, Packing
from dora_cli.data.pairs import IGNORED, EncodedPairs
from dora_cli.data.ragged import Ragged
from dora_cli.data.transfer import inputs_of, to_device
from dora_cli.models import packed_attention as room
from dora_cli.models.packed_attention import FAMILIES, NAME, PackedRows, attention_dropout, head_width, packed_attention

Batch = dict[str, torch.Tensor]
GROUPED: dict[str, Any] = {
    "vocab_size": 60,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 48,
}
PLAIN = {key: value for key, value in GROUPED.items() if key != "num_key_value_heads"}
NARROW = 3
"""Tokens of a window."""

MODELS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=60, n_positions=48, n_embd=32, n_layer=2, n_head=4, attn_pdrop=0.0, embd_pdrop=0.0,
            resid_pdrop=0.0, scale_attn_by_inverse_layer_idx=True,
        )
    ),
    "gpt_neox": lambda: transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**PLAIN)),
    "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**GROUPED)),
    "mistral": lambda: transformers.MistralForCausalLM(transformers.MistralConfig(**GROUPED, sliding_window=NARROW)),
    "opt": lambda: transformers.OPTForCausalLM(
        transformers.OPTConfig(
            vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48, dropout=0.0,
            max_position_embeddings=48, word_embed_proj_dim=32,
        )
    ),
    "qwen2": lambda: transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(**GROUPED, use_sliding_window=True, sliding_window=NARROW, max_window_layers=1)
    ),
    "qwen3": lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**GROUPED, head_dim=16)),
}  # fmt: skip


def model_of(name: str, dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(1)
    model = MODELS[name]()
    model.config.use_cache = False
    return model.to(dtype).train()


def pairs_of(lengths: list[tuple[int, int]], seed: int = 0) -> EncodedPairs:
    """Random sources and targets of these lengths."""
    random = np.random.default_rng(seed)
    sides = []
    for side in zip(*lengths, strict=True):
        sides.append(Ragged.of(random.integers(4, 60, sum(side)).astype(np.int32), list(side)))
    layout = PairLayout(False, before=(), separator=(), start=(), end=3, stops=(3,), pad=0)
    return EncodedPairs(*sides, cut=0, layout=layout, max_length=40, pad_multiple=8)


LENGTHS = [(5, 9), (1, 2), (12, 1), (3, 20), (7, 7), (2, 3)]
PACKING = Packing(step=16, longest=24)


def losses_of(model: nn.Module, batch: Batch, more: dict[str, int]) -> torch.Tensor:
    """The loss of every position, with smoothing."""
    logits = model(**inputs_of(batch), **more).logits
    return functional.cross_entropy(
        logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORED, reduction="none", label_smoothing=0.1
    )


def gradients(model: nn.Module, batch: Batch, packed: bool) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The losses of all labels, in their order, and the gradients of their sum."""
    model.zero_grad()
    if packed:
        with PackedRows(model, PACKING.longest).around() as more:
            losses = losses_of(model, batch, more)
            losses.sum().backward()
    else:
        losses = losses_of(model, batch, {})
        losses.sum().backward()
    found = [torch.zeros_like(one) if one.grad is None else one.grad.clone() for one in model.parameters()]
    return losses[batch["labels"].flatten() != IGNORED].detach(), found


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", sorted(FAMILIES))
@pytest.mark.parametrize("way", ["_one_by_one", "_masked"])
def test_a_row_gives_what_the_padded_batch_gives(
    monkeypatch: pytest.MonkeyPatch, way: str, name: str, dtype: torch.dtype, bound: float
) -> None:
    """Losses and gradients of every parameter, by attention of either kind."""
    monkeypatch.setattr(room, "_one_by_one", getattr(room, way))
    model, pairs = model_of(name, dtype), pairs_of(LENGTHS)
    rows = np.arange(len(pairs))
    expected, before = gradients(model, pairs.collate(rows), packed=False)
    found, after = gradients(model, PACKING.collate(pairs, rows), packed=True)
    assert len(found) == int(pairs.units.sum())
    torch.testing.assert_close(found, expected, rtol=bound, atol=bound)
    largest = max(float(one.abs().max()) for one in before)
    assert largest > 0.1
    for one, two in zip(before, after, strict=True):
        torch.testing.assert_close(two, one, rtol=bound, atol=bound * largest)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_no_text_sees_another(name: str) -> None:
    """With other tokens in one of them, the losses of the others are the same to the bit."""
    model, batch = model_of(name), PACKING.collate(pairs_of(LENGTHS), range(len(LENGTHS)))
    begin, end = batch[BOUNDARIES][2:4].tolist()
    other = {**batch, "input_ids": batch["input_ids"].clone()}
    other["input_ids"][:, begin:end] = (other["input_ids"][:, begin:end] + 7) % 60
    with torch.no_grad(), PackedRows(model, PACKING.longest).around() as more:
        before, after = (losses_of(model, one, more) for one in (batch, other))
    within = torch.zeros(len(before), dtype=torch.bool)
    within[begin:end] = True
    assert torch.equal(before[~within], after[~within])
    labelled = within & (batch["labels"].flatten() != IGNORED)
    assert bool((before[labelled] != after[labelled]).all())


@pytest.mark.parametrize("name", sorted(FAMILIES))
@pytest.mark.parametrize("way", ["checkpoints", "reentrant checkpoints", "a cache"])
def test_rows_where_passes_are_computed_again_or_keep_keys(name: str, way: str) -> None:
    """A checkpoint hands on what says where texts begin, and a cache of one pass changes nothing of it."""
    model, pairs = model_of(name), pairs_of(LENGTHS)
    rows = np.arange(len(pairs))
    expected, before = gradients(model, pairs.collate(rows), packed=False)
    caches: list[object] = []
    if way == "a cache":
        model.config.use_cache = True
        model.register_forward_hook(lambda module, args, output: caches.append(output.past_key_values))
    else:
        model.gradient_checkpointing_enable({"use_reentrant": way == "reentrant checkpoints"})
    calls: list[nn.Module] = []
    block = next(module for module in model.modules() if isinstance(module, nn.ModuleList))[0]
    next(block.children()).register_forward_pre_hook(lambda module, args: calls.append(module))
    found, after = gradients(model, PACKING.collate(pairs, rows), packed=True)
    assert len(calls) == (1 if way == "a cache" else 2)
    assert [cache is not None for cache in caches] == ([True] if way == "a cache" else [])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    for one, two in zip(before, after, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-10, atol=1e-10)


def test_attention_is_as_before_outside_of_a_pass() -> None:
    model = model_of("llama")
    assert model.config._attn_implementation == "sdpa"
    with PackedRows(model, 24).around() as more:
        assert model.config._attn_implementation == NAME
        assert more == {"max_length_q": 24}
    assert model.config._attn_implementation == "sdpa"
    with pytest.raises(TypeError), PackedRows(model, 24).around() as more:
        model(torch.zeros(1, 2, dtype=torch.int64), **more)  # a batch without boundaries
    assert model.config._attn_implementation == "sdpa"


def test_weights_of_attention_are_dropped_where_a_model_asks_for_that() -> None:
    """So that dropout is there whatever a config says: of equal scores a half is left, twice as large."""
    ones = torch.ones(1, 2, 64, 8)
    begins = torch.tensor([0, 40, 64], dtype=torch.int32)
    torch.manual_seed(0)
    for way in (room._one_by_one, room._masked):
        found = way(ones, ones, ones, begins, 0.5, None, None)
        assert found.mean().item() == pytest.approx(1, abs=0.2)
        assert set(found[0, 0, 0].tolist()) <= {0.0, 2.0}
    out, weights = packed_attention(
        nn.Identity(), ones, ones, ones, None, cu_seq_lens_q=begins, max_length_q=40, dropout=0.0
    )
    assert weights is None
    assert torch.equal(out, torch.ones(1, 64, 2, 8))


@pytest.mark.parametrize(("window", "back"), [(None, -1), (40, -1), (39, 38)])
def test_a_window_that_every_text_fits_in_is_none(window: int | None, back: int) -> None:
    """Kernels for windows are others."""
    seen: list[tuple[int, int]] = []

    def kernel(query: torch.Tensor, *_: Any, window_size: tuple[int, int], **__: Any) -> torch.Tensor:
        seen.append(window_size)
        return query

    part = torch.ones(1, 2, 64, 8, dtype=torch.bfloat16)
    begins = torch.tensor([0, 40, 64], dtype=torch.int32)
    more: dict[str, Any] = {"cu_seq_lens_q": begins, "max_length_q": 40, "sliding_window": window, "attend": kernel}
    out, _ = packed_attention(nn.Identity(), part, part, part, None, **more)
    assert out.shape == (1, 64, 2, 8)
    assert seen == [(back, 0)]


def test_what_configs_say() -> None:
    assert attention_dropout(model_of("llama")) == attention_dropout(model_of("gpt2")) == 0
    assert attention_dropout(transformers.GPT2LMHeadModel(transformers.GPT2Config(n_layer=1, n_embd=12))) == 0.1
    assert {name: head_width(model_of(name)) for name in MODELS} == {**dict.fromkeys(MODELS, 8), "qwen3": 16}
    assert head_width(nn.Linear(2, 2)) is None


def reference(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    begins: torch.Tensor,
    begins_of_keys: torch.Tensor,
    longest: int,
    longest_of_keys: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool = False,
) -> torch.Tensor:
    """PyTorch's attention over texts of different lengths, as its documentation defines it: ``(T, heads, d)``."""
    assert begins is begins_of_keys
    assert begins.dtype == torch.int32
    assert longest == longest_of_keys >= int(begins.diff().max())
    assert enable_gqa == (query.shape[1] > key.shape[1]) or not enable_gqa
    back, ahead = window_size
    assert ahead == 0
    groups, texts = query.shape[1] // key.shape[1], []
    for begin, end in zip(begins[:-1].tolist(), begins[1:].tolist(), strict=True):
        q, k, v = (part[begin:end].transpose(0, 1) for part in (query, key, value))
        scores = q @ k.repeat_interleave(groups, 0).mT * (query.shape[2] ** -0.5 if scale is None else scale)
        behind = torch.arange(end - begin)[:, None] - torch.arange(end - begin)
        unseen = (behind < 0) | (behind > back if back >= 0 else behind < 0)
        weights = scores.masked_fill(unseen, -torch.inf).softmax(-1)
        texts.append((weights @ v.repeat_interleave(groups, 0)).transpose(0, 1))
    return torch.cat(texts)


@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_the_kernel_for_texts_is_called_as_it_is_documented(
    monkeypatch: pytest.MonkeyPatch, name: str, *, shares: bool
) -> None:
    """By PyTorch 2.11 with as many heads of keys as of queries, by 2.13 with fewer."""
    monkeypatch.setattr(room, "has_kernel", lambda *_: True)
    monkeypatch.setattr(room, "_shares_keys", lambda: shares)
    monkeypatch.setattr(room, "varlen_attention", lambda: reference)
    monkeypatch.setattr(room, "_HALF", (torch.float64,))
    model, pairs = model_of(name), pairs_of(LENGTHS)
    rows = np.arange(len(pairs))
    expected, before = gradients(model, pairs.collate(rows), packed=False)
    found, after = gradients(model, PACKING.collate(pairs, rows), packed=True)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    for one, two in zip(before, after, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-10, atol=1e-9)


@pytest.mark.gpu
@pytest.mark.parametrize("step", [16, 66])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-5), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_row_on_a_gpu_gives_what_the_padded_batch_gives_in_float64(
    name: str, dtype: torch.dtype, bound: float, step: int
) -> None:
    """By the masked kernel, and by that of texts of different lengths; the row is filled up, or its last text empty."""
    device = torch.device("cuda")
    pairs, rows = pairs_of(LENGTHS), np.arange(len(LENGTHS))
    expected, before = gradients(model_of(name), pairs.collate(rows), packed=False)
    model = model_of(name, dtype).to(device)
    assert room.has_kernel(device, torch.bfloat16, 8)
    batch = Packing(step, PACKING.longest).collate(pairs, rows)
    assert (batch[BOUNDARIES][-2] == batch[BOUNDARIES][-1]) == (step == 66)
    found, after = gradients(model, to_device(batch, device), packed=True)
    torch.testing.assert_close(found.cpu().double(), expected, rtol=bound, atol=bound)
    flat = [torch.cat([one.cpu().double().flatten() for one in some]) for some in (before, after)]
    assert float((flat[1] - flat[0]).norm() / flat[0].norm()) < bound


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pass_never_waits_for_the_device(dtype: torch.dtype) -> None:
    device = torch.device("cuda")
    model = model_of("llama", dtype).to(device)
    batch = to_device(PACKING.collate(pairs_of(LENGTHS), range(len(LENGTHS))), device)
    gradients(model, batch, packed=True)
    with PackedRows(model, PACKING.longest).around() as more:
        torch.cuda.set_sync_debug_mode("error")
        try:
            losses_of(model, batch, more).sum().backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")
