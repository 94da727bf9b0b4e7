"""What a run is: the typed recipe, read from YAML and from ``--set``, checked as a whole, written back resolved."""

from __future__ import annotations

from dora_cli.recipe.federated import FederatedSection
from dora_cli.recipe.load import load_recipe, parse_recipe
from dora_cli.recipe.methods.dora import DoraMethod
from dora_cli.recipe.methods.head import HeadMethod
from dora_cli.recipe.methods.lora import LoraMethod
from dora_cli.recipe.overrides import check_listed
from dora_cli.recipe.schema import (
    DataSection,
    DecodeSection,
    EvalSection,
    ModelSection,
    Recipe,
    SaveSection,
    TrainSection,
)
from dora_cli.recipe.writing.dump import dump_recipe

__all__ = [
    "DataSection",
    "DecodeSection",
    "DoraMethod",
    "EvalSection",
    "FederatedSection",
    "HeadMethod",
    "LoraMethod",
    "ModelSection",
    "Recipe",
    "SaveSection",
    "TrainSection",
    "check_listed",
    "dump_recipe",
    "load_recipe",
    "parse_recipe",
]
