from __future__ import annotations

import pytest
import torch
from torch import nn

from dora_cli.assembly.build import base_from_config, check_references, make_method
from dora_cli.assembly.origin import sites_of
from dora_cli.assembly.references import weights_at
from dora_cli.assembly.resolve import resolve
from dora_cli.errors import ModelError
from dora_cli.recipe import parse_recipe
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


def test_all_that_do_not_fit_are_said_at_once_before_a_weight_is_loaded() -> None:
    """Another architecture, none at all, and one that fits."""
    names = ["builtin:tiny-decoder", "builtin:tiny-nothing", "builtin:tiny-encoder"]
    recipe, task = resolve(
        parse_recipe(
            "task: glue/sst2\nmodel: {name: builtin:tiny-encoder}\ndata: {source: builtin}\n"
            f"method: {{name: cora, models: {names}}}\n"
        )
    )
    method, model = make_method(recipe), base_from_config(recipe, task)
    with pytest.raises(ModelError) as refusal:
        check_references(recipe, task, method, sites_of(model, recipe.method, method))
    first, second = str(refusal.value).splitlines()
    assert "builtin:tiny-decoder" in first
    assert second.startswith("the reference model 'builtin:tiny-nothing': no built-in model")
