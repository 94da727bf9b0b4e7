"""AdaLoRA, adaptive budget allocation (Zhang et al. 2023, arXiv 2303.10512)."""

from dora_cli.methods.adalora.method import AdaLora
from dora_cli.methods.adalora.schedule import AdaLoraSchedule

__all__ = ["AdaLora", "AdaLoraSchedule"]
