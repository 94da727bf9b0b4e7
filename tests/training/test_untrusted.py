"""Run folders by strangers: whatever is in them, the answer is a result or one clear error, and nothing outside of them
is touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from dora_cli import evaluate, load_adapter, predict, to_lora, train
from dora_cli.assembly.weights import load_weights, not_finite
from dora_cli.errors import CheckpointError, DoraError, RecipeError
from dora_cli.export.saved import export_saved
from dora_cli.recipe import Recipe, load_recipe, parse_recipe
from dora_cli.runs.run_folder import RunRecords
from dora_cli.training.checkpoint import Snapshot
from tests.commands.conftest import dora
from tests.hostile.edits import FRAGMENTS, change, change_bytes, sign
from tests.runs.test_resume import cut

PARTS = (
    "adapter.safetensors",
    "head.safetensors",
    "state.json",
    "optimizer.safetensors",
    "random.safetensors",
    "progress.json",
)
CUT = 7  # the newest checkpoint of the unfinished run; ranks freeze at step 4 of 9


def fuzz(examples: int) -> Callable[[Any], Any]:
    return settings(
        max_examples=examples, deadline=None, derandomize=True, database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )  # fmt: skip


@dataclass(frozen=True)
class Yard:
    """A folder with a run in it and other things beside, put back to what it was for each example."""

    root: Path
    pristine: Path
    recipe: Recipe

    @property
    def run(self) -> Path:
        return self.root / "run"

    def reset(self) -> Path:
        shutil.rmtree(self.run, ignore_errors=True)
        shutil.copytree(self.pristine, self.run)
        return self.run

    def outside(self) -> dict[str, bytes | None]:
        paths = [path for path in self.root.rglob("*") if self.run not in (path, *path.parents)]
        return {str(path): path.read_bytes() if path.is_file() else None for path in paths}

    def survives(self, call: Callable[[], object]) -> str | None:
        """`call` returns or raises a DoraError, whose message is returned; either way it changes nothing outside of the
        run.
        """
        before, message = self.outside(), None
        try:
            call()
        except DoraError as error:
            message = str(error)
            assert message.strip()
        assert self.outside() == before
        return message


def _yard(root: Path, model: Path, *, finished: bool) -> Yard:
    data = root / "place" / "data"
    data.mkdir(parents=True)
    rows = "".join(f"a fine film {i},positive\nno good film {i},negative\n" for i in range(6))
    for split in ("train", "validation"):
        (data / f"{split}.csv").write_text("sentence,label\n" + rows)
    recipe = parse_recipe(f"""
        task: glue/sst2
        model: {{name: {model}}}
        data: {{source: files, path: {data}}}
        method: {{name: dora, rank: 1, start_rank: 2, prune_interval: 1, targets: ["*.0.*"]}}
        train: {{epochs: 3, batch_size: 4, device: cpu, log_every: 2}}
        save: {{every_steps: 1, keep: 1}}
        eval: {{select: best}}
    """)
    if finished:
        train(recipe, root / "pristine")
    else:
        cut(recipe, root / "pristine", step=CUT + 1)
    return Yard(root / "place", root / "pristine", recipe)


@pytest.fixture(scope="module", autouse=True)
def _elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Relative paths in hostile files lead into a folder of these tests."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("cwd"))
    yield
    os.chdir(before)


@pytest.fixture(scope="module")
def unfinished(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Yard:
    return _yard(tmp_path_factory.mktemp("unfinished"), tiny_model, finished=False)


@pytest.fixture(scope="module")
def finished(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Yard:
    return _yard(tmp_path_factory.mktemp("finished"), tiny_model, finished=True)


seeds = st.integers(0, 2**32)

# Fuzzing --------------------------------------------------------------------------------------------------------------

RECIPE = """\
task: glue/rte
model: {name: builtin:tiny-encoder, revision: null}
data:
  source: files
  path: some/where
  columns: {sentence1: a, sentence2: b}
