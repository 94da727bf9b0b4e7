"""The kernels of short texts against plain tensor operations with the same masks: on a GPU, or anywhere in Triton's
interpreter.
"""

from __future__ import annotations

import pytest
import torch

from dora_cli.models.short_attention.operators import Drawn, Given
from tests.models.short_attention.plain import PlainAttention
from tests.triton_kernels import DEVICE, INTERPRETED, TOLERANCE, TYPES

if not INTERPRETED:
    pytestmark = pytest.mark.gpu


def mask_of(kind: str, texts: int, length: int) -> torch.Tensor | None:
    if kind == "none":
        return None
    generator = torch.Generator().manual_seed(length)
    if kind == "keys":
        lengths = torch.randint(1, length + 1, (texts, 1, 1, 1), generator=generator)
        return (torch.arange(length) < lengths).to(DEVICE).expand(texts, 1, length, length)
    seen = torch.rand(texts, 1, length, length, generator=generator) > 0.5
    seen[0, 0, 0] = False  # a query that sees nothing
    return seen.to(DEVICE)


@TYPES
@pytest.mark.parametrize("mask", ["none", "keys", "pairs"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(2, 3, 5, 8), (1, 2, 64, 32), (2, 2, 70, 64), (1, 1, 128, 24)])
def test_outputs_and_gradients(shape: tuple[int, int, int, int], dropout: float, mask: str, dtype: torch.dtype) -> None:
    """Queries, keys and values beside each other in memory, as projections that are computed as one write them."""
    pytest.importorskip("triton")
    from dora_cli.models.short_attention.triton_kernels import TritonAttention

    texts, heads, length, width = shape
    generator = torch.Generator().manual_seed(sum(shape))
    memory = torch.randn(texts, length, 3, heads, width, generator=generator).to(DEVICE, dtype)
    gradient = torch.randn(texts, length, heads, width, generator=generator).to(DEVICE, dtype)
    parts = [memory[:, :, place].transpose(1, 2) for place in range(3)]
    drawn = Drawn(torch.tensor(123456789012345, device=DEVICE), 3, dropout)
    given = Given(*parts, mask_of(mask, texts, length), drawn, width**-0.5)
    ours, plain, exact = TritonAttention(), PlainAttention(), Given(*(part.double() for part in parts), *given[3:])
    found, wanted = torch.empty_like(memory), torch.empty_like(memory, dtype=torch.float64)
    ours.backward(gradient, given, found.unbind(2))
    plain.backward(gradient.double(), exact, wanted.unbind(2))
    apart = [torch.empty_like(gradient) for _ in range(3)]
    ours.backward(gradient, given, apart)
    assert torch.equal(torch.stack(apart, 2), found)
    outputs = ours.forward(given), plain.forward(exact)
    for one, other in (outputs, *zip(found.unbind(2), wanted.unbind(2), strict=True)):
        assert one.dtype == dtype
        assert float((one.double() - other).abs().max()) < TOLERANCE[dtype] * float(other.abs().max())


def test_tensors_with_gaps_are_read_too() -> None:
    pytest.importorskip("triton")
    from dora_cli.models.short_attention.triton_kernels import TritonAttention

    apart = torch.randn(1, 2, 6, 16, 2, generator=torch.Generator().manual_seed(0)).to(DEVICE)[..., 0]
    given = None, Drawn(torch.tensor(1, device=DEVICE), 1, 0.0), 0.25
    ours = TritonAttention()
    expected = ours.forward(Given(*[apart.contiguous()] * 3, *given))
    assert torch.equal(ours.forward(Given(*[apart] * 3, *given)), expected)
