"""DoRA, Dynamic Low-Rank Adaptation (Mao et al. 2024, arXiv 2405.17357)."""

from dora_cli.methods.dora.method import Dora
from dora_cli.methods.dora.schedule import DoraSchedule
from dora_cli.methods.low_rank.arithmetic.kernels import triton_obstacle
from dora_cli.methods.low_rank.layer import AdaptedProjection

__all__ = ["AdaptedProjection", "Dora", "DoraSchedule", "triton_obstacle"]
