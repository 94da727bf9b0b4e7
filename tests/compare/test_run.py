"""Whole experiments on a tiny model: made, killed and made again to the same end, gone on with, and refused."""

from __future__ import annotations

import copy
import importlib
import json
import multiprocessing
import os
import re
import shutil
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from dora_cli.assembly.resolve import resolve
from dora_cli.compare.jobs import Ended, Job
from dora_cli.compare.plan import Plan
from dora_cli.compare.run import LOOK, compare, what_seeds_show
from dora_cli.compare.workers.local import LocalPool
from dora_cli.errors import CheckpointError, OutputError
from dora_cli.recipe import Recipe, load_recipe
from dora_cli.runs.lock import RunLock
from dora_cli.runs.run_folder import RunRecords
from dora_cli.training.run import train
from tests.commands.conftest import contents, dora
from tests.compare.fakes import FakePool, Told, Trainer, costs_of
from tests.compare.killed import make_until_killed
from tests.processes import CONTEXT, Done, end_of
from tests.runs.test_resume import assert_equal_runs

compare_command = importlib.import_module("dora_cli.commands.compare")
posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


def write(folder: Path, model: Path) -> None:
    """The demonstration's experiment in small: 8 steps, two methods, three rates, two seeds."""
    (folder / "small.yaml").write_text(
        f'task: glue/sst2\nmodel: {{name: "{model}"}}\n'
        "data: {source: builtin, max_train_samples: 60, max_eval_samples: 20}\n"
        "method: {name: dora, rank: 2, prune_interval: 1, dropout: 0.1}\n"
        "train: {epochs: 2, batch_size: 16, log_every: 2, device: cpu}\nsave: {every_steps: 2}\n"
    )
    (folder / "small-compare.yaml").write_text("""\
tasks: [small.yaml]
set: {train.epochs: 2}
methods:
  lora: {method.name: lora, method.rank: 2}
  dora: {method.name: dora, method.rank: 2}
tune: {train.learning_rate: {from: 1.0e-3, to: 9.0e-3, points: 3}, extend: 0}
seeds: 2
baseline: lora
""")


Trained = Callable[[Recipe, Path], object]


def made(file: Path, output: Path, train: Trained = train, *, resume: bool = False) -> FakePool:
    """Makes the experiment in this process."""
    pool = FakePool(train, 2)
    compare(Plan.of(file), output, lambda: pool, Told(), resume=resume)
    return pool


def timeless(folder: Path) -> dict[str, Any]:
    """comparison.json but for what a clock or the system's memory says."""
    record = copy.deepcopy(dict(RunRecords(folder).read_comparison()))
    for cell in record["cells"]:
        for run in cell["runs"]:
            run["seconds"] = run["peak_memory_bytes"] = None
    return record


def runs(folder: Path) -> list[str]:
    return sorted(path.parent.relative_to(folder).as_posix() for path in folder.rglob("metrics.json"))


def assert_equal(one: Path, other: Path) -> None:
    assert timeless(one) == timeless(other)
    assert runs(one) == runs(other)
    for run in runs(one):
        assert_equal_runs(one / run, other / run)
    assert RunRecords(one).experiment.read_bytes() == RunRecords(other).experiment.read_bytes()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("experiment")


