from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from dora_cli.metrics.glue import compute_metrics, metric_names
from dora_cli.tasks import get_task, task_names
from dora_cli.tasks.label import LabelTask

TASKS = [task for task in map(get_task, task_names()) if isinstance(task, LabelTask) and not task.own]


def test_label_order_is_the_hubs() -> None:
    assert {task.name.removeprefix("glue/"): task.label_names for task in TASKS} == {
        "cola": ("unacceptable", "acceptable"),
        "mnli": ("entailment", "neutral", "contradiction"),
        "mrpc": ("not_equivalent", "equivalent"),
        "qnli": ("entailment", "not_entailment"),
        "qqp": ("not_duplicate", "duplicate"),
        "rte": ("entailment", "not_entailment"),
        "sst2": ("negative", "positive"),
        "stsb": None,
        "wnli": ("not_entailment", "entailment"),
    }


def test_official_sizes() -> None:
    train = {task.name.removeprefix("glue/"): task.splits["train"] for task in TASKS}
    assert train == {
        "cola": 8551,
        "mnli": 392702,
        "mrpc": 3668,
        "qnli": 104743,
        "qqp": 363846,
        "rte": 2490,
        "sst2": 67349,
        "stsb": 5749,
        "wnli": 635,
    }
    evaluation = {task.name.removeprefix("glue/"): [task.splits[split] for split in task.eval_splits] for task in TASKS}
    assert evaluation == {
        "cola": [1043],
        "mnli": [9815, 9832],
        "mrpc": [408],
        "qnli": [5463],
        "qqp": [40430],
        "rte": [277],
        "sst2": [872],
        "stsb": [1500],
        "wnli": [71],
    }


def made(logits: torch.Tensor, labels: torch.Tensor) -> tuple[SimpleNamespace, dict[str, torch.Tensor]]:
    """What a model gave, and the batch that it was made of."""
    return SimpleNamespace(logits=logits), {"labels": labels}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_task_fits_together(task) -> None:
    assert len(task.tsv.texts) == len(task.text_columns)
    assert set(task.tsv.files) == set(task.splits)
    assert set(task.eval_splits) < set(task.splits)
    assert task.num_labels == (1 if task.regression else len(task.label_names))
    assert (None if task.tsv.labels is None else len(task.tsv.labels)) == (None if task.regression else task.num_labels)
    assert task.hub == ("nyu-mll/glue", task.name.removeprefix("glue/"), None)
    assert [split for split in task.splits if task.fields.complete(split)] == ["train", *task.eval_splits]
    # The metric exists and yields the value that selects.
    assert task.metric in metric_names()
    values = compute_metrics(task.metric, [0, 1, 1], [0, 1, 0]) | {"loss": 0.5}
    combined = task.combine(dict.fromkeys(task.eval_splits, values))
    assert task.primary in combined
    assert task.epoch_metrics == tuple(combined)
    assert [name for name in combined if task.lower_is_better(name)] == [name for name in combined if "loss" in name]


def test_the_metrics_of_an_epoch() -> None:
    assert get_task("glue/mnli").epoch_metrics == (
        *("accuracy", "loss", "accuracy_matched", "loss_matched", "accuracy_mismatched", "loss_mismatched"),
    )
    assert get_task("glue/mrpc").epoch_metrics == ("accuracy", "f1", "loss")
    assert get_task("glue/stsb").epoch_metrics == ("pearson", "spearmanr", "loss")


def test_label_smoothing_spreads_a_share_over_all_classes() -> None:
    # Of log p = (log 3/4, log 1/4): 0.8 of the label's own, 0.1 of each.
    losses = get_task("glue/rte").losses(
        *made(torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([1])), label_smoothing=0.2
    )
    assert losses.item() == pytest.approx(0.9 * math.log(4.0) + 0.1 * math.log(4.0 / 3.0), abs=1e-6)


def test_losses_and_predictions_of_classes() -> None:
    task = get_task("glue/rte")
    logits = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    # -log softmax: log 2 for equal logits; softmax(log 3, 0) = (3/4, 1/4), so log 4 for class 1.
    losses = task.losses(*made(logits, torch.tensor([0, 1])))
    torch.testing.assert_close(losses, torch.tensor([math.log(2.0), math.log(4.0)]))
    assert task.predictions(logits[1:]).tolist() == [0]
    assert task.losses(*made(logits.bfloat16(), torch.tensor([0, 1]))).dtype == torch.float32


def test_losses_and_predictions_of_a_regression() -> None:
    task = get_task("glue/stsb")
    logits = torch.tensor([[1.0], [4.5]])
    torch.testing.assert_close(task.losses(*made(logits, torch.tensor([3.0, 4.0]))), torch.tensor([4.0, 0.25]))
    assert task.predictions(logits.bfloat16()).tolist() == [1.0, 4.5]
    assert task.predictions(logits).shape == (2,)
    # One example stays one: squeezing must not drop the batch.
    assert task.losses(*made(logits[:1], torch.tensor([3.0]))).shape == (1,)


def test_mnli_is_the_mean_of_its_two_splits() -> None:
    combined = get_task("glue/mnli").combine(
        {"validation_matched": {"accuracy": 0.8}, "validation_mismatched": {"accuracy": 0.9}}
    )
    assert combined == {"accuracy": pytest.approx(0.85), "accuracy_matched": 0.8, "accuracy_mismatched": 0.9}


def test_one_split_is_its_own_result() -> None:
    assert get_task("glue/mrpc").combine({"validation": {"accuracy": 0.8, "f1": 0.9}}) == {"accuracy": 0.8, "f1": 0.9}


def test_the_benchmarks_files_of_predictions() -> None:
    assert {file for task in TASKS for file in task.tsv.submissions.values()} == {
        "CoLA.tsv", "MNLI-m.tsv", "MNLI-mm.tsv", "MRPC.tsv", "QNLI.tsv", "QQP.tsv", "RTE.tsv", "SST-2.tsv", "STS-B.tsv",
        "WNLI.tsv",
    }  # fmt: skip
    for task in TASKS:
        assert set(task.tsv.submissions) == {split for split in task.splits if split.startswith("test")}


def test_predictions_as_the_benchmark_writes_them() -> None:
    written = {
        task.name.removeprefix("glue/"): [task.submitted(index) for index in range(task.num_labels)]
        for task in TASKS
        if not task.regression
    }
    assert written == {
        "cola": ["0", "1"],
        "mnli": ["entailment", "neutral", "contradiction"],
        "mrpc": ["0", "1"],
        "qnli": ["entailment", "not_entailment"],
        "qqp": ["0", "1"],
        "rte": ["entailment", "not_entailment"],
        "sst2": ["0", "1"],
        "wnli": ["0", "1"],
    }
    stsb = get_task("glue/stsb")
    assert isinstance(stsb, LabelTask)
    assert [stsb.submitted(value) for value in (-0.25, 2.3456789, 5.1)] == ["0.000000", "2.345679", "5.000000"]
