"""LoRA, Low-Rank Adaptation (Hu et al. 2021, arXiv 2106.09685), with LoRA+ and rank-stabilised scaling as options."""

from dora_cli.methods.lora.method import Lora

__all__ = ["Lora"]
