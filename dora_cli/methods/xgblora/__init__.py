"""XGBLoRA, eXtreme Gradient Boosting LoRA (Zhang et al. 2024, arXiv 2410.19694)."""

from dora_cli.methods.xgblora.method import Xgblora
from dora_cli.methods.xgblora.schedule import BoostingSchedule

__all__ = ["BoostingSchedule", "Xgblora"]