method: {name: dora, rank: 2, targets: [attention, "*.query"]}
train: {epochs: 4, adam_betas: [0.9, 0.999], learning_rate: 2.0e-3, seed: 1}
"""


@fuzz(100)
@given(
    at=st.lists(
        st.tuples(st.integers(0, len(RECIPE)), st.sampled_from(FRAGMENTS), st.integers(0, 12)), min_size=1, max_size=3
    )
)
def test_recipes(at: list[tuple[int, str, int]]) -> None:
    text = RECIPE
    for where, fragment, dropped in at:
        text = text[:where] + fragment + text[where + dropped :]
    with contextlib.suppress(RecipeError):
        assert isinstance(parse_recipe(text), Recipe)
    assert not Path("escaped").exists()


@fuzz(40)
@given(seed=seeds)
def test_recipes_of_any_bytes(seed: int) -> None:
    path = Path("recipe.yaml")
    path.write_bytes(change_bytes(Random(seed), RECIPE.encode()))
    with contextlib.suppress(RecipeError):
        assert isinstance(load_recipe(path), Recipe)


def test_an_alias_bomb_is_refused() -> None:
    """Nine levels of nine aliases each stand for 9^9 values."""
    bomb = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10))
    with pytest.raises(RecipeError, match="expands"):
        parse_recipe(bomb)


@fuzz(40)
@given(seed=seeds, name=st.sampled_from((*PARTS, "manifest.json")), signed=st.booleans())
def test_reading_checkpoints(unfinished: Yard, seed: int, name: str, signed: bool) -> None:
    folder = unfinished.reset() / "checkpoints" / f"step-{CUT}"
    (folder / name).write_bytes(change(Random(seed), name, (folder / name).read_bytes()))
    if signed and name != "manifest.json":
        sign(folder)
    unfinished.survives(lambda: Snapshot.load(folder))
    unfinished.survives(lambda: load_weights(folder))


RESUMED = (*(f"checkpoints/step-{CUT}/{part}" for part in PARTS), f"checkpoints/step-{CUT}/progress.json",
"environment.json",
           "recipe.yaml", "log.jsonl", "adapter/state.json", "adapter/adapter.safetensors")  # fmt: skip


@fuzz(8)
@given(seed=seeds, name=st.sampled_from(RESUMED))
def test_going_on(unfinished: Yard, seed: int, name: str) -> None:
    path = unfinished.reset() / name
    path.write_bytes(change(Random(seed), name, path.read_bytes()))
    if (path.parent / "manifest.json").exists():
        sign(path.parent)
    unfinished.survives(lambda: train(unfinished.recipe, unfinished.run, resume=True))


EVALUATED = ("adapter/adapter.safetensors", "adapter/head.safetensors", "adapter/state.json", "metrics.json",
"environment.json",
             "recipe.yaml")  # fmt: skip


@fuzz(12)
@given(seed=seeds, name=st.sampled_from(EVALUATED))
def test_evaluating(finished: Yard, seed: int, name: str) -> None:
    path = finished.reset() / name
    path.write_bytes(change(Random(seed), name, path.read_bytes()))
    if (path.parent / "manifest.json").exists():
        sign(path.parent)
    finished.survives(lambda: evaluate(finished.run))


@fuzz(20)
@given(seed=seeds, name=st.sampled_from(["ranks.json", "ranks.json", "metrics.json"]))
def test_rank_tables(finished: Yard, seed: int, name: str) -> None:
    folder = finished.root / "run"
    folder.mkdir(exist_ok=True)
    for record in ("ranks.json", "metrics.json"):
        shutil.copy(finished.pristine / record, folder)
    (folder / name).write_bytes(change(Random(seed), name, (folder / name).read_bytes()))
    finished.survives(RunRecords(folder).read_ranks)
    for arguments in ((), ("--json",)):
        done = dora("ranks", folder, *arguments)
        assert done.code in (0, 2)
        assert "\x1b[2J" not in done.out, "what a stranger wrote must not steer the terminal"
        if done.code:
            assert done.err.startswith("dora: error:")


# Plain cases ----------------------------------------------------------------------------------------------------------


def _write_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    if (path.parent / "manifest.json").exists():
        sign(path.parent)


def _only_checkpoint(yard: Yard) -> Path:
    """The newest checkpoint; the selected one before it is removed, so that nothing can be fallen back to."""
    checkpoints = yard.reset() / "checkpoints"
    for folder in checkpoints.iterdir():
        if folder.name != f"step-{CUT}":
            shutil.rmtree(folder)
    return checkpoints / f"step-{CUT}"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda p: p["at"].update(step=-1), r"at\.step is -1"),
        (lambda p: p["at"].update(step=10**30), r"at\.step is 1000"),
        (lambda p: p["at"].update(epoch=99), r"its at\.epoch .* 9 .* 3 "),
        (lambda p: p["at"].update(groups=2), r"its at\.step cannot be"),
        (lambda p: p["at"].update(groups=400), r"its at\.groups cannot be"),
        (lambda p: p["at"].update(train_loss=0.5), r"its at\.train_loss cannot be"),
        (lambda p: p["at"].update(more=1), r"at\.more"),
        (lambda p: p.pop("at"), "at is missing"),
        (lambda p: p["selection"].update(epoch=3, step=9), "its selection cannot be"),
        (lambda p: p["selection"].update(step=None), "selection"),
        (lambda p: p["selection"].update(metrics={}), "its selection cannot be"),
        (lambda p: p["step_function"].update(loss_sum=float("nan")), r"step_function\.loss_sum is nan"),
        (lambda p: p["step_function"].update(scheduler=3), r"its step_function\.scheduler cannot be"),
        (lambda p: p["step_function"].update(bad_steps=2**63), r"step_function\.bad_steps"),
        (lambda p: p["step_function"].update(halted=True), r"step_function\.halted is True"),
        (lambda p: p.update(epochs=[[1, 2]]), r"epochs\[0\] is \[1, 2\]"),
        (lambda p: p.update(epochs=[]), "its epochs cannot be"),
        (lambda p: p["history"].pop(), "its history cannot be"),
        (lambda p: p.update(last_log=[1, 2]), "last_log"),
        (lambda p: p.update(log_length=-5), "log_length is -5"),
    ],
)
def test_a_position_that_cannot_be(unfinished: Yard, change: Callable[[dict[str, Any]], object], says: str) -> None:
    folder = _only_checkpoint(unfinished)
    _write_json(folder / "progress.json", change)
    with pytest.raises(CheckpointError, match=says):
        train(unfinished.recipe, unfinished.run, resume=True)


def _edit_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    sign(path.parent)


def _first(tensors: dict[str, torch.Tensor], ending: str) -> str:
    return min(name for name in tensors if name.endswith(ending))


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("adapter", lambda t: t.update({_first(t, ".A"): t[_first(t, ".A")].double()}), r"\.A is torch\.float64"),
        (
            "adapter",
            lambda t: t.update({_first(t, ".B"): t[_first(t, ".B")].T.contiguous()}),
            r"\.B is torch\.float32 \(",
        ),
        (
            "adapter",
            lambda t: t.update({"../../escaped": torch.zeros(1)}),
            r"^tensor \.\./\.\./escaped ",
        ),
        ("adapter", lambda t: t.pop("keep"), "^tensor keep "),
        (
            "adapter",
            lambda t: t.update(frozen=torch.tensor(False), compacted=torch.tensor(False)),
            r"tensor .* is torch\.float32",
        ),
        ("head", lambda t: t.update({min(t): t[min(t)][:1].clone()}), r"^head tensor \S+ .*float32 \("),
        ("head", lambda t: t.pop(min(t)), "^head tensor .* missing"),
        (
            "optimizer",
            lambda t: t.update({"0.step": torch.tensor(-3.0)}),
            r"^optimiser tensors 0\.\* ",
        ),
        (
            "optimizer",
            lambda t: t.update({"0.exp_avg_sq": -torch.ones_like(t["0.exp_avg_sq"])}),
            r"^optimiser tensors 0\.\* ",
        ),
        (
            "optimizer",
            lambda t: t.update({"99.step": torch.tensor(1.0)}),
            r"^optimiser tensor 99\.step ",
        ),
        ("random", lambda t: t["0.numpy"].index_fill_(0, torch.tensor([624]), 10**6), r"random state .*damaged"),
        ("random", lambda t: t["0.torch"].fill_(255), r"random state .*damaged"),
        ("random", lambda t: t["0.python"].fill_(-1), r"random state .*damaged"),
        ("random", lambda t: t.pop("0.torch"), "random state 'torch'"),
    ],
)
def test_tensors_that_do_not_fit(unfinished: Yard, file: str, change: Callable[[Any], object], says: str) -> None:
    folder = _only_checkpoint(unfinished)
    _edit_tensors(folder / f"{file}.safetensors", change)
    with pytest.raises(CheckpointError, match=says):
        train(unfinished.recipe, unfinished.run, resume=True)


def _spoil(path: Path, ending: str, value: float) -> str:
    """Puts `value` into one tensor of `path`, under a valid manifest; returns the tensor's name."""
    spoilt: list[str] = []

    def change(tensors: dict[str, torch.Tensor]) -> None:
        spoilt.append(_first(tensors, ending))
        tensors[spoilt[0]].view(-1)[-1] = value

    _edit_tensors(path, change)
    return spoilt[0]


