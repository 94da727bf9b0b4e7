"""Recipes of an experiment, checked before anything is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dora_cli.assembly.resolve import resolve
from dora_cli.compare.jobs import Job
from dora_cli.compare.plan import Plan, forecast
from dora_cli.compare.scores import read_score
from dora_cli.compare.trials import FEWEST_STEPS, TRIAL_STEPS
from dora_cli.errors import ExperimentError
from dora_cli.recipe import Recipe, load_recipe
from dora_cli.training.run import train
from tests.compare.fakes import Trainer, costs_of, plan_of, recipe_file

TWO = "methods:\n  lora: {method.name: lora}\n  dora: {method.name: dora}\nbaseline: lora\n"


@pytest.fixture
def recipe(tmp_path: Path, tiny_model: Path) -> Path:
    return recipe_file(tmp_path, tiny_model)


def wrong(folder: Path, text: str) -> list[str]:
    with pytest.raises(ExperimentError) as found:
        plan_of(folder, text)
    return list(found.value.problems)


def test_what_an_experiment_decides_stands_in_every_recipe(tmp_path: Path, recipe: Path) -> None:
    recipe.write_text(recipe.read_text() + "eval: {every: epoch, select: best, held_out: 0.5, metric: loss}\n")
    plan = plan_of(tmp_path, f"tasks: [{recipe}]\n{TWO}tune: {{train.learning_rate: {{from: 1, to: 4, points: 3}}}}\n")
    cell = plan.cells[0]
    measured = cell.measuring_job(tmp_path, "train.learning_rate", 2.0, 7, []).recipe
    assert (measured.eval.every, measured.eval.select, measured.eval.held_out) == ("end", "last", None)
    assert (measured.train.seed, measured.train.learning_rate, measured.train.threads) == (7, 2.0, 1)
    tuned = cell.tuning_job(tmp_path, "train.learning_rate", 2.0, 7, 0.25)
    assert (tuned.recipe.eval.held_out, tuned.recipe.eval.metric) == (0.25, "loss")
    assert tuned.folder == tmp_path / "tuning" / cell.task.name / "dora" / "2" / "seed-7"
    assert (cell.task.metric, cell.task.lower_is_better) == ("loss", True)


def test_a_search_reads_no_dev_split(tmp_path: Path, recipe: Path) -> None:
    text = f"tasks: [{recipe}]\n{TWO}measure: held-out\nset: {{eval.every: epoch}}\n"
    tune = "tune: {train.learning_rate: {from: 1, to: 4, points: 3}, held_out: 0.25}\n"
    for more, share in (("", 0.1), (tune, 0.25)):
        job = plan_of(tmp_path, text + more).cells[0].measuring_job(tmp_path, "train.learning_rate", 2.0, 7, [])
        assert (job.recipe.eval.held_out, job.recipe.eval.every, job.recipe.eval.select) == (share, "end", "last")
        assert job.folder.parts[-4] == "runs"


def test_epochs_are_evaluated_where_the_experiment_says_so(tmp_path: Path, recipe: Path) -> None:
    plan = plan_of(tmp_path, f"tasks: [{recipe}]\n{TWO}set: {{eval.every: epoch}}\n")
    assert {cell.recipe.eval.every for cell in plan.cells} == {"epoch"}
    assert plan.cells[0].tuning_job(tmp_path, "train.learning_rate", 1.0, 1, 0.1).recipe.eval.every == "end"


# -- what entries keep of a recipe -------------------------------------------------------------------------------------


def kept(folder: Path, recipe: Path, section: str, entries: str, more: str = "") -> list[str]:
    """What is said of that where the recipe's method is `section`, and the baseline is LoRA."""
    lines = [line for line in recipe.read_text().splitlines() if not line.startswith("method:")]
    recipe.write_text("\n".join([*lines, f"method: {section}"]) + "\n")
    plan = plan_of(
        folder, f"tasks: [{recipe}]\nmethods:\n{entries}\n  base: {{method.name: lora}}\nbaseline: base\n{more}"
    )
    task = plan.cells[0].task.name
    said = [note.partition(f" keeps what the recipe of {task} says of dora: ") for note in plan.design.notes]
    return [f"{who}: {what}" for who, between, what in said if between]


