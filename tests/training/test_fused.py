"""Steps through compiled blocks against the same steps as they stand.

What is traced, and how often, is tested without making kernels of it; a whole run is taken all the way, and on a GPU
captured steps are.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch._dynamo.utils import counters
from torch._inductor import config as inductor_config
from torch._inductor.utils import run_and_get_code
from torch.profiler import ProfilerActivity, profile
from transformers import (
    LlamaConfig,
    LlamaForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from dora_cli import train
from dora_cli.assembly import prepare as prepare_module
from dora_cli.machine.capture import Answer
from dora_cli.machine.devices import make_accelerator
from dora_cli.methods.base import Method
from dora_cli.methods.low_rank.lean import lean_pass as lean
from dora_cli.methods.low_rank.lean.seam import Joint, Seam
from dora_cli.methods.low_rank.same_input import readers
from dora_cli.methods.low_rank.same_input.together import Together
from dora_cli.models import find_projections
from dora_cli.models.fused.fused_blocks import FusedBlocks
from dora_cli.training import loop as loop_module
from dora_cli.training.optimizer import make_optimizer, make_scheduler
from dora_cli.training.step import TrainingStep
from tests.methods.low_rank.same_input.plain_many import TogetherKernels
from tests.methods.small import new_dora, new_lora, sharpen
from tests.runs.test_resume import Cut, cut
from tests.training.conftest import MakeRecipe
from tests.training.test_run import largest_difference, read

pytestmark = pytest.mark.slow
BLOCKS = 3
COMMON: dict[str, Any] = {"vocab_size": 100, "num_labels": 2, "pad_token_id": 0}
SHAPES: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
ENCODER: dict[str, Any] = {**COMMON, **SHAPES, "max_position_embeddings": 32}
FAMILIES: Mapping[str, Callable[[float], nn.Module]] = {
    "roberta": lambda p: RobertaForSequenceClassification(
        RobertaConfig(**ENCODER, hidden_dropout_prob=p, attention_probs_dropout_prob=p)
    ),
    "llama": lambda p: LlamaForSequenceClassification(LlamaConfig(**COMMON, **SHAPES, use_cache=False)),
}
METHODS: Mapping[str, Callable[..., Method]] = {
    # some projections lose all their components, others some
    "dora": lambda **more: new_dora(rank=1, start_rank=4, prune_interval=2, **more),
    "lora": lambda **more: new_lora(rank=3, **more),
}
DRAWS = 24
LORA = "method={name: lora}"
SIZES = ((4, 9), (4, 14), (3, 6))  # rows and columns, in turn


class Run:
    """A small model under `TrainingStep`, evaluated in between."""

    def __init__(
        self,
        family: str,
        method: str,
        *,
        backend: str | None,
        device: str = "cpu",
        graph: bool = False,
        precision: str = "fp32",
        dtype: torch.dtype = torch.float32,
        dropout: float = 0.0,
        hashed: bool | None = None,
        steps: int = 24,
    ) -> None:
        torch.manual_seed(0)
        self.device, self.steps, self.notes = torch.device(device), steps, list[str]()
        self.model = FAMILIES[family](dropout).to(self.device, dtype).train().requires_grad_(False)
        self.method = METHODS[method](dropout=dropout)
        projections = find_projections(self.model, ["attention", "ffn"])
        self.schedule = self.method.plan(steps, projections)
        head = self.model.score if hasattr(self.model, "score") else self.model.classifier
        assert isinstance(head, nn.Module)
        self.method.attach(self.model, projections, list(head.requires_grad_(True).parameters()), self.schedule)
        optimizer = make_optimizer(self.method, learning_rate=3e-3, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8)
        fused = None
        if backend is not None:
            settings: dict[str, Any] = {"backend": backend, "hashed": hashed}
            fused = FusedBlocks(self.model, self.method.sites, note=self.notes.append, **settings)
        self.step = TrainingStep(
            model=self.model, method=self.method, loss=_losses, optimizer=optimizer,
            scheduler=make_scheduler(optimizer, warmup_steps=2, total_steps=steps),
            accelerator=make_accelerator(self.device, precision), max_grad_norm=1.0, cuda_graph=graph, fused=fused,
        )  # fmt: skip

    def batch(self, number: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(number)
        rows, width = SIZES[number % len(SIZES)]
        ids = torch.randint(3, 100, (rows, width), generator=generator)
        mask = (torch.arange(width) < width - torch.arange(rows)[:, None]).long()
        batch = {"input_ids": ids * mask, "attention_mask": mask, "labels": (ids[:, 0] > 50).long()}
        return {name: tensor.to(self.device) for name, tensor in batch.items()}

    def __call__(self, *, evaluate_every: int = 10) -> list[float]:
        """Losses of all steps, and of evaluations in between."""
        losses = []
        for step in range(1, self.steps + 1):
            batches = [self.batch(2 * step), self.batch(2 * step + 1)]
            units = sum(len(batch["labels"]) for batch in batches)
            self.step(step, batches, units, event=self.schedule.next_event(step - 1) == step)
            losses.append(self.step.read(step).loss)
            if step % evaluate_every == 0:
                self.model.eval()
                with torch.no_grad():
                    losses.append(float(_losses(self.model(**self.inputs(step)), self.batch(step)).mean()))
                self.model.train()
        return losses

    def inputs(self, number: int) -> dict[str, torch.Tensor]:
        return {name: tensor for name, tensor in self.batch(number).items() if name != "labels"}

    def ranks(self) -> list[int]:
        return [item.rank for item in self.method.allocation()]

    def weights(self) -> list[torch.Tensor]:
        return [parameter.detach() for group in self.step.optimizer.param_groups for parameter in group["params"]]


def _losses(outputs: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs.logits.float(), batch["labels"], reduction="none")


@pytest.fixture(autouse=True)
def nothing_compiled_before() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def assert_same_training(fused: Run, plain: Run, *, rtol: float, evaluate_every: int = 10) -> None:
    expected = plain(evaluate_every=evaluate_every)
    assert fused(evaluate_every=evaluate_every) == pytest.approx(expected, rel=rtol)
    assert fused.step.is_fused
    assert not plain.step.is_fused
    assert not fused.notes
    assert fused.ranks() == plain.ranks()
    for one, two in zip(fused.weights(), plain.weights(), strict=True):
        assert float((one - two).norm()) <= rtol * float(two.norm()) + rtol


@pytest.mark.parametrize(
    ("family", "method"), [("roberta", "dora"), pytest.param("llama", "lora", marks=pytest.mark.gpu)]
)
def test_a_family_is_traced_once_and_trains_as_it_stands(family: str, method: str) -> None:
    """Over three widths, two batch sizes, accumulation, evaluations, events and the freeze, of which each leaves other
    ranks in every block, none in some; in float64, so that only a mistake could show. The second one is traced beside
    the tests on a GPU, which train its family.
    """
    fused, plain = (Run(family, method, backend=name, dtype=torch.float64, steps=12) for name in ("aot_eager", None))
    assert_same_training(fused, plain, rtol=1e-6, evaluate_every=4)
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    if method == "dora":
        assert fused.schedule.next_event(fused.steps - 1) is None
        assert {0} < set(fused.ranks())


@pytest.mark.parametrize(
    ("family", "method"), [("roberta", "dora"), pytest.param("llama", "lora", marks=pytest.mark.gpu)]
)
def test_projections_of_one_input_are_one_operator_in_one_trace(
    family: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With plain operations for the kernels of a GPU; also when some have lost all their components. What has a GELU
    between them computes it. The model is looked at once for it, whether blocks are compiled or not.
    """
    monkeypatch.setattr(lean, "kernels_for", lambda device, *_: TogetherKernels(device))
    calls: Counter[object] = Counter()
    for name in ("map", "differentiate"):
        plain = getattr(Seam, name)
        monkeypatch.setattr(
            Seam,
            name,
            lambda self, *args, plain=plain, name=name: calls.update([(name, len(args))]) or plain(self, *args),
        )
    for kind in (Joint, Together):
        name = "map" if kind is Joint else "map_beside"
        plain = getattr(kind, name)
        monkeypatch.setattr(
            kind, name, lambda self, *args, plain=plain: calls.update([type(self)]) or plain(self, *args)
        )
    fused, plain = (Run(family, method, backend=name, dtype=torch.float64, steps=12) for name in ("aot_eager", None))
    looked: Counter[nn.Module] = Counter()
    evaluating = readers._in_evaluation
    monkeypatch.setattr(readers, "_in_evaluation", lambda model: looked.update([model]) or evaluating(model))
    assert_same_training(fused, plain, rtol=1e-6, evaluate_every=4)
    assert looked == {fused.model: 1, plain.model: 1}
    assert counters["stats"]["unique_graphs"] == 1
    assert not counters["graph_break"]
    passes = 2 * fused.steps * BLOCKS * (1 if family == "roberta" else 2)
    assert calls[Joint] == passes
    assert 0 < calls[Together] <= passes
    assert (calls[Together] == passes) == (method == "lora"), "some blocks have too few left"
    with_gelu = passes if family == "roberta" else 0
    assert calls["map", 2] == calls["differentiate", 4] == with_gelu


