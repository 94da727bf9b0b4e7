"""A step on texts in one row is the step of the padded batch."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from dora_cli import train
from dora_cli.assembly import prepare as prepare_module
from dora_cli.assembly.dry_run import dry_run
from dora_cli.assembly.packing import packing_of
from dora_cli.assembly.prepare import Prepared
from dora_cli.data import plan_epoch
from dora_cli.data.cuts import UNCUT
from dora_cli.data.packed import Packing, training_batches
from dora_cli.data.transfer import Batch, packed_size, unpacked
from dora_cli.machine.capture import Answer
from dora_cli.machine.ground import take_ground
from dora_cli.machine.threads import own_threads
from dora_cli.methods.dora import Dora
from dora_cli.models.fused.fused_blocks import FusedBlocks
from dora_cli.models.packed_attention import PackedRows
from dora_cli.models.source import find_source
from dora_cli.recipe import Recipe, parse_recipe
from dora_cli.training import loop as loop_module
from dora_cli.training.loop import make_step
from dora_cli.training.step import TrainingStep
from tests.runs.test_resume import assert_equal_runs, cut
from tests.training.pairs import train_recipes_in_two
from tests.training.test_cuts import METHODS, prepared_of
from tests.training.test_generation import Told
from tests.training.test_run import largest_difference, lines, read

MakeRecipe = Callable[..., Recipe]


@pytest.fixture(scope="module")
def recipe_of(tmp_path_factory: pytest.TempPathFactory) -> MakeRecipe:
    """Texts of E2E for a random Llama: the built-in one with its tokenizer, but two blocks of a third of its width."""
    folder, builtin = tmp_path_factory.mktemp("llama"), find_source("builtin:tiny-decoder", None).location
    AutoTokenizer.from_pretrained(builtin).save_pretrained(folder)
    config = AutoConfig.from_pretrained(
        builtin, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return partial(_recipe, folder)


def _recipe(model: Path, *overrides: str) -> Recipe:
    text = f"""
        task: e2e
        model: {{name: {model}}}
        data: {{source: builtin, max_train_samples: 94, max_eval_samples: 4}}
        method: {{name: dora, rank: 2, prune_interval: 3, dropout: 0.0}}
        train: {{batch_size: 16, epochs: 2, learning_rate: 5.0e-3, log_every: 2, device: cpu, threads: 1}}
        decode: {{epoch_samples: 0, max_new_tokens: 2, beams: 1, split: none}}
    """
    return parse_recipe(text, overrides=overrides)


def summed(
    step: TrainingStep, prepared: Prepared, packing: Packing | None, place: Callable[[Batch], Batch] = dict
) -> list[torch.Tensor]:
    """What the first step sums over its passes: gradients, statistics and loss; `place` moves its batches."""
    settings, split = prepared.recipe.train, prepared.train
    group = next(
        plan_epoch(
            split.lengths, split.units, seed=settings.seed, epoch=1, micro_batch=settings.batch_size,
            accumulation=settings.gradient_accumulation,
        )
    )  # fmt: skip
    step.ledger.begin(1, group.units)
    step.method.begin_step(1, 1e-3)
    step.packed = None if packing is None else PackedRows(prepared.adapted.model, packing.longest)
    for batch in training_batches(split, group.micro_batches, UNCUT, packing):
        step._forward_backward(place(batch))
    sums = [*step._gradients(), *step._statistics(), step.ledger.loss]
    found = [tensor.detach().double().clone() for tensor in sums]
    torch._foreach_zero_(sums)
    return found


@own_threads()
@pytest.mark.parametrize("name", [name for name in METHODS if name != "bitfit"])
def test_a_row_gives_every_method_what_the_padded_batch_gives(recipe_of: MakeRecipe, name: str) -> None:
    """Its gradients and all that it sums over passes; `bitfit` has nothing to train in a Llama."""
    more = ("train.batch_size=8", "train.gradient_accumulation=2", "train.label_smoothing=0.1", "train.epochs=6")
    prepared = prepared_of(recipe_of(f"method={{{METHODS[name]}}}", *more))
    step = make_step(prepared, lambda line: None)
    assert prepared.adapted.method.packs
    packing = packing_of(prepared.recipe, prepared.train.padded_to(8), prepared.length)
    assert packing.step > 1  # as on CUDA
    padded, packed = summed(step, prepared, None), summed(step, prepared, packing)
    largest = max(float(tensor.abs().max()) for tensor in padded[:-1])
    assert largest > 1e-4
    # losses are fp32, whatever the weights are
    torch.testing.assert_close(packed.pop(), padded.pop(), rtol=1e-6, atol=0)
    for one, two in zip(padded, packed, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-10, atol=1e-10 * largest)


@pytest.fixture(scope="module")
def padded(recipe_of: MakeRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("padded") / "run"
    train(recipe_of("train.batch_parts=1"), run)
    return run


def last(run: Path) -> Path:
    return run / "checkpoints" / "step-12"


def test_a_run_on_rows_is_the_padded_one(recipe_of: MakeRecipe, padded: Path, tmp_path: Path) -> None:
    """Through all phases, up to rounding; and says how much less of it was padding."""
    recipe = recipe_of("train.pack=on")
    train(recipe, tmp_path / "run")
    assert largest_difference(last(padded), last(tmp_path / "run")) < 5e-6
    for one, two in zip(*(lines(run / "log.jsonl") for run in (padded, tmp_path / "run")), strict=True):
        if one["type"] == "train":
            assert two["loss"] == pytest.approx(one["loss"], abs=1e-5)
    before, after = (read(run / "metrics.json") for run in (padded, tmp_path / "run"))
    assert before["real_tokens"]["evaluation"] == after["real_tokens"]["evaluation"]
    assert before["real_tokens"]["training"] < 0.9
    assert after["real_tokens"]["training"] == 1  # on the CPU nothing is rounded up
    assert (before["timing"]["packed"], after["timing"]["packed"]) == (False, True)
    assert ("texts in one row", "yes") in dry_run(recipe).rows
    assert "parts of a batch" not in dict(dry_run(recipe).rows)


def test_what_is_counted_is_what_is_computed(
    recipe_of: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`real_tokens`, and what the first line says, of the batches that a run really made."""
    seen: list[tuple[int, int]] = []
    forward = TrainingStep._forward_backward

    def counting(self: TrainingStep, batch: Any) -> None:
        seen.append((int(batch["attention_mask"].sum()), batch["input_ids"].numel()))
        forward(self, batch)

    monkeypatch.setattr(TrainingStep, "_forward_backward", counting)
    monkeypatch.setattr(prepare_module, "packing_of", lambda *_: Packing(step=48, longest=128))  # as on CUDA
    train(recipe_of("train.pack=on", "train.epochs=1"), tmp_path / "run")
    real, computed = (sum(counts) for counts in zip(*seen, strict=True))
    assert real < computed
    assert read(tmp_path / "run" / "metrics.json")["real_tokens"]["training"] == pytest.approx(real / computed)


