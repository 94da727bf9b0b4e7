"""Examples from the hub, through the `datasets` package and its cache."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dora_cli.data.examples import Examples
from dora_cli.data.sources.fields import ALSO, TsvLayout
from dora_cli.data.sources.tables import Table
from dora_cli.data.sources.values import Where, check_texts, label_ids, parse_labels, quoted, unlabelled
from dora_cli.errors import DataError
from dora_cli.hub import ask, data_cache, silent

if TYPE_CHECKING:
    from dora_cli.data.sources.fields import Fields, HubSource, Labels

_ID = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)?")
"""What the hub calls a data set."""


def check_reach(fields: Fields, split: str) -> None:
    """Refuses a data set of which no cache holds anything while the hub does not answer, without loading `datasets`.

    A data set that a cache may hold is not asked for: whether all of it is there shows when it is read.

    Raises:
        DataError: as `read_hub` would.
    """
    hub = fields.hub
    if hub is not None:
        _check_name(fields, hub)
    if hub is None or Path(hub.path).is_dir() or _may_be_cached(hub):
        return
    if silence := _silence(hub):
        raise _not_loaded(fields, hub, split, silence) from silence


def _may_be_cached(hub: HubSource) -> bool:
    """Whether a cache holds something of the data set's name, however that is spelt there."""
    from huggingface_hub.constants import HF_HUB_CACHE

    name = _letters(hub.path.rpartition("/")[2])
    try:
        return any(
            name in _letters(entry.name)
            for cache in (Path(HF_HUB_CACHE), data_cache())
            if cache.is_dir()
            for entry in cache.iterdir()
        )
    except OSError:  # a folder that may not be listed: for the library to explain
        return True


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name)).casefold()


def read_hub_table(fields: Fields, hub: HubSource, split: str) -> Table:
    """All columns of `split` of a data set of the user's choice; raises DataError."""
    import datasets

    found = _load(fields, hub, None)
    name = next((name for name in (split, *ALSO.get(split, ())) if name in found), None)
    if name is None:
        raise DataError(
            f"data.name: {hub.path} has no split {split}; it has {quoted(list(found))}"
            + (
                "; data.validation: 0.1 holds out a tenth of the training split in its place"
                if (split,) == fields.evaluated
                else ""
            )
        )
    place = f"{_title(hub)}, split {name}"
    # pictures and sounds are no texts, and what decodes them may not be installed
    plain = [column for column, feature in found[name].features.items() if not hasattr(feature, "decode_example")]
    dataset = found[name].select_columns(plain)
    columns = dict(dataset[:])
    for column, feature in dataset.features.items():
        # A class column stores ids; -1 means "no label".
        if isinstance(feature, datasets.ClassLabel):
            columns[column] = [None if i is None or i < 0 else feature.int2str(i) for i in columns[column]]
    return Table(place, columns, len(dataset), lambda row: f"{place}, row {row + 1}")


def has_hub_split(fields: Fields, hub: HubSource, split: str) -> bool:
    """Whether the data set has `split`, under any of its names; raises DataError where it cannot be loaded."""
    found = _load(fields, hub, None)
    return any(name in found for name in (split, *ALSO.get(split, ())))


def _title(hub: HubSource) -> str:
    return hub.path if hub.config is None else f"{hub.path} ({hub.config})"


def read_hub(fields: Fields, split: str) -> Examples:
    """Examples of `split` from the hub, or from the local cache of an earlier download.

    Raises:
        DataError: no network and no cached copy, or a copy that does not fit the task; says what to set instead.
    """
    assert fields.hub is not None, "the hub is no source of other tasks"
    dataset = _load(fields, fields.hub, split)
    place = f"{fields.hub.path} ({fields.hub.config}), split {split}"

    def where(position: int) -> str:
        return f"{place}, row {position + 1}"

    if fields.labels is not None:
        return _labelled(fields, fields.labels, split, dataset, place, where)
    wanted = list(
        fields.own_names
        if fields.complete(split) or fields.own_names[1] in dataset.column_names
        else fields.own_names[:1]
    )
    _check_columns(dataset, wanted, place)
    columns = dataset[:]
    return Examples(tuple(check_texts(columns[name], name, where, filled=True) for name in wanted), None)


def _labelled(fields: Fields, labels: Labels, split: str, dataset: Any, place: str, where: Where) -> Examples:
    _check_columns(dataset, [*fields.own_names, "label"] if fields.complete(split) else [*fields.own_names], place)
    names = getattr(dataset.features.get("label"), "names", None)
    if labels.names is not None and names is not None and tuple(names) != labels.names:
        raise DataError(
            f"{place}: its labels are {quoted(names)}, but {fields.task} has {quoted(labels.names)}, in this order"
        )
    columns = dataset[:]
    texts = tuple(check_texts(columns[name], name, where) for name in fields.own_names)
    values = columns.get("label")
    if values is None or (not fields.complete(split) and unlabelled(values)):
        return Examples(texts, None)
    return Examples(texts, parse_labels(fields, values, label_ids(fields, None), where))


