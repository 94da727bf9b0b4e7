"""dora: fine-tuning with DoRA, **Dynamic Low-Rank Adaptation** (Mao et al. 2024, arXiv 2405.17357).

Not to be confused with the weight-decomposed DoRA of Liu et al. (PEFT's ``use_dora``), an unrelated method.

The Python API is the commands without the shell::

    from dora_cli import evaluate, load_recipe, train

    result = train(load_recipe("configs/demo/sst2.yaml"), "runs/demo")
    evaluate("runs/demo")["metrics"]

`attach`, `shrink` and `DoraCallback` adapt a model in a training loop of your own or under transformers' Trainer, and
`save_adapter` writes what it learnt; `load_adapter`, `merge` and `to_lora` take what was trained elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dora_cli.version import __version__

if TYPE_CHECKING:
    from dora_cli.assembly.restore import evaluate_saved as evaluate
    from dora_cli.library.adapter import load_adapter, to_lora
    from dora_cli.library.own_loop import attach, shrink
    from dora_cli.library.prediction import predict_saved as predict
    from dora_cli.library.save_adapter import save_adapter
    from dora_cli.library.trainer_callback import DoraCallback
    from dora_cli.methods.attached import merge
    from dora_cli.recipe import Recipe, dump_recipe, load_recipe, parse_recipe
    from dora_cli.training.run import RunResult, train
    from dora_cli.training.seed_runs import train_seeds

_PLACES = {
    "DoraCallback": ("dora_cli.library.trainer_callback", "DoraCallback"),
    "Recipe": ("dora_cli.recipe", "Recipe"),
    "RunResult": ("dora_cli.training.run", "RunResult"),
    "attach": ("dora_cli.library.own_loop", "attach"),
    "dump_recipe": ("dora_cli.recipe", "dump_recipe"),
    "evaluate": ("dora_cli.assembly.restore", "evaluate_saved"),
    "load_adapter": ("dora_cli.library.adapter", "load_adapter"),
    "load_recipe": ("dora_cli.recipe", "load_recipe"),
    "merge": ("dora_cli.methods.attached", "merge"),
    "parse_recipe": ("dora_cli.recipe", "parse_recipe"),
    "predict": ("dora_cli.library.prediction", "predict_saved"),
    "save_adapter": ("dora_cli.library.save_adapter", "save_adapter"),
    "shrink": ("dora_cli.library.own_loop", "shrink"),
    "to_lora": ("dora_cli.library.adapter", "to_lora"),
    "train": ("dora_cli.training.run", "train"),
    "train_seeds": ("dora_cli.training.seed_runs", "train_seeds"),
}

__all__ = [
    "DoraCallback",
    "Recipe",
    "RunResult",
    "__version__",
    "attach",
    "dump_recipe",
    "evaluate",
    "load_adapter",
    "load_recipe",
    "merge",
    "parse_recipe",
    "predict",
    "save_adapter",
    "shrink",
    "to_lora",
    "train",
    "train_seeds",
]


def __getattr__(name: str) -> Any:
    """Imports on first use: ``dora --help`` must not wait for torch."""
    if name not in _PLACES:
        raise AttributeError(f"module 'dora_cli' has no attribute {name!r}")
    from importlib import import_module

    module, attribute = _PLACES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    """The public names, which are not there before they are first used."""
    return sorted(__all__)
