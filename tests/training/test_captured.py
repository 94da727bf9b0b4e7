"""Steps in CUDA graphs against the same steps launched one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest
import torch
from torch import nn
from transformers import RobertaConfig, RobertaForSequenceClassification

from dora_cli.data import inputs_of
from dora_cli.errors import DeviceError, DivergedError
from dora_cli.evaluation.passes import evaluation_mode
from dora_cli.machine.devices import autocast, make_accelerator, without_cache
from dora_cli.machine.graphs import EAGER_FIRST, Graphs
from dora_cli.models import find_projections
from dora_cli.training.optimizer import make_optimizer, make_scheduler
from dora_cli.training.step import TrainingStep
from tests.methods.small import new_dora

pytestmark = pytest.mark.gpu
PRECISIONS = pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
Batch = dict[str, torch.Tensor]


class Run:
    """A small RoBERTa under `TrainingStep`, on batches of three widths with padding."""

    def __init__(
        self,
        *,
        graph: bool,
        precision: str = "fp32",
        dropout: float = 0.0,
        steps: int = 200,
        rate: float = 1e-3,
        method: Mapping[str, Any] | None = None,
        **options: float,
    ):
        self.device = torch.device("cuda")
        torch.manual_seed(0)
        config = RobertaConfig(
            vocab_size=100, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=96,
            max_position_embeddings=64, type_vocab_size=1, num_labels=2, hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )  # fmt: skip
        self.model = RobertaForSequenceClassification(config).to(self.device).train()
        self.model.requires_grad_(False)
        common = {"rank": 3, "start_rank": 5, "dropout": dropout, "prune_interval": 7, "dem_until": "end"}
        self.method = new_dora(**common, **(method or {}))
        projections = find_projections(self.model, ["attention", "ffn"])
        self.schedule = self.method.plan(steps, projections)
        head = list(self.model.classifier.requires_grad_(True).parameters())
        self.method.attach(self.model, projections, head, self.schedule)
        optimizer = make_optimizer(self.method, learning_rate=rate, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8)
        self.poison = torch.ones((), device=self.device)
        self.step = TrainingStep(
            model=self.model, method=self.method,
            loss=lambda outputs,
            batch: nn.functional.cross_entropy(outputs.logits.float(), batch["labels"], reduction="none") * self.poison,
            optimizer=optimizer, scheduler=make_scheduler(optimizer, warmup_steps=5, total_steps=steps),
            accelerator=make_accelerator(self.device, precision), max_grad_norm=1.0, cuda_graph=graph, **options,
             # type: ignore[arg-type]
        )  # fmt: skip
        self.done = 0
        torch.cuda.manual_seed(7)

    def batch(self, number: int) -> Batch:
        generator = torch.Generator().manual_seed(number)
        width = (8, 16, 24)[number % 3]
        ids = torch.randint(3, 100, (8, width), generator=generator)
        mask = torch.ones_like(ids)
        for row in range(4):
            mask[row, width - row :] = 0
        ids = torch.where(mask.bool(), ids, 1)
        labels = (ids[:, 0] > 50).long()
        return {
            name: tensor.to(self.device)
            for name, tensor in {"input_ids": ids, "attention_mask": mask, "labels": labels}.items()
        }

    def advance(self, steps: int, *, micro_batches: int = 2) -> list[float]:
        losses = []
        for _ in range(steps):
            self.done += 1
            batches = [self.batch(self.done * micro_batches + part) for part in range(micro_batches)]
            self.step(self.done, batches, 8 * micro_batches, event=self.schedule.is_event(self.done))
            losses.append(self.step.read(self.done).loss)
        return losses

    def weights(self) -> list[torch.Tensor]:
        return [parameter.detach() for group in self.step.optimizer.param_groups for parameter in group["params"]]


@pytest.fixture(autouse=True)
def cleared() -> Iterator[None]:
    yield
    torch.cuda.empty_cache()


@PRECISIONS
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_two_hundred_captured_steps_are_the_eager_ones(precision: str, dropout: float) -> None:
    """Through all phases, pruning and compaction, with accumulation; with dropout the random numbers are the same ones
    too.
    """
    eager, captured = (Run(graph=graph, precision=precision, dropout=dropout) for graph in (False, True))
    expected = eager.advance(200)
    torch.cuda.manual_seed(7)
    found = captured.advance(200)
    assert eager.method.frozen
    assert captured.method.frozen
    assert len({item.rank for item in captured.method.allocation()}) > 1
    assert found[-1] < found[0]
    # The learning rate is rounded to fp32 on the device, so nothing is promised to the last bit.
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=2e-2, atol=2e-3)
    assert [item.rank for item in captured.method.allocation()] == [item.rank for item in eager.method.allocation()]
    for one, two in zip(captured.weights(), eager.weights(), strict=True):
        assert float((one - two).norm()) < 0.02 * float(two.norm()) + 1e-6


@pytest.mark.parametrize("gradients", ["pro", "riemannian"])
def test_adjusted_gradients_are_captured_anew_after_every_event(gradients: str) -> None:
    """Where ranks of one shape differ, and tensors shrink at each of the events."""
    method = {"start": "lora", "gates": "fixed", "gradients": gradients, "damping": 1e-2, "score": "taylor"}
    eager, captured = (Run(graph=graph, steps=100, method=method) for graph in (False, True))
    expected, found = eager.advance(100), captured.advance(100)
    ranks = [[item.rank for item in run.method.allocation()] for run in (eager, captured)]
    assert ranks[0] == ranks[1]
    assert len(set(ranks[0])) > 1
    assert found[-1] < found[0]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=2e-2, atol=2e-3)


def test_held_steps_are_captured_as_they_are() -> None:
    """Over the events, after which ranks of a shape differ."""
    method = {"start": "lora", "gates": "fixed", "score": "taylor", "step_bound": 2e-3}
    eager, captured = (Run(graph=graph, steps=100, method=method, rate=3e-3) for graph in (False, True))
    expected, found = eager.advance(100), captured.advance(100)
    assert found[-1] < found[0]
    torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=2e-2, atol=2e-3)


def test_every_replay_drops_other_inputs() -> None:
    run = Run(graph=True, dropout=0.3, rate=1e-30)
    same = run.batch(3)
    run.batch = lambda number: same  # type: ignore[method-assign]
    losses = run.advance(EAGER_FIRST + 20, micro_batches=1)
    assert len(set(losses)) == len(losses)


def test_a_captured_step_never_waits_for_the_device() -> None:
    run = Run(graph=True)
    run.advance(12)
    quiet = 0
    try:
        while quiet < 20:
            run.done += 1
            event = run.schedule.is_event(run.done)
            batches = [run.batch(run.done * 2 + part) for part in range(2)]
            torch.cuda.set_sync_debug_mode("default" if event else "error")
            run.step(run.done, batches, 16, event=event)
            torch.cuda.set_sync_debug_mode("default")
            quiet += not event
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("skip", [0, 2])
def test_a_loss_that_is_not_finite_changes_nothing_under_capture(skip: int) -> None:
    """Steps 21 to 23 are poisoned; with two let pass, the third ends the run and is named."""
    run = Run(graph=True, skip_nonfinite=skip)
    run.advance(20)
    before = [weight.clone() for weight in run.weights()]
    scores = run.method._selection.scores.clone()
    run.poison.fill_(float("inf"))
    for count in range(3):
        run.done += 1
        batches = [run.batch(run.done * 2 + part) for part in range(2)]
        run.step(run.done, batches, 16, event=False)
        assert bool(run.step.ledger.halted) == (count >= skip)
    assert all(torch.equal(one, two) for one, two in zip(before, run.weights(), strict=True))
    assert torch.equal(scores, run.method._selection.scores)
    with pytest.raises(DivergedError, match=rf"\bstep {21 + skip}\b"):
        run.step.check(run.done)


def test_gradients_are_zero_after_a_poisoned_step_and_training_goes_on() -> None:
    run, clean = Run(graph=True, skip_nonfinite=3), Run(graph=True, skip_nonfinite=3)
    run.advance(20)
    clean.advance(20)
    run.poison.fill_(float("nan"))
    run.done += 1
    run.step(run.done, [run.batch(1), run.batch(2)], 16, event=False)
    run.poison.fill_(1.0)
    assert all(not weight.grad.any() for weight in run.step._parameters if weight.grad is not None)
    assert all(torch.isfinite(torch.tensor(run.advance(5))))


def test_a_state_taken_under_capture_goes_on_eagerly_or_captured() -> None:
    """Moments, counters and the device's random state are all there is: both ways end where the straight run ends."""
    straight = Run(graph=True, dropout=0.1, steps=60)
    straight.advance(20)
    moments, plain = straight.step.state_dict()
    moments = {name: tensor.clone() for name, tensor in moments.items()}
    method = {name: tensor.clone() for name, tensor in straight.method.state_dict().items()}
    head = [parameter.detach().clone() for parameter in straight.model.classifier.parameters()]
    random = torch.cuda.get_rng_state()
    straight.advance(40)
    for graph in (True, False):
        run = Run(graph=graph, dropout=0.1, steps=60)
        run.method.load_state_dict(method)
        for parameter, value in zip(run.model.classifier.parameters(), head, strict=True):
            parameter.data.copy_(value)
        run.step.load_state_dict(moments, plain)
        run.method._last_step = run.done = 20
        torch.cuda.set_rng_state(random)
        run.advance(40)
        for one, two in zip(run.weights(), straight.weights(), strict=True):
            assert float((one - two).abs().max()) <= (0 if graph else 1e-4)