READERS: dict[str, Callable[[Path, Path, Path], object]] = {
    "eval": lambda run, base, out: evaluate(run),
    "predict": lambda run, base, out: predict(run, split="validation"),
    "export": lambda run, base, out: export_saved(run, out / "export", format="merged"),
    "load_adapter": lambda run, base, out: load_adapter(
        run, AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    ),
    "to_lora": lambda run, base, out: to_lora(run),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("file", "ending", "value"),
    [("adapter", ".c", float("nan")), ("adapter", "scores", float("inf")), ("head", "weight", float("-inf"))],
)
def test_weights_that_are_not_finite_are_refused_by_name(
    finished: Yard, tiny_model: Path, tmp_path: Path, reader: str, file: str, ending: str, value: float
) -> None:
    run = finished.reset()
    name = _spoil(run / "adapter" / f"{file}.safetensors", ending, value)
    with pytest.raises(
        CheckpointError,
        match=rf"{file}\.safetensors .*NaN.* {re.escape(name)};",
    ):
        READERS[reader](run, tiny_model, tmp_path)
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_a_checkpoint_that_is_not_finite_is_not_gone_on_from(unfinished: Yard) -> None:
    name = _spoil(_only_checkpoint(unfinished) / "adapter.safetensors", ".A", float("nan"))
    with pytest.raises(CheckpointError, match=rf"step-{CUT} .*not finite .* {re.escape(name)};"):
        train(unfinished.recipe, unfinished.run, resume=True)


