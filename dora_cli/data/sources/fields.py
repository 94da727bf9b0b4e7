"""What a source has to give: which columns hold what, in which splits. All that reading examples knows of a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

Names = tuple[str, ...]
"""What we call one column: the task's own name first, then the general one, then that of the official files."""


ALSO = {"validation": ("dev", "val", "eval")}
"""Other names under which people keep a split."""


class HubSource(NamedTuple):
    """A data set on the hub: its repository, its configuration, and the revision to take (None: the latest)."""

    path: str
    config: str | None
    revision: str | None = None


@dataclass(frozen=True)
class TsvLayout:
    """How the official GLUE release stores a task: tab-separated files without quoting.

    Attributes:
        folder: name of the task's folder in the release.
        files: file name of every split.
        texts: columns that hold the texts, in the order of `Fields.texts`.
        label: column that holds the label; the test files have none.
        labels: the labels as the files write them, in the task's order; None for a number.
        headerless: column names of the splits whose file has no header row.
        broken_rows: how many rows with a wrong number of fields the release is known to have, at most, in one file. Up
            to this many are left out, as the hub's copy leaves them out; one more is an error.
        submissions: the benchmark's name for the file of predictions of each test split; its labels are written as
            `labels`.
        span: the least and the greatest number that the benchmark takes; None for classes.
    """

    folder: str
    files: Mapping[str, str]
    texts: tuple[str, ...]
    label: str
    labels: tuple[str, ...] | None
    headerless: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    broken_rows: int = 0
    submissions: Mapping[str, str] = field(default_factory=dict)
    span: tuple[float, float] | None = None


@dataclass(frozen=True)
class CsvLayout:
    """How the official release of the E2E challenge stores it: quoted CSV files.

    Attributes:
        files: names that a split's file may have, the first that exists is read.
        source: column of the source text.
        target: column of the reference.
    """

    files: Mapping[str, tuple[str, ...]]
    source: str
    target: str


@dataclass(frozen=True)
class Labels:
    """What labels may be: classes, or numbers.

    Attributes:
        names: the classes by label id; None for numbers.
        span: the least and the greatest number; None for classes, and where any number may be.
        own: whether the names are those of the user's files.
    """

    names: tuple[str, ...] | None
    span: tuple[float, float] | None = None
    own: bool = False


@dataclass(frozen=True)
class Fields:
    """What a source has to give for one task.

    Attributes:
        task: the task's name, for messages.
        texts: the names of each text column; where there are no labels, the last column holds references.
        labels: what the column of labels holds; None where there are references instead.
        splits: every split, by the hub's names.
        evaluated: the splits that an evaluation covers.
        sources: what ``data.source`` may be.
        hub: where the hub has it; None if ``hub`` is no source.
        release: how the official files store it: `TsvLayout` with labels, `CsvLayout` with references; None if there
            are none.
        fragments: whether the training split holds parts of its texts as examples of their own.
    """

    task: str
    texts: tuple[Names, ...]
    labels: Labels | None
    splits: tuple[str, ...]
    evaluated: tuple[str, ...]
    sources: tuple[str, ...] = ("files",)
    hub: HubSource | None = None
    release: TsvLayout | CsvLayout | None = None
    fragments: bool = False

    @property
    def own_names(self) -> tuple[str, ...]:
        """The task's own name of each text column, which is the hub's."""
        return tuple(names[0] for names in self.texts)

    def by_source(self, split: str) -> bool:
        """Whether a limit on the examples of `split` counts different sources, with all their references."""
        return self.labels is None and split != "train"

    def complete(self, split: str) -> bool:
        """Whether every example of `split` must have its label or reference."""
        return split == "train" or split in self.evaluated