@pytest.mark.gpu
def test_dropout_is_drawn_anew_by_the_compiled_code() -> None:
    """The mean over many draws is the same; one seed gives the same draws twice, here on the CPU, beside the tests of
    replays that draw.
    """
    run = Run("roberta", "lora", backend="aot_eager", dropout=0.3)
    losses = [[float(_pass(run, seed)) for seed in range(DRAWS)] for _ in range(2)]
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == DRAWS
    plain = Run("roberta", "lora", backend=None, dropout=0.3)
    expected = torch.tensor([float(_pass(plain, seed)) for seed in range(DRAWS)])
    found = torch.tensor(losses[0])
    error = float((found.var() / DRAWS + expected.var() / DRAWS).sqrt())
    assert abs(float(found.mean() - expected.mean())) < 4 * error


def test_hashed_dropout_is_traced_once() -> None:
    """In blocks and in embeddings, over the same widths, evaluations and events as without; what it drops is told in
    `test_hashed_dropout`.
    """
    torch._dynamo.reset()
    counters.clear()
    run = Run("roberta", "dora", backend="eager", dtype=torch.float64, dropout=0.3, hashed=True, steps=12)
    run(evaluate_every=4)
    assert run.step.is_fused
    assert counters["stats"]["unique_graphs"] == 2
    assert not counters["graph_break"]


