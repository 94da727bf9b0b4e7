"""SoRA, Sparse Low-rank Adaptation (Ding et al. 2023, arXiv 2311.11696)."""

from dora_cli.methods.sora.method import Sora
from dora_cli.methods.sora.schedule import SoraSchedule

__all__ = ["Sora", "SoraSchedule"]
