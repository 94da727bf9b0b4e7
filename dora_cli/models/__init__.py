"""Base models: loading with the right head, the built-in ones, and finding what a method can adapt."""

from __future__ import annotations

from dora_cli.models.catalogue import model_catalogue
from dora_cli.models.classifier import config_model, load_model
from dora_cli.models.generator import config_generator, load_generator
from dora_cli.models.head import head_parameters
from dora_cli.models.loading import LoadedModel
from dora_cli.models.projections import Projection, find_projections
from dora_cli.models.source import ModelUnreachableError, builtin_names
from dora_cli.models.suitability import kind_if_suitable
from dora_cli.models.tables import max_positions, vocabulary_rows

__all__ = [
    "LoadedModel",
    "ModelUnreachableError",
    "Projection",
    "builtin_names",
    "config_generator",
    "config_model",
    "find_projections",
    "head_parameters",
    "kind_if_suitable",
    "load_generator",
    "load_model",
    "max_positions",
    "model_catalogue",
    "vocabulary_rows",
]
