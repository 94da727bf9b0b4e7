"""LoRA-Pro behind the contract."""

from __future__ import annotations

from typing import Any

from dora_cli.methods.lora import Lora


class LoraPro(Lora):
    """`Lora` with ``gradients: pro``, of which it takes the other keys."""

    name = "lora-pro"

    def __init__(self, **keys: Any) -> None:
        super().__init__(gradients="pro", learning_rate_ratio=1.0, flatness=0.0, **keys)
