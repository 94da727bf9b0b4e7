"""Plain LoRA as PEFT reads it: ``adapter_model.safetensors`` and ``adapter_config.json``.

PEFT itself is not needed to write it. Scales and gates are inside the factors, so that the scale a reader applies is
exactly 1, or (in the layout ``constant-alpha``) one that the factors are made for.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from dora_cli.errors import ExportError
from dora_cli.export.factors import Factors, largest_rank
from dora_cli.methods.base import Method
from dora_cli.methods.linear import is_transposed
from dora_cli.models.structure.blocks import base_prefix

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."
_CLASSIFIERS = ("classifier", "score")
"""What PEFT adds to ``modules_to_save`` of every classifier by itself."""
_INNER = (
    "lora_A",
    "lora_B",
    "lora_dropout",
    "lora_embedding_A",
    "lora_embedding_B",
    "lora_magnitude_vector",
    "base_layer",
    "default",
)
"""What PEFT's layer names its own parts, among which it looks for modules to save, too."""
_MIXED_TYPES = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")
_MIXED_REFUSED = ("conv1d", "out_proj")
"""What PEFT takes no LoRA on in models of these types: fused kernels read the weights past the module."""
_MERGED = "export it with --format merged instead"


def no_lora(method: Method) -> ExportError:
    """What is wrong where the update of `method` is no product of two factors."""
    if method.cannot_merge:
        return ExportError(
            f"the method {method.name} {method.cannot_merge}: it is no plain LoRA, which PEFT would load, and there is "
            "no merged model; load the run's adapter folder with dora_cli.load_adapter"
        )
    return ExportError(f"the update of method {method.name} is no plain LoRA, which PEFT would load; {_MERGED}")


def head_modules(model: nn.Module, head: Iterable[str]) -> list[str]:
    """The modules that hold the head's parameters: children of the model outside its base, and owners of fresh
    parameters within it.

    Args:
        model: the plain model.
        head: full names of the head's parameters.

    Raises:
        ExportError: a parameter that belongs to no module.
    """
    prefix = base_prefix(model)
    found: dict[str, None] = {}
    for name in head:
        owner = name.rpartition(".")[0]
        if not owner:
            raise ExportError(
                f"the head's parameter {name} belongs to the model itself, and PEFT saves whole modules; {_MERGED}"
            )
        inside = not prefix or name.startswith(prefix + ".")
        found[owner if inside else owner.partition(".")[0]] = None
    return [name for name in found if not any(name.startswith(other + ".") for other in found)]


def adapter_config(
    model: nn.Module,
    factors: Factors,
    modules_to_save: Sequence[str],
    *,
    task_type: str | None,
    base: str | None,
    revision: str | None,
    dropout: float,
    layout: str = "patterns",
) -> dict[str, Any]:
    """What ``adapter_config.json`` holds.

    The highest rank is the general one, with a scale of 1, so that a reader who knows no patterns reserves enough;
    every other rank has its pattern. Patterns are regular expressions that PEFT matches at the end of a name; targets
    are plain names.

    Args:
        model: the plain model, in which the names of `factors` are looked up.
        task_type: PEFT's word for the kind of model; None for none of its own.
        base: hub id or folder of the base model; None if it is not known.
        dropout: on the adapters' input, for whoever trains on.
        layout: one of `dora_cli.export.factors.LAYOUTS`, in which `factors` are.

    Raises:
        ExportError: nothing is left to adapt, PEFT refuses a projection, or it could not tell the modules apart by
            their names.
    """
    if not factors:
        raise ExportError(f"no projection has a component left, and PEFT loads no adapter without one; {_MERGED}")
    kind = getattr(getattr(model, "config", None), "model_type", None)
    refused = [name for name in factors if kind in _MIXED_TYPES and name.rpartition(".")[2] in _MIXED_REFUSED]
    if refused:
        more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
        raise ExportError(f"PEFT takes no adapter on {refused[0]}{more} of a model of the type {kind}; {_MERGED}")
    modules = dict(model.named_modules(remove_duplicate=False))
    _check_names(
        modules, list(factors), [*modules_to_save, *(_CLASSIFIERS if task_type == "SEQ_CLS" else ())], modules_to_save
    )
    highest = largest_rank(factors)
    patterns = {re.escape(name): one.rank for name, one in factors.items() if one.rank != highest}
    return {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base,
        "revision": revision,
        "inference_mode": True,
        "r": highest,
        "lora_alpha": highest,
        "rank_pattern": patterns,
        "alpha_pattern": {} if layout == "constant-alpha" else dict(patterns),
        "target_modules": list(factors),
        "modules_to_save": list(modules_to_save) or None,
        "fan_in_fan_out": any(is_transposed(modules[name]) for name in factors),
        "lora_dropout": dropout,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,  # the weight-decomposed method of that name
    }


def _check_names(
    modules: Mapping[str, nn.Module], targets: Sequence[str], saved: Sequence[str], ours: Sequence[str]
) -> None:
    """PEFT finds targets by the end of their dotted name and modules to save by the end of their name; both must find
    ours alone.
    """
    names = Counter(id(module) for module in modules.values())
    wanted = set(targets)
    for name in targets:
        if names[id(modules[name])] > 1:
            other = next(path for path, module in modules.items() if module is modules[name] and path != name)
            raise ExportError(
                f"projection {name} is also used as {other}, and PEFT would adapt it in one place only; {_MERGED}"
            )
        if any(re.match(rf"(^|.*\.){module}($|\..*)", name) for module in saved):
            raise ExportError(f"projection {name} looks like a part of the head to PEFT, by its name; {_MERGED}")
    for path in (*modules, *_INNER):
        if path not in wanted and any(path.endswith("." + name) for name in wanted):
            raise ExportError(f"PEFT would also adapt {path}, whose name ends like an adapted projection's; {_MERGED}")
        inside = any(path == module or path.startswith(module + ".") for module in ours)
        if not inside and any(path.endswith(module) for module in saved):
            raise ExportError(f"PEFT would also replace {path}, whose name ends like that of the head; {_MERGED}")


def adapter_tensors(
    model: nn.Module, factors: Factors, modules_to_save: Sequence[str], dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """What ``adapter_model.safetensors`` holds, by PEFT's names, on the CPU."""
    tensors = {}
    for name, one in factors.items():
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = one.A.to(dtype)
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = one.B.to(dtype)
    for module in modules_to_save:
        # Buffers too: PEFT asks for the whole state of a module.
        for key, tensor in model.get_submodule(module).state_dict().items():
            kept = tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None, copy=True)
            tensors[f"{_PREFIX}{module}.{key}"] = kept.contiguous()
    return tensors


def factors_in(
    tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """``A`` and ``B`` of every projection as they stand in the file, in fp32, the scale that `config` asks for inside
    ``B``.
    """
    found = {}
    for name in config["target_modules"]:
        pattern = re.escape(name)
        alpha = config["alpha_pattern"].get(pattern, config["lora_alpha"])
        scale = alpha / config["rank_pattern"].get(pattern, config["r"])
        A, B = (tensors[f"{_PREFIX}{name}.lora_{factor}.weight"].float() for factor in "AB")
        found[name] = A, scale * B
    return found


def head_in(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The head as it stands in the file, by the model's own names."""
    adapters = (".lora_A.weight", ".lora_B.weight")
    return {name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items() if not name.endswith(adapters)}
