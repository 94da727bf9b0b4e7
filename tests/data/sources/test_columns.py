"""Which of a file's columns is which of ours: two of ours are never one of the file's, and what to type is said."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from dora_cli import parse_recipe
from dora_cli.data import Examples, load_examples, read_file
from dora_cli.errors import DataError
from dora_cli.tasks import get_task


def load(
    folder: Path, header: str, columns: dict[str, str] | None, task: str = "glue/sst2", split: str = "train"
) -> Examples:
    row = ",".join("1" if name == "label" else f"the {name}" for name in header.split(","))
    (folder / f"{split}.csv").write_text(f"{header}\n{row}\n")
    return load_examples(get_task(task).fields, "files", split, path=folder, columns=columns)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize(
    ("columns", "task", "two"),
    [
        ({"sentence": "label"}, "glue/sst2", "'sentence' and 'label'"),  # the text by the user, the label by default
        ({"label": "sentence"}, "glue/sst2", "'sentence' and 'label'"),
        ({"sentence": "mood", "label": "mood"}, "glue/sst2", "'sentence' and 'label'"),
        ({"sentence1": "sentence2"}, "glue/rte", "'sentence1' and 'sentence2'"),
        ({"mr": "ref"}, "e2e", "'mr' and 'human_reference'"),
    ],
)
def test_two_of_our_columns_are_not_one_of_the_files(
    columns: dict[str, str], task: str, two: str, split: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path, "sentence,sentence1,sentence2,mood,mr,ref,label", columns, task, split)
    shared = next(iter(columns.values()))
    assert (
        f"data.columns: {two} of {task} would both be read from the column {shared!r} of {tmp_path}/{split}.csv"
    ) in str(caught.value)
    assert str(caught.value).endswith("Give each of them a column of its own")


def test_columns_that_change_places_are_no_such_case(tmp_path: Path) -> None:
    swapped = {"sentence1": "sentence2", "sentence2": "sentence1"}
    assert load(tmp_path, "sentence1,sentence2,label", swapped, "glue/mrpc").texts == (
        ["the sentence2"],
        ["the sentence1"],
    )


def test_labels_are_not_read_of_a_file_to_predict(tmp_path: Path) -> None:
    """There a label's column may hold the text: nothing else is read from it."""
    path = tmp_path / "own.csv"
    path.write_text("label\na fine film .\n")
    assert read_file(get_task("glue/sst2").fields, path, {"sentence": "label"}) == Examples((["a fine film ."],), None)
    path.write_text("sentence1,sentence2\na,b\n")
    with pytest.raises(DataError, match=r"^data\.columns: 'sentence1' and 'sentence2' of glue/rte .* 'sentence2' of "):
        read_file(get_task("glue/rte").fields, path, {"sentence1": "sentence2"})


@pytest.mark.parametrize(
    ("header", "columns", "expected"),
    [
        ("text,label", None, {"sentence": "text"}),
        ("idx,text,label", None, {"sentence": "text"}),
        ("id,label", None, {"sentence": "id"}),
        ("text,label", {"sentence": "Text"}, {"sentence": "text"}),
        ("text,mood", {"label": "mood"}, {"label": "mood", "sentence": "text"}),
        ("the text,label", None, {"sentence": "the text"}),
        ("null,label", None, {"sentence": "null"}),
        ("2e3,label", None, {"sentence": "2e3"}),
        ("it's: {odd},label", None, {"sentence": "it's: {odd}"}),
    ],
)
def test_the_words_that_mend_a_missing_column_can_be_copied(
    header: str, columns: dict[str, str] | None, expected: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no column") as caught:
        load(tmp_path, header, columns)
    flag, override = shlex.split(str(caught.value).rpartition("such as ")[2])
    assert flag == "--set"
    recipe = parse_recipe(
        "{task: glue/sst2, model: {name: x}}", overrides=["data.source=files", "data.path=x", override]
    )
    assert recipe.data.columns == expected
    found = load(tmp_path, header, expected) if "mood" not in header else None
    assert found is None or found.texts == ([f"the {expected['sentence']}"],)


@pytest.mark.parametrize(
    ("task", "columns", "says"),
    [
        ("glue/sst2", {"sentence3": "x"}, "'sentence3' is no column of glue/sst2; columns: 'sentence', 'label'"),
        ("glue/mnli", {"premise": "x", "sentence1": "y"}, "'premise', 'sentence1' name the same column of glue/mnli; "),
        ("e2e", {"label": "x"}, "'label' is no column of e2e; columns: 'meaning_representation', 'mr', "),
    ],
)
def test_keys_that_are_no_columns(task: str, columns: dict[str, str], says: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"^data\.columns: {says}"):
        load(tmp_path, "sentence", columns, task)


def test_where_no_column_is_left_one_must_be_added(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'sentence'; it has 'label'\. Add a column 'sentence' to the file$"):
        load(tmp_path, "label", None)
