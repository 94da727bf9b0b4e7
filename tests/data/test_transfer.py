"""Batches on their way to the device."""

from __future__ import annotations

import pytest
import torch

from dora_cli.data import to_device
from dora_cli.data.transfer import packed_size, unpacked

BATCH = {
    "input_ids": torch.arange(15).view(3, 5),
    "attention_mask": torch.tensor([[True, False, True]]),
    "labels": torch.tensor([0.5, -1.0, 2.0]),
    "none": torch.zeros(0, 4, dtype=torch.int64),
    "one": torch.tensor(7),
}


def test_parts_hold_any_types_side_by_side() -> None:
    buffer = torch.zeros(packed_size(BATCH), dtype=torch.uint8)
    parts = unpacked(buffer, BATCH)
    for name, part in parts.items():
        part.copy_(BATCH[name])
    # Read only once all are written: no part lies over another.
    for name, part in parts.items():
        assert part.dtype == BATCH[name].dtype
        assert part.shape == BATCH[name].shape
        assert torch.equal(part, BATCH[name]), name
        assert part.storage_offset() * part.element_size() % 16 == 0
        assert part.untyped_storage().data_ptr() == buffer.untyped_storage().data_ptr()


def test_a_batch_stays_as_it_is_on_the_cpu() -> None:
    moved = to_device(BATCH, torch.device("cpu"))
    assert list(moved) == list(BATCH)
    assert all(moved[name] is BATCH[name] for name in BATCH)


@pytest.mark.gpu
def test_batches_arrive_in_order_whatever_the_host_does_meanwhile() -> None:
    """Pinned memory is used again by later batches, but not before it has been read."""
    device = torch.device("cuda")
    torch.cuda._sleep(50_000_000)  # the copies below are still to come when the host has made them all
    moved = [
        to_device({"labels": BATCH["labels"], "number": torch.full((1000,), number)}, device) for number in range(100)
    ]
    for number, batch in enumerate(moved):
        assert torch.equal(batch["labels"].cpu(), BATCH["labels"])
        assert bool((batch["number"] == number).all())
        assert batch["number"].device.type == "cuda"
