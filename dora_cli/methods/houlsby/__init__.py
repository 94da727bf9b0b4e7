"""Houlsby et al.'s adapters (2019, arXiv 1902.00751): two bottlenecks per block."""

from dora_cli.methods.houlsby.method import Houlsby

__all__ = ["Houlsby"]