def test_what_cannot_be_captured_is_named() -> None:
    """In a process of its own: a capture that fails leaves PyTorch's generator as if it went on."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(_cannot_be_captured).result()


def _cannot_be_captured() -> None:
    graphs, x = Graphs("a sum", "set train.cuda_graph: off"), torch.ones(3, device="cuda")
    for _ in range(EAGER_FIRST):
        graphs.run("sum", lambda inputs: float(inputs["x"].sum()), {"x": x})  # type: ignore[arg-type, return-value]
    with pytest.raises(DeviceError, match=r"a sum .*CUDA graph .*train\.cuda_graph: off"):
        graphs.run("sum", lambda inputs: float(inputs["x"].sum()), {"x": x})  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_captured_evaluation_keeps_what_an_eager_one_keeps(precision: str) -> None:
    """Over five evaluations with steps of training between them, captured from the second batch of a shape on."""
    run = Run(graph=True, precision=precision, evaluations=5)
    run.advance(EAGER_FIRST + 1)

    def kept(batch: Batch) -> torch.Tensor:
        with autocast(run.step.accelerator, without_cache()):
            logits: torch.Tensor = run.model(**inputs_of(batch)).logits
        return logits.float()

    for _ in range(5):
        with torch.no_grad(), evaluation_mode(run.model):
            batches = [run.batch(number) for number in range(6)]
            found = [run.step.run_evaluation(kept, batch) for batch in batches]
            for batch, logits in zip(batches, found, strict=True):
                assert torch.equal(logits, kept(batch))
        run.advance(2)
