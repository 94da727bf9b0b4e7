"""Jacobi's method against PyTorch's `eigh`, in plain operations and in Triton."""

from __future__ import annotations

import os

import pytest
import torch

from dora_cli.methods.low_rank.gradients.eigen import eigen
from dora_cli.methods.low_rank.gradients.jacobi import Eigen, jacobi

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"


def hard(rank: int, width: int = 70) -> torch.Tensor:
    """Gram matrices of factors of full rank, of lengths that differ by 1e8, of equal rows, of one row in all, of equal
    lengths, and of zeros.
    """
    generator = torch.Generator().manual_seed(rank)
    plain = torch.randn(rank, width, generator=generator, dtype=torch.float64)
    lengths = torch.logspace(0, -8, rank, dtype=torch.float64)[:, None]
    twice = torch.cat([plain[: rank - rank // 2], plain[: rank // 2]])
    factors = [plain, plain * lengths, twice, torch.ones_like(plain), torch.eye(rank, width).double(), 0 * plain]
    return torch.stack([factor @ factor.T for factor in factors])


def holds(grams: torch.Tensor, found: Eigen) -> None:
    """Vectors are orthonormal, give the matrices back, and the values are those of `eigh`."""
    values, vectors = (tensor.cpu() for tensor in found)
    assert values.dtype == vectors.dtype == torch.float64
    largest = grams.abs().amax((1, 2)) + 1e-300
    whole = (vectors * values[:, None]) @ vectors.mT
    assert float(((whole - grams).abs().amax((1, 2)) / largest).max()) < 1e-13
    identity = torch.eye(grams.shape[1], dtype=torch.float64)
    assert float((vectors.mT @ vectors - identity).abs().max()) < 1e-13
    expected = torch.linalg.eigvalsh(grams)
    assert float(((values.sort(1).values - expected).abs().amax(1) / largest).max()) < 1e-13


@pytest.mark.parametrize("rank", [1, 2, 3, 5, 12])
def test_plain(rank: int) -> None:
    holds(hard(rank), jacobi(hard(rank)))
    holds(hard(rank), eigen(hard(rank)))


@pytest.mark.parametrize("decompose", [jacobi, eigen])
def test_what_is_not_finite_raises_nothing(decompose) -> None:  # type: ignore[no-untyped-def]
    grams = hard(3)
    grams[0, 1, 1] = torch.nan
    values, _ = decompose(grams)
    assert not values.isfinite().all()


@pytest.mark.skipif(not INTERPRETED and not torch.cuda.is_available(), reason="needs a GPU or the interpreter")
@pytest.mark.parametrize("rank", [1, 3] if INTERPRETED else [1, 2, 3, 8, 12, 16, 33, 64])
def test_triton(rank: int) -> None:
    pytest.importorskip("triton")
    from dora_cli.methods.low_rank.gradients import triton_jacobi

    holds(hard(rank), triton_jacobi.jacobi(hard(rank).to(DEVICE)))


@pytest.mark.gpu
@pytest.mark.parametrize("rank", [12, 65])
def test_on_a_gpu(rank: int) -> None:
    holds(hard(rank), eigen(hard(rank).cuda()))
    holds(hard(rank), jacobi(hard(rank).cuda()))
