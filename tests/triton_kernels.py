"""Where tests of Triton's kernels run, and how exact they are: on a GPU, or anywhere in Triton's interpreter, which
``TRITON_INTERPRET=1`` asks for.
"""

from __future__ import annotations

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}

BF16 = pytest.param(
    torch.bfloat16, id="bf16", marks=pytest.mark.skipif(INTERPRETED, reason="the interpreter's dot takes no bf16")
)
TYPES = pytest.mark.parametrize(
    "dtype", [pytest.param(torch.float32, id="fp32"), BF16, pytest.param(torch.float16, id="fp16")]
)
