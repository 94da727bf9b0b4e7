"""What is said before a run starts: by the run, once, and by its dry run, in the same words."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from dora_cli import evaluate, train
from dora_cli.assembly.dry_run import dry_run
from dora_cli.assembly.notes import notes_before_evaluation, notes_on_settings
from dora_cli.assembly.resolve import resolve
from dora_cli.data import load_examples
from dora_cli.data.builtin import generate
from dora_cli.library.prediction import predict_saved
from dora_cli.recipe import Recipe
from dora_cli.tasks import get_task
from dora_cli.training.listener import EvalLog, RunStart, SilentListener
from tests.training.conftest import MakeRecipe


class Ears(SilentListener):
    """Hears notes, and what else happens."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def note(self, message: str) -> None:
        self.heard.append(message)

    def start(self, start: RunStart) -> None:
        self.heard.append("start")

    def evaluated(self, log: EvalLog) -> None:
        self.heard.append("evaluated")


def own_files(folder: Path, train: Sequence[tuple[str, str]], validation: Sequence[tuple[str, str]]) -> str:
    """Splits as files, and the recipe's key that reads them."""
    for split, rows in (("train", train), ("validation", validation)):
        with (folder / f"{split}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("sentence", "label"), *rows])
    return f"data={{source: files, path: {json.dumps(str(folder))}, max_train_samples: 100, max_eval_samples: 3}}"


@pytest.fixture
def odd(make_recipe: MakeRecipe, tmp_path: Path) -> Recipe:
    """Two of 16 training rows have an empty text and one a NUL; all of validation is of one class."""
    sound = generate("glue/sst2", "train").texts[0]
    rows = [(text, str(index % 2)) for index, text in enumerate([*sound[:13], "", " ", f"{sound[0]}\0"])]
    return make_recipe(
        own_files(tmp_path, rows, [(sound[0], "1"), (sound[1], "1")]), "train.epochs=2", "train.max_steps=16"
    )


ODD = [
    r"split train: data\.max_train_samples .*\b100\b.*\b16\b",
    r"split train: 2 of 16 .* empty ",
    r"split train: 1 of 16 .* NUL ",
    r"split validation: data\.max_eval_samples .*\b3\b.*\b2\b",
    r"split validation: .*\b2\b.*'positive'",
]
"""What each note names, in their order."""


def are_odd(notes: Sequence[str]) -> bool:
    return len(notes) == len(ODD) and all(map(re.match, ODD, notes))


def test_a_run_says_what_is_odd_about_its_data_once_before_it_starts(odd: Recipe, tmp_path: Path) -> None:
    ears = Ears()
    train(odd, tmp_path / "run", listener=ears)
    said = ears.heard[: len(ODD)]
    assert are_odd(said), said
    assert ears.heard.index("start") >= len(ODD)
    assert ears.heard.count("evaluated") > 1
    assert all(ears.heard.count(note) == 1 for note in said)

    ears = Ears()
    evaluate(tmp_path / "run", note=ears.note)
    assert ears.heard[:2] == said[3:]

    (tmp_path / "own.txt").write_text("a film .\nb\0 .\n")
    ears = Ears()
    predict_saved(tmp_path / "run", file=tmp_path / "own.txt", listener=ears)
    assert next(note for note in ears.heard if "NUL" in note).startswith(f"{tmp_path / 'own.txt'}: 1 of 2 ")


def test_a_dry_run_says_the_same(odd: Recipe) -> None:
    ahead = dry_run(odd)
    assert are_odd(ahead.notes), ahead.notes
    assert [value for label, value in ahead.rows if label == "note"] == list(ahead.notes)


def test_a_dry_run_reads_every_split_of_the_run(odd: Recipe, tmp_path: Path) -> None:
    from dora_cli.errors import DataError

    (tmp_path / "validation.csv").unlink()
    with pytest.raises(DataError, match=r"split validation"):
        dry_run(odd)


def test_a_sound_run_gives_no_note(make_recipe: MakeRecipe) -> None:
    assert dry_run(make_recipe()).notes == []


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.learning_rate=1e9", ["train.learning_rate is 1e+09"]),
        ("train.learning_rate=0.11", ["train.learning_rate is 0.11"]),
        ("train.learning_rate=0.1", []),
        ("train.weight_decay=200", ["train.learning_rate x train.weight_decay is 1,"]),  # 5e-3 x 200
        ("train.weight_decay=199", []),
    ],
)
def test_settings_that_are_hopeless(override: str, words: list[str], make_recipe: MakeRecipe) -> None:
    notes = list(notes_on_settings(make_recipe(override)))
    assert len(notes) == len(words)
    assert all(word in note for word, note in zip(words, notes, strict=True))
    assert dry_run(make_recipe(override)).notes == notes


def test_limits_above_the_official_sizes(make_recipe: MakeRecipe) -> None:
    """The hub is not asked."""
    of_hub = make_recipe("data={source: hub, max_train_samples: 67350, max_eval_samples: 873}")
    train_note, validation_note = dry_run(of_hub).notes
    assert "67,350, but there are 67,349 examples" in train_note
    assert "873, but there are 872 examples" in validation_note
    assert dry_run(make_recipe("data={source: hub, max_train_samples: 67349, max_eval_samples: 872}")).notes == []


def test_generation_counts_sources_where_the_limit_does(
    make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dora_cli.metrics.e2e.java.look_for_java", lambda: {"problem": None})
    examples = load_examples(get_task("e2e").fields, "builtin", "validation")
    sources = len(set(examples.texts[0]))
    assert sources < len(examples)
    for limit, noted in ((sources, 0), (sources + 1, 1)):
        recipe, task = resolve(make_recipe("task=e2e", f"data.max_eval_samples={limit}"))
        assert len(list(notes_before_evaluation(recipe, task, {"validation": examples}))) == noted


def test_java_that_is_missing_is_said_before_anything_is_trained(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    note = get_task("e2e").lacks()
    assert note is not None
    assert "METEOR" in note
    assert "Java" in note
    assert get_task("glue/sst2").lacks() is None
    changes = "task=e2e", "model.name=builtin:tiny-decoder", "data={source: builtin}"
    assert dry_run(make_recipe(*changes)).notes == [note]
    assert dry_run(make_recipe(*changes, "decode.split=none")).notes == []  # nothing is scored at the end
