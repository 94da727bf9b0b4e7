"""BitFit (Ben Zaken et al. 2022, arXiv 2106.10199): the biases train and nothing else of the base."""

from dora_cli.methods.bitfit.method import BitFit

__all__ = ["BitFit"]
