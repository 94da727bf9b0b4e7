"""NoRA, nested LoRA (arXiv 2408.10280): a small LoRA between two frozen factors of the base weight."""

from dora_cli.methods.nora.method import Nora

__all__ = ["Nora"]
