"""Rows and stacks of components."""

from __future__ import annotations

import pytest
import torch

from dora_cli.methods.low_rank.layout import Layout


@pytest.mark.parametrize("ranks", [(2, 2, 2), (1, 3, 2), (4,), (3, 0, 1)])
@pytest.mark.parametrize("rest", [(), (5,)])
def test_a_stack_has_every_row_in_its_place_and_zeros_elsewhere(ranks: tuple[int, ...], rest: tuple[int, ...]) -> None:
    layout = Layout(ranks, torch.device("cpu"))
    rows = torch.rand(sum(ranks), *rest) + 1
    stacked = layout.stacked(rows)
    assert stacked.shape == (len(ranks), max(ranks), *rest)
    first = 0
    for own, rank in zip(stacked, ranks, strict=True):
        assert torch.equal(own[:rank], rows[first : first + rank])
        assert not own[rank:].any()
        first += rank
    assert torch.equal(layout.rows(stacked), rows)


@pytest.mark.parametrize("ranks", [(2, 2), (1, 3, 2), (3, 0, 1)])
def test_two_in_one_stack(ranks: tuple[int, ...]) -> None:
    layout = Layout(ranks, torch.device("cpu"))
    one, other = torch.rand(sum(ranks), 5), torch.rand(sum(ranks), 5)
    assert torch.equal(layout.stacked(one, other), torch.cat([layout.stacked(one), layout.stacked(other)], 1))
