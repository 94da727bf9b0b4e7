"""Examples from the hub, through the `datasets` package and its cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dora_cli.data.examples import Examples
from dora_cli.data.values import check_texts, label_ids, parse_labels, quoted, unlabelled
from dora_cli.errors import DataError

if TYPE_CHECKING:
    from dora_cli.tasks import Task


def read_hub(task: Task, split: str) -> Examples:
    """Examples of `split` from the hub, or from the local cache of an earlier download.

    Raises:
        DataError: no network and no cached copy, or a copy that does not fit the task; says what to set instead.
    """
    dataset = _load(task, split)
    place = f"{task.hub.path} ({task.hub.config}), split {split}"
    wanted = [*task.text_columns, "label"] if task.labelled(split) else [*task.text_columns]
    missing = [name for name in wanted if name not in dataset.column_names]
    if missing:
        raise DataError(f"{place}: no column {quoted(missing)}; it has {quoted(dataset.column_names)}")
    names = getattr(dataset.features.get("label"), "names", None)
    if task.label_names is not None and names is not None and tuple(names) != task.label_names:
        raise DataError(f"{place}: its labels are {quoted(names)}, but {task.name} has {quoted(task.label_names)}, in this order")

    def where(position: int) -> str:
        return f"{place}, row {position + 1}"

    columns = dataset[:]
    texts = tuple(check_texts(columns[name], name, where) for name in task.text_columns)
    values = columns.get("label")
    if values is None or (not task.labelled(split) and unlabelled(values)):
        return Examples(texts, None)
    return Examples(texts, parse_labels(task, values, label_ids(task, None), where))


def _load(task: Task, split: str) -> Any:
    import datasets

    try:
        return datasets.load_dataset(task.hub.path, task.hub.config, split=split)
    # A download can fail with errors of four libraries and of the operating system; what the user can do is the same for all of them.
    except Exception as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0][:300]
        raise DataError(
            f"data.source hub: {task.hub.path} ({task.hub.config}), split {split}, could not be loaded: {type(error).__name__}: {reason}\n"
            f"Without a network, set data.source: glue-tsv and data.path to a folder with the official files "
            f"({', '.join(task.tsv.files.values())}), or load the data set once with a network: it is then found again in its cache "
            f"(HF_HOME, which must be writable; set HF_HUB_OFFLINE=1 to skip the look-up)"
        ) from error