def test_a_few_of_many_tensors_that_are_not_finite_are_named() -> None:
    nan = torch.tensor([float("nan")])
    assert not_finite({f"t{index}": nan for index in range(9)}) == "t0, t1, t2, t3 and 5 more"
    assert (
        not_finite({"whole": torch.tensor([1]), "eight": torch.ones(2).to(torch.float8_e5m2), "none": torch.ones(0)})
        == ""
    )
    assert not_finite({"eight": torch.tensor([float("inf")]).to(torch.float8_e5m2)}) == "eight"


@pytest.mark.parametrize(
    "name", ["../../escaped.safetensors", "/escaped.safetensors", "..\\escaped.safetensors", "a/../../../escaped"]
)
def test_names_in_a_manifest_open_nothing(unfinished: Yard, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that a manifest lists beyond the known ones is not looked at, wherever it is said to be."""
    folder = unfinished.reset() / "checkpoints" / f"step-{CUT}"
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = manifest["files"]["adapter.safetensors"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    opened: list[str] = []
    plain = os.open
    monkeypatch.setattr(os, "open", lambda path, *a, **k: opened.append(path) or plain(path, *a, **k))
    assert Snapshot.load(folder).progress["at"]["step"] == CUT
    assert {Path(path).parent for path in opened} == {folder}
    manifest["files"] = {name: manifest["files"][name]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"lacks adapter\.safetensors"):
        Snapshot.load(folder)


@pytest.mark.parametrize("part", ["log.jsonl", "adapter", "checkpoints", f"checkpoints/step-{CUT}"])
def test_nothing_is_written_through_links(unfinished: Yard, part: str) -> None:
    """Archives can hold links; a run that goes on would write, and remove, where they lead."""
    run = unfinished.reset()
    outside = unfinished.root / "outside"
    shutil.rmtree(outside, ignore_errors=True)
    shutil.copytree(unfinished.pristine, outside)
    shutil.rmtree(run / part) if (run / part).is_dir() else (run / part).unlink()
    (run / part).symlink_to(outside / part)
    message = unfinished.survives(lambda: train(unfinished.recipe, run, resume=True))
    assert message is not None
    assert f"{part} " in message
    assert str(outside) in message
    shutil.rmtree(outside)


@pytest.mark.parametrize("part", ["log.jsonl", "adapter"])
def test_nothing_is_written_into_a_pipe(unfinished: Yard, part: str) -> None:
    """Opening one to write waits for a reader."""
    run = unfinished.reset()
    shutil.rmtree(run / part) if (run / part).is_dir() else (run / part).unlink()
    os.mkfifo(run / part)
    with pytest.raises(CheckpointError, match=rf"{part} is neither "):
        train(unfinished.recipe, run, resume=True)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["manifest.json", "progress.json", "adapter.safetensors"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(unfinished: Yard, name: str) -> None:
    folder = unfinished.reset() / "checkpoints" / f"step-{CUT}"
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(CheckpointError):
        Snapshot.load(folder)


def test_records_in_the_place_of_which_lies_a_pipe(finished: Yard) -> None:
    run = finished.reset()
    (run / "environment.json").unlink()
    os.mkfifo(run / "environment.json")
    with pytest.raises(CheckpointError, match=r"environment\.json "):
        evaluate(run)


def test_a_folder_whose_name_is_almost_that_of_a_seed(finished: Yard) -> None:
    """``str.isdigit`` takes digits that ``int`` does not."""
    parent = finished.reset().parent / "seeds"
    (parent / "seed-\u00b2").mkdir(parents=True)
    assert RunRecords(parent).seed_runs() == []
    assert dora("ranks", parent).code == 2
    shutil.rmtree(parent)


def test_a_checkpoint_under_another_name_is_not_used(unfinished: Yard) -> None:
    folder = _only_checkpoint(unfinished)
    folder.rename(folder.with_name("step-8"))
    with pytest.raises(CheckpointError, match=r"step-8 .* step 7\b"):
        train(unfinished.recipe, unfinished.run, resume=True)


def test_weights_of_another_method_are_refused(finished: Yard) -> None:
    run = finished.reset()
    _write_json(run / "adapter" / "state.json", lambda state: state.update(method="head"))
    with pytest.raises(CheckpointError, match=r"method 'head', .*'dora'"):
        evaluate(run)