PUBLISHED = "{name: dora, rank: 2, alpha: 8.0, prune_interval: 3, dropout: 0.0, targets: [ffn]}"
"""Its alpha is the default."""


def test_what_a_recipe_says_of_a_method_already_is_kept_and_named(tmp_path: Path, recipe: Path) -> None:
    entries = "  plain: {method.name: dora}\n  more: {method.name: dora, method.rank: 4, method.dropout: 0.0}"
    assert kept(tmp_path, recipe, PUBLISHED, entries) == [
        'plain: rank=2, dropout=0.0, targets=["ffn"], prune_interval=3',
        'more: targets=["ffn"], prune_interval=3',
    ]


def test_what_is_set_for_all_is_no_recipes(tmp_path: Path, recipe: Path) -> None:
    entries = "  plain: {method.name: dora, method.targets: [ffn], method.prune_interval: 3}"
    found = kept(tmp_path, recipe, PUBLISHED, entries, "set: {method.dropout: 0.2}\n")
    assert found == ["plain: rank=2"]


def test_what_is_tuned_is_no_recipes(tmp_path: Path, recipe: Path) -> None:
    named = "method.name: dora, method.rank: 2, method.targets: [ffn], method.prune_interval: 3"
    entries = f"  plain: {{{named}}}"
    assert kept(tmp_path, recipe, PUBLISHED, entries) == ["plain: dropout=0.0"]
    tune = "tune: {method.dropout: {from: 0.1, to: 0.4, points: 3}}\n"
    assert kept(tmp_path, recipe, PUBLISHED, entries, tune) == []


def test_of_what_another_preset_drops_nothing_is_said(tmp_path: Path, recipe: Path) -> None:
    """The recipe's pruning is dropped."""
    named = "method.rank: 2, method.dropout: 0.0, method.targets: [ffn]"
    entries = f"  auto: {{method.name: dora, method.preset: auto, {named}}}"
    assert kept(tmp_path, recipe, PUBLISHED, entries) == []


def test_of_what_a_preset_for_all_drops_nothing_is_said(tmp_path: Path, recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace("{name: dora, rank: 2, prune_interval: 3, dropout: 0.0}", PUBLISHED))
    named = "method.name: dora, method.rank: 2, method.dropout: 0.0, method.targets: [ffn]"
    entries = f"methods:\n  base: {{{named}}}\n  more: {{{named}, method.events: 2}}\nbaseline: base\n"
    plan = plan_of(tmp_path, f"tasks: [{recipe}]\n{entries}set: {{method.preset: auto}}\nmatch: none\n")
    assert {(cell.recipe.method.preset, cell.recipe.method.prune_interval) for cell in plan.cells} == {("auto", 10)}
    assert plan.design.notes == ()


def test_what_another_preset_leaves_of_a_recipe_is_named(tmp_path: Path, recipe: Path) -> None:
    found = kept(tmp_path, recipe, PUBLISHED, "  auto: {method.name: dora, method.preset: auto}")
    section = load_recipe(recipe, ["method.preset=auto"]).method
    plain = load_recipe(recipe, ["method={name: dora, preset: auto}"]).method
    left = [
        f"{key}={value}"
        for key, value in (("rank", "2"), ("dropout", "0.0"), ("targets", '["ffn"]'))
        if getattr(section, key) != getattr(plain, key)
    ]
    assert found == ([f"auto: {', '.join(left)}"] if left else [])


