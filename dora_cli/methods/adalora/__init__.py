"""AdaLoRA, adaptive budget allocation (Zhang et al. 2023, arXiv 2303.10512)."""

from dora_cli.methods.adalora.method import Adalora
from dora_cli.methods.adalora.schedule import AdaloraSchedule

__all__ = ["Adalora", "AdaloraSchedule"]
