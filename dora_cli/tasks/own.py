"""The tasks most people have: their own texts, to classes or to numbers."""

from __future__ import annotations

from typing import Final

from dora_cli.tasks.label import LabelTask

_SPLITS: Final = {"train": 0, "validation": 0, "test": 0}

CLASSIFICATION: Final = LabelTask(
    name="classification",
    text_columns=("text",),
    splits=_SPLITS,
    eval_splits=("validation",),
    primary="accuracy",
    label_names=(),
    metric="classes",
    own=True,
)

REGRESSION: Final = LabelTask(
    name="regression",
    text_columns=("text",),
    splits=_SPLITS,
    eval_splits=("validation",),
    primary="pearson",
    label_names=None,
    metric="numbers",
    own=True,
)
