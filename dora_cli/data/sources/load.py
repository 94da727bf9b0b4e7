"""One door to every source of examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from dora_cli.data.examples import Examples
from dora_cli.data.sources.e2e_csv import read_e2e_csv
from dora_cli.data.sources.fields import Fields, TsvLayout
from dora_cli.data.sources.files import read_files
from dora_cli.data.sources.glue_tsv import read_glue_tsv
from dora_cli.data.sources.hub import read_hub
from dora_cli.data.sources.values import quoted
from dora_cli.data.ties import tie_texts
from dora_cli.errors import DataError
from dora_cli.files import at_home


def load_examples(
    fields: Fields,
    source: str,
    split: str,
    *,
    path: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    labels: Sequence[str] | None = None,
    validation: float | None = None,
    skip: bool = False,
    separator: str | None = None,
    max_samples: int | None = None,
    seed: int = 0,
    tied: bool = False,
) -> Examples:
    """Examples of one split.

    Args:
        fields: what the source has to give, a task's `fields`.
        source: ``"hub"``, ``"glue-tsv"`` or ``"e2e-csv"`` (official files), ``"files"`` (the user's own) or
            ``"builtin"`` (generated).
        split: ``"train"``, or another split of the task by the hub's name.
        path: the folder of `glue-tsv`, `e2e-csv` and `files`.
        columns: of `files`: our column names to the file's.
        labels: of `files`: the labels as the file writes them, in the task's order; none for generation.
        validation: of `files`: the share of the training file that becomes the evaluated split.
        skip: of `files`: whether rows without a text or a label are left out; else they are an error.
        separator: of `files`: what separates the fields of a csv or tsv, where its name says otherwise.
        max_samples: keep a random subset of this size, in the original order; None keeps all. For generation it counts
            different sources, with all their references, but in the training split it counts examples.
        seed: chooses the subset.
        tied: whether to find, in the whole split, which examples share texts: then they have `Examples.groups`. Those
            of a generation go by their sources, and have none.

    Raises:
        DataError: data that is absent, unreadable or does not fit the task, or an argument that the source or the task
            does not use.
    """
    if source not in fields.sources:
        raise DataError(f"data.source: {source!r} is none of {quoted(fields.sources)}, the sources of {fields.task}")
    if split not in fields.splits:
        raise DataError(f"split: {fields.task} has no split {split!r}; splits: {quoted(list(fields.splits))}")
    if max_samples is not None and max_samples < 1:
        raise DataError(f"max_samples: {max_samples} is below 1; leave it out to use every example")
    chosen = fields.hub if source == "hub" and fields.labels is not None and fields.labels.own else None
    own = source == "files" or chosen is not None
    needs_path = source not in ("hub", "builtin")
    if needs_path and path is None:
        raise DataError(f"data.path: missing; data.source {source} needs the folder that holds the files")
    for key, value, used in (
        ("path", path, needs_path),
        ("columns", columns, own),
        ("labels", labels, own),
        ("validation", validation, own),
    ):
        if value is not None and not used:
            raise DataError(
                f"data.{key}: not used by data.source {source}; remove it, or set data.source to one that uses it"
            )
    if labels is not None and fields.labels is None:
        raise DataError(
            f"data.labels: {quoted(labels)} were given, but {fields.task} has references, not labels; "
            "remove data.labels"
        )

    place = chosen if path is None or source != "files" else at_home(path)
    if place is not None:
        examples = read_files(
            fields, place, split, columns, labels, validation=validation, skip=skip, separator=separator
        )
    else:
        examples = _read(fields, source, split, path)
    if tied and examples.labels is not None:
        examples = replace(examples, groups=tie_texts(examples.texts, fragments=fields.fragments))
    if max_samples is None:
        return examples
    sample = examples.sample_sources if fields.by_source(split) else examples.sample
    return sample(max_samples, seed)


def _read(
    fields: Fields,
    source: str,
    split: str,
    path: str | Path | None,
) -> Examples:
    if path is not None:
        folder = at_home(path)
        release = fields.release
        if isinstance(release, TsvLayout):
            return read_glue_tsv(fields, release, folder, split)
        assert release is not None, "official files are no source of other tasks"
        return read_e2e_csv(fields, release, folder, split)
    if source == "hub":
        return read_hub(fields, split)
    from dora_cli.data.builtin import generate

    return generate(fields.task, split)
