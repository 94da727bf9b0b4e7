"""Which tokens of a batch are text, and which only fill it up."""

from __future__ import annotations

import torch

from dora_cli.data.pairs import IGNORED
from dora_cli.data.transfer import Batch


def real_tokens(batch: Batch) -> dict[str, torch.Tensor] | None:
    """Boolean masks by stack, ``"encoder"`` and ``"decoder"``, true where a token is no padding, on the batch's device.

    A model of one stack has the same mask under both names, ``(B, T)``. The decoder of an encoder-decoder reads up to
    the token before its last label, so the labels tell its mask. None where the batch says nothing of padding.
    """
    if "attention_mask" not in batch:
        return None
    mask = batch["attention_mask"].bool()
    if "decoder_input_ids" not in batch:
        return {"encoder": mask, "decoder": mask}
    labels = batch["labels"] != IGNORED
    return {"encoder": mask, "decoder": labels.flip(1).cumsum(1).flip(1) > 0}
