"""Examples from the hub, through the `datasets` package and its cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dora_cli.data.examples import Examples
from dora_cli.data.values import Where, check_texts, label_ids, parse_labels, quoted, unlabelled
from dora_cli.errors import DataError
from dora_cli.hub import ask, silent
from dora_cli.tasks import ClassificationTask

if TYPE_CHECKING:
    from dora_cli.tasks import HubSource, Task


def read_hub(task: Task, split: str) -> Examples:
    """Examples of `split` from the hub, or from the local cache of an earlier download.

    Raises:
        DataError: no network and no cached copy, or a copy that does not fit the task; says what to set instead.
    """
    dataset = _load(task, split)
    place = f"{task.hub.path} ({task.hub.config}), split {split}"

    def where(position: int) -> str:
        return f"{place}, row {position + 1}"

    if isinstance(task, ClassificationTask):
        return _labelled(task, split, dataset, place, where)
    wanted = list(
        task.text_columns
        if task.labelled(split) or task.text_columns[1] in dataset.column_names
        else task.text_columns[:1]
    )
    _check_columns(dataset, wanted, place)
    columns = dataset[:]
    return Examples(tuple(check_texts(columns[name], name, where, filled=True) for name in wanted), None)


def _labelled(task: ClassificationTask, split: str, dataset: Any, place: str, where: Where) -> Examples:
    _check_columns(dataset, [*task.text_columns, "label"] if task.labelled(split) else [*task.text_columns], place)
    names = getattr(dataset.features.get("label"), "names", None)
    if task.label_names is not None and names is not None and tuple(names) != task.label_names:
        raise DataError(
            f"{place}: its labels are {quoted(names)}, but {task.name} has {quoted(task.label_names)}, in this order"
        )
    columns = dataset[:]
    texts = tuple(check_texts(columns[name], name, where) for name in task.text_columns)
    values = columns.get("label")
    if values is None or (not task.labelled(split) and unlabelled(values)):
        return Examples(texts, None)
    return Examples(texts, parse_labels(task, values, label_ids(task, None), where))


def _check_columns(dataset: Any, wanted: list[str], place: str) -> None:
    missing = [name for name in wanted if name not in dataset.column_names]
    if missing:
        raise DataError(f"{place}: no column {quoted(missing)}; it has {quoted(dataset.column_names)}")


def _load(task: Task, split: str) -> Any:
    import datasets

    hub = task.hub
    silence = None if Path(hub.path).is_dir() else _silence(hub)
    try:
        with nullcontext() if silence is None else _from_the_cache():
            return datasets.load_dataset(hub.path, hub.config, split=split, revision=hub.revision)
    # A download can fail with errors of four libraries and of the operating system; what the user can do is the same
    # for all of them.
    except Exception as error:
        if silence is not None and isinstance(error, ConnectionError):  # not in the cache either
            error = silence
        reason = (str(error).strip().splitlines() or ["no reason given"])[0][:300]
        official, files = _official(task)
        raise DataError(
            f"data.source hub: {task.hub.path} ({task.hub.config}), split {split}, could not be loaded: "
            f"{type(error).__name__}: {reason}\n"
            f"Without a network, set data.source: {official} and data.path to a folder with the official files "
            f"({', '.join(files)}), or load the data set once with a network: it is then found again in its cache "
            f"(HF_HOME, which must be writable; set HF_HUB_OFFLINE=1 to skip the look-up)"
        ) from error


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
def _from_the_cache() -> Iterator[None]:
    """Looks a data set up in the cache alone: the library would ask the hub six times before it does so."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _official(task: Task) -> tuple[str, list[str]]:
    """The source that reads the task's official files, and their names."""
    if isinstance(task, ClassificationTask):
        return "glue-tsv", list(task.tsv.files.values())
    return "e2e-csv", [names[0] for names in task.csv.files.values()]
