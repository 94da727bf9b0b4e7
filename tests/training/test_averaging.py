"""The mean of the last weights: what it is, what is made with it, and that training does not notice."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dora_cli import evaluate, train
from dora_cli.assembly.averaged import AveragedSteps
from dora_cli.errors import CheckpointError, StoppedError
from dora_cli.export.saved import export_saved
from dora_cli.methods import METHODS
from dora_cli.runs.checkpoints import ADAPTER, HEAD, OPTIMIZER, RANDOM, TRAINING
from dora_cli.training.averaging import Averaging
from dora_cli.training.listener import SilentListener
from tests.hostile.edits import sign
from tests.runs.test_resume import PowerCutError, Runs, assert_equal_runs
from tests.training.conftest import MakeRecipe
from tests.training.pairs import train_recipes_in_two
from tests.training.test_every_method import SETTINGS
from tests.training.test_run import largest_difference, lines, read, without_timing

TINY = (
    "data.max_train_samples=30",
    "data.max_eval_samples=16",
    "train.batch_size=8",
    "train.epochs=2",
    "train.log_every=1",
    "save.every_steps=1",
    "save.keep=20",
)
"""8 steps in two epochs."""
LORA = (*TINY, "method={name: lora, rank: 2, dropout: 0.2, targets: [attention]}")
OVER_SIX = "train.average_last=0.7"  # from step 3 on
REFUSED = {"sora", "xgblora"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory)


def weights_after(run: Path, step: int) -> dict[str, torch.Tensor]:
    """Adapter and head of a checkpoint."""
    folder = run / "checkpoints" / f"step-{step}"
    return {**load_file(folder / ADAPTER), **load_file(folder / HEAD)}


def assert_mean_of(found: dict[str, torch.Tensor], each: list[dict[str, torch.Tensor]]) -> None:
    for name, tensor in found.items():
        if tensor.is_floating_point():
            mean = torch.stack([weights[name].double() for weights in each]).mean(0)
            torch.testing.assert_close(tensor.double(), mean, rtol=0, atol=1e-6, msg=lambda said: f"{name}: {said}")  # noqa: B023
        else:
            assert tensor.equal(each[-1][name]), name


# -- what it is --------------------------------------------------------------------------------------------------------


def test_after_every_step_it_is_the_mean_so_far_and_training_does_not_notice(
    make_recipe: MakeRecipe, runs: Runs
) -> None:
    """Held against the weights of a run that averages nothing: those are also what training goes on from, to the bit,
    with equal moments, random states and losses.
    """
    plain, averaged = (runs.straight(make_recipe(*LORA, *more)) for more in ((), (OVER_SIX,)))
    each = {step: weights_after(plain, step) for step in range(1, 9)}
    for step in range(1, 9):
        folder = averaged / "checkpoints" / f"step-{step}"
        if step < 3:
            assert all(tensor.equal(each[step][name]) for name, tensor in weights_after(averaged, step).items())
            assert not (folder / TRAINING).exists()
        else:
            assert_mean_of(weights_after(averaged, step), [each[k] for k in range(3, step + 1)])
            trains = load_file(folder / TRAINING)
            assert len(trains) == len(each[step])
            # by number in the optimiser's order: found again by what they are
            for tensor in trains.values():
                assert any(tensor.shape == one.shape and tensor.equal(one) for one in each[step].values())
        assert read(folder / "state.json")["averaged_steps"] == max(0, step - 2)
        for name in (OPTIMIZER, RANDOM):
            one, two = (load_file(run / "checkpoints" / f"step-{step}" / name) for run in (plain, averaged))
            assert one.keys() == two.keys()
            assert all(one[key].equal(two[key]) for key in one)
    logs = [[line for line in lines(run / "log.jsonl") if line["type"] == "train"] for run in (plain, averaged)]
    assert without_timing(logs[0]) == without_timing(logs[1])


def test_it_is_evaluated_selected_kept_and_exported(make_recipe: MakeRecipe, runs: Runs, tmp_path: Path) -> None:
    recipe = make_recipe(*LORA, OVER_SIX)
    run = runs.straight(recipe)
    metrics = read(run / "metrics.json")
    last = evaluate(run / "checkpoints" / "step-8")
    assert last["metrics"] == metrics["last"]
    selected = next(entry["step"] for entry in metrics["epochs"] if entry["epoch"] == metrics["best_epoch"])
    assert metrics["averaged_steps"] == selected - 2
    assert evaluate(run)["identical"] is True
    assert largest_difference(run / "adapter", run / "checkpoints" / f"step-{selected}") == 0
    export_saved(run / "checkpoints" / "step-8", tmp_path / "export")
    card = (tmp_path / "export" / "README.md").read_text()
    assert re.search(r"step 8 \(.*\b6 steps", card)


def test_how_often_is_evaluated_changes_nothing(make_recipe: MakeRecipe, runs: Runs) -> None:
    often, once = (
        runs.straight(make_recipe(*LORA, OVER_SIX, "eval.select=last", f"eval.every={every}")) / "checkpoints/step-8"
        for every in ("epoch", "end")
    )
    assert largest_difference(often, once) == 0
    one, two = load_file(often / TRAINING), load_file(once / TRAINING)
    assert one.keys() == two.keys()
    assert all(one[name].equal(two[name]) for name in one)


def test_another_seed_ends_elsewhere(make_recipe: MakeRecipe, runs: Runs, tmp_path: Path) -> None:
    train(make_recipe(*LORA, OVER_SIX, "train.seed=2"), tmp_path / "run")
    assert largest_difference(tmp_path / "run" / "adapter", runs.straight(make_recipe(*LORA, OVER_SIX)) / "adapter") > 0


def test_masked_and_compacted_components_have_one_mean(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """What is masked has gates of zero after every step that is averaged."""
    settings = ("true", "false")
    for compact in settings:
        train(make_recipe("train.average_last=0.75", f"method.compact={compact}"), tmp_path / compact)
    one, two = (read(tmp_path / compact / "metrics.json")["epochs"] for compact in settings)
    for mine, theirs in zip(one, two, strict=True):
        assert mine["metrics"] == pytest.approx(theirs["metrics"], abs=1e-5)
    layers, masked = read(tmp_path / "false" / "ranks.json")["layers"], weights_after(tmp_path / "false", 24)
    assert layers == read(tmp_path / "true" / "ranks.json")["layers"]
    assert all(int(masked[f"{layer['name']}.c"].count_nonzero()) == layer["rank"] for layer in layers)


@pytest.mark.parametrize("name", sorted(METHODS.keys() - REFUSED))
def test_every_method_has_the_mean_of_its_last_steps(make_recipe: MakeRecipe, tmp_path: Path, name: str) -> None:
    """The last two of 8; what does not train (scores, links that are tied) is as it is."""
    settings = SETTINGS.get(name, "" if name == "head" else "rank: 2, dropout: 0.2, targets: [attention]")
    method = f"method={{{', '.join(filter(None, (f'name: {name}', settings)))}}}"
    late = ("save.every_steps=7", "eval.every=end")  # a checkpoint after step 7, and after the last
    for folder, share in (("plain", 0.0), ("averaged", 0.25)):
        train(make_recipe(method, *TINY, *late, f"train.average_last={share}"), tmp_path / folder)
    plain, averaged = tmp_path / "plain", tmp_path / "averaged"
    assert_mean_of(weights_after(averaged, 8), [weights_after(plain, step) for step in (7, 8)])
    assert largest_difference(averaged / "checkpoints/step-8", plain / "checkpoints/step-8") > 0
    assert evaluate(averaged / "checkpoints/step-8")["metrics"] == read(averaged / "metrics.json")["last"]


# -- going on ----------------------------------------------------------------------------------------------------------


def test_cut_and_gone_on_with(make_recipe: MakeRecipe, runs: Runs, tmp_path: Path) -> None:
    """From before the average begins, from its first two steps, of which the second ends an epoch, and from its last
    but one.
    """
    recipe = make_recipe(*LORA, OVER_SIX)
    runs.cut_again_and_again(recipe, tmp_path / "run", [3, 4, 5, 8])
    train(recipe, tmp_path / "run", resume=True)
    assert_equal_runs(runs.straight(recipe), tmp_path / "run")


def test_cut_around_the_freeze(make_recipe: MakeRecipe, runs: Runs, tmp_path: Path) -> None:
    """The average would begin before it and begins after it, with tensors that have shrunk."""
    recipe = make_recipe("train.average_last=0.75", "save.every_steps=1", "method.dropout=0.2")
    runs.cut_again_and_again(recipe, tmp_path / "run", [11, 12, 13, 14])
    train(recipe, tmp_path / "run", resume=True)
    assert_equal_runs(runs.straight(recipe), tmp_path / "run")


class _Signal(SilentListener):
    """Sends SIGTERM into the evaluation number `at`."""

    def __init__(self, at: int) -> None:
        self.at = at

    def evaluating(self, split: str, done: int, total: int) -> None:
        self.at -= 1
        if self.at == 0:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("evaluation", [1, 2])
def test_a_signal_within_an_evaluation_leaves_the_weights_that_train(
    make_recipe: MakeRecipe, runs: Runs, tmp_path: Path, evaluation: int
) -> None:
    recipe = make_recipe(*LORA, OVER_SIX)
    with pytest.raises(StoppedError):
        train(recipe, tmp_path / "run", listener=_Signal(evaluation))
    train(recipe, tmp_path / "run", resume=True)
    assert_equal_runs(runs.straight(recipe), tmp_path / "run")


def test_a_selected_mean_is_put_back(make_recipe: MakeRecipe, runs: Runs, tmp_path: Path) -> None:
    """A run that is cut in its second evaluation goes on from a checkpoint whose selected weights are means."""
    recipe = make_recipe(*LORA, OVER_SIX)
    runs.cut(recipe, tmp_path / "run", evaluation=2)
    for file in (tmp_path / "run" / "adapter").iterdir():
        file.unlink()
    train(recipe, tmp_path / "run", resume=True)
    assert_equal_runs(runs.straight(recipe), tmp_path / "run")


def _drop(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["0"]


def _add(tensors: dict[str, torch.Tensor]) -> None:
    tensors["extra"] = torch.zeros(1)


def _reshape(tensors: dict[str, torch.Tensor]) -> None:
    tensors["0"] = tensors["0"][:1].contiguous()


def _spoil(tensors: dict[str, torch.Tensor]) -> None:
    tensors["0"].fill_(float("nan"))


@pytest.mark.parametrize("damage", [_drop, _add, _reshape, _spoil])
def test_weights_that_cannot_be_those_that_train_are_refused(
    make_recipe: MakeRecipe, runs: Runs, tmp_path: Path, damage: object
) -> None:
    recipe = make_recipe(*LORA, OVER_SIX)
    runs.cut(recipe, tmp_path / "run", step=6)
    folder = tmp_path / "run" / "checkpoints" / "step-5"
    tensors = load_file(folder / TRAINING)
    assert callable(damage)
    damage(tensors)
    save_file(tensors, folder / TRAINING)
    sign(folder)
    with pytest.raises(CheckpointError, match="of those that train"):
        train(recipe, tmp_path / "run", resume=True)


# -- several processes, captured steps ---------------------------------------------------------------------------------


def test_two_processes_have_the_mean_of_one(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    common = (*LORA, "method.dropout=0", "save.every_steps=null", OVER_SIX)
    train(make_recipe(*common), tmp_path / "1")
    train_recipes_in_two({tmp_path / "2": make_recipe(*common, "train.batch_size=2", "train.gradient_accumulation=2")})
    assert largest_difference(tmp_path / "1" / "adapter", tmp_path / "2" / "adapter") < 1e-5
    one, two = (read(tmp_path / number / "metrics.json") for number in "12")
    assert one["averaged_steps"] == two["averaged_steps"]
    assert read(tmp_path / "2" / "environment.json")["processes"] == 2


@pytest.mark.gpu
def test_captured_steps_have_the_mean_of_eager_ones(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """Begun while steps are captured, with evaluations between that are captured too."""
    flags = ("train.device=cuda", "train.precision=fp32", "train.deterministic=true", "train.epochs=8", OVER_SIX)
    for setting in ("on", "off"):
        train(make_recipe(*LORA, *flags, f"train.cuda_graph={setting}"), tmp_path / setting)
    assert largest_difference(tmp_path / "on" / "adapter", tmp_path / "off" / "adapter") < 1e-5


# -- the exchange ------------------------------------------------------------------------------------------------------


def _averaged(*weights: float) -> tuple[nn.Parameter, Averaging]:
    """A parameter that has had these values after the steps of a run of as many."""
    parameter = nn.Parameter(torch.zeros(3))
    averaging = Averaging(AveragedSteps(1, len(weights), len(weights), 0.5), [parameter])
    for step, value in enumerate(weights, start=1):
        parameter.data.fill_(value)
        assert averaging.begin(step)
        averaging.accumulate({})
    return parameter, averaging


def test_what_trains_comes_back_also_where_an_evaluation_fails() -> None:
    parameter, averaging = _averaged(1.0, 2.0, 6.0)
    address = parameter.data_ptr()

    def evaluate_and_fail() -> None:
        with averaging.in_place():
            assert parameter.tolist() == [3.0] * 3
            raise PowerCutError

    with pytest.raises(PowerCutError):
        evaluate_and_fail()
    assert parameter.tolist() == [6.0] * 3
    with averaging.in_place():
        assert parameter.tolist() == [3.0] * 3
    assert parameter.data_ptr() == address


def test_the_mean_that_settles_stays() -> None:
    parameter, averaging = _averaged(1.0, 2.0)
    averaging.settle()
    assert parameter.tolist() == [1.5] * 3
    with averaging.in_place():
        assert parameter.tolist() == [1.5] * 3


def test_a_mean_of_many_equal_weights_is_that_weight() -> None:
    """A sum in fp32 would be 0.3 per mille off."""
    parameter, averaging = _averaged(*[0.1] * 10_000)
    with averaging.in_place():
        assert parameter.tolist() == torch.full((3,), 0.1).tolist()


def test_parameters_are_others_only_before_the_first_averaged_step() -> None:
    parameter, averaging = _averaged(1.0)
    averaging.follow([parameter])
    with averaging.in_place():
        assert parameter.tolist() == [1.0] * 3
    with pytest.raises(AssertionError):
        averaging.follow([nn.Parameter(torch.zeros(2))])
