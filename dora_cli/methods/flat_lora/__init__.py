"""Flat-LoRA (Li et al., ICML 2025, arXiv 2409.14396): a name for LoRA with noise on the adapted weights in training."""

from dora_cli.methods.lora import Lora

__all__ = ["FlatLora"]


class FlatLora(Lora):
    """`Lora` by another name; what is different is its option `flatness`."""

    name = "flat-lora"
