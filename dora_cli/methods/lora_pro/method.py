"""LoRA-Pro behind the contract."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from dora_cli.methods.lora import Lora


class LoraPro(Lora):
    """`Lora` with ``gradients: pro``, of which it takes the other keys but those of LoRA+ and of noise."""

    name = "lora-pro"

    def __init__(
        self,
        *,
        rank: int,
        ranks: Mapping[str, int] | None,
        ranks_shuffle: int | None,
        alpha: float,
        scaling: Literal["standard", "rank-stabilised"],
        dropout: float,
        moments: Literal["low-rank", "full"],
        damping: float,
        step_bound: float | None,
    ) -> None:
        super().__init__(
            rank=rank,
            ranks=ranks,
            ranks_shuffle=ranks_shuffle,
            alpha=alpha,
            scaling=scaling,
            learning_rate_ratio=1.0,
            dropout=dropout,
            gradients="pro",
            moments=moments,
            damping=damping,
            flatness=0.0,
            step_bound=step_bound,
        )
