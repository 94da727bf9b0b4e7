"""Training the head alone: no projection changes. The floor that any adaptation has to beat."""

from __future__ import annotations

from dora_cli.methods.base import LoraFactors, Method


class HeadOnly(Method):
    """Adapts nothing; only what the contract's `head` holds trains."""

    name = "head"
    fuses = True
    packs = True

    def to_lora(self) -> dict[str, LoraFactors]:
        return {}
