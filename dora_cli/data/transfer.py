"""Batches on their way to the device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch

_ALIGNMENT = 16
"""Bytes: kernels that read several values at once want their tensors to begin at such a place."""

Batch: TypeAlias = "Mapping[str, torch.Tensor]"


def inputs_of(batch: Batch) -> dict[str, torch.Tensor]:
    """What a model reads of a batch: all but its labels."""
    return {name: tensor for name, tensor in batch.items() if not name.startswith("labels")}


def to_device(batch: Batch, device: torch.device) -> dict[str, torch.Tensor]:
    """The tensors of `batch` on `device`; on CUDA by one copy of all of them, which the host does not wait for.

    Args:
        batch: tensors on the CPU, of any types and shapes. For the CPU they are handed back as they are.
    """
    if device.type != "cuda":
        return {name: tensor.to(device) for name, tensor in batch.items()}
    import torch

    pinned = torch.empty(packed_size(batch), dtype=torch.uint8, pin_memory=True)
    for name, place in unpacked(pinned, batch).items():
        place.copy_(batch[name])
    return unpacked(pinned.to(device, non_blocking=True), batch)


def packed_size(batch: Batch) -> int:
    """Bytes that `unpacked` needs for tensors of the types and shapes of `batch`."""
    return sum(_room(tensor) for tensor in batch.values())


def unpacked(buffer: torch.Tensor, like: Batch) -> dict[str, torch.Tensor]:
    """Parts of `buffer`, one behind the other, as tensors of the types and shapes of `like`.

    Args:
        buffer: uint8 ``(packed_size(like),)``; the parts share its memory.
    """
    parts: dict[str, torch.Tensor] = {}
    begin = 0
    for name, tensor in like.items():
        parts[name] = buffer[begin : begin + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        begin += _room(tensor)
    return parts


def _room(tensor: torch.Tensor) -> int:
    return -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
