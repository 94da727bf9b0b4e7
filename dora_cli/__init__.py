"""dora: fine-tuning with DoRA, **Dynamic Low-Rank Adaptation** (Mao et al. 2024, arXiv 2405.17357).

Not to be confused with the weight-decomposed DoRA of Liu et al. (PEFT's ``use_dora``), an unrelated method.
"""

from __future__ import annotations

__version__ = "0.1.0"
