"""Pfeiffer et al.'s adapters (2020, arXiv 2005.00247): one bottleneck per block."""

from dora_cli.methods.pfeiffer.method import Pfeiffer

__all__ = ["Pfeiffer"]