def test_what_a_preset_or_another_key_fills_in_is_not_said_of_a_recipe(tmp_path: Path, recipe: Path) -> None:
    """Most of the section is the preset's then, and the score follows the start."""
    section = load_recipe(recipe, ["method={name: dora, preset: auto, rank: 2}"]).method
    plain = load_recipe(recipe, ["method={name: dora, rank: 2}"]).method
    assert sum(getattr(section, key) != getattr(plain, key) for key in type(section).model_fields) > 5
    entries = "  plain: {method.name: dora}\n  more: {method.name: dora, method.events: 3}"
    assert kept(tmp_path, recipe, "{name: dora, preset: auto, rank: 2}", entries) == [
        "plain: preset=auto, rank=2",
        "more: preset=auto, rank=2",
    ]
    entries = "  plain: {method.name: dora, method.events: 3}"
    assert kept(tmp_path, recipe, "{name: dora, start: lora}", entries) == ["plain: start=lora"]
    said = "{name: dora, start: lora, score: published, prune_interval: 3}"
    assert kept(tmp_path, recipe, said, "  plain: {method.name: dora}") == [
        "plain: start=lora, score=published, prune_interval=3"
    ]


def test_what_variants_keep_is_said_of_each_where_it_differs(tmp_path: Path, recipe: Path) -> None:
    """Another preset drops the recipe's pruning, the same preset does not; all sizes keep it."""
    named = "method.name: dora, method.rank: 2, method.dropout: 0.0, method.targets: [ffn]"
    entries = f"  swept: {{{named}, method.preset: [published, auto]}}\n  sizes: {{{named}, method.alpha: [4, 8]}}"
    assert kept(tmp_path, recipe, PUBLISHED, entries) == [
        "swept preset=published: prune_interval=3",
        "sizes: prune_interval=3",
    ]


def test_federated_trainings_are_compared_with_each_other_and_with_one_on_all_examples(
    tmp_path: Path, recipe: Path
) -> None:
    text = f"""\
tasks: [{recipe}]
methods:
  lora: {{method.name: lora, train.max_steps: 6}}
  federated: {{method.name: lora, federated.clients: 3, federated.rounds: 2, federated.local_steps: 3,
              federated.aggregation: [average, exact]}}
baseline: lora
"""
    plan = plan_of(tmp_path, text)
    joined = {cell.variant.name: cell.recipe.federated and cell.recipe.federated.aggregation for cell in plan.cells}
    assert joined == {
        "lora": None, "federated aggregation=average": "average", "federated aggregation=exact": "exact",
    }  # fmt: skip
    assert [cell.ahead.length.total_steps for cell in plan.cells] == [6, 6, 6]


def test_an_entry_takes_the_section_of_a_federated_recipe_away(tmp_path: Path, recipe: Path) -> None:
    kept = [line for line in recipe.read_text().splitlines() if not line.startswith("method:")]
    added = ["method: {name: lora, rank: 2}", "federated: {clients: 2, rounds: 3, local_steps: 2}"]
    recipe.write_text("\n".join([*kept, *added]))
    entries = "lora: {method.name: lora, federated: null, train.max_steps: 6}\n  joined: {method.name: lora}"
    plan = plan_of(tmp_path, f"tasks: [{recipe}]\nmethods:\n  {entries}\nbaseline: lora\n")
    found = {cell.variant.name: cell.recipe for cell in plan.cells}
    assert found["lora"].federated is None
    assert found["joined"].federated is not None
    assert wrong(tmp_path, f"tasks: [{recipe}]\n{TWO}set: {{federated: {{clients: 3}}}}\n")


def test_a_trial_of_a_federated_training_is_one_round_of_a_few_steps(tmp_path: Path, recipe: Path) -> None:
    entry = "{method.name: lora, federated.clients: 2, federated.rounds: 9, federated.local_steps: 4}"
    plan = plan_of(tmp_path, f"tasks: [{recipe}]\nmethods:\n  lora: {entry}\n  more: {entry}\nbaseline: lora\n")
    tried: list[tuple[int, int, int | None]] = []
    trainer = Trainer(lambda tried_recipe: 0.5, costs_of(plan))

    def train(tried_recipe: Recipe, folder: Path, **options: object) -> None:
        assert tried_recipe.federated is not None
        section = tried_recipe.federated
        tried.append((section.rounds, section.local_steps, tried_recipe.train.max_steps))
        trainer(tried_recipe, folder)

    forecast(plan, train)
    assert set(tried[1::2]) == {(1, FEWEST_STEPS, FEWEST_STEPS)}
    assert set(tried[::2]) == {(9, 4, 36)}, "a whole run could begin"


