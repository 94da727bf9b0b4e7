from __future__ import annotations

import subprocess
import sys

import pytest

from dora_cli.errors import RecipeError
from dora_cli.tasks import get_task, task_names


def test_the_tasks_that_are_there() -> None:
    glue = ["cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli"]
    assert list(task_names()) == ["classification", "e2e", *(f"glue/{name}" for name in glue), "regression"]
    assert all(get_task(name).name == name for name in task_names())


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("rte", "glue/rte"),
        ("glue/sst-2", "glue/sst2"),
        ("glue/mrcp", "glue/mrpc"),
        ("GLUE/STS-B", "glue/stsb"),
        ("e2e-nlg", "e2e"),
    ],
)
def test_an_unknown_task_names_the_nearest(given: str, nearest: str) -> None:
    with pytest.raises(RecipeError) as caught:
        get_task(given)
    assert f"no task {given!r} (nearest: {nearest})" in str(caught.value)
    assert all(name in str(caught.value) for name in task_names())


def test_nothing_is_suggested_where_nothing_is_near() -> None:
    with pytest.raises(RecipeError, match="no task 'zzzzzz'; tasks: classification, e2e, glue/cola"):
        get_task("zzzzzz")


def test_tasks_and_data_import_nothing_heavy() -> None:
    code = (
        "import sys, dora_cli.tasks, dora_cli.data; print(*{'torch', 'transformers', 'datasets', 'pandas', "
        "'evaluate'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""
