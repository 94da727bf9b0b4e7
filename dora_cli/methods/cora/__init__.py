"""CoRA, low-rank adaptation in a common subspace (Xiao et al. 2024, arXiv 2409.02119)."""

from dora_cli.methods.cora.method import Cora

__all__ = ["Cora"]
