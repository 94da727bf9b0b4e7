"""What was trained, on a model that the user has loaded: from a run, or from what `save_adapter` wrote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from dora_cli.assembly.adapter import AdapterSource, load_onto
from dora_cli.assembly.build import load_base
from dora_cli.assembly.origin import RECORD
from dora_cli.assembly.resolve import resolve
from dora_cli.assembly.restore import SavedRun, hint_where, read_recipe
from dora_cli.methods import Method
from dora_cli.methods.attached import lora_of, plain_factors
from dora_cli.methods.base import LoraFactors
from dora_cli.recipe import load_recipe
from dora_cli.runs.run_folder import RunRecords


def load_adapter(path: str | Path, model: nn.Module, *, allow_unfrozen: bool = False) -> Method:
    """Puts the adapters and the head of a run, or those that `save_adapter` wrote, on `model`, in place.

    Afterwards the adapters and the head may train and the rest is frozen; the model stays in the mode and on the device
    it was. Adapters are fp32 and convert by themselves; a head takes the model's own type.

    Args:
        path: run folder (its selected adapter), or one checkpoint of it; or a folder that `save_adapter` wrote.
        model: the base model of the run with the head for its task, such as
            ``AutoModelForSequenceClassification.from_pretrained(NAME, num_labels=2)``, in the type of the run's
            ``model.dtype``. What is in its head does not matter. A decoder's classification also needs the
            ``pad_token_id`` of the tokenizer in its config.
        allow_unfrozen: take weights from before the freeze too, with all their components.

    Returns:
        The method: `folded`, `to_lora`, `allocation` and so on. `dora_cli.merge` makes the model plain.

    Raises:
        CheckpointError: the run is damaged or its ranks are not final, or `model` does not fit it; names the first
            difference. The model is then as it was.
        ModelError: the model carries an adapter already, or is quantised.
    """
    path = Path(path)
    if (path / RECORD).is_file():
        return load_onto(AdapterSource.saved(path), model, allow_unfrozen=allow_unfrozen)
    run = SavedRun.at(path, flag="")
    recipe, _ = resolve(load_recipe(RunRecords(run.folder).recipe))
    return load_onto(AdapterSource.run(run, recipe), model, allow_unfrozen=allow_unfrozen)


def to_lora(
    model_or_path: nn.Module | str | Path, *, overrides: Sequence[str] = (), allow_unfrozen: bool = False
) -> dict[str, LoraFactors]:
    """Plain LoRA factors by the full name of their projection: ``B @ A`` is the update of its weight, scale 1, fp32 on
    the CPU.

    Projections without components are left out.

    Args:
        model_or_path: a model that `attach` or `load_adapter` adapted; or a run folder or one checkpoint of it, whose
            base model is then loaded.
        overrides: of a path: ``key=value`` changes, such as where the base model is.
        allow_unfrozen: of a path: take weights from before the freeze too.

    Raises:
        ModelError: the model carries no adapter, or the base model cannot be loaded.
        CheckpointError: the run is damaged or its ranks are not final.
    """
    if isinstance(model_or_path, nn.Module):
        return lora_of(model_or_path)
    run = SavedRun.at(Path(model_or_path), flag="")
    recipe, task = resolve(read_recipe(run, overrides))
    with hint_where(run, recipe):
        base = load_base(recipe, task)
    return plain_factors(load_onto(AdapterSource.run(run, recipe), base.model, allow_unfrozen=allow_unfrozen))
