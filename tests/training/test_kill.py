"""SIGKILL at any moment: the command that is called again ends as one that was never struck."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from dora_cli.recipe import parse_recipe
from tests.runs.test_resume import SAVES as EVERY_STEP
from tests.training.conftest import MakeRecipe
from tests.training.killed import Case, Result, Training
from tests.training.killing import Straight, Strike, Warm
from tests.training.marks import PHASES
from tests.training.test_generation import models, recipe_of, tokenizer  # noqa: F401 - fixtures
from tests.training.test_run import read

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes cannot be forked")


@pytest.fixture(scope="module")
def warm() -> Warm:
    return Warm()


def kill(place: str, visit: int = 1) -> Strike:
    return Strike(place, visit)


# In the order in which a run of 24 steps comes there; `visit` counts from the start of an attempt.
THROUGH_A_RUN = (
    kill("records: recipe.yaml beside"),  # the folder is taken, the recipe not yet written
    kill("warm-up: step 1"),
    kill("checkpoint: step-1 half of adapter.safetensors"),  # there is none yet to go on from
    kill("checkpoint: step-2 manifest.json synced"),  # whole, but not in its place
    kill("pruning: step 5"),
    kill("log: half a line"),  # of step 5
    kill("evaluation: batch"),
    kill("event: step 9"),
    kill("clearing: step-7 half removed"),
    kill("freeze: step 11"),  # tensors shrink
    kill("adapter: old renamed"),  # there is no adapter/ between two renames
    kill("final: step 24"),
    kill("records: metrics.json in place"),
)


def test_killed_at_chosen_moments(warm: Warm, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """In every phase of a run without generation, and within every kind of writing: 13 kills in one run, and more in
    scripts/kill_campaign.py.
    """
    straight = Straight.of(warm, make_recipe(*EVERY_STEP, "eval.select=last"), tmp_path)
    attempts = straight.struck(warm, tmp_path / "struck", THROUGH_A_RUN)
    assert [attempt.marks[-1] for attempt in attempts[:-1]] == [strike.place for strike in THROUGH_A_RUN]
    assert {attempt.phase for attempt in attempts[:-1]} >= {*PHASES} - {"loading", "decoding"}
    straight.assert_equals(tmp_path / "struck")


WHILE_GENERATING = (
    kill("evaluation: batch", 3),
    kill("decoding: batch"),
    kill("records: predictions.jsonl beside"),
    kill("records: ranks.json in place"),
)


def test_killed_while_texts_are_generated(warm: Warm, models: dict[str, Path], tmp_path: Path) -> None:  # noqa: F811
    """A generator whose selected epoch is not the last, so that its weights are read again from adapter/ before they
    are scored.
    """
    changes = (
        "data.max_train_samples=24", "train.batch_size=4", "train.gradient_accumulation=2", "method.dropout=0.1",
        "train.epochs=3", "save.every_steps=2", "eval.select=best", "train.learning_rate=0.05",
        "train.lr_warmup_steps=6", "decode.max_new_tokens=4",
    )  # fmt: skip
    straight = Straight.of(warm, recipe_of(models["gpt2"], *changes), tmp_path)
    assert read(straight.run / "metrics.json")["best_epoch"] == 2
    attempts = straight.struck(warm, tmp_path / "struck", WHILE_GENERATING)

    assert [attempt.marks[-1] for attempt in attempts[:-1]] == [strike.place for strike in WHILE_GENERATING]
    straight.assert_equals(tmp_path / "struck")


SHORT = (
    "data.max_train_samples=46", "data.max_eval_samples=16", "train.max_steps=6", "save.every_steps=2",
    "train.batch_size=4", "train.gradient_accumulation=2",
)  # fmt: skip


def test_killed_while_weights_are_averaged(warm: Warm, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Half of the weights that train is written; an evaluation is made with the mean, which has just been selected."""
    strikes = (
        kill("checkpoint: step-4 half of training.safetensors"),
        kill("evaluation: batch"),  # after step 6
        kill("adapter: old renamed"),  # after step 12
    )
    changes = ("train.max_steps=12", "method={name: lora, rank: 2, dropout: 0.2}", "train.average_last=0.8")
    straight = Straight.of(warm, make_recipe(*SHORT, *changes, "eval.select=last"), tmp_path)
    attempts = straight.struck(warm, tmp_path / "struck", strikes)
    assert [attempt.marks[-1] for attempt in attempts[:-1]] == [strike.place for strike in strikes]
    straight.assert_equals(tmp_path / "struck")


