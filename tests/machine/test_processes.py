"""What one process decides for all."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from dora_cli.machine.processes import take_those_of_main


def test_every_process_has_what_the_first_one_sends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Strided views, too, of which only contiguous copies can be sent."""
    sent = iter([torch.full((2, 3), 7.0), torch.arange(3.0)])

    def broadcast(tensor: torch.Tensor, source: int) -> None:
        assert tensor.is_contiguous()
        assert source == 0
        tensor.copy_(next(sent))

    monkeypatch.setattr(torch.distributed, "broadcast", broadcast)
    rows, frozen = torch.zeros(3, 2), torch.nn.Parameter(torch.zeros(3))
    take_those_of_main(SimpleNamespace(num_processes=2), [rows.T, frozen])
    assert rows.tolist() == [[7.0, 7.0]] * 3
    assert frozen.tolist() == [0.0, 1.0, 2.0]


def test_one_process_alone_talks_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "broadcast", None)
    take_those_of_main(SimpleNamespace(num_processes=1), [torch.zeros(2)])
