"""MELoRA, Mini-Ensemble Low-Rank Adapters (Ren et al. 2024, arXiv 2402.17263)."""

from dora_cli.methods.melora.method import Melora

__all__ = ["Melora"]