def strike_at(case: Case, folder: Path, *places: Strike) -> None:
    attempts = list(case.struck(folder, places))
    assert [attempt.marks[-1] for attempt in attempts[:-1]] == [strike.place for strike in places]


def test_several_seeds_killed_at_chosen_moments(warm: Warm, make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Called again as it was: in the first seed, between the seeds, in the second, before the summary."""
    strike_at(
        Training(warm, tmp_path / "straight", recipe=make_recipe(*SHORT), seeds="1,2"),
        tmp_path / "struck",
        kill("claim: folder made"),
        kill("log: half a line"),
        kill("claim: recipe.yaml touched"),
        kill("records: summary.json beside"),
    )


@pytest.fixture(scope="module")
def straight_runs(warm: Warm, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What is there before: a run and the runs of three seeds, all of another recipe than the one that
    replaces them.
    """
    folder = tmp_path_factory.mktemp("before")
    recipe = parse_recipe(
        f"""
        task: glue/sst2
        model: {{name: {tiny_model}}}
        data: {{source: builtin, max_train_samples: 48, max_eval_samples: 16}}
        method: {{name: dora, rank: 3}}
        train: {{epochs: 1, batch_size: 16, device: cpu}}
        """
    )
    for name, seeds in (("run", None), ("seeds", "1,2,3")):
        Training(warm, folder / name, recipe=recipe, seeds=seeds)
    return {name: folder / name / "place" for name in ("run", "seeds")}


def test_killed_while_an_earlier_run_is_replaced(
    warm: Warm, make_recipe: MakeRecipe, straight_runs: dict[str, Path], tmp_path: Path
) -> None:
    """Called again with --overwrite until the new run has begun, then to go on; a user's files are
    there all the time.
    """
    strike_at(
        Training(warm, tmp_path / "straight", straight_runs["run"], recipe=make_recipe(*SHORT)),
        tmp_path / "struck",
        kill("records: recipe.yaml in place"),  # emptied
        kill("removal: checkpoints half removed"),
        kill("records: recipe.yaml in place", 2),
    )


def test_killed_while_the_runs_of_several_seeds_are_replaced(
    warm: Warm, make_recipe: MakeRecipe, straight_runs: dict[str, Path], tmp_path: Path
) -> None:
    strike_at(
        Training(warm, tmp_path / "straight", straight_runs["seeds"], recipe=make_recipe(*SHORT), seeds="2,4"),
        tmp_path / "struck",
        kill("removal: seed-1 begun"),
        kill("removal: metrics.json removed"),
        kill("removal: place done"),
        kill("claim: folder made"),
        kill("claim: recipe.yaml touched"),
    )


@pytest.mark.parametrize("kind", ["peft", "merged"])
def test_killed_while_an_export_is_written(
    warm: Warm, straight_runs: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    """Over an earlier one, by way of a process that removes it and one that fills its place."""
    command = ("export", "--checkpoint", str(straight_runs["run"]), "--format", kind)
    Result(warm, tmp_path / "before", command=(*command, "--dtype", "bfloat16"))
    weights = {"peft": "adapter_model", "merged": "model"}[kind]
    half = kill(f"export: half of {weights}.safetensors")
    places = (
        kill("export: README.md beside"),
        kill("export: folder renamed"),  # the earlier one is beside its place, and is put back
        kill("export: folder renamed", 2),  # its place being empty, by the process that puts it back, then aside again
        kill("export: half removed"),
    )
    case = Result(warm, tmp_path / "straight", tmp_path / "before" / "place", command=command)
    strike_at(case, tmp_path / "struck", half, *(places if kind == "peft" else ()))  # both are placed by the same code


def test_killed_while_a_page_or_a_picture_is_written(
    warm: Warm, straight_runs: dict[str, Path], tmp_path: Path
) -> None:
    run = str(straight_runs["run"])
    for name, option, command in (("page.html", "--output", ("report", run)), ("map.svg", "--plot", ("ranks", run))):
        if name == "map.svg" and find_spec("matplotlib") is None:
            continue
        folder = tmp_path / command[0]
        folder.mkdir()
        (folder / name).write_text("an earlier one")
        case = Result(warm, folder / "straight", folder / name, command=command, option=option, name=name)
        strike_at(case, folder / "struck", *[kill(f"output: {name} {where}") for where in ("beside", "in place")])