@pytest.mark.parametrize(("measure", "written"), [("", "test"), ("measure: held-out\n", None)])
def test_a_trial_has_no_more_warm_up_than_steps_and_writes_what_runs_write(
    tmp_path: Path, measure: str, written: str | None
) -> None:
    warm_up = f"set: {{train.lr_warmup_steps: {TRIAL_STEPS}}}\n{measure}"
    tune = "tune: {train.learning_rate: {from: 1.0e-4, to: 1.0e-2, points: 3}}\n" if measure else ""
    plan = generation(tmp_path, None, warm_up + tune)
    tried: list[tuple[int | None, str | None]] = []
    trainer = Trainer(lambda tried_recipe: 0.5, {})

    def train(tried_recipe: Recipe, folder: Path, **options: object) -> None:
        assert tried_recipe.decode is not None
        tried.append((tried_recipe.train.lr_warmup_steps, tried_recipe.decode.at_the_end))
        trainer(tried_recipe, folder)

    forecast(plan, train)
    assert set(tried) == {(TRIAL_STEPS, written), (None, written)}, "of those that only begin, and of trials"


def test_a_trial_is_as_long_as_the_phases_of_its_method_need(tmp_path: Path, recipe: Path) -> None:
    """Between these fractions pruning has a step from 20 steps on."""
    method = "{method.name: dora, method.warmup_fraction: 0.5, method.final_fraction: 0.45, train.max_steps: 200}"
    plan = plan_of(tmp_path, f"tasks: [{recipe}]\nmethods: {{dora: {method}, other: {method}}}\nbaseline: dora\n")
    told: list[str] = []
    forecast(plan, train, told.append)
    for name in ("dora", "other"):
        assert [int(line.split(": ")[1].split()[0]) for line in told if f" / {name}: " in line] == [2, 4, 8, 16, 32]


def test_every_problem_of_every_recipe_is_said_by_the_key_that_makes_it(tmp_path: Path, recipe: Path) -> None:
    text = f"""\
tasks: [{recipe}]
set: {{train.epochs: x, model.nam: y}}
methods:
  lora: {{method.name: lora, method.rnk: 2}}
  head: {{method.name: head, method.rank: [2, 4]}}
baseline: lora
"""
    found = wrong(tmp_path, text)
    starts = ["set.train.epochs: ", "set.model.nam: ", "methods.lora.method.rnk: ", "methods.head.method.rank: "]
    for start in starts:
        assert any(problem.startswith(start) for problem in found), (start, found)
    assert all(problem.startswith(tuple(starts)) for problem in found)
    assert len([problem for problem in found if problem.startswith("set.")]) == 2, "each is said once"
    assert "head" in next(problem for problem in found if problem.startswith("methods.head"))


def test_problems_of_the_recipes_themselves_are_said_once(tmp_path: Path, recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace("epochs: 4", "epochs: 0"))
    (found,) = wrong(tmp_path, f"tasks: [{recipe}]\n{TWO}")
    assert found.startswith(f"{recipe}:5: train.epochs: ")


@pytest.mark.parametrize(
    ("grid", "key"),
    [
        ("method.dropout: {from: 0.5, to: 2, points: 3}", "method.dropout"),
        ("method.dem_weight: {from: 0.5, to: 2, points: 3}", "method.dem_weight"),  # of one method alone
        ("train.learning_rat: {from: 0.5, to: 2, points: 3}", "train.learning_rat"),
    ],
)  # fmt: skip
def test_what_is_tuned_is_tried_in_every_recipe(tmp_path: Path, recipe: Path, grid: str, key: str) -> None:
    found = wrong(tmp_path, f"tasks: [{recipe}]\n{TWO}tune: {{{grid}}}\n")
    assert found
    assert all(problem.startswith(f"tune.{key}: ") for problem in found)


