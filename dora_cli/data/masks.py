"""Which tokens of a batch are text, and which only fill it up."""

from __future__ import annotations

import torch

from dora_cli.data.packed import BOUNDARIES
from dora_cli.data.pairs import IGNORED
from dora_cli.data.transfer import Batch


def real_tokens(batch: Batch) -> dict[str, torch.Tensor] | None:
    """Boolean masks by stack, ``"encoder"`` and ``"decoder"``, true where a token is no padding, on the batch's device.

    A model of one stack has the same mask under both names, ``(B, T)``, and so has an encoder-decoder that classifies:
    its decoder reads the same text. The decoder of one that generates reads up to the token before its last label, so
    the labels tell its mask. Where several texts stand in one row there are also those of each, ``(texts, T)``, under
    ``"texts"``; what fills the row up has an empty one. None where the batch says nothing of padding.
    """
    if "attention_mask" not in batch:
        return None
    mask = batch["attention_mask"].bool()
    read = batch.get("decoder_input_ids")
    if read is None:
        found = {"encoder": mask, "decoder": mask}
        return found if BOUNDARIES not in batch else {**found, "texts": _texts(batch[BOUNDARIES], mask)}
    labels = batch.get("labels")
    if labels is None or labels.shape != read.shape:  # no labels of tokens: all of them count
        return {"encoder": mask, "decoder": torch.ones_like(read, dtype=torch.bool)}
    return {"encoder": mask, "decoder": (labels != IGNORED).flip(1).cumsum(1).flip(1) > 0}


def _texts(boundaries: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    places = torch.arange(mask.shape[1], device=mask.device)
    return (boundaries[:-1, None] <= places) & (places < boundaries[1:, None]) & mask
