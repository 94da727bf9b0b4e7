"""The random states of a process, as tensors: python's, numpy's, torch's and the device's."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from dora_cli.errors import CheckpointError


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """Everything random of this process; ``cuda`` only on a CUDA device."""
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state()
    assert version == 3
    assert kind == "MT19937"
    state = {
        "python": torch.tensor([*words, 0 if gauss is None else 1], dtype=torch.int64),
        "python_gauss": torch.tensor(0.0 if gauss is None else gauss, dtype=torch.float64),
        "numpy": torch.tensor([*np.asarray(keys).tolist(), int(position), int(has_gauss)], dtype=torch.int64),
        "numpy_gauss": torch.tensor(float(cached), dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: Mapping[str, torch.Tensor], device: torch.device) -> None:
    """Sets what `random_state` gave. Raises CheckpointError if it is none."""
    like = random_state(device)
    for name, tensor in like.items():
        found = state.get(name)
        if found is None:
            raise CheckpointError(
                f"the checkpoint has no random state {name!r} for this device; resume on the kind of device it was "
                "saved on"
            )
        if found.shape != tensor.shape or found.dtype != tensor.dtype:
            raise CheckpointError(
                f"the checkpoint's random state {name!r} is {found.dtype} {tuple(found.shape)}, which is none; it is "
                "damaged"
            )
    try:
        words: Any = state["python"].tolist()
        random.setstate((3, tuple(words[:-1]), float(state["python_gauss"]) if words[-1] else None))
        keys: Any = state["numpy"].tolist()
        if not 0 <= keys[-2] <= len(keys) - 2:  # numpy would read beyond its state
            raise ValueError(f"position {keys[-2]}")
        np.random.set_state(
            ("MT19937", np.array(keys[:-2], dtype=np.uint32), keys[-2], keys[-1], float(state["numpy_gauss"]))
        )
        torch.set_rng_state(state["torch"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda"], device)
    except (ValueError, OverflowError, RuntimeError, TypeError) as error:
        raise CheckpointError(
            f"the checkpoint's random state is none ({error}); it is damaged, use another checkpoint of the run"
        ) from error