def test_ranks_that_will_be_another_runs_are_checked_ahead(tmp_path: Path, recipe: Path) -> None:
    more = "  other: {method.name: lora, ranks_from: {method: dora}, method.ranks_shuffle: %s}\nbaseline"
    (found,) = wrong(tmp_path, f"tasks: [{recipe}]\n{TWO.replace('baseline', more % 'x')}")
    assert found.startswith("methods.other.method.ranks_shuffle: ")
    plan_of(tmp_path, f"tasks: [{recipe}]\n{TWO.replace('baseline', more % '1')}")


def test_data_that_are_missing_are_named_with_the_task(tmp_path: Path, tiny_model: Path) -> None:
    away = recipe_file(tmp_path, tiny_model, "away")
    away.write_text(away.read_text().replace("builtin", f"files, path: {tmp_path / 'nothing'}"))
    good = recipe_file(tmp_path, tiny_model, "good")
    (found,) = wrong(tmp_path, f"tasks: [{good}, {away}]\n{TWO}")
    assert "away" in found.split(": ")[0]
    assert str(tmp_path / "nothing") in found


def test_own_data_without_a_dev_split(tmp_path: Path, tiny_model: Path) -> None:
    """A share of the training file stands for it; what chooses is held out of what is left."""
    table = tmp_path / "own.csv"
    rows = [f"film {number} is {word},{word}" for number, word in enumerate(["good", "bad"] * 40)]
    table.write_text("\n".join(["text,label", *rows, ""]))
    own = tmp_path / "own.yaml"
    own.write_text(
        f"task: classification\nmodel: {{name: {tiny_model}}}\ndata: {{source: files, path: {table}}}\n"
        "method: {name: dora, rank: 2}\ntrain: {epochs: 4, device: cpu}\n"
    )
    found = wrong(tmp_path, f"tasks: [{own}]\n{TWO}")
    assert any("data.validation" in problem for problem in found)
    plan = plan_of(tmp_path, f"tasks: [{own}]\nset: {{data.validation: 0.25}}\n{TWO}")
    assert plan.cells[0].ahead.length.examples == 60
    job = plan.cells[0].tuning_job(tmp_path, "train.learning_rate", 1.0, 1, 0.2)
    from dora_cli.assembly.data import load_data

    data = load_data(*resolve(job.recipe))
    assert [len(data.training), *(len(part) for part in data.evaluated.values())] == [48, 12]


def test_one_device_for_all(tmp_path: Path, tiny_model: Path) -> None:
    one, other = recipe_file(tmp_path, tiny_model, "one"), recipe_file(tmp_path, tiny_model, "other")
    other.write_text(other.read_text().replace("device: cpu", "device: auto"))
    (found,) = wrong(tmp_path, f"tasks: [{one}, {other}]\n{TWO}")
    assert "train.device" in found
    plan_of(tmp_path, f"tasks: [{one}, {other}]\nset: {{train.device: cpu}}\n{TWO}")


def test_the_same_recipe_twice_with_other_settings_is_two_tasks(tmp_path: Path, tiny_model: Path) -> None:
    files = [recipe_file(tmp_path, tiny_model, name, max_length=length) for name, length in (("a", 16), ("b", 32))]
    plan = plan_of(tmp_path, f"tasks: [{files[0]}, {files[1]}]\n{TWO}")
    assert len({cell.task.name for cell in plan.cells}) == 2
    assert {cell.recipe.data.max_length for cell in plan.cells} == {16, 32}


