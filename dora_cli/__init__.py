"""dora: fine-tuning with DoRA, **Dynamic Low-Rank Adaptation** (Mao et al. 2024, arXiv 2405.17357).

Not to be confused with the weight-decomposed DoRA of Liu et al. (PEFT's ``use_dora``), an unrelated method.

The Python API is the commands without the shell::

    from dora_cli import evaluate, load_recipe, train

    result = train(load_recipe("configs/demo/sst2.yaml"), "runs/demo")
    evaluate("runs/demo")["metrics"]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dora_cli.evaluation.saved import evaluate_saved as evaluate
    from dora_cli.recipe import Recipe, dump_recipe, load_recipe, parse_recipe
    from dora_cli.training.run import RunResult, train
    from dora_cli.training.seed_runs import train_seeds

__version__ = "0.1.0"

_PLACES = {
    "Recipe": ("dora_cli.recipe", "Recipe"),
    "RunResult": ("dora_cli.training.run", "RunResult"),
    "dump_recipe": ("dora_cli.recipe", "dump_recipe"),
    "evaluate": ("dora_cli.evaluation.saved", "evaluate_saved"),
    "load_recipe": ("dora_cli.recipe", "load_recipe"),
    "parse_recipe": ("dora_cli.recipe", "parse_recipe"),
    "train": ("dora_cli.training.run", "train"),
    "train_seeds": ("dora_cli.training.seed_runs", "train_seeds"),
}

__all__ = ["Recipe", "RunResult", "__version__", "dump_recipe", "evaluate", "load_recipe", "parse_recipe", "train", "train_seeds"]


def __getattr__(name: str) -> Any:
    """Imports on first use: ``dora --help`` must not wait for torch."""
    if name not in _PLACES:
        raise AttributeError(f"module 'dora_cli' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _PLACES[name]
    return getattr(import_module(module), attribute)
