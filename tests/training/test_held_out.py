"""A run that is evaluated on a part of its training split, and one that is evaluated only at its end."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from dora_cli import evaluate, load_recipe, train
from dora_cli.assembly.data import HELD_OUT, load_data
from dora_cli.assembly.dry_run import dry_run
from dora_cli.assembly.resolve import resolve
from dora_cli.data import Examples
from dora_cli.errors import DataError, RecipeError, StoppedError
from dora_cli.runs.checkpoints import checkpoints_of
from dora_cli.runs.run_folder import RunRecords
from dora_cli.training.listener import SilentListener
from tests.training.conftest import MakeRecipe

ROOT = Path(__file__).parents[2]
HALF = "eval.held_out=0.25"


def test_of_every_class_a_share_is_kept_from_the_training(make_recipe: MakeRecipe) -> None:
    whole = load_data(*resolve(make_recipe()))
    parted = load_data(*resolve(make_recipe(HALF, "train.seed=7")))
    (name, held), training = *parted.evaluated.items(), parted.training
    assert name == HELD_OUT
    assert sorted(training.texts[0] + held.texts[0]) == sorted(whole.training.texts[0])
    for label in (0, 1):
        count = whole.training.labels.count(label)
        assert held.labels.count(label) == round(count / 4)
    assert load_data(*resolve(make_recipe(HALF))).evaluated == parted.evaluated  # whatever the seed
    few = load_data(*resolve(make_recipe(HALF, "data.max_eval_samples=5"))).evaluated[HELD_OUT]
    assert len(few) == 5
    assert set(few.texts[0]) <= set(held.texts[0])


SENTENCES = [
    f"{who} {verb} this {word} film"
    for who in ("we", "they", "all", "few")
    for verb in ("saw", "liked", "left", "missed")
    for word in ("good", "bad", "long", "short", "odd")
]
"""Eighty, each with spans of its own and others that it has in common with some."""


@pytest.fixture
def phrases(tmp_path: Path, make_recipe: MakeRecipe) -> MakeRecipe:
    """Recipes on the sentences and all their spans, whose classes take turns."""
    spans: dict[str, None] = {}
    for sentence in SENTENCES:
        words = sentence.split()
        for start in range(5):
            spans.update(dict.fromkeys(" ".join(words[start:end]) for end in range(start + 1, 6)))
    rows = [f"{text},{row % 2}" for row, text in enumerate(sorted(spans, key=lambda text: (text[::-1], text)))]
    (tmp_path / "train.csv").write_text("\n".join(["sentence,label", *rows, ""]))
    (tmp_path / "dev.csv").write_text("sentence,label\nodd,1\nso so,0\n")
    own = ("data.source=files", f"data.path={tmp_path}", "data.max_train_samples=null", "data.max_eval_samples=null")
    return lambda *changes: make_recipe(*own, *changes)


def sentences_of(texts: list[str]) -> list[set[str]]:
    """Which sentences have each of them as a part."""
    return [{sentence for sentence in SENTENCES if f" {text} " in f" {sentence} "} for text in texts]


@pytest.mark.parametrize("limit", ["null", "100"])
def test_no_sentence_has_parts_on_both_sides(phrases: MakeRecipe, limit: str) -> None:
    """But those that it has in common with sentences that are learned from. What is there after the limit decides, and
    what the whole split says of it: the sentence of two phrases need not be there itself.
    """
    changes = (HALF, f"data.max_train_samples={limit}")
    data = load_data(*resolve(phrases(*changes)))
    learned, held = data.training.texts[0], data.evaluated[HELD_OUT].texts[0]
    whole = load_data(*resolve(phrases(f"data.max_train_samples={limit}"))).training
    assert sorted(learned + held) == sorted(whole.texts[0]), "the limit draws the same rows"
    assert len(held) == pytest.approx(len(whole) / 4, abs=4)
    one_of_held = {next(iter(found)) for found in sentences_of(held) if len(found) == 1}
    one_of_learned = {next(iter(found)) for found in sentences_of(learned) if len(found) == 1}
    assert one_of_held
    assert not one_of_held & one_of_learned
    assert all(not found & one_of_learned for found in sentences_of(held))
    by_rows = load_data(*resolve(phrases(*changes, "eval.held_out_by=rows")))
    parts = [by_rows.training.texts[0], by_rows.evaluated[HELD_OUT].texts[0]]
    one, other = ({next(iter(found)) for found in sentences_of(part) if len(found) == 1} for part in parts)
    assert one & other


def test_what_a_method_holds_out_shares_no_sentence_either(phrases: MakeRecipe) -> None:
    guard = "method={name: dora, rank: 2, guard: true}"
    data = load_data(*resolve(phrases(HALF, guard)), held_out=0.1)
    assert data.held_out is not None
    parts = [data.training, data.held_out, data.evaluated[HELD_OUT]]
    assert all(part.groups is None for part in parts), "they are asked for once"
    singles = [{next(iter(found)) for found in sentences_of(part.texts[0]) if len(found) == 1} for part in parts]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert singles[one]
        assert singles[other]
        assert not singles[one] & singles[other]
    alone = load_data(*resolve(phrases(guard)), held_out=0.1)
    rows = load_data(*resolve(phrases(guard, "eval.held_out_by=rows")), held_out=0.1)
    assert alone.held_out != rows.held_out


@pytest.mark.parametrize("task", ["glue/stsb", "glue/mnli", "glue/qqp"])
def test_pairs_and_numbers_share_no_text(make_recipe: MakeRecipe, task: str) -> None:
    changes = (f"task={task}", "eval.held_out=0.1", "data.max_train_samples=null", "data.max_eval_samples=null")
    data = load_data(*resolve(make_recipe(*changes)))
    parts = data.training, data.evaluated[HELD_OUT]
    one, other = ({text for column in part.texts for text in column} for part in parts)
    assert not one & other
    assert len(parts[1]) == pytest.approx((len(parts[0]) + len(parts[1])) / 10, abs=3)
    rows = load_data(*resolve(make_recipe(*changes, "eval.held_out_by=rows")))
    one, other = (
        {text for column in part.texts for text in column} for part in (rows.training, rows.evaluated[HELD_OUT])
    )
    assert one & other


def test_what_hangs_together_is_learned_from_or_refused(tmp_path: Path, make_recipe: MakeRecipe) -> None:
    """Questions about one text, more of them than may be held out; the error names the other way."""
    lines = [f"question {row},the text,{row % 2}" for row in range(60)]
    alone = [f"question {row},text {row},{row % 2}" for row in range(60, 100)]
    own = ("task=glue/rte", "data.source=files", f"data.path={tmp_path}", "data.max_train_samples=null", HALF)
    own = (*own, "data.max_eval_samples=null")
    for rows in (lines + alone, lines):
        for split in ("train", "validation"):
            (tmp_path / f"{split}.csv").write_text("\n".join(["sentence1,sentence2,label", *rows, ""]))
        if rows == lines:
            with pytest.raises(DataError, match=r"eval\.held_out_by: rows"):
                load_data(*resolve(make_recipe(*own)))
            assert len(load_data(*resolve(make_recipe(*own, "eval.held_out_by=rows"))).evaluated[HELD_OUT]) == 16
        else:
            data = load_data(*resolve(make_recipe(*own)))
            assert len(data.evaluated[HELD_OUT]) == 25
            assert data.training.texts[1].count("the text") == 60
            assert [note for note in data.training.notes if "60 examples hang together" in note]


def test_references_are_parted_by_their_sources_in_any_case() -> None:
    recipe = ROOT / "configs" / "demo" / "e2e.yaml"
    found = [load_data(*resolve(load_recipe(recipe, [HALF, f"eval.held_out_by={by}"]))) for by in ("text", "rows")]
    assert found[0] == found[1]


def test_it_is_evaluated_in_the_place_of_the_dev_split(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """The same numbers as of a data set whose dev split it is."""
    recipe = make_recipe(HALF)
    data = load_data(*resolve(recipe))
    result = train(recipe, tmp_path / "run")
    write(tmp_path / "set" / "train.csv", data.training)
    write(tmp_path / "set" / "dev.csv", data.evaluated[HELD_OUT])
    other = make_recipe("data.source=files", f"data.path={tmp_path / 'set'}", "data.max_train_samples=null")
    assert train(other, tmp_path / "other").metrics["epochs"] == result.metrics["epochs"]
    assert result.metrics["baseline"]["metrics"]["accuracy"] == pytest.approx(
        max(data.evaluated[HELD_OUT].labels.count(label) for label in (0, 1)) / len(data.evaluated[HELD_OUT])
    )
    again = evaluate(tmp_path / "run")
    assert again["identical"] is True
    assert again["splits"] == {HELD_OUT: len(data.evaluated[HELD_OUT])}
    assert evaluate(tmp_path / "run", split="validation")["splits"] == {"validation": 40}
    assert evaluate(tmp_path / "run", split=HELD_OUT) == again, "which may be asked for by its name"
    with pytest.raises(RecipeError, match=f"has train, validation, test, {HELD_OUT}$"):
        evaluate(tmp_path / "run", split="held-out")
    assert dry_run(recipe).length.examples == len(data.training)


def write(path: Path, examples: Examples) -> None:
    path.parent.mkdir(exist_ok=True)
    rows = [f'"{text}",{label}' for text, label in zip(examples.texts[0], examples.labels, strict=True)]
    path.write_text("\n".join(["sentence,label", *rows]) + "\n")


def test_metrics_of_single_splits_are_none_of_a_part(make_recipe: MakeRecipe) -> None:
    with pytest.raises(RecipeError, match="accuracy_matched"):
        resolve(make_recipe(HALF, "task=glue/mnli", "eval.metric=accuracy_matched"))


def test_too_few_to_part(make_recipe: MakeRecipe) -> None:
    with pytest.raises(DataError, match=r"eval\.held_out"):
        load_data(*resolve(make_recipe(HALF, "data.max_train_samples=1")))


def test_outputs_are_written_about_it_too(tmp_path: Path) -> None:
    short = ("train.max_steps=3", "data.max_train_samples=40", "decode.max_new_tokens=5", "decode.beams=1")
    recipe = load_recipe(ROOT / "configs" / "demo" / "e2e.yaml", [HALF, "decode.epoch_samples=0", *short])
    result = train(recipe, tmp_path / "run")
    held = load_data(*resolve(recipe)).evaluated
    assert list(held) == [HELD_OUT]
    sources = set(held[HELD_OUT].texts[0])
    assert not sources & set(load_data(*resolve(recipe)).training.texts[0])  # parted by source
    assert len((tmp_path / "run" / "predictions.jsonl").read_text().splitlines()) == len(sources)
    assert "bleu" in result.metrics["metrics"]


class Stopping(SilentListener):
    """Stops the run after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def tick(self, step: int, phase: str, budget: int) -> None:
        if step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def test_once_at_the_end(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    often = train(make_recipe(), tmp_path / "often").metrics
    recipe = make_recipe("eval.every=end")
    once = train(recipe, tmp_path / "once").metrics
    assert once["epochs"] == often["epochs"][-1:]
    assert once["metrics"] == once["last"] == often["last"]
    assert once["best_epoch"] == 4
    with pytest.raises(StoppedError):
        train(recipe, tmp_path / "stopped", listener=Stopping(13))
    assert checkpoints_of(RunRecords(tmp_path / "stopped"))
    resumed = train(recipe, tmp_path / "stopped", resume=True).metrics
    assert {key: resumed[key] for key in resumed if key != "timing"} == {
        key: once[key] for key in once if key != "timing"
    }
    weights = "adapter/adapter.safetensors"
    assert (tmp_path / "stopped" / weights).read_bytes() == (tmp_path / "once" / weights).read_bytes()