def _pass(run: Run, seed: int) -> torch.Tensor:
    """The loss of a training pass on one batch."""
    torch.manual_seed(seed)
    fused = run.step.fused
    with run.method.training_pass():
        if fused is None:
            return _losses(run.model(**run.inputs(1)), run.batch(1)).mean().detach()
        with fused.around(None):
            return _losses(run.model(**run.inputs(1)), run.batch(1)).mean().detach()


# -- whole runs --------------------------------------------------------------------------------------------------------


def test_a_run_goes_on_with_compiled_blocks_or_without(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    """What is saved is the same but for rounding, under the same names; `auto` goes on as the run was."""
    settings = {
        "plain": ("off",), "fused": ("on",), "changed": ("on", "off"), "back": ("off", "on"), "kept": ("on", "auto")
    }  # fmt: skip
    for name, parts in settings.items():
        for number, setting in enumerate(parts):
            if (name, number) == ("kept", 0):  # it begins as that one did, which was cut at the same step
                continue
            recipe = make_recipe("save.every_steps=4", f"train.fuse={setting}")
            if number == len(parts) - 1:
                train(recipe, tmp_path / name, resume=number > 0)
            else:
                cut(recipe, tmp_path / name, step=9)
                if name == "changed":
                    shutil.copytree(tmp_path / name, tmp_path / "kept")
    records = {name: read(tmp_path / name / "metrics.json") for name in settings}
    ended = {name: record["timing"]["fused"] for name, record in records.items()}
    assert ended == {"plain": False, "fused": True, "changed": False, "back": True, "kept": True}
    plain = tmp_path / "plain"
    for name, record in records.items():
        losses, expected = ([e["train_loss"] for e in found["epochs"]] for found in (record, records["plain"]))
        assert losses == pytest.approx(expected, rel=1e-4)
        assert read(tmp_path / name / "ranks.json")["history"] == read(plain / "ranks.json")["history"]
        assert _names(tmp_path / name) == _names(plain)
        assert largest_difference(tmp_path / name / "adapter", plain / "adapter") < 1e-3
    assert largest_difference(tmp_path / "kept" / "adapter", tmp_path / "fused" / "adapter") == 0


def _names(run: Path) -> dict[str, list[str]]:
    """Tensors of the last checkpoint, by file."""
    return {file.name: sorted(load_file(file)) for file in (run / "checkpoints" / "step-24").glob("*.safetensors")}


@pytest.mark.parametrize("answer", [Answer(True), Answer(False, "it waits")])
def test_captured_steps_are_tried_with_compiled_blocks_first(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    """The decision, on a machine that can capture nothing."""
    given: list[Any] = []
    plain = loop_module.TrainingStep

    def step(**arguments: Any) -> Any:
        given.append(arguments["fused"])
        return plain(**{**arguments, "cuda_graph": False, "fused": None})

    monkeypatch.setattr(loop_module, "TrainingStep", step)
    monkeypatch.setattr(prepare_module, "choose_capture", lambda *_: Answer(True))
    monkeypatch.setattr(prepare_module, "try_steps", lambda *_, **__: answer)
    listener = Cut()
    train(make_recipe("train.fuse=on", "train.max_steps=3", LORA), tmp_path / "run", listener=listener)
    assert [fused is not None for fused in given] == [answer.captured]
    assert [note.partition(": ")[2] for note in listener.notes if "fuse" in note] == (
        [] if answer.captured else ["it waits"]
    )


def test_a_run_without_a_compiler_goes_on_as_it_stands(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says so once."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    listener = Cut()
    recipe = make_recipe("train.fuse=on", "train.max_steps=3", LORA)
    with inductor_config.patch("cpp.cxx", (str(tmp_path / "no-compiler"),)):
        train(recipe, tmp_path / "run", listener=listener)
    train(make_recipe("train.fuse=off", "train.max_steps=3", LORA), tmp_path / "plain")
    said = [note for note in listener.notes if "fuse" in note]
    assert len(said) == 1
    assert read(tmp_path / "run" / "metrics.json")["timing"]["fused"] is False
    assert largest_difference(tmp_path / "run" / "adapter", tmp_path / "plain" / "adapter") < 1e-5


# -- in CUDA graphs ----------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("family", ["roberta", "llama"])
def test_captured_steps_with_compiled_blocks_are_the_captured_steps(family: str, precision: str) -> None:
    """Over three widths, which are captured one by one, and through events, after which all is captured anew."""
    fused, plain = (
        Run(family, "dora", backend=name, device="cuda", graph=True, precision=precision, steps=60)
        for name in ("inductor", None)
    )
    assert_same_training(fused, plain, rtol=1e-3 if precision == "fp32" else 0.1, evaluate_every=100)
    assert counters["stats"]["unique_graphs"] == (2 if family == "roberta" else 1)  # with its embeddings


@pytest.mark.gpu
@pytest.mark.parametrize("blocks_alone", [False, True])
def test_compiled_dropout_is_drawn_anew_at_every_replay(blocks_alone: bool) -> None:
    """At a learning rate of 0 nothing but dropout tells one step from another; a seed brings its draws back. That of
    attention, and what lies outside of blocks, may be off.
    """

    def losses(run: Run) -> list[float]:
        torch.cuda.manual_seed(3)
        found = []
        for step in range(1, 31):
            run.step(step, [run.batch(0)], SIZES[0][0], event=False)
            found.append(run.step.read(step).loss)
        return found

    def new() -> Run:
        run = Run("roberta", "lora", backend="inductor", device="cuda", graph=True, dropout=0.5)
        for layer in _dropouts_but_those_hashed(run) if blocks_alone else []:
            layer.p = 0.0
        for group in run.step.optimizer.param_groups:
            group["weight_decay"] = 0.0
        run.step.scheduler.base_lrs = [0.0 for _ in run.step.scheduler.base_lrs]
        return run

    found = losses(new())
    assert len(set(found[5:])) == 25
    assert losses(new()) == found


def _dropouts_but_those_hashed(run: Run) -> list[nn.Dropout]:
    """Attention's probabilities drop within one operator."""
    found = {name: module for name, module in run.model.named_modules() if isinstance(module, nn.Dropout)}
    hashed = [name for name in found if ".layer." in name and name.endswith("output.dropout")]
    assert len(hashed) == 2 * BLOCKS
    return [module for name, module in found.items() if name not in hashed]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_captured_steps_drop_in_compiled_blocks_what_eager_ones_do(precision: str) -> None:
    """Each step with a seed of its own and changing nothing; two batches and three widths, of which each is captured.
    By losses and gradient norms of a model so sharp that other masks are told from them.
    """

    def steps(*, graph: bool, seed: int = 0) -> torch.Tensor:
        run = Run("roberta", "lora", backend="inductor", device="cuda", graph=graph, precision=precision, dropout=0.3)
        sharpen(run.model)
        run.step.scheduler.base_lrs = [0.0 for _ in run.step.scheduler.base_lrs]
        found = []
        for step in range(1, 13):
            torch.cuda.manual_seed(seed + step)
            batches = [run.batch(2 * step), run.batch(2 * step + 1)]
            run.step(step, batches, sum(len(batch["labels"]) for batch in batches), event=False)
            reading = run.step.read(step)
            found.append((reading.loss, reading.grad_norm))
        assert run.step.is_fused
        return torch.tensor(found)

    eager, captured, others = steps(graph=False), steps(graph=True), steps(graph=True, seed=100)
    torch.testing.assert_close(captured, eager, rtol=1e-3 if precision == "fp32" else 2e-2, atol=0)
    assert bool(((others - eager).abs() > 0.1 * eager.abs()).any(0).all())


@pytest.mark.gpu
def test_compiled_code_writes_to_no_memory_that_branches_of_a_capture_read() -> None:
    """What it would write to again is said in the code that Inductor makes."""
    run = Run("roberta", "lora", backend="inductor", device="cuda")
    with inductor_config.patch(force_disable_caches=True):
        _, codes = run_and_get_code(lambda: run.step(1, [run.batch(0)], SIZES[0][0], event=False))
    assert not run.notes
    assert len(codes) >= 2
    assert not any("# reuse" in code or "in_out_ptr" in code for code in codes)


@pytest.mark.gpu
def test_a_later_run_finds_what_was_compiled() -> None:
    """On disk, embeddings and blocks forward and backward: nothing of it is made again once this process has forgotten
    it.
    """
    for _ in range(2):
        torch._dynamo.reset()
        counters.clear()
        Run("roberta", "dora", backend="inductor", device="cuda", precision="bf16", steps=6)()
    kept = counters["inductor"]
    assert (kept["fxgraph_cache_hit"], kept["fxgraph_cache_miss"]) == (3, 0)


@pytest.mark.gpu
def test_a_first_batch_without_padding_is_compiled_as_it_is_captured() -> None:
    """A capture makes attention's mask always; blocks that were compiled without one would run there as they stand."""
    run = Run("roberta", "lora", backend="inductor", device="cuda", graph=True)
    batch = {name: torch.ones_like(tensor) for name, tensor in run.batch(0).items()}
    for step in range(1, 5):
        run.step(step, [batch], SIZES[0][0], event=False)
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        run.step(5, [batch], SIZES[0][0], event=False)
        torch.cuda.synchronize()
    assert any(event.name.startswith("triton_") for event in found.events())
