"""What `dora tasks` says."""

from __future__ import annotations

from dora_cli.data.builtin import builtin_tasks
from dora_cli.metrics.e2e.score import score_e2e
from dora_cli.tasks import get_task, task_catalogue, task_names


def test_every_task_is_there() -> None:
    found = {task["name"]: task for task in task_catalogue()}
    assert list(found) == list(task_names())
    for name, task in found.items():
        assert task["primary"] in task["metrics"]
        assert task["splits"] == get_task(name).splits
        assert set(task["evaluated"]) <= set(task["splits"])
        assert ("builtin" in task["sources"]) == (name in builtin_tasks())


def test_what_is_said_of_some() -> None:
    found = {task["name"]: task for task in task_catalogue()}
    assert found["glue/rte"] == {
        "name": "glue/rte",
        "kind": "classification",
        "texts": 2,
        "labels": ["entailment", "not_entailment"],
        "asks": "2 texts, 2 labels",
        "primary": "accuracy",
        "metrics": ["accuracy", "loss"],
        "splits": {"train": 2490, "validation": 277, "test": 3000},
        "evaluated": ["validation"],
        "sources": ["hub", "glue-tsv", "files", "builtin"],
    }
    assert (found["glue/stsb"]["kind"], found["glue/stsb"]["labels"]) == ("regression", None)
    assert (found["glue/stsb"]["asks"], found["e2e"]["asks"]) == ("2 texts, a number", "text to text")
    assert found["glue/mnli"]["metrics"] == [
        *("accuracy", "loss", "accuracy_matched", "loss_matched", "accuracy_mismatched", "loss_mismatched"),
    ]
    e2e = found["e2e"]
    assert (e2e["kind"], e2e["primary"], e2e["sources"][1]) == ("generation", "loss", "e2e-csv")


def test_the_scores_of_e2e_are_those_that_are_computed() -> None:
    task = get_task("e2e")
    assert list(task.scores) == list(score_e2e(["a b"], [["a b"]]).metrics)
    assert set(task.epoch_scores) <= set(task.scores)  # type: ignore[union-attr]
