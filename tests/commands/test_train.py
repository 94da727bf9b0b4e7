"""``dora train``, from the recipe to the run folder."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from dora_cli.errors import OutputError
from dora_cli.recipe import load_recipe
from dora_cli.runs.left_open import settled
from dora_cli.runs.place import check_output, default_output, make_output, take_output
from tests.commands.conftest import STEPS, Refuse, Trained, contents, dora, recipe_text


def test_a_run_in_the_default_folder(trained: Trained) -> None:
    assert {path.name for path in trained.cwd.iterdir()} == {"recipes", "runs"}
    assert {path.name for path in (trained.cwd / "runs").iterdir()} == {"recipes-small"}
    assert {path.name for path in trained.folder.iterdir()} == {
        "recipe.yaml", "metrics.json", "log.jsonl", "ranks.json", "environment.json", "checkpoints", "adapter",
    }  # fmt: skip
    metrics = json.loads((trained.folder / "metrics.json").read_text())
    assert metrics["epochs"][-1]["step"] == STEPS
    assert metrics["budget"]["live_components"] == metrics["budget"]["final_components"] == 12


def test_results_go_to_stdout_and_progress_to_stderr(trained: Trained) -> None:
    out, err = trained.done.out, trained.done.err
    metrics = json.loads((trained.folder / "metrics.json").read_text())
    accuracy, loss = (metrics["metrics"][name] for name in ("accuracy", "loss"))
    assert f"accuracy {accuracy:.4f}, loss {loss:.4f} (epoch {metrics['best_epoch']}, best-after-freeze)" in out
    assert re.search(r"^Live: 12 .* 12 \(rank 2 x 6 ", out, flags=re.MULTILINE)
    assert "  metrics  runs/recipes-small/metrics.json\n" in out
    assert "  dora eval --checkpoint runs/recipes-small\n" in out
    assert "step 5/24" not in out
    lines = err.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("step ") and "loss" in line] == [
        f"{n}/24" for n in (5, 10, 15, 20, 24)
    ]
    assert len([line for line in lines if line.startswith("epoch ")]) == 4
    assert "step 11: ranks frozen, 12 components live" in lines
    assert "Summary" not in err


def test_output_into_a_pipe_is_plain(trained: Trained) -> None:
    for text in (trained.done.out, trained.done.err):
        assert not set(text) & {"\x1b", "\r", "\b"}
        assert "Warning" not in text
        assert text.endswith("\n")


def test_the_recipe_of_a_run_runs_again(trained: Trained) -> None:
    assert load_recipe(trained.folder / "recipe.yaml") == settled(load_recipe(trained.cwd / "recipes" / "small.yaml"))


@pytest.mark.parametrize(
    ("recipe", "folder"),
    [
        ("configs/glue/sst2.yaml", "runs/glue-sst2"),
        ("configs/demo/sst2.yaml", "runs/demo-sst2"),
        ("/home/someone/dora/configs/glue/sst2.yaml", "runs/glue-sst2"),
        ("configs/mine.yaml", "runs/mine"),
        ("mine.yaml", "runs/mine"),
        ("./mine.v2.yml", "runs/mine.v2"),
        ("../mine.yaml", "runs/mine"),
    ],
)
def test_the_default_folder_is_called_after_the_recipe(recipe: str, folder: str) -> None:
    assert default_output(Path(recipe)) == Path(folder)


def test_set_and_output(recipe: Path) -> None:
    done = dora("train", recipe, "--set", "train.max_steps=6", "--set", "train.seed=7", "-o", "deep/new folder")
    assert done.code == 0, done.err
    assert not Path("runs").exists()
    metrics = json.loads(Path("deep/new folder/metrics.json").read_text())
    assert (metrics["seed"], metrics["epochs"][-1]["step"]) == (7, 6)
    assert "  dora ranks 'deep/new folder'\n" in done.out, "what is to be copied into a shell is quoted for it"


def test_seeds_run_side_by_side_and_finished_ones_are_kept(recipe: Path) -> None:
    few = ("--set", "train.max_steps=4")
    done = dora("train", recipe, *few, "--seeds", "3,1")
    assert done.code == 0, done.err
    parent = Path("runs/small")
    assert {path.name for path in parent.iterdir()} == {"seed-3", "seed-1", "summary.json"}
    assert json.loads((parent / "summary.json").read_text())["seeds"] == [1, 3], "in their own order"
    assert done.out.startswith("glue/sst2, ")
    assert "2 seeds, best-after-freeze" in " ".join(done.out.split())
    assert "  dora ranks runs/small\n  dora report runs/small --output runs/small/report.html\n" in done.out
    assert [line.split(":")[0] for line in done.err.splitlines() if line.startswith("seed ")] == ["seed 3", "seed 1"]
    before = contents(parent / "seed-1")
    done = dora("train", recipe, *few, "--seeds", "1,2,3")
    assert done.code == 0, done.err
    assert [line.split(":")[0] for line in done.err.splitlines() if line.startswith("seed ")] == ["seed 2"]
    assert contents(parent / "seed-1") == before
    assert json.loads((parent / "summary.json").read_text())["seeds"] == [1, 2, 3]
    assert dora("ranks", parent).out.splitlines()[1] == "mean of seed-1, seed-2, seed-3"
    assert dora("ranks").out.splitlines()[0] == "runs/small/seed-2", "the newest run"


def test_seeds_take_the_place_of_a_run_and_refuse_what_is_not_theirs(
    recipe: Path, trained: Trained, refuses: Refuse
) -> None:
    few = ("--set", "train.max_steps=4")
    shutil.copytree(trained.folder, "runs/small")
    refuses("train", recipe, *few, "--seeds", "1,2", says=["--output runs/small ", "single run", "--overwrite"])
    done = dora("train", recipe, *few, "--seeds", "1,2", "--overwrite")
    assert done.code == 0, done.err
    parent = Path("runs/small")
    assert {path.name for path in parent.iterdir()} == {"seed-1", "seed-2", "summary.json"}
    done = dora("train", recipe, *few, "--seeds", "3")
    assert json.loads((parent / "summary.json").read_text())["seeds"] == [1, 2, 3]
    refuses("train", recipe, "--set", "train.max_steps=5", "--seeds", "4", says=["seed-1 ", "another recipe"])
    Path("runs/small/seed-5").mkdir()
    Path("runs/small/seed-5/thesis.tex").write_text("years of work")
    refuses("train", recipe, *few, "--seeds", "4,5", says=["seed-5 ", "not empty"])
    Path("junk").mkdir()
    Path("junk/a.txt").write_text("mine")
    refuses("train", recipe, "-o", "junk", "--seeds", "1", says=["junk ", "not empty"])


def test_overwrite_replaces_the_run_and_nothing_else(recipe: Path) -> None:
    folder = Path("run")
    assert dora("train", recipe, "--set", "train.max_steps=4", "-o", folder).code == 0
    (folder / "notes.txt").write_text("mine")
    done = dora("train", recipe, "--set", "train.max_steps=6", "-o", folder, "--overwrite")
    assert done.code == 0, done.err
    assert (folder / "notes.txt").read_text() == "mine"
    assert json.loads((folder / "metrics.json").read_text())["epochs"][-1]["step"] == 6
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"step-6"}, (
        "nothing of the old run may be left"
    )


def test_a_replaced_run_leaves_only_what_was_not_its_own(trained: Trained, tmp_path: Path) -> None:
    """Also through a link, for several seeds, and in the current folder, none of which can be removed
    and made again.
    """
    for seed in (1, 2):
        shutil.copytree(trained.folder, tmp_path / "parent" / f"seed-{seed}")
    (tmp_path / "parent" / "seed-2" / "plot.png").write_text("mine")
    (tmp_path / "parent" / "seed-x").mkdir()
    (tmp_path / "parent" / "summary.json").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "parent", target_is_directory=True)
    take_output(tmp_path / "link", overwrite=True)
    assert contents(tmp_path / "parent") == {
        "recipe.yaml": b"",
        "seed-2": None,
        "seed-2/plot.png": b"mine",
        "seed-x": None,
    }


def test_seeds_go_on_where_a_kill_left_an_empty_folder_or_an_empty_recipe(recipe: Path, trained: Trained) -> None:
    """One was made and tried, and not yet taken; in the other an earlier run was being removed, whose checkpoints are
    not the new run's.
    """
    few = ("--set", "train.max_steps=4", "-o", "new")
    Path("new/seed-1/.adapter.trial1.partial").mkdir(parents=True)
    assert dora("train", recipe, *few, "--seeds", "1").code == 0
    assert not Path("new/seed-1/.adapter.trial1.partial").exists()
    shutil.copytree(trained.folder, "new/seed-2")
    Path("new/seed-2/metrics.json").unlink()
    Path("new/seed-2/recipe.yaml").write_text("")
    done = dora("train", recipe, *few, "--seeds", "1,2")
    assert done.code == 0, done.err
    assert {path.name for path in Path("new/seed-2/checkpoints").iterdir()} == {"step-4"}


def test_of_two_runs_started_at_once_one_gets_the_folder(tmp_path: Path) -> None:
    """Both have found it free, and spend seconds on loading before they take it."""
    for _ in range(2):
        check_output(tmp_path / "run", overwrite=False)
    make_output(tmp_path / "run")
    take_output(tmp_path / "run", overwrite=False)
    with pytest.raises(OutputError, match=f"--output {tmp_path}/run "):
        take_output(tmp_path / "run", overwrite=False)


def test_overwriting_the_current_folder(recipe: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(trained.folder, "here")
    monkeypatch.chdir("here")
    assert dora("train", "../small.yaml", "--set", "train.max_steps=4", "-o", ".", "--overwrite").code == 0
    assert json.loads(Path("metrics.json").read_text())["epochs"][-1]["step"] == 4


def test_an_invalid_run_leaves_the_one_it_would_replace(recipe: Path, trained: Trained) -> None:
    shutil.copytree(trained.folder, "run")
    before = contents(Path("run"))
    for options in (("--set", "method.targets=[nothing]"), ("--seeds", "1,2", "--set", "model.name=./nowhere")):
        assert dora("train", recipe, "-o", "run", "--overwrite", *options).code == 2
        assert contents(Path("run")) == before


def test_a_dry_run_says_what_would_happen_and_writes_nothing(recipe: Path, tiny_model: Path) -> None:
    before = contents(Path())
    done = dora("train", recipe, "--dry-run", "--seeds", "1,2", "--set", "train.gradient_accumulation=2")
    assert (done.code, done.err) == (0, "")
    assert contents(Path()) == before
    resolved, _, rest = done.out.partition("\nRun\n")
    assert "  gradient_accumulation: 2\n" in resolved
    rows = {
        line[: line.index("  ", 2)].strip(): line.split("  ", 2)[2].strip()
        for line in rest.splitlines()
        if line.startswith("  ")
    }
    assert rows["training examples"] == "94"
    assert rows["global batch"] == "32 examples = train.batch_size 16 x gradient_accumulation 2 x 1 process"
    assert rows["steps"] == "12 (3 an epoch, 4 epochs)"  # ceil(94 / 32) x 4
    assert rows["output"] == "runs/small/seed-*"
    assert rows["seeds"].startswith("1, 2: ")
    assert rows["warm-up"] == "steps 1 to 1 (1 step)"  # floor(0.15 * 12)
    assert rows["pruning"] == "steps 2 to 5 (4 steps)"  # floor(0.35 * 12)
    assert rows["final"] == "steps 6 to 12 (7 steps)"
    assert rows["components"] == "18 -> 12 in 6 projections"
    assert "224" in rows.values()  # parameters of a unit of rank: 4 x (16 + 16) + 2 x (16 + 32)


def test_a_dry_run_of_a_federated_training(recipe: Path) -> None:
    """94 examples: 31 for two of three clients, 32 for the first. Each sends rank 1 for six projections, 224 entries
    together, and a head of 16 x 2 + 2, with 4 bytes for an entry.
    """
    section = "federated={clients: 3, rounds: 4, local_steps: 5, participation: 0.6}"
    done = dora("train", recipe, "--dry-run", "--set", "method={name: lora, rank: 1}", "--set", section)
    assert (done.code, done.err) == (0, "")
    rows = dict(re.findall(r"^  (\S+(?: \S+)*)  +(.*)$", done.out.partition("\nRun\n")[2], flags=re.MULTILINE))
    assert rows["clients"] == "3, iid, with 31 to 32 examples each; 2 are drawn for a round"
    assert rows["rounds"] == "4 of 5 local steps; aggregation lora-fair, residual 0.01"
    assert rows["a round's traffic"].startswith(f"{2 * 4 * (224 + 34):,} bytes up")
    assert rows["steps"] == "20 (5 a round, 4 rounds, of every client)"
    assert rows["global batch"] == "16 examples = train.batch_size 16 x gradient_accumulation 1, of a client"


def test_a_dry_run_agrees_with_the_run(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained.cwd)
    done = dora("train", "recipes/small.yaml", "--dry-run")
    (summary,) = [line for line in trained.done.err.splitlines() if "projections, " in line]
    assert re.search(r"\b6 projections, 18 -> 12 components, .* 11$", summary)
    assert "  components  18 -> 12 in 6 projections\n" in done.out
    assert re.search(r"^  freeze .* 11$", done.out, flags=re.MULTILINE)


def test_fixed_ranks_are_said_alike_by_a_dry_run_and_the_run(recipe: Path) -> None:
    """LoRA with ranks by pattern: a block of rank 3 for 3 projections of 16 x 16, 1 for one, 2 for FFN of 16 x 32."""
    ranks = {"*.query": 3, "*.key": 3, "*.value": 3, "*.attention.output.dense": 1}
    change = (
        "--set",
        f"method={json.dumps({'name': 'lora', 'rank': 2, 'ranks': ranks})}",
        "--set",
        "train.max_steps=4",
    )
    components, parameters = 3 * 3 + 1 + 2 * 2, (3 * 3 + 1) * 32 + 2 * 2 * 48
    done = dora("train", recipe, *change, "--dry-run")
    assert (done.code, done.err) == (0, "")
    assert f"  components  {components} in 6 projections\n" in done.out
    assert f"  adapter      {parameters:,}\n" in done.out
    done = dora("train", recipe, *change, "-o", "fixed")
    assert done.code == 0, done.err
    assert f"6 projections, {components} components\n" in done.err
    assert f"\n{components} components, " in done.out
    record = json.loads(Path("fixed/ranks.json").read_text())
    assert (record["start_rank"], record["target_rank"], record["live_components"]) == (None, None, components)
    assert json.loads(Path("fixed/metrics.json").read_text())["budget"]["adapter_parameters_final"] == parameters
    done = dora("ranks", "fixed", "--history")
    assert f"\n{components} components through 4 steps\n" in done.out


def test_paths_are_taken_from_the_current_folder(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "a b" / "c"
    work.mkdir(parents=True)
    (tmp_path / "model").symlink_to(tiny_model, target_is_directory=True)
    (tmp_path / "my recipe.yaml").write_text(recipe_text("../../model"))
    monkeypatch.chdir(work)
    done = dora("train", "../../my recipe.yaml", "--set", "train.max_steps=4")
    assert done.code == 0, done.err
    assert Path("runs/my recipe/metrics.json").is_file()
    assert "  dora eval --checkpoint 'runs/my recipe'\n" in done.out


def test_plain_and_quiet(recipe: Path) -> None:
    few = ("train", recipe, "--set", "train.max_steps=5")
    assert [line for line in dora(*few, "--plain", "-o", "plain").err.splitlines() if line.startswith("step 5/5 ")]
    for name, options in (("one", ()), ("several", ("--seeds", "1,2"))):
        done = dora(*few, "--quiet", "-o", name, *options)
        assert (done.code, done.out) == (0, "")
        assert all(line.startswith("note: ") for line in done.err.splitlines()), done.err
    assert Path("one/metrics.json").is_file()
    assert Path("several/summary.json").is_file()
    done = dora(*few, "-q", "-o", "one")
    assert done.code == 2
    assert done.err.startswith("dora: error: --output one ")


def test_quiet_beside_what_prints_is_refused(recipe: Path, refuses: Refuse) -> None:
    refuses(
        "train",
        recipe,
        "--quiet",
        "--plain",
        says=["--quiet prints nothing and --plain prints lines; give one of them"],
    )
    refuses("train", recipe, "-q", "--dry-run", says=["--quiet prints nothing and --dry-run prints a run"])


def test_what_the_folder_holds_comes_before_what_is_out_of_reach(
    recipe: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub = ("--set", "model.name=nobody/nothing")
    (new := Path("mine")).mkdir()
    (new / "notes.txt").touch()
    done = dora("train", recipe, *hub, "--output", new)
    assert (done.code, "nobody/nothing" in done.err) == (2, False)
    assert "--output mine" in done.err
    again = dora("train", trained.folder / "recipe.yaml", "--output", trained.folder, "--resume")
    assert again.code == 0, again.err
    missing = dora("train", recipe, *hub, "--output", "none", "--resume")
    assert (missing.code, "nobody/nothing" in missing.err) == (2, False)
    assert "nobody/nothing" in dora("train", recipe, *hub, "--output", "none").err
