from __future__ import annotations

import torch

from dora_cli.data.masks import real_tokens
from dora_cli.data.pairs import IGNORED

MASK = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])


def test_a_model_of_one_stack_has_its_mask_under_both_names() -> None:
    found = real_tokens({"input_ids": MASK, "attention_mask": MASK})
    assert found is not None
    assert found["encoder"].tolist() == found["decoder"].tolist() == MASK.bool().tolist()


def test_a_decoder_beside_an_encoder_reads_up_to_the_token_before_its_last_label() -> None:
    """Two start tokens: no loss falls on the first, and the last target token is a label alone."""
    labels = torch.tensor([[IGNORED, 7, 8, 9, IGNORED], [IGNORED, 7, IGNORED, IGNORED, IGNORED]])
    batch = {"attention_mask": MASK, "decoder_input_ids": torch.ones_like(labels), "labels": labels}
    found = real_tokens(batch)
    assert found is not None
    assert found["encoder"].tolist() == MASK.bool().tolist()
    assert found["decoder"].tolist() == [[True, True, True, True, False], [True, True, False, False, False]]


def test_a_batch_without_a_mask_says_nothing() -> None:
    assert real_tokens({"input_ids": MASK}) is None
