"""Where a base model comes from: built in, a local folder, or the model hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dora_cli.errors import ModelError
from dora_cli.files import at_home, check_regular, parse_json, read_bytes
from dora_cli.hub import ask
from dora_cli.printable import is_plain, shown

BUILTIN_PREFIX = "builtin:"
_BUILTIN = Path(__file__).parent / "builtin"
_WEIGHTS = {".safetensors", ".bin"}
_READ = {".json", ".txt", ".model", ".jinja", ".py", ".tiktoken", *_WEIGHTS}
"""Endings of what transformers reads from a model's folder."""
_SETTINGS = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
_SUSPICIOUS = re.compile(
    rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xa8-\xae]|\xe2\x81[\xa6-\xa9]|\\(?:[bfnr]|u(?:00|20|d))",
    re.I,
)
_MOST_TEXT = 1 << 28  # bytes; the largest tokenizers have some tens of millions
_HUB_NAME = re.compile(r"\w(?:[\w.-]*\w)?(?:/\w(?:[\w.-]*\w)?)?", re.ASCII)


class ModelUnreachableError(ModelError):
    """A hub model that is neither in the local cache nor within reach of the network."""


@dataclass(frozen=True)
class Source:
    """A found base model.

    Attributes:
        name: as it stands in the recipe.
        kind: ``"builtin"``, ``"local"`` or ``"hub"``.
        location: what the loaders take: a folder or a hub id.
        commit: the hub commit, so that every file comes from one state of the repository; None for folders.
        cached_only: True if the hub cannot be asked and only its local cache may be read.
        trust_remote_code: whether Python code that comes with the model may run.
    """

    name: str
    kind: str
    location: str
    commit: str | None = None
    cached_only: bool = False
    trust_remote_code: bool = False


def builtin_names() -> list[str]:
    """The models shipped with the package, as ``builtin:NAME``."""
    return sorted(BUILTIN_PREFIX + config.parent.name for config in _BUILTIN.glob("*/config.json"))


def find_source(name: str, revision: str | None = None, *, ask_hub: bool = True) -> Source:
    """Finds the model called `name`.

    Args:
        name: ``builtin:NAME``, a folder, or a hub id such as ``FacebookAI/roberta-base``.
        revision: branch, tag or commit of a hub model.
        ask_hub: whether a hub model is asked for over the network; otherwise the local cache alone is looked at.

    Raises:
        ModelUnreachableError: a hub model without a network and not in the cache.
        ModelError: anything else that cannot be found.
    """
    if not name.strip():
        raise ModelError(
            "model.name is empty; give a built-in model, a local folder or a hub id such as FacebookAI/roberta-base"
        )
    if name.startswith(BUILTIN_PREFIX):
        folder, kind = _BUILTIN / name.removeprefix(BUILTIN_PREFIX), "builtin"
        if name not in builtin_names():
            raise ModelError(
                f"model.name: no built-in model {name!r}; there are: {', '.join(builtin_names()) or 'none'}"
            )
    else:
        folder, kind = at_home(name), "local"
        if not folder.is_dir():
            return _find_on_hub(name, revision, folder, ask_hub)
    if revision is not None:
        raise ModelError(
            f"model.revision: {revision!r} is given but {name!r} is a folder and has no revisions; set it to null"
        )
    if not (folder / "config.json").is_file():
        hint = (
            (" (it holds a PEFT adapter: name its base model instead)")
            if (folder / "adapter_config.json").is_file()
            else ""
        )
        raise ModelError(
            f"model.name: the folder {name!r} has no config.json{hint}; it must be a model saved with save_pretrained"
        )
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"model.name: the folder {name!r} holds a PEFT adapter (adapter_config.json); merge it or "
            "name its base model"
        )
    if kind == "local":
        _check_files(folder)
    return Source(name, kind, str(folder))


def check_reach(name: str, revision: str | None = None) -> None:
    """Raises what `find_source` would, and asks the hub for a model of which the cache holds nothing alone."""
    try:
        find_source(name, revision, ask_hub=False)
    except ModelUnreachableError:
        find_source(name, revision)


