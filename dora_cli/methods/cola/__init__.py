"""COLA, Chain of LoRA (Xia et al. 2024, arXiv 2401.04151)."""

from dora_cli.methods.cola.method import Cola

__all__ = ["Cola"]