def test_a_task_of_two_dev_splits_is_tuned_by_the_metric_of_one(tmp_path: Path, tiny_model: Path) -> None:
    mnli = tmp_path / "mnli.yaml"
    mnli.write_text(
        f"task: glue/mnli\nmodel: {{name: {tiny_model}}}\ndata: {{source: hub, max_train_samples: 90}}\n"
        "method: {name: dora, rank: 2}\ntrain: {epochs: 4, device: cpu}\neval: {metric: accuracy_matched}\n"
    )
    plan = plan_of(tmp_path, f"tasks: [{mnli}]\n{TWO}tune: {{train.learning_rate: {{from: 1, to: 4, points: 3}}}}\n")
    cell = plan.cells[0]
    assert cell.task.metric == "accuracy_matched"
    job = cell.tuning_job(tmp_path, "train.learning_rate", 1.0, 1, 0.1)
    assert job.recipe.eval.metric is None
    resolve(job.recipe)  # which has that metric
    costs = costs_of(plan)
    Trainer(lambda recipe: 0.7, costs)(job.recipe, job.folder)
    assert read_score(job, cell).value == 0.7
    searched = replace(cell, measured_share=0.1).measuring_job(tmp_path, None, None, 1, [])
    assert searched.recipe.eval.metric is None
    measured = cell.measuring_job(tmp_path, None, None, 1, [])
    assert measured.recipe.eval.metric == "accuracy_matched"
    Trainer(lambda recipe: 0.8, costs, metric="accuracy_matched")(measured.recipe, measured.folder)
    assert read_score(measured, cell).value == 0.8


E2E = """\
task: e2e
model: {name: builtin:tiny-decoder}
data: {source: builtin, max_train_samples: 46, max_eval_samples: 5}
method: {name: dora, rank: 2, prune_interval: 2}
train: {epochs: 3, batch_size: 8, device: cpu}
decode: {beams: 4, max_new_tokens: 12, epoch_samples: 2}
"""


def generation(folder: Path, metric: str | None, more: str = "") -> Plan:
    (folder / "e2e.yaml").write_text(E2E + (f"eval: {{metric: {metric}}}\n" if metric else ""))
    return plan_of(folder, f"tasks: [{folder / 'e2e.yaml'}]\n{TWO}{more}")


@pytest.mark.parametrize(("metric", "lower"), [(None, True), ("greedy_bleu", False)])
def test_texts_are_compared_by_loss_or_by_what_is_written_greedily(
    tmp_path: Path, metric: str | None, lower: bool
) -> None:
    plan = generation(tmp_path, metric)
    cell = plan.cells[0]
    assert (cell.task.metric, cell.task.lower_is_better) == (metric or "loss", lower)


def test_what_is_measured_of_finished_texts_alone_chooses_nothing(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"eval\.metric: e2e has no metric 'bleu' between epochs"):
        generation(tmp_path, "bleu")


def test_runs_that_are_scored_on_held_out_data_write_nothing_at_their_end(tmp_path: Path) -> None:
    def written(job: Job) -> tuple[str | None, int]:
        decode = job.recipe.decode
        assert decode is not None
        return decode.at_the_end, decode.epoch_samples

    cell = generation(tmp_path, None).cells[0]
    searched = replace(cell, measured_share=0.1)
    assert written(cell.tuning_job(tmp_path, "train.learning_rate", 1.0, 1, 0.1)) == (None, 2)
    assert written(searched.measuring_job(tmp_path, None, None, 1, [])) == (None, 2)
    assert written(cell.measuring_job(tmp_path, None, None, 1, [])) == ("test", 2)


def test_a_head_has_nothing_to_train_where_texts_are_written(tmp_path: Path) -> None:
    (tmp_path / "e2e.yaml").write_text(E2E)
    methods = TWO.replace("baseline", "  head: {method.name: head}\nbaseline")
    (found,) = wrong(tmp_path, f"tasks: [{tmp_path / 'e2e.yaml'}]\n{methods}")
    assert "method.name: head" in found


def test_the_recipe_of_a_job_is_read_back_as_it_was(tmp_path: Path, recipe: Path) -> None:
    """What an experiment that goes on compares with."""
    plan = plan_of(tmp_path, f"tasks: [{recipe}]\n{TWO}")
    job = plan.cells[0].measuring_job(tmp_path, "train.learning_rate", 1e-5, 3, [])
    Trainer(lambda recipe: 0.7, costs_of(plan))(job.recipe, job.folder)
    assert load_recipe(job.folder / "recipe.yaml") == job.recipe
