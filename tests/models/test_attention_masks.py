"""Masks that are made whatever a batch holds: the same outputs, and nothing asked of the device."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from threading import Barrier, Event
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import RobertaConfig, RobertaForSequenceClassification
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS as MASKS

from dora_cli.models.attention_masks import masks_always_made
from tests.evaluation.test_decoding import MODELS

Batch = dict[str, torch.Tensor]
FAMILIES = pytest.mark.parametrize("name", ["gpt2", "llama", "bart", "t5", "roberta"])


def made(name: str, attention: str = "sdpa") -> Any:
    torch.manual_seed(0)
    if name == "roberta":
        config = RobertaConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
            max_position_embeddings=40,
        )  # fmt: skip
        model: Any = RobertaForSequenceClassification(config)
    else:
        model_class, config, _ = MODELS[name]
        model = model_class(config)
    model.set_attn_implementation(attention)
    model.config.use_cache = False
    return model.double().eval()


def batch_of(model: Any, *, padded: bool = False) -> Batch:
    ids = torch.arange(4, 28).view(3, 8)
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0 if padded else 1
    batch = {"input_ids": ids, "attention_mask": mask}
    return batch | ({"decoder_input_ids": ids[:, :6]} if model.config.is_encoder_decoder else {})


@pytest.fixture
def masks(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each call of PyTorch's attention was given a mask."""
    found: list[bool] = []
    attention: Callable[..., torch.Tensor] = functional.scaled_dot_product_attention

    def noted(*tensors: torch.Tensor, attn_mask: torch.Tensor | None = None, **settings: Any) -> torch.Tensor:
        found.append(attn_mask is not None)
        return attention(*tensors, attn_mask=attn_mask, **settings)

    monkeypatch.setattr(functional, "scaled_dot_product_attention", noted)
    return found


@FAMILIES
@pytest.mark.parametrize("padded", [False, True])
def test_the_same_outputs_with_a_mask_in_every_attention(masks: list[bool], name: str, padded: bool) -> None:
    model = made(name)
    batch = batch_of(model, padded=padded)
    with torch.no_grad():
        expected = model(**batch).logits
        usual = masks.copy()
        masks.clear()
        with masks_always_made():
            found = model(**batch).logits
        if not padded and name != "t5":  # which adds its biases to the mask
            assert not all(usual), "else there is nothing to see here"
    assert masks
    assert all(masks)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@FAMILIES
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_nothing_is_asked_of_the_device(name: str, attention: str) -> None:
    """The meta device has no values to answer with."""
    model = made(name, attention).to("meta")
    batch = {name: tensor.to("meta") for name, tensor in batch_of(model).items()}

    def run(around: Callable[[], AbstractContextManager[None]]) -> torch.Size:
        with torch.no_grad(), around():
            return model(**batch).logits.shape  # type: ignore[no-any-return]

    assert run(masks_always_made)[0] == 3
    if attention == "eager" and name in ("gpt2", "llama"):
        return  # what keeps a token from seeing later ones is in the mask, so that it is never left out
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        run(nullcontext)


@pytest.mark.parametrize("kind", ["eager", "sdpa"])
def test_masks_are_made_as_before_afterwards(kind: str) -> None:
    before = MASKS[kind]
    with pytest.raises(RuntimeError, match="no room"), masks_always_made():
        raise RuntimeError("no room")
    assert MASKS[kind] is before

    def own(*sizes: Any, **settings: Any) -> None:
        """Somebody else's."""

    MASKS[kind] = own
    try:
        with masks_always_made():
            assert MASKS[kind] is not own
        assert MASKS[kind] is own
    finally:
        del MASKS[kind]


def test_the_last_of_overlapping_uses_puts_the_masks_back() -> None:
    """Also where they end in the order in which they began, as those of two threads may."""
    before = {kind: MASKS[kind] for kind in ("eager", "sdpa")}
    first, second, third = masks_always_made(), masks_always_made(), masks_always_made()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert all(MASKS[kind] is not made for kind, made in before.items()), "the second is still within"
    third.__enter__()
    second.__exit__(None, None, None)
    assert all(MASKS[kind] is not made for kind, made in before.items()), "the third is still within"
    third.__exit__(None, None, None)
    assert all(MASKS[kind] is made for kind, made in before.items())


def test_threads_may_overlap_in_any_order() -> None:
    before = {kind: MASKS[kind] for kind in ("eager", "sdpa")}
    began, left = Barrier(2, timeout=60), Event()

    def stay(first: bool) -> bool:
        with masks_always_made():
            began.wait()
            if not first:
                assert left.wait(timeout=60)
                return all(MASKS[kind] is not made for kind, made in before.items())
        left.set()
        return True

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(stay, (True, False))) == [True, True]
    assert all(MASKS[kind] is made for kind, made in before.items())