DROPS = ("method.dropout=0.2", "save.every_steps=1")


def test_a_run_on_rows_goes_on_as_it_began(
    recipe_of: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, with dropout; and rows are as long as they were, whatever a new run would make them."""
    recipe = recipe_of(*DROPS, "train.pack=on")
    monkeypatch.setattr(prepare_module, "packing_of", lambda *_: Packing(step=48, longest=128))
    train(recipe, tmp_path / "straight")
    cut(recipe, tmp_path / "on", step=5)
    shutil.copytree(tmp_path / "on", tmp_path / "auto")
    monkeypatch.setattr(prepare_module, "packing_of", lambda *_: pytest.fail("nothing is decided anew"))
    for setting in ("on", "auto"):
        train(recipe_of(*DROPS, f"train.pack={setting}"), tmp_path / setting, resume=True)
        assert largest_difference(last(tmp_path / "straight"), last(tmp_path / setting)) == 0
    assert_equal_runs(tmp_path / "straight", tmp_path / "on")


def test_a_padded_run_goes_on_padded_unless_it_is_told_otherwise(
    recipe_of: MakeRecipe, padded: Path, tmp_path: Path
) -> None:
    settings = ("train.batch_parts=1", "save.every_steps=1")
    cut(recipe_of(*settings), tmp_path / "auto", step=5)
    shutil.copytree(tmp_path / "auto", tmp_path / "on")
    for setting, packed in (("auto", False), ("on", True)):
        train(recipe_of(*settings, f"train.pack={setting}"), tmp_path / setting, resume=True)
        assert read(tmp_path / setting / "metrics.json")["timing"]["packed"] is packed
        assert (largest_difference(last(padded), last(tmp_path / setting)) == 0) is not packed
        assert largest_difference(last(padded), last(tmp_path / setting)) < 5e-6


def test_rows_with_accumulation_and_batches_by_length(recipe_of: MakeRecipe, tmp_path: Path) -> None:
    more = ("train.gradient_accumulation=2", "data.group_by_length=true", "train.batch_size=6", "train.batch_parts=1")
    for name in ("off", "on"):
        train(recipe_of(*more, f"train.pack={name}"), tmp_path / name)
    ends = [tmp_path / name / "adapter" for name in ("off", "on")]
    assert largest_difference(*ends) < 5e-6


def test_rows_in_federated_training(recipe_of: MakeRecipe, tmp_path: Path) -> None:
    """Every client's."""
    more = ("method={name: lora, rank: 2, dropout: 0}", "federated={clients: 3, rounds: 2, local_steps: 2}")
    for name in ("off", "on"):
        train(recipe_of(*more, "train.batch_parts=1", f"train.pack={name}"), tmp_path / name)
    assert largest_difference(tmp_path / "off" / "adapter", tmp_path / "on" / "adapter") < 5e-6


def test_what_cannot_be_in_rows_stays_padded_and_only_who_asked_is_told(
    recipe_of: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dora, "packs", False)
    told = {}
    for setting in ("on", "auto"):
        listener = Told()
        train(recipe_of("train.max_steps=8", f"train.pack={setting}"), tmp_path / setting, listener=listener)
        told[setting] = [note for note in listener.notes if "train.pack" in note]
        assert read(tmp_path / setting / "metrics.json")["timing"]["packed"] is False
    assert {setting: len(notes) for setting, notes in told.items()} == {"on": 1, "auto": 0}
    assert "texts" in told["on"][0]


@pytest.mark.parametrize("answer", [Answer(True), Answer(False, "it waits")])
def test_captured_steps_are_tried_on_rows_first(
    recipe_of: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    """The decision, on a machine that can capture nothing."""
    given: list[Any] = []
    plain = loop_module.TrainingStep

    def step(**arguments: Any) -> Any:
        given.append(arguments["packed"])
        return plain(**{**arguments, "cuda_graph": False})

    monkeypatch.setattr(loop_module, "TrainingStep", step)
    monkeypatch.setattr(prepare_module, "choose_capture", lambda *_: Answer(True))
    monkeypatch.setattr(prepare_module, "try_steps", lambda *_, **__: answer)
    listener = Told()
    train(recipe_of("train.pack=on", "train.max_steps=3"), tmp_path / "run", listener=listener)
    assert [packed is not None for packed in given] == [answer.captured]
    said = [note.partition(": ")[2] for note in listener.notes if "one row" in note]
    assert said == ([] if answer.captured else ["it waits"])


BOTH, BLOCKS, ROWS = (True, True), (True, False), (False, True)


@pytest.mark.parametrize(
    ("pack", "wanted", "possible", "tried"),
    [
        ("auto", BOTH, [BOTH], [BOTH]),
        ("auto", BOTH, [BLOCKS, ROWS], [BOTH, BLOCKS]),
        ("on", BOTH, [BLOCKS, ROWS], [BOTH, ROWS]),
        ("auto", BOTH, [ROWS], [BOTH, BLOCKS, ROWS]),
        ("auto", BOTH, [], [BOTH, BLOCKS, ROWS]),
        ("auto", ROWS, [ROWS], [ROWS]),
        ("auto", BLOCKS, [], [BLOCKS]),
    ],
)
def test_as_much_is_done_as_can_be_captured(
    recipe_of: MakeRecipe,
    monkeypatch: pytest.MonkeyPatch,
    pack: str,
    wanted: tuple[bool, bool],
    possible: list[tuple[bool, bool]],
    tried: list[tuple[bool, bool]],
) -> None:
    """Compiled blocks and rows, the two of them where that can be; else what was asked for, or what saves more."""
    asked: list[tuple[bool, bool]] = []

    def answer(*_: Any, fused: bool, packed: bool) -> Answer:
        asked.append((fused, packed))
        return Answer((fused, packed) in possible, None if (fused, packed) in possible else str((fused, packed)))

    monkeypatch.setattr(prepare_module, "try_steps", answer)
    recipe, notes = recipe_of(f"train.pack={pack}"), list[str]()
    arguments = recipe, SimpleNamespace(model=None), take_ground(recipe), notes.append, True
    speed = prepare_module._settle_kernels(*arguments, *wanted, rows_first=pack == "on")  # type: ignore[arg-type]
    assert asked == tried
    assert (speed.fused, speed.packed) == (tried[-1] if possible else (False, False))
    assert [note.split(" are ")[0] for note in notes] == [
        *(["blocks"] if wanted[0] > speed.fused else []),
        *(["texts"] if wanted[1] > speed.packed else []),
    ]
    for note in notes:  # the trial of what is done with what is not
        of_blocks = note.startswith("blocks")
        other = speed.packed if of_blocks else speed.fused
        assert note.endswith(f"which would be faster: {BOTH if other else BLOCKS if of_blocks else ROWS}")


def test_who_wants_parts_of_a_row_is_told(recipe_of: MakeRecipe, tmp_path: Path) -> None:
    listener = Told()
    train(recipe_of("train.pack=on", "train.batch_parts=4", "train.max_steps=3"), tmp_path / "run", listener=listener)
    (said,) = [note for note in listener.notes if "batch_parts" in note]
    assert said.startswith("train.batch_parts is 4, ")


def test_rows_in_two_processes(recipe_of: MakeRecipe, padded: Path, tmp_path: Path) -> None:
    """Each process has a row of its own, of half the examples."""
    recipe = recipe_of("train.pack=on", "train.batch_size=8")
    train_recipes_in_two({tmp_path / "two": recipe})
    assert read(tmp_path / "two" / "metrics.json")["timing"]["packed"] is True
    assert largest_difference(last(padded), last(tmp_path / "two")) < 2e-5


@pytest.mark.gpu
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 2e-5), ("bf16", 0.03)])
def test_captured_rows_are_the_padded_steps(
    recipe_of: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str, bound: float
) -> None:
    """Rows of several lengths, one launch after the other, in graphs, and with compiled blocks, against padded batches
    launched one by one; the losses of all that is logged. Under bf16 the kernels are not the same.
    """
    set_stance = torch.compiler.set_stance

    def refuse(stance: str) -> Any:
        """What would have to be compiled again in a capture is computed as it stands; here it is an error."""
        return set_stance("fail_on_recompile" if stance == "eager_on_recompile" else stance)

    monkeypatch.setattr(torch.compiler, "set_stance", refuse)
    flags = ("train.device=cuda", f"train.precision={precision}", "train.batch_parts=1", "train.log_every=1")
    settings = {
        "padded": ("train.cuda_graph=off",),
        "rows": ("train.cuda_graph=off", "train.pack=on"),
        "captured": ("train.cuda_graph=on", "train.pack=on"),
        "compiled": ("train.cuda_graph=on", "train.pack=on", "train.fuse=on"),
    }
    losses: dict[str, list[float]] = {}
    for name, setting in settings.items():
        train(recipe_of(*flags, *setting), tmp_path / name)
        timing = read(tmp_path / name / "metrics.json")["timing"]
        assert (timing["packed"], timing["fused"]) == (name != "padded", name == "compiled")
        losses[name] = [line["loss"] for line in lines(tmp_path / name / "log.jsonl") if line["type"] == "train"]
    assert len(losses["padded"]) == 12
    for name in ("rows", "captured", "compiled"):
        assert losses[name] == pytest.approx(losses["padded"], rel=bound)
    assert losses["captured"] == pytest.approx(losses["rows"], rel=2e-5 if precision == "fp32" else 0.01)


