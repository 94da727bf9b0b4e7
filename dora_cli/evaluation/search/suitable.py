"""Which models can be searched with on the device alone: known families, as transformers computes them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from dora_cli.machine.capture import at_least, reads_positions_on_host

FAMILIES = frozenset(
    {"bart", "gpt2", "gpt_neox", "llama", "mbart", "mistral", "opt", "pegasus", "qwen2", "qwen3", "t5"}
)
"""Model types whose passes take a cache of fixed size and masks that are made; each was compared with `generate`."""

_SINCE = {"transformers": (5, 17)}
"""The oldest version under which they were."""


DEVICES = frozenset({"cpu", "cuda"})
"""Kinds of devices on which the tests of the search have passed."""


def suitable(model: nn.Module, devices: Collection[str] | None = None) -> bool:
    """Whether `model` is one of `FAMILIES`, with attention to all that came before and positions that need no host.

    Args:
        devices: the kinds on which a search is wanted; None is `DEVICES`.
    """
    config: Any = model.config
    if next(model.parameters()).device.type not in (DEVICES if devices is None else devices):
        return False
    kind = type(model).__module__.split(".")[0]
    if kind != "transformers" or config.model_type not in FAMILIES:
        return False
    if config._attn_implementation not in ("eager", "sdpa") or not all(at_least(*one) for one in _SINCE.items()):
        return False
    limited = getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)
    layers = set(getattr(config, "layer_types", None) or ())
    return not limited and layers <= {"full_attention"} and not reads_positions_on_host(config.to_dict())
