"""A cheap identity for base weights, so that an adapter is not evaluated on another model unnoticed."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

_SAMPLE = 1024


def fingerprint_model(model: nn.Module, leave_out: frozenset[str] = frozenset()) -> str:
    """SHA-256 over the name, type, shape and up to 1024 evenly spaced values of every parameter not in `leave_out`.

    Sampling keeps it in milliseconds for models of any size; a different checkpoint differs in practically every
    tensor.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if name in leave_out:
            continue
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // _SAMPLE)][:_SAMPLE].float().cpu().contiguous()
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        digest.update(sample.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
