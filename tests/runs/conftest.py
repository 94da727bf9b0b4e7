"""Runs of the small random encoder, as the tests of training have them."""

from __future__ import annotations

from tests.training.conftest import make_recipe, tiny_model

__all__ = ["make_recipe", "tiny_model"]
