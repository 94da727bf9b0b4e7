from __future__ import annotations

import pytest
import torch
from torch import nn

from dora_cli.assembly.references import weights_at
from dora_cli.errors import ModelError
from tests.methods.small import SmallEncoder, linear_maps, sites, small_encoder


def test_weights_come_by_site_in_mathematical_order() -> None:
    base, other = small_encoder(), small_encoder(seed=1)
    places = sites(linear_maps(base, "blocks"))
    found = weights_at(places, other, "other")
    assert list(found) == [site.name for site in places]
    assert torch.equal(found["blocks.0.att"], other.blocks[0].att.weight)
    assert torch.equal(found["blocks.1.up"], other.blocks[1].up.weight.T)  # a Conv1D
    assert not any(weight.requires_grad for weight in found.values())


@pytest.mark.parametrize(("other", "named"), [(SmallEncoder(blocks=1), "blocks.1.att"), (SmallEncoder(h=20), "20")])
def test_a_model_of_another_architecture_is_refused_by_its_first_difference(other: nn.Module, named: str) -> None:
    with pytest.raises(ModelError) as refusal:
        weights_at(sites(linear_maps(small_encoder(), "blocks")), other, "some/model")
    assert named in str(refusal.value)
    assert "some/model" in str(refusal.value)
