"""LoRA-Pro (Wang et al. 2024, arXiv 2407.18242): a name for `lora` with its adjusted gradients."""

from dora_cli.methods.lora_pro.method import LoraPro

__all__ = ["LoraPro"]