def _check_columns(dataset: Any, wanted: list[str], place: str) -> None:
    missing = [name for name in wanted if name not in dataset.column_names]
    if missing:
        raise DataError(f"{place}: no column {quoted(missing)}; it has {quoted(dataset.column_names)}")


def _load(fields: Fields, hub: HubSource, split: str | None) -> Any:
    import datasets

    _check_name(fields, hub)
    here = Path(hub.path).is_dir()
    silence = None if here else _silence(hub)
    try:
        with _unlogged() if here else nullcontext() if silence is None else _from_the_cache():
            return datasets.load_dataset(hub.path, hub.config, split=split, revision=hub.revision)
    # A download can fail with errors of four libraries and of the operating system; what the user can do is the same
    # for all of them.
    except Exception as error:
        if silence is not None and isinstance(error, ConnectionError):  # not in the cache either
            error = silence
        raise _not_loaded(fields, hub, split, error) from error


def _not_loaded(fields: Fields, hub: HubSource, split: str | None, error: Exception) -> DataError:
    configs = _configs(hub) if isinstance(error, ValueError) else []
    if hub.config not in configs and len(configs) > (hub.config is None):
        given = "is missing" if hub.config is None else f"is {hub.config!r}"
        return DataError(f"data.config: {given}, but {hub.path} has {quoted(configs)}; set it to one of them")
    reason = (str(error).strip().splitlines() or ["no reason given"])[0][:300]
    said = (
        f"data.source hub: {_title(hub)}{f', split {split}' if split else ''}, could not be loaded: "
        f"{type(error).__name__}: {reason}\n"
    )
    if Path(hub.path).is_dir():
        return DataError(
            f"{said}{hub.path} is a folder on this machine: {_official(fields)}lay it out as on the hub, with files "
            "named by their splits (train.csv, data/train-00000-of-00001.parquet) or listed in a README.md"
        )
    if _is_own(fields):
        said = said.replace("\n", "; no folder of this name is here either\n")
    return DataError(
        f"{said}Without a network, {_official(fields)}load the data set once with a network: it is then found again in "
        "its cache (HF_HOME, which must be writable; set HF_HUB_OFFLINE=1 to skip the look-up)"
    )


def _is_own(fields: Fields) -> bool:
    """Whether the user named the data set."""
    return fields.labels is not None and fields.labels.own


def _check_name(fields: Fields, hub: HubSource) -> None:
    """Refuses a name of the user's that is neither a folder nor can be an id."""
    if not _is_own(fields) or _ID.fullmatch(hub.path) or Path(hub.path).is_dir():
        return
    what = "is a file, not a folder" if Path(hub.path).exists() else "is no folder on this machine"
    raise DataError(
        f"data.name: {hub.path!r} {what}, and no id of a data set on the hub, such as owner/name; for files of your "
        "own set data.source: files and data.path"
    )


def _configs(hub: HubSource) -> list[str]:
    """The configurations of a data set; none where they cannot be told."""
    import datasets

    try:
        return list(datasets.get_dataset_config_names(hub.path, revision=hub.revision))
    except Exception:  # whatever kept it from being loaded
        return []


def _silence(hub: HubSource) -> Exception | None:
    """How the hub did not answer when asked for the data set; None if it did.

    A refusal is an answer, for the library to explain.
    """
    from huggingface_hub import HfApi

    try:
        ask(lambda seconds: HfApi().dataset_info(hub.path, revision=hub.revision, timeout=seconds))
    except Exception as error:
        return error if silent(error) else None
    return None


@contextmanager
def _unlogged() -> Iterator[None]:
    """Without log lines of the library: what it has to say of a broken folder is in our message."""
    from datasets.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(level)


@contextmanager
def _from_the_cache() -> Iterator[None]:
    """Looks a data set up in the cache alone: the library would ask the hub six times before it does so."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _official(fields: Fields) -> str:
    """How to read the task's official files instead, or the user's own; empty where there is no such source."""
    release, which = fields.release, "official files"
    if isinstance(release, TsvLayout):
        source, files = "glue-tsv", list(release.files.values())
    elif release is not None:
        source, files = "e2e-csv", [names[0] for names in release.files.values()]
    elif "files" in fields.sources:
        source, which, files = "files", "files", [f"{split}.csv" for split in ("train", *fields.evaluated)]
    else:
        return ""
    return f"set data.source: {source} and data.path to a folder with the {which} ({', '.join(files)}), or "