@pytest.fixture(scope="module")
def by_command(place: Path, tiny_model: Path) -> tuple[Done, list[str]]:
    """What the command has said, which nobody disturbed, and the runs that it made in this process."""
    pool = FakePool(train, 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        write(place, tiny_model)
        patch.setattr(compare_command, "_pool", lambda *_: pool)
        done = dora("compare", "small-compare.yaml", "--output", place / "straight", "--plain")
    assert done.code == 0, done.err
    return done, pool.submitted


@pytest.fixture(scope="module")
def straight(place: Path, by_command: object) -> Path:
    """An experiment that nobody disturbed."""
    return place / "straight"


@pytest.fixture
def here(straight: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the recipe and the experiment, which is the current one."""
    monkeypatch.chdir(straight.parent)
    return straight.parent


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> list[FakePool]:
    """The command makes its runs here: its workers load libraries for seconds."""
    pools: list[FakePool] = []

    def pool(*_: object) -> FakePool:
        pools.append(FakePool(train, 2))
        return pools[-1]

    monkeypatch.setattr(compare_command, "_pool", pool)
    return pools


def test_what_an_experiment_leaves(straight: Path) -> None:
    record = RunRecords(straight).read_comparison()
    assert record["complete"]
    assert [method["name"] for method in record["methods"]] == ["dora", "lora"]
    measured = [run for cell in record["cells"] for run in cell["runs"]]
    tuned = [run for cell in record["cells"] for tried in cell["tuned"]["tried"] for run in tried["runs"]]
    assert sorted([*tuned, *(run["folder"] for run in measured)]) == runs(straight)
    for run in measured:
        metrics = RunRecords(straight / run["folder"]).read_metrics()
        assert run["score"] == metrics["metrics"]["accuracy"]
        assert run["stored_parameters"] == metrics["budget"]["adapter_parameters_final"]
        assert metrics["seed"] == run["seed"]
    sizes = {run["stored_parameters"] for cell in record["cells"] for run in cell["runs"]}
    assert max(sizes) - min(sizes) <= 48, "one component of the tiny model's largest projection"


def test_the_command_prints_what_it_came_to(straight: Path, by_command: tuple[Done, list[str]]) -> None:
    done, submitted = by_command
    assert "dora" in done.out
    assert "lora" in done.out
    assert sorted(submitted) == runs(straight)
    assert "runs/small/dora/seed-1: finished" in done.err


def test_a_finished_experiment_is_made_once(here: Path, straight: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    shutil.copytree(straight, copied)
    assert made(Path("small-compare.yaml"), copied, resume=True).submitted == []
    assert_equal(copied, straight)


@posix
def test_one_that_was_killed_again_and_again_equals_the_straight_one(
    here: Path, straight: Path, tmp_path: Path
) -> None:
    """Within a run after its checkpoint, and after one that nobody has counted."""
    output = tmp_path / "killed"
    for number, (run, step) in enumerate([(3, 4), (4, -1)]):
        assert RunRecords(output).experiment.is_file() == (number > 0)
        words = (here, "small-compare.yaml", output, run, step)
        process = CONTEXT.Process(target=make_until_killed, args=words, kwargs={"resume": number > 0}, daemon=True)
        process.start()
        assert end_of(process) == -signal.SIGKILL
    assert len(runs(output)) == 2 + 4
    assert made(Path("small-compare.yaml"), output, resume=True).submitted
    assert_equal(output, straight)


def test_more_seeds_make_only_their_own_runs(here: Path, straight: Path, tmp_path: Path) -> None:
    output = tmp_path / "more"
    shutil.copytree(straight, output)
    before = {run: (output / run / "metrics.json").read_bytes() for run in runs(output)}
    file = tmp_path / "small-compare.yaml"
    file.write_text(Path("small-compare.yaml").read_text().replace("seeds: 2", "seeds: 3"))
    found = made(file, output, resume=True)
    # LoRA has the mean size of DoRA's runs, which a third seed may change: here all prune to one size
    assert sorted(found.submitted) == ["runs/small/dora/seed-3", "runs/small/lora-sized=dora/seed-3"]
    assert {run: (output / run / "metrics.json").read_bytes() for run in before} == before
    assert RunRecords(output).read_comparison()["seeds"] == [1, 2, 3]
    assert RunRecords(output).experiment.read_text() == file.read_text()


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("train.epochs: 2", "train.epochs: 3", ["set.train.epochs was 2 and is 3"]),
        ("method.name: lora, method.rank: 2", "method.name: lora", ["methods.lora.method.rank was 2 and is not given"]),
        ("extend: 0", "extend: 0, held_out: 0.2", ["tune.held_out was 0.1 and is 0.2"]),
        ("baseline: lora", "baseline: lora\nmatch: none", ['match was "stored-parameters" and is "none"']),
        ("baseline: lora", "baseline: lora\nmeasure: held-out", ['measure was "dev" and is "held-out"']),
    ],
)  # fmt: skip
def test_other_settings_are_refused_by_name(
    here: Path,
    straight: Path,
    tmp_path: Path,
    before: str,
    after: str,
    words: list[str],
    in_this_process: list[FakePool],
) -> None:
    file = tmp_path / "small-compare.yaml"
    text = Path("small-compare.yaml").read_text()
    assert before in text
    file.write_text(text.replace(before, after))
    kept = contents(straight)
    done = dora("compare", file, "--output", straight, "--resume")
    assert done.code == 2
    for word in words:
        assert word in done.err
    assert contents(straight) == kept


def test_a_recipe_that_was_changed_is_refused_by_name(here: Path, straight: Path, tmp_path: Path) -> None:
    output = tmp_path / "copy"
    shutil.copytree(straight, output)
    recipe = tmp_path / "small.yaml"
    recipe.write_text(Path("small.yaml").read_text().replace("batch_size: 16", "batch_size: 8"))
    file = tmp_path / "small-compare.yaml"
    file.write_text(Path("small-compare.yaml").read_text())
    os.chdir(tmp_path)  # `here` comes back from it
    with pytest.raises(CheckpointError, match=r"train\.batch_size was 16 and is 8"):
        made(file, output, resume=True)
    assert runs(output) == runs(straight)
    assert RunRecords(output).read_comparison()["complete"], "what was known stays"


def test_places_that_are_none(here: Path, straight: Path, tmp_path: Path, in_this_process: list[FakePool]) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("")
    for output, options, words in (
        (straight, [], "--resume"),
        (other, [], "holds no experiment"),
        (other, ["--resume"], "holds no experiment"),
        (tmp_path / "new", ["--resume"], "leave out --resume"),
        (other / "thesis.tex", [], "is a file"),
        (other / "thesis.tex" / "x", [], "thesis.tex"),
        ("-", [], "folder"),
    ):
        done = dora("compare", "small-compare.yaml", "--output", output, *options)
        assert done.code == 2
        assert words in done.err
    assert in_this_process == []
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    assert [path.name for path in other.iterdir()] == ["thesis.tex"]


@posix
def test_a_folder_that_another_one_works_in(here: Path, straight: Path, in_this_process: list[FakePool]) -> None:
    with RunLock(straight):
        done = dora("compare", "small-compare.yaml", "--output", straight, "--resume")
    assert (done.code, in_this_process) == (2, [])
    assert str(straight) in done.err


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="who may write anywhere is refused nothing")
def test_a_folder_that_may_not_be_written_to(here: Path, tmp_path: Path, in_this_process: list[FakePool]) -> None:
    tmp_path.chmod(0o500)
    try:
        done = dora("compare", "small-compare.yaml", "--output", tmp_path / "new")
    finally:
        tmp_path.chmod(0o700)
    assert (done.code, in_this_process) == (2, [])
    assert str(tmp_path / "new") in done.err


def test_a_dry_run_writes_nothing(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    kept = contents(here)
    done = dora("compare", "small-compare.yaml", "--dry-run", "--jobs", "2")
    assert done.code == 0, done.err
    assert contents(here) == kept
    assert list(scratch.iterdir()) == []
    assert re.search(rf"^runs +{Plan.of(Path('small-compare.yaml')).runs};", done.out, flags=re.MULTILINE)
    assert "8 trial steps" in done.err


SWEPT = """\
tasks: [small.yaml]
methods:
  lora: {method.name: lora, method.rank: [1, 2]}
  dora: {method.name: dora, method.rank: [1, 2]}
seeds: 2
baseline: lora
"""


def test_a_key_is_pooled_afterwards_without_another_run(here: Path, tmp_path: Path) -> None:
    """And no longer, likewise; it is said that other comparisons were seen before."""
    file, output = tmp_path / "swept.yaml", tmp_path / "out"
    file.write_text(SWEPT)
    plan = Plan.of(file)
    apart_runs = made(file, output, scored(costs_of(plan))).submitted
    apart = timeless(output)
    assert [found["method"] for found in apart["comparisons"]] == ["dora rank=1", "dora rank=2"]
    file.write_text(f"{SWEPT}pool: [method.rank]\n")
    assert made(file, output, scored(costs_of(plan)), resume=True).submitted == []
    record = timeless(output)
    (found,) = record["comparisons"]
    each = [one["differences"] for one in apart["comparisons"]]
    assert found["differences"] == pytest.approx([(one + other) / 2 for one, other in zip(*each, strict=True)])
    assert found["differences"] == pytest.approx([0.025, 0.1])
    assert [cell["runs"] for cell in record["cells"]] == [cell["runs"] for cell in apart["cells"]]
    assert len(apart_runs) == sum(len(cell["runs"]) for cell in apart["cells"])
    (look,) = (note for note in record["notes"] if note.startswith(LOOK))
    assert "2 seeds and 2 comparisons were" in look
    file.write_text(SWEPT)
    assert made(file, output, scored(costs_of(plan)), resume=True).submitted == []
    again = timeless(output)
    assert again["comparisons"] == apart["comparisons"]
    assert [note for note in again["notes"] if note not in record["notes"]] == [
        look.replace("2 comparisons", "1 comparison pooled over method.rank")
    ]


def ways(output: Path) -> dict[str, set[str | None]]:
    """How the runs of each stage hold out."""
    found: dict[str, set[str | None]] = {}
    for run in runs(output):
        recipe = load_recipe(output / run / "recipe.yaml")
        found.setdefault(run.partition("/")[0], set()).add(recipe.eval.held_out_by)
    return found


def test_runs_are_parted_by_text_unless_the_experiment_says_rows(here: Path, tmp_path: Path) -> None:
    text = Path("small-compare.yaml").read_text() + "match: none\n"
    assert text.count("train.epochs: 2") == 1
    for more, way in (("", "text"), (", eval.held_out_by: rows", "rows")):
        file, output = tmp_path / f"{way}.yaml", tmp_path / way
        file.write_text(text.replace("train.epochs: 2", f"train.epochs: 2{more}"))
        made(file, output, scored(costs_of(Plan.of(file))))
        assert ways(output) == {"tuning": {way}, "runs": {way}}


def test_an_experiment_of_an_older_version_goes_on_by_rows(here: Path, tmp_path: Path) -> None:
    """Whether its file says so by now or not: what is there stays, and new runs are parted as the others were."""
    plain = Path("small-compare.yaml").read_text() + "match: none\n"
    by_rows = plain.replace("train.epochs: 2", "train.epochs: 2, eval.held_out_by: rows")
    file, output = tmp_path / "old.yaml", tmp_path / "old"
    file.write_text(by_rows)
    train = scored(costs_of(Plan.of(file)))
    made(file, output, train)
    for recipe in [*output.rglob("recipe.yaml"), output / "experiment.yaml"]:  # which did not know the key
        text = recipe.read_text()
        recipe.write_text(re.sub(r"(,|\n *) *held_out_by: rows|, eval\.held_out_by: rows", "", text))
        assert "held_out_by" not in recipe.read_text() != text
    before = contents(output)
    for number, text in enumerate((plain, by_rows, plain)):
        file.write_text(text.replace("seeds: 2", f"seeds: {2 + number}"))
        submitted = made(file, output, train, resume=True).submitted
        assert sorted(submitted) == [f"runs/small/{name}/seed-{2 + number}" for name in ("dora", "lora") if number]
    file.write_text(plain.replace("points: 3", "points: 5"))
    assert any(name.startswith("tuning/") for name in made(file, output, train, resume=True).submitted)
    assert ways(output) == {"tuning": {None, "rows"}, "runs": {None, "rows"}}
    assert {name: content for name, content in contents(output).items() if name in before and "/" in str(name)} == {
        name: content for name, content in before.items() if "/" in str(name)
    }
    file.write_text(plain.replace("train.epochs: 2", "train.epochs: 2, eval.held_out_by: text"))
    there = contents(output)
    with pytest.raises(OutputError, match=r'eval\.held_out_by was "rows" and is "text"'):
        made(file, output, train, resume=True)
    assert contents(output) == there, "what is refused changes nothing"


def test_what_an_experiment_left_open_may_be_named_later(here: Path, tmp_path: Path) -> None:
    plain = Path("small-compare.yaml").read_text() + "match: none\n"
    file, output = tmp_path / "new.yaml", tmp_path / "new"
    file.write_text(plain)
    train = scored(costs_of(Plan.of(file)))
    made(file, output, train)
    for more in (", eval.held_out_by: null", ", eval.held_out_by: text", ""):
        file.write_text(plain.replace("train.epochs: 2", f"train.epochs: 2{more}"))
        assert not made(file, output, train, resume=True).submitted
    tuning = RunRecords(output).read_comparison()["tuning"]
    assert (tuning["held_out"], tuning["held_out_by"]) == (0.1, "text")


def scored(costs: Mapping[str, int]) -> Trainer:
    """Scores by which DoRA gains with seed and rank."""

    def truth(recipe: Recipe) -> float:
        return 0.6 + 0.01 * (recipe.method.name == "dora") * recipe.train.seed**2 * recipe.method.rank**2

    return Trainer(truth, costs)


def test_a_dry_run_says_what_is_pooled(here: Path, tmp_path: Path) -> None:
    file = tmp_path / "swept.yaml"
    file.write_text(f"{SWEPT}pool: [method.rank]\nmatch: none\n")
    done = dora("compare", file, "--dry-run", "--jobs", "1")
    assert done.code == 0, done.err
    (comparison,) = Plan.of(file).design.comparisons
    said = " ".join(done.out.split())
    assert f"compared {comparison} seeds" in said
    assert what_seeds_show(Plan.of(file)) in said
    file.write_text(f"{SWEPT}match: none\n")
    assert what_seeds_show(Plan.of(file)) not in said, "two comparisons ask more of the seeds than one"


def test_an_experiment_says_how_its_keys_are_wrong(here: Path, tmp_path: Path) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text("tasks: [small.yaml]\n")
    done = dora("compare", file)
    assert (done.code, done.out) == (2, "")
    assert done.err.count(str(file)) == 2


class StruckPool(LocalPool):
    """A pool of true workers, which have everything loaded; with its third run under way comes Ctrl-C."""

    made = 0

    def wait(self) -> list[tuple[Job, Ended]]:
        if self.made == 2:
            os.kill(os.getpid(), signal.SIGINT)
        ended = super().wait()
        self.made += len(ended)
        return ended


@posix
def test_ctrl_c_saves_and_says_how_to_go_on(
    here: Path, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command with a worker process; what goes on from there comes to the same."""
    output, workers = tmp_path / "stopped", []

    def pool(plan: Plan, jobs: int | None, ray: str | None, note: Callable[[str], None]) -> StruckPool:
        workers.append(StruckPool("cpu", jobs, runs=plan.runs, note=note, context=CONTEXT))
        return workers[-1]

    monkeypatch.setattr(compare_command, "_pool", pool)
    done = dora("compare", "small-compare.yaml", "--output", output, "--jobs", "1", "--plain")
    assert done.code == 130, done.err
    command = f"dora compare small-compare.yaml --output {output} --resume --jobs 1"
    assert re.fullmatch(rf"dora: .*SIGINT.*go on with: {re.escape(command)}", done.err.splitlines()[-1]), done.err
    assert "Traceback" not in done.err
    assert workers[0].made == 2
    assert multiprocessing.active_children() == []
    assert made(Path("small-compare.yaml"), output, resume=True).submitted
    assert_equal(output, straight)


def test_runs_of_one_seed_begin_with_one_head_and_see_one_order(here: Path, tmp_path: Path) -> None:
    """What pairs the differences: without dropout, and at a rate that changes nothing, the losses of all methods are
    those of the head's start on the batches of the seed.
    """
    file = tmp_path / "paired.yaml"
    file.write_text(
        "tasks: [small.yaml]\nbaseline: head\nmatch: none\nseeds: 2\n"
        "set: {train.learning_rate: 1.0e-30, train.log_every: 1, method.dropout: 0.0}\n"
        "methods:\n  head: {method.name: head}\n  lora: {method.name: lora}\n  dora: {method.name: dora}\n"
    )
    text = file.read_text().replace(", method.dropout: 0.0", "")
    for name in ("lora", "dora"):
        text = text.replace(f"name: {name}}}", f"name: {name}, method.dropout: 0.0}}")
    file.write_text(text)
    made(file, tmp_path / "out")
    losses = {
        (method, seed): _losses(tmp_path / "out" / "runs" / "small" / method / f"seed-{seed}")
        for method in ("head", "lora", "dora")
        for seed in (1, 2)
    }
    for seed in (1, 2):
        assert len(losses["head", seed]) == 8
        for method in ("lora", "dora"):
            assert losses[method, seed] == pytest.approx(losses["head", seed], rel=1e-6)
    assert losses["head", 1] != pytest.approx(losses["head", 2], rel=1e-3)


def _losses(run: Path) -> list[float]:
    lines: list[Mapping[str, Any]] = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def scales(output: Path) -> dict[str, set[tuple[float, float] | None]]:
    """The scales of numbers that the runs of each stage learn with."""
    found: dict[str, set[tuple[float, float] | None]] = {}
    for run in runs(output):
        found.setdefault(run.partition("/")[0], set()).add(load_recipe(output / run / "recipe.yaml").data.scale)
    return found


def test_tuning_runs_scale_by_what_they_learn_from_and_as_those_before_them(here: Path, tmp_path: Path) -> None:
    """An older version took the scale of the whole training split for them too."""
    rows = "".join(f"film {number},{2 ** (number % 7)}\n" for number in range(60))
    for split in ("train", "dev"):
        (tmp_path / f"{split}.csv").write_text(f"text,label\n{rows}")
    small = Path("small.yaml").read_text().replace("task: glue/sst2", "task: regression")
    Path("numbers.yaml").write_text(re.sub("data: .*", f"data: {{source: files, path: '{tmp_path}'}}", small))
    text = Path("small-compare.yaml").read_text().replace("small.yaml", "numbers.yaml")
    file, output = tmp_path / "numbers-compare.yaml", tmp_path / "out"
    file.write_text(f"{text}match: none\n".replace("epochs: 2", "epochs: 2, eval.metric: loss"))
    fake = Trainer(lambda recipe: recipe.train.learning_rate, costs_of(Plan.of(file)), constant=None, metric="loss")

    def train(recipe: Recipe, folder: Path, **options: object) -> None:
        fake(resolve(recipe)[0], folder)

    made(file, output, train)
    (whole,), (part,) = scales(output)["runs"], scales(output)["tuning"]
    values = [float(row.rpartition(",")[2]) for row in rows.split()[1::2]]
    assert whole is not None
    assert whole[0] == pytest.approx(sum(values) / len(values))
    assert part not in (None, whole)
    assert made(file, output, train, resume=True).submitted == [], "those that are there are the same ones"
    for recipe in (output / "tuning").rglob("recipe.yaml"):
        recipe.write_text(recipe.read_text().replace(str(part[0]), str(whole[0])).replace(str(part[1]), str(whole[1])))
    assert scales(output) == {"runs": {whole}, "tuning": {whole}}
    file.write_text(file.read_text().replace("points: 3", "points: 5"))
    assert any(name.startswith("tuning/") for name in made(file, output, train, resume=True).submitted)
    assert scales(output) == {"runs": {whole}, "tuning": {whole}}
    again = tmp_path / "again"
    made(file, again, train)
    assert scales(again) == {"runs": {whole}, "tuning": {part}}


def test_a_scale_that_is_given_is_taken_by_all_runs(here: Path, tmp_path: Path) -> None:
    for split in ("train", "dev"):
        rows = "".join(f"film {number},{number}\n" for number in range(60))
        (tmp_path / f"{split}.csv").write_text(f"text,label\n{rows}")
    small = Path("small.yaml").read_text().replace("task: glue/sst2", "task: regression")
    given = f"data: {{source: files, path: '{tmp_path}', scale: [9.0, 3.0]}}"
    Path("given.yaml").write_text(re.sub("data: .*", given, small))
    file = tmp_path / "given-compare.yaml"
    file.write_text(Path("small-compare.yaml").read_text().replace("small.yaml", "given.yaml"))
    for cell in Plan.of(file).cells:
        tuned = cell.tuning_job(tmp_path, "train.learning_rate", 1e-3, 7, 0.1)
        measured = cell.measuring_job(tmp_path, "train.learning_rate", 1e-3, 7, [])
        assert (tuned.recipe.data.scale, measured.recipe.data.scale) == ((9.0, 3.0), (9.0, 3.0))
