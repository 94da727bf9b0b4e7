"""Base models: loading with the right head, the built-in ones, and finding what a method can adapt."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dora_cli.models.catalogue import model_catalogue
    from dora_cli.models.classifier import ClassifierHead, config_model, load_model
    from dora_cli.models.generator import GeneratorHead, config_generator, load_generator
    from dora_cli.models.head import Head, head_parameters
    from dora_cli.models.loading import LoadedModel
    from dora_cli.models.source import ModelUnreachableError, builtin_names
    from dora_cli.models.structure.embeddings import max_positions, vocabulary_rows
    from dora_cli.models.structure.projections import find_projections, left_out

_PLACES = {
    "ClassifierHead": "classifier",
    "GeneratorHead": "generator",
    "Head": "head",
    "LoadedModel": "loading",
    "ModelUnreachableError": "source",
    "builtin_names": "source",
    "config_generator": "generator",
    "config_model": "classifier",
    "find_projections": "structure.projections",
    "head_parameters": "head",
    "left_out": "structure.projections",
    "load_generator": "generator",
    "load_model": "classifier",
    "max_positions": "structure.embeddings",
    "model_catalogue": "catalogue",
    "vocabulary_rows": "structure.embeddings",
}

__all__ = [
    "ClassifierHead",
    "GeneratorHead",
    "Head",
    "LoadedModel",
    "ModelUnreachableError",
    "builtin_names",
    "config_generator",
    "config_model",
    "find_projections",
    "head_parameters",
    "left_out",
    "load_generator",
    "load_model",
    "max_positions",
    "model_catalogue",
    "vocabulary_rows",
]


def __getattr__(name: str) -> Any:
    """Imports on first use: ``dora models`` only lists, and must not wait for torch."""
    if name not in _PLACES:
        raise AttributeError(f"module 'dora_cli.models' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"dora_cli.models.{_PLACES[name]}"), name)