@contextmanager
def of_reference(name: str) -> Iterator[None]:
    """Says of what is wrong with the model `name` that it is no recipe's own base model."""
    try:
        yield
    except ModelError as error:
        if str(error).startswith("model.name: "):
            said = f"the reference model {name!r}: {str(error).removeprefix('model.name: ')}"
            raise type(error)(said) from error
        raise


def _check_files(folder: Path) -> None:
    """Refuses what transformers, which opens files by their names, would wait for or read without end."""
    try:
        for path in sorted(folder.iterdir()):
            if not path.is_dir() and path.suffix in _READ:
                check_regular(path, None if path.suffix in _WEIGHTS else _MOST_TEXT)
            if path.name in _SETTINGS and (key := _unfit_key(path)) is not None:
                raise ModelError(
                    f"model.name: {path} has a key {shown(key, 60)} that is no name; download or build the model again"
                )
    except OSError as error:
        where = error.filename or folder
        raise ModelError(
            f"model.name: {where} cannot be read: {error.strerror or error}; download or build the model again"
        ) from None


def _unfit_key(path: Path) -> str | None:
    """A key that a terminal would obey: the tokenizers library prints those it does not know as they are."""
    content = read_bytes(path, _MOST_TEXT)
    if path.name == "tokenizer.json" and not _SUSPICIOUS.search(content):
        return None  # by far the most; some have tens of millions of bytes
    try:
        values = [parse_json(content)]
    except ValueError:  # said when it is loaded
        return None
    if path.name == "tokenizer.json":  # its vocabulary may hold any text
        values = [values[0].get("added_tokens")] if isinstance(values[0], dict) else []
    for value in values:  # which grows
        if isinstance(value, dict):
            if (key := next((key for key in value if not is_plain(key)), None)) is not None:
                return str(key)
            values += value.values()
        elif isinstance(value, list):
            values += value
    return None


def _find_on_hub(name: str, revision: str | None, folder: Path, ask_hub: bool) -> Source:
    if folder.exists():
        raise ModelError(
            f"model.name: {name!r} is a file; give the folder that holds config.json, the weights and the tokenizer"
        )
    if not _HUB_NAME.fullmatch(name):
        raise ModelError(
            f"model.name: no such folder {name!r}, and it is not a hub id (like FacebookAI/roberta-base) or a "
            f"built-in model ({', '.join(builtin_names()) or 'builtin:NAME'})"
        )
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if not ask_hub:
        cached = _find_in_cache(name, revision)
        if cached is None:
            raise ModelUnreachableError(
                f"model.name: there is no folder {name!r} here, and no hub model of that name in the local cache"
            )
        return cached
    try:
        info = ask(lambda seconds: HfApi().model_info(name, revision=revision, timeout=seconds))
        return Source(name, "hub", name, info.sha)
    except GatedRepoError as error:
        raise ModelError(
            f"model.name: {name!r} is gated; accept its terms on huggingface.co and log in (hf auth login), or give a "
            "local folder"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"model.name: {name!r} is neither a folder here nor a model on the hub (a private one needs a login: hf "
            "auth login)"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(
            f"model.revision: {name!r} has no revision {revision!r} on the hub; give a branch, tag or commit of it"
        ) from error
    except Exception as error:
        # offline mode, no route, a proxy's answer, an overloaded hub: whatever it is, the cache may still serve
        cached = _find_in_cache(name, revision)
        if cached is not None:
            return cached
        at = f" at revision {revision!r}" if revision else ""
        raise ModelUnreachableError(
            f"model.name: there is no folder {name!r} here, and the hub model of that name{at} is not in the local "
            f"cache and the hub cannot be reached ({type(error).__name__}). Set model.name to a local model folder or "
            f"a built-in model ({', '.join(builtin_names()) or 'builtin:NAME'}), or download it on a machine with a "
            f"network (hf download {name}) and copy the cache folder (HF_HOME); HF_HUB_OFFLINE=1 then skips the network"
        ) from error


def _find_in_cache(name: str, revision: str | None) -> Source | None:
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(name, "config.json", revision=revision)
    return Source(name, "hub", name, Path(config).parent.name, cached_only=True) if isinstance(config, str) else None
