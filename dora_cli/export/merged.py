"""A plain transformers model with the adapters inside its weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dora_cli.data import PairLayout
from dora_cli.errors import ExportError
from dora_cli.evaluation.decoding import generation_config
from dora_cli.evaluation.settings import Decoding
from dora_cli.export.plain import DTYPES, check_finite
from dora_cli.methods import Method
from dora_cli.methods.base import Site
from dora_cli.models.quiet import quiet_loading


@torch.no_grad()
def merge(model: nn.Module, method: Method, changed: Sequence[Site], dtype: str) -> nn.Module:
    """Has `method` merge its update into `model` and casts all of it, in place; returns it.

    Each sum is made in float64 and rounded once, into `dtype`: merging into an already rounded weight would lose what
    is small.

    Args:
        changed: the projections whose weights change.

    Raises:
        ExportError: a weight that is used elsewhere too, or a value that is not finite.
        ModelError: the method's update fits into no base weight.
    """
    owners: dict[nn.Parameter, dict[nn.Module, str]] = defaultdict(dict)
    for path, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners[parameter][module] = path
    for site in changed:
        weight: Any = site.module.weight
        others = [path for module, path in owners[weight].items() if module is not site.module]
        if others:
            raise ExportError(
                f"the weight of {site.name} is also that of {min(others)}, which is not adapted, so merging would "
                "change both; export with --format peft"
            )
    check_finite(model.state_dict(), "the run")
    method.merge(DTYPES[dtype])
    model.to(DTYPES[dtype])
    check_finite(model.state_dict(), dtype)
    return model


def save_merged(model: Any, tokenizer: Any, folder: Path, *, generation: Any | None) -> None:
    """Writes model, config, tokenizer and, for a generator, how it decodes.

    Args:
        generation: the generation config; None for a classifier.
    """
    if generation is not None:
        model.generation_config = generation
    config = model.config
    for part in {
        id(part): part for part in (config, config.get_text_config() if hasattr(config, "get_text_config") else config)
    }.values():
        if hasattr(part, "use_cache"):
            part.use_cache = True  # off for training alone
    with quiet_loading():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def load_merged(folder: Path, auto_class: str, dtype: str, *, trust_remote_code: bool) -> nn.Module:
    """What `save_merged` wrote, as anyone would load it."""
    import transformers

    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    key = "dtype" if version >= (4, 56) else "torch_dtype"
    with quiet_loading():
        found, report = getattr(transformers, auto_class).from_pretrained(
            folder,
            output_loading_info=True,
            local_files_only=True,
            trust_remote_code=trust_remote_code,
            **{key: DTYPES[dtype]},
        )
    missing = sorted({*report["missing_keys"], *report["unexpected_keys"]})
    if missing:
        raise ExportError(
            f"the merged model does not load as a whole: {missing[0]} is not where transformers expects it"
        )
    model: nn.Module = found
    return model


def generation_of(layout: PairLayout, settings: Decoding) -> Any:
    """How the exported generator decodes by itself.

    Transformers' rule against repeated n-grams counts a decoder's prompt too, and would forbid to copy a name out of
    it: it is set for encoder-decoders alone, whose decoder reads no prompt. A second start token (BART's) is forced
    where the caller gives none.
    """
    config = generation_config(layout, settings)
    if layout.encoder_decoder:
        config.no_repeat_ngram_size = settings.no_repeat_ngram
        if len(layout.start) == 2:
            config.forced_bos_token_id = layout.start[1]
    return config
