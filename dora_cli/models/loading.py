"""Loading a base model and its tokenizer, whatever its head: what `load_model` and `load_generator` share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from dora_cli.errors import LibraryError, ModelError
from dora_cli.libraries import broken_companion
from dora_cli.models.agreement import fit_tokenizer, set_config
from dora_cli.models.quiet import quiet_loading
from dora_cli.models.source import ModelUnreachableError, Source, find_source
from dora_cli.models.structure.blocks import base_prefix, find_blocks
from dora_cli.models.structure.embeddings import word_embeddings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
T = TypeVar("T")


@dataclass(frozen=True)
class LoadedModel:
    """A base model ready to be adapted.

    Attributes:
        model: with a sequence-classification or language-modelling head, on the CPU, in evaluation mode.
        tokenizer: a fast tokenizer with a pad token, padding on the right.
        fresh: names of the parameters that the checkpoint did not fill; a classification head's, as a rule, and none of
            a generator's.
        commit: the hub commit the files came from; None for folders and built-in models.
        source: ``"hub"``, ``"local"`` or ``"builtin"``.
        decoder_start: the token that the decoder of an encoder-decoder reads before a target; None for all other
            models.
    """

    model: nn.Module
    tokenizer: Any
    fresh: frozenset[str]
    commit: str | None
    source: str
    decoder_start: int | None = None


Choose = Callable[[Source], tuple[Any, Any]]
"""From a found model to the auto class that adds the head, and the config to build with; raises ModelError where there
is no such head.
"""


Fit = Callable[[str, nn.Module, Any], None]
"""Told the name of a model, the model and its tokenizer, which it makes agree; raises ModelError where they cannot."""


def load_checkpoint(
    name: str,
    *,
    revision: str | None,
    dtype: str,
    seed: int,
    trust_remote_code: bool,
    choose: Choose,
    fit: Fit = fit_tokenizer,
) -> LoadedModel:
    """Loads `name` with the head that `choose` chooses; see `load_model` for the arguments and what is raised."""
    if dtype not in DTYPES:
        raise ModelError(f"model.dtype: {dtype!r} is unknown; choose one of {', '.join(DTYPES)}")
    source = replace(find_source(name, revision), trust_remote_code=trust_remote_code)
    with quiet_loading():
        auto_class, config = choose(source)
        tokenizer = _load_tokenizer(source, config)
        model, fresh = _load_weights(source, auto_class, config, DTYPES[dtype], seed)
    fit(name, model, tokenizer)
    set_config(model, "use_cache", False)  # training never continues a sequence; caches would only cost memory
    return LoadedModel(model, tokenizer, fresh, source.commit, source.kind)


def build_from_config(
    name: str, *, revision: str | None, trust_remote_code: bool, choose: Choose, fit: Fit = fit_tokenizer
) -> nn.Module:
    """The model of `load_checkpoint` on the meta device: shapes without weights, and whether its
    tokenizer fits them.
    """
    source = replace(find_source(name, revision), trust_remote_code=trust_remote_code)
    with quiet_loading():
        model, config = _without_weights(source, choose)
        tokenizer = _tokenizer_at_hand(source, config)
    if tokenizer is not None:
        fit(name, model, tokenizer)
    return model


def load_outline(
    name: str,
    *,
    revision: str | None,
    trust_remote_code: bool,
    choose: Choose,
    fit: Fit = fit_tokenizer,
    ask_hub: bool = True,
) -> LoadedModel:
    """The model of `load_checkpoint` on the meta device, with its tokenizer: all that encoding examples takes.

    Args:
        ask_hub: whether what is not at hand is fetched.

    Raises:
        ModelUnreachableError: config or tokenizer of a hub model are not at hand.
        ModelError: as `load_checkpoint`, as far as config and tokenizer can tell.
    """
    source = replace(find_source(name, revision, ask_hub=ask_hub), trust_remote_code=trust_remote_code)
    with quiet_loading():
        model, config = _without_weights(source, choose)
        load = _load_tokenizer if ask_hub or source.kind != "hub" else _tokenizer_at_hand
        tokenizer = load(source, config)
    if tokenizer is None:
        raise ModelUnreachableError(f"model.name: the tokenizer of {name!r} is not in the local cache")
    fit(name, model, tokenizer)
    return LoadedModel(model, tokenizer, frozenset(), source.commit, source.kind)


def _without_weights(source: Source, choose: Choose) -> tuple[nn.Module, Any]:
    """The model on the meta device, and the config it is built from."""
    with _seeded(0), torch.device("meta"):
        auto_class, config = choose(source)
        model: nn.Module = _attempt(
            source,
            "built from its config",
            lambda: auto_class.from_config(config, trust_remote_code=source.trust_remote_code),
        )
    return model, config


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draws on the CPU come from `seed`; the global generators are untouched afterwards (`torch.manual_seed` would seed
    CUDA's too).
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def _origin(source: Source) -> dict[str, Any]:
    """Arguments of every ``from_pretrained``."""
    return {
        "revision": source.commit,
        "local_files_only": source.cached_only or source.kind != "hub",
        "trust_remote_code": source.trust_remote_code,  # never None: the loaders would ask on the terminal
    }


def _attempt(source: Source, what: str, load: Callable[[], T], hint: str = "") -> T:
    """Turns whatever the libraries raise on bad files into one clear error; `--debug` still shows the cause.

    Raises:
        LibraryError: not the files are to blame but a package that transformers imports with the model.
        ModelError: anything else.
    """
    from safetensors import SafetensorError

    try:
        return load()
    except (MemoryError, LibraryError):
        raise
    except SafetensorError as error:
        raise ModelError(
            f"model.name: the weights of {source.name!r} are damaged ({_first_line(error)}); download or build the "
            "model again"
        ) from error
    except Exception as error:
        if "trust_remote_code" in str(error) and not source.trust_remote_code:
            raise ModelError(
                f"model.name: {source.name!r} needs Python code from its own repository, which is not run unasked; "
                "read that code and set model.trust_remote_code: true if you trust it, or choose a model whose "
                "architecture is part of transformers"
            ) from error
        if problem := broken_companion():
            raise LibraryError(problem) from error
        raise ModelError(f"model.name: {source.name!r} cannot be {what}: {_first_line(error)}{hint}") from error


def _first_line(error: BaseException) -> str:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line.rstrip(".: ") if len(line) <= 300 else line[:300] + " ..."


def read_config(source: Source) -> Any:
    """The config of the model; raises ModelError for one that cannot be adapted whatever its head."""
    from transformers import AutoConfig

    config = _attempt(source, "read", lambda: AutoConfig.from_pretrained(source.location, **_origin(source)))
    if getattr(config, "quantization_config", None):
        raise ModelError(
            f"model.name: {source.name!r} holds quantised weights, which cannot be adapted; choose the "
            "unquantised model"
        )
    return config


def brings(source: Source, config: Any, auto_class: str) -> bool:
    """Whether the model comes with code of its own for the class that `auto_class` would load, and that
    code may run.
    """
    own = getattr(config, "auto_map", None)
    return source.trust_remote_code and isinstance(own, dict) and auto_class in own


def _load_weights(
    source: Source, auto_class: Any, config: Any, dtype: torch.dtype, seed: int
) -> tuple[nn.Module, frozenset[str]]:
    import transformers

    version = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    arguments = _origin(source) | {"config": config, ("dtype" if version >= (4, 56) else "torch_dtype"): dtype}
    with _seeded(seed):
        model, report = _attempt(
            source,
            "loaded",
            lambda: auto_class.from_pretrained(
                source.location, output_loading_info=True, ignore_mismatched_sizes=True, **arguments
            ),
        )
    # Transformers 4 reports names alone, 5 also the two shapes.
    mismatched = {(entry if isinstance(entry, str) else entry[0]): entry for entry in report["mismatched_keys"]}
    prefix = base_prefix(model)
    wrong = sorted(key for key in mismatched if not prefix or key.startswith(prefix + "."))
    if wrong:
        entry = mismatched[wrong[0]]
        shapes = (
            ""
            if isinstance(entry, str)
            else (f" is {list(entry[1])} in the checkpoint and {list(entry[2])} by the config")
        )
        raise ModelError(
            f"model.name: the weights of {source.name!r} do not fit the sizes in its config.json: "
            f"{wrong[0]}{shapes}{_and_more(wrong)}; the two must come from the same model"
        )
    fresh = _fresh_parameters(model, {*report["missing_keys"], *mismatched})
    _refuse_missing_base(source, model, fresh)
    return model, fresh


def _fresh_parameters(model: nn.Module, missing: Collection[str]) -> frozenset[str]:
    """The missing keys that are parameters of their own: neither buffers nor tied to a parameter that was loaded."""
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return frozenset(name for aliases in names.values() if aliases <= set(missing) for name in aliases)


def _refuse_missing_base(source: Source, model: nn.Module, fresh: Collection[str]) -> None:
    """A pooler may be fresh; a block or the embeddings may not: such a checkpoint belongs to another architecture or is
    incomplete.
    """
    essential = [block.name + "." for block in find_blocks(model)]
    words = word_embeddings(model)
    essential += [name + "." for name, module in model.named_modules() if module is words]
    missing = sorted(name for name in fresh if name.startswith(tuple(essential)))
    if missing:
        raise ModelError(
            f"model.name: the checkpoint of {source.name!r} lacks weights of the base model: "
            f"{missing[0]}{_and_more(missing)}; its files are incomplete or belong to another architecture than "
            f"{type(model).__name__}"
        )


def _and_more(keys: Sequence[str]) -> str:
    return f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""


def _tokenizer_at_hand(source: Source, config: Any) -> Any:
    """The tokenizer, if its file lies in the folder or the cache: a config alone will do for a look, and nothing is
    fetched.
    """
    from huggingface_hub import try_to_load_from_cache

    if source.kind == "hub":
        there = isinstance(try_to_load_from_cache(source.location, "tokenizer.json", revision=source.commit), str)
    else:
        there = (Path(source.location) / "tokenizer.json").is_file()
    return _load_tokenizer(replace(source, cached_only=True), config) if there else None


def _load_tokenizer(source: Source, config: Any) -> Any:
    """The tokenizer; which class it has depends on the model's `config`, which is not read a second time."""
    from transformers import AutoTokenizer

    tokenizer = _attempt(
        source,
        "used: its tokenizer does not load",
        lambda: AutoTokenizer.from_pretrained(source.location, config=config, use_fast=True, **_origin(source)),
        hint="; the folder must hold the tokenizer's files (tokenizer.json), as written by tokenizer.save_pretrained",
    )
    if not getattr(tokenizer, "is_fast", False):
        raise ModelError(
            f"model.name: {source.name!r} has only a slow tokenizer ({type(tokenizer).__name__}); a fast one "
            "(tokenizer.json) is needed"
        )
    # Without vocabulary files some tokenizers come up empty (T5's with the space alone) instead of failing: every word
    # would be unknown.
    if len(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids)) < 2:
        raise ModelError(
            f"model.name: {source.name!r} has no tokenizer vocabulary; the folder must hold the tokenizer's files "
            "(tokenizer.json), as written by tokenizer.save_pretrained"
        )
    return tokenizer
