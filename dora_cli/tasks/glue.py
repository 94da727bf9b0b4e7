"""The nine GLUE tasks, with the label order, column names and sizes of ``nyu-mll/glue``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dora_cli.data.sources.fields import HubSource, TsvLayout
from dora_cli.tasks.label import LabelTask

_HUB: Final = "nyu-mll/glue"
_VALIDATION: Final = ("validation",)
_PAIR: Final = ("sentence1", "sentence2")
_ENTAILMENT: Final = ("entailment", "not_entailment")
_DIGITS: Final = ("0", "1")
_FILES: Final = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}


def _sizes(train: int, validation: int, test: int) -> Mapping[str, int]:
    return {"train": train, "validation": validation, "test": test}


_COLA_COLUMNS = ("source", "label", "mark", "sentence")

COLA = LabelTask(
    name="glue/cola",
    text_columns=("sentence",),
    label_names=("unacceptable", "acceptable"),
    metric="matthews",
    primary="matthews_correlation",
    splits=_sizes(8551, 1043, 1063),
    eval_splits=_VALIDATION,
    hub=HubSource(_HUB, "cola"),
    tsv=TsvLayout(
        "CoLA",
        _FILES,
        ("sentence",),
        "label",
        _DIGITS,
        headerless={"train": _COLA_COLUMNS, "validation": _COLA_COLUMNS},
        submissions={"test": "CoLA.tsv"},
    ),
)

MNLI = LabelTask(
    name="glue/mnli",
    text_columns=("premise", "hypothesis"),
    label_names=("entailment", "neutral", "contradiction"),
    metric="accuracy",
    primary="accuracy",
    splits={
        "train": 392702,
        "validation_matched": 9815,
        "validation_mismatched": 9832,
        "test_matched": 9796,
        "test_mismatched": 9847,
    },
    eval_splits=("validation_matched", "validation_mismatched"),
    hub=HubSource(_HUB, "mnli"),
    tsv=TsvLayout(
        "MNLI",
        {
            "train": "train.tsv",
            "validation_matched": "dev_matched.tsv",
            "validation_mismatched": "dev_mismatched.tsv",
            "test_matched": "test_matched.tsv",
            "test_mismatched": "test_mismatched.tsv",
        },
        _PAIR,
        "gold_label",
        ("entailment", "neutral", "contradiction"),
        submissions={"test_matched": "MNLI-m.tsv", "test_mismatched": "MNLI-mm.tsv"},
    ),
)

MRPC = LabelTask(
    name="glue/mrpc",
    text_columns=_PAIR,
    label_names=("not_equivalent", "equivalent"),
    metric="accuracy_f1",
    primary="accuracy",
    splits=_sizes(3668, 408, 1725),
    eval_splits=_VALIDATION,
    hub=HubSource(_HUB, "mrpc"),
    tsv=TsvLayout("MRPC", _FILES, ("#1 String", "#2 String"), "Quality", _DIGITS, submissions={"test": "MRPC.tsv"}),
)

QNLI = LabelTask(
    name="glue/qnli",
    text_columns=("question", "sentence"),
    label_names=_ENTAILMENT,
    metric="accuracy",
    primary="accuracy",
    splits=_sizes(104743, 5463, 5463),
    eval_splits=_VALIDATION,
    hub=HubSource(_HUB, "qnli"),
    tsv=TsvLayout("QNLI", _FILES, ("question", "sentence"), "label", _ENTAILMENT, submissions={"test": "QNLI.tsv"}),
)

QQP = LabelTask(
    name="glue/qqp",
    text_columns=("question1", "question2"),
    label_names=("not_duplicate", "duplicate"),
    metric="accuracy_f1",
    primary="accuracy",
    splits=_sizes(363846, 40430, 390965),
    eval_splits=_VALIDATION,
    hub=HubSource(_HUB, "qqp"),
    # A few questions of the release contain a line break, which cuts their row in two; the sizes above count whole
    # rows.
    tsv=TsvLayout(
        "QQP",
        _FILES,
        ("question1", "question2"),
        "is_duplicate",
        _DIGITS,
        broken_rows=64,
        submissions={"test": "QQP.tsv"},
    ),
)

RTE = LabelTask(
    name="glue/rte",
    text_columns=_PAIR,
    label_names=_ENTAILMENT,
    metric="accuracy",
    primary="accuracy",
    splits=_sizes(2490, 277, 3000),
    eval_splits=_VALIDATION,
    hub=HubSource(_HUB, "rte"),
    tsv=TsvLayout("RTE", _FILES, _PAIR, "label", _ENTAILMENT, submissions={"test": "RTE.tsv"}),
)

SST2 = LabelTask(
    name="glue/sst2",
    text_columns=("sentence",),
    label_names=("negative", "positive"),
    metric="accuracy",
    primary="accuracy",
    splits=_sizes(67349, 872, 1821),
    eval_splits=_VALIDATION,
    hub=HubSource(_HUB, "sst2"),
    tsv=TsvLayout("SST-2", _FILES, ("sentence",), "label", _DIGITS, submissions={"test": "SST-2.tsv"}),
    fragments=True,  # of 67,349 rows 60,093 are phrases of the other sentences
)

STSB = LabelTask(
    name="glue/stsb",
    text_columns=_PAIR,
    label_names=None,
    metric="pearson_spearman",
    primary="pearson",
    splits=_sizes(5749, 1500, 1379),
    eval_splits=_VALIDATION,
    hub=HubSource(_HUB, "stsb"),
    tsv=TsvLayout("STS-B", _FILES, _PAIR, "score", None, submissions={"test": "STS-B.tsv"}, span=(0.0, 5.0)),
)

WNLI = LabelTask(
    name="glue/wnli",
    text_columns=_PAIR,
    label_names=("not_entailment", "entailment"),
    metric="accuracy",
    primary="accuracy",
    splits=_sizes(635, 71, 146),
    eval_splits=_VALIDATION,
    hub=HubSource(_HUB, "wnli"),
    tsv=TsvLayout("WNLI", _FILES, _PAIR, "label", _DIGITS, submissions={"test": "WNLI.tsv"}),
)

GLUE: Final[tuple[LabelTask, ...]] = (COLA, MNLI, MRPC, QNLI, QQP, RTE, SST2, STSB, WNLI)