@pytest.mark.gpu
def test_captured_rows_are_the_eager_ones_to_the_bit(recipe_of: MakeRecipe, tmp_path: Path) -> None:
    """With dropout, where the device is to repeat itself."""
    flags = (*DROPS, "train.device=cuda", "train.precision=bf16", "train.deterministic=true", "train.pack=on")
    for name in ("off", "on"):
        train(recipe_of(*flags, f"train.cuda_graph={name}"), tmp_path / name)
    assert largest_difference(last(tmp_path / "off"), last(tmp_path / "on")) == 0


@pytest.mark.gpu
def test_auto_puts_captured_steps_on_rows(recipe_of: MakeRecipe, tmp_path: Path) -> None:
    flags = ("train.device=cuda", "train.precision=bf16", "train.cuda_graph=on", "train.pack=auto")
    train(recipe_of(*flags), tmp_path / "run")
    assert read(tmp_path / "run" / "metrics.json")["timing"]["packed"] is True


def _in_one_piece(batch: Batch) -> Batch:
    """So a batch lies on a GPU before steps are captured; captured ones read copies, each of them alone in memory."""
    together = unpacked(torch.empty(packed_size(batch), dtype=torch.uint8), batch)
    for name, tensor in together.items():
        tensor.copy_(batch[name])
    return together


@own_threads()
def test_compiled_blocks_on_rows_give_what_blocks_give_as_they_stand(recipe_of: MakeRecipe) -> None:
    """Traced once for rows of all lengths, wherever they lie, and without making kernels of it."""
    prepared = prepared_of(recipe_of("train.pack=on", "train.max_steps=9"))
    step = make_step(prepared, note=lambda _: None)
    assert prepared.packing is not None
    packings = [replace(prepared.packing, step=size) for size in (1, 64, 24)]
    plain = [summed(step, prepared, packing) for packing in packings]
    counters.clear()
    notes: list[str] = []
    adapted = prepared.adapted
    step.fused = FusedBlocks(adapted.model, adapted.method.sites, note=notes.append, backend="eager")
    places: tuple[Callable[[Batch], Batch], ...] = (_in_one_piece, dict, _in_one_piece)
    compiled = [summed(step, prepared, packing, place) for packing, place in zip(packings, places, strict=True)]
    assert notes == []
    assert counters["stats"]["unique_graphs"] == 1
    for one, two in zip(plain, compiled, strict=True):
        for before, after in zip(one, two, strict=True):
            torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-9)
