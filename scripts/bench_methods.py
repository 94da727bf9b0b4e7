"""One whole training step of each way to fine-tune a classifier, behind one face, for `bench_step`.

Everything trains the head too, clips to norm 1 and steps fused AdamW, except the frozen floor, which trains nothing.
Before it is timed, each has its own copy of the model; all see the same batches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from bench_models import Shapes, random_classifier
from published_dora import PublishedDora
from torch import nn
from torch.nn import functional as F

from dora_cli.assembly.origin import make, sites_of
from dora_cli.machine.devices import make_accelerator
from dora_cli.methods import Dora, Lora, Method
from dora_cli.methods.low_rank.dropout import ModelDropouts
from dora_cli.models import find_projections, head_parameters, load_model
from dora_cli.recipe import LoraMethod
from dora_cli.recipe.methods import MethodSection
from dora_cli.recipe.methods.dora import DoraMethod
from dora_cli.recipe.methods.houlsby import HoulsbyMethod
from dora_cli.recipe.methods.pfeiffer import PfeifferMethod
from dora_cli.training.optimizer import make_scheduler
from dora_cli.training.step import TrainingStep

TOTAL_STEPS = 1_000_000  # so long that whatever is timed stays in the phase it is meant for
PRUNE_INTERVAL = 10
PRELUDE = 3  # steps of training after which ranks are frozen, where what is timed comes after the freeze
ALPHA, DROPOUT = 8.0, 0.1
LEARNING_RATE = 1e-4
SEED = 1
BATCHES = 4  # take turns, so that no step sees the data of the one before

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Settings:
    """What all methods of one comparison share."""

    device: torch.device
    precision: str
    batch: int
    length: int
    start_rank: int
    rank: int
    shapes: Shapes = field(default_factory=Shapes)
    model: str | None = None  # a local folder instead of random weights

    def build(self) -> tuple[nn.Module, frozenset[str]]:
        """A new model on the device, in training mode, and the names of its fresh parameters."""
        torch.manual_seed(SEED)
        if self.model is None:
            model, fresh = random_classifier(self.shapes), frozenset[str]()
        else:
            loaded = load_model(self.model, num_labels=2, seed=SEED)
            model, fresh = loaded.model, loaded.fresh
        return model.to(self.device).train(), fresh

    @cached_property
    def accelerator(self) -> Any:
        """One for all: a second one in a process resets what the first one shares."""
        return make_accelerator(self.device, self.precision)

    def batches(self, model: nn.Module) -> list[Batch]:
        """Sequences of full length without padding, under a mask of ones."""
        generator = torch.Generator().manual_seed(SEED)
        rows = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
        size = (self.batch, self.length)
        return [
            {
                "input_ids": torch.randint(min(5, rows - 1), rows, size, generator=generator).to(self.device),
                "attention_mask": torch.ones(size, dtype=torch.int64, device=self.device),
                "labels": torch.randint(2, (self.batch,), generator=generator).to(self.device),
            }
            for _ in range(BATCHES)
        ]

    def autocast(self, *, cached: bool = True) -> AbstractContextManager[None]:
        """`cached` must be off inside a capture: a cached copy would be made once and then replayed stale."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16", cache_enabled=cached)


class Step(ABC):
    """One way to fine-tune; calling it runs one step without waiting for the device."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.model, self.fresh = settings.build()
        self.batches = settings.batches(self.model)
        self.count = 0

    def next_batch(self) -> Batch:
        self.count += 1
        return self.batches[self.count % BATCHES]

    @abstractmethod
    def __call__(self) -> None: ...

    @abstractmethod
    def trainable(self) -> int:
        """Numbers that train now, the head's included."""

    @abstractmethod
    def loss(self) -> float:
        """The loss of the latest steps; waits for the device."""


class FrozenStep(Step):
    """The floor: forward, and backward to the input embeddings; no weight gradients, no optimiser.

    Args:
        graph: in one CUDA graph.
        quick: the model's own dropouts are drawn as `dora train` draws them on the CPU.
    """

    def __init__(self, settings: Settings, *, graph: bool = False, quick: bool = False) -> None:
        super().__init__(settings)
        if quick:
            ModelDropouts(self.model).begin()
        self.model.requires_grad_(False)
        self._embedding = self.model.get_input_embeddings()  # type: ignore[operator]
        self._batch = {key: value.clone() for key, value in self.batches[0].items()}
        self._graph: torch.cuda.CUDAGraph | None = None
        if graph:
            self._graph = captured(self._work)

    def _work(self) -> None:
        inputs = {key: value for key, value in self._batch.items() if key != "input_ids"}
        with self.settings.autocast(cached=False):
            embedded = self._embedding(self._batch["input_ids"]).detach().requires_grad_()
            loss = self.model(inputs_embeds=embedded, **inputs).loss
        (self._gradient,) = torch.autograd.grad(loss, [embedded])
        self._loss = loss.detach()

    def __call__(self) -> None:
        for key, value in self.next_batch().items():
            self._batch[key].copy_(value)
        if self._graph is None:
            self._work()
        else:
            self._graph.replay()

    def trainable(self) -> int:
        return 0

    def loss(self) -> float:
        assert bool(self._gradient.isfinite().all()), "the gradient is not finite"
        return float(self._loss)


class PlainStep(Step):
    """Forward, backward, clip, AdamW, as anyone writes it; `prepare` makes it one method or another."""

    def __init__(self, settings: Settings, prepare: Callable[[PlainStep], None]) -> None:
        super().__init__(settings)
        self.extra_loss: Callable[[], torch.Tensor] | None = None
        self.after: Callable[[int], None] | None = None
        prepare(self)
        self._parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self._optimizer = new_optimizer(self._parameters)

    def __call__(self) -> None:
        batch = self.next_batch()
        self._optimizer.zero_grad(set_to_none=True)
        with self.settings.autocast():
            loss = self.model(**batch).loss
        self._loss = loss.detach()
        if self.extra_loss is not None:
            loss = loss + self.extra_loss()
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._optimizer.step()
        if self.after is not None:
            self.after(self.count)

    def trainable(self) -> int:
        return sum(parameter.numel() for parameter in self._parameters)

    def loss(self) -> float:
        return float(self._loss)

    def projections(self) -> dict[str, nn.Module]:
        return {projection.name: projection.module for projection in find_projections(self.model)}

    def train_head_only(self) -> None:
        head = head_parameters(self.model, self.fresh)
        self.model.requires_grad_(False)
        for parameter in head.values():
            parameter.requires_grad_(True)


def full(step: PlainStep) -> None:
    """Full fine-tuning."""
    step.model.requires_grad_(True)


def peft_lora(step: PlainStep) -> None:
    """PEFT's LoRA at the final rank, on the same projections."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="SEQ_CLS",
        r=step.settings.rank,
        lora_alpha=ALPHA,
        lora_dropout=DROPOUT,
        target_modules=list(step.projections()),
    )
    step.model = get_peft_model(step.model, config)


def peft_adalora(step: PlainStep) -> None:
    """PEFT's AdaLoRA in the middle of its pruning: importance in every step, a selection every `PRUNE_INTERVAL`, its
    orthogonal loss.
    """
    from peft import AdaLoraConfig, get_peft_model

    config = AdaLoraConfig(
        task_type="SEQ_CLS",
        init_r=step.settings.start_rank,
        target_r=step.settings.rank,
        tinit=0,
        tfinal=0,
        deltaT=PRUNE_INTERVAL,
        total_step=TOTAL_STEPS,
        lora_alpha=ALPHA,
        lora_dropout=DROPOUT,
        target_modules=list(step.projections()),
    )
    step.model = get_peft_model(step.model, config)
    allocate = step.model.base_model.update_and_allocate
    step.after = lambda count: allocate(TOTAL_STEPS // 2 + count)


def published(step: PlainStep) -> None:
    """DoRA in the manner of the published code; see `published_dora`."""
    step.train_head_only()
    dora = PublishedDora(
        step.model, step.projections(), start_rank=step.settings.start_rank, alpha=ALPHA, dropout=DROPOUT
    )
    step.extra_loss = dora.regulariser
    step.after = lambda count: dora.after_step()


class ProductStep(Step):
    """A method of the product, trained by its own `TrainingStep`.

    Args:
        attach: freezes a model and attaches a method to it.
        graph: whether `TrainingStep` may capture its work.
    """

    method: Method

    def __init__(
        self,
        settings: Settings,
        attach: Callable[[nn.Module, Settings, Sequence[nn.Parameter]], Method],
        *,
        graph: bool = False,
    ) -> None:
        super().__init__(settings)
        self.graph = graph
        self._head = list(head_parameters(self.model, self.fresh).values())
        self.method = attach(self.model, settings, self._head)
        for parameter in self._head:
            parameter.requires_grad_(True)
        optimizer = new_optimizer([*self.method.parameters(), *self._head])
        self._step = TrainingStep(
            model=self.model,
            method=self.method,
            loss=lambda outputs, batch: F.cross_entropy(outputs.logits.float(), batch["labels"], reduction="none"),
            optimizer=optimizer,
            scheduler=make_scheduler(optimizer, warmup_steps=0, total_steps=TOTAL_STEPS),
            accelerator=settings.accelerator,
            max_grad_norm=1.0,
            **({"cuda_graph": True} if graph else {}),  # type: ignore[arg-type]
        )

    def _run(self, *, event: bool) -> None:
        batch = self.next_batch()
        self._step(self.count, [batch], self.settings.batch, event=event)

    def __call__(self) -> None:
        self._run(event=False)

    def trainable(self) -> int:
        return sum(parameter.numel() for parameter in [*self.method.parameters(), *self._head])

    def loss(self) -> float:
        return self._step.read(self.count).loss


class DoraStep(ProductStep):
    """DoRA. Before the freeze it stays in the warm-up: scores and DEM in every step, no event.

    Args:
        settings: shared by all methods.
        graph: whether `TrainingStep` may capture its work.
        compacted: train on through a short pruning first, so that what is timed comes after the freeze, with tensors
            that shrank.
    """

    method: Dora

    def __init__(self, settings: Settings, *, graph: bool = False, compacted: bool = False) -> None:
        pruning = PRELUDE if compacted else 0
        super().__init__(settings, lambda *places: attach_dora(*places, pruning=pruning)[0], graph=graph)
        self.compacted = compacted
        while compacted and not self.method.frozen:
            self._run(event=self.method.schedule.is_event(self.count + 1))

    def own_work(self) -> None:
        """The method's own part of an ordinary step alone: DEM's gradient, scores, their average, masks."""
        self.method.adjust_gradients()
        self.method.observe(self._not_skipped)

    @cached_property
    def _not_skipped(self) -> torch.Tensor:
        return torch.zeros((), dtype=torch.bool, device=self.settings.device)


def attach_lora(model: nn.Module, settings: Settings, head: Sequence[nn.Parameter]) -> Lora:
    """Freezes `model` and attaches LoRA, of DoRA's start rank: what DoRA's steps add to those of LoRA."""
    method = make(LoraMethod(rank=settings.start_rank, alpha=ALPHA, dropout=DROPOUT))
    sites = find_projections(model)
    model.requires_grad_(False)
    method.attach(model, sites, head, method.plan(TOTAL_STEPS, sites), seed=SEED)
    return method


def attach_fixed(
    model: nn.Module, settings: Settings, head: Sequence[nn.Parameter], *, section: MethodSection
) -> Method:
    """Freezes `model` and attaches the method of `section` to its own targets."""
    method = make(section)
    sites = sites_of(model, section, method)
    model.requires_grad_(False)
    method.attach(model, sites, head, method.plan(TOTAL_STEPS, sites), seed=SEED)
    return method


def attach_dora(
    model: nn.Module, settings: Settings, head: Sequence[nn.Parameter], *, pruning: int
) -> tuple[Dora, Any]:
    """Freezes `model` and attaches DoRA: for `pruning` steps, each with an event, until ranks are frozen; or, if 0,
    without any event.
    """
    warmup, final = (0.0, (TOTAL_STEPS - pruning) / TOTAL_STEPS) if pruning else (0.5, 0.25)
    section = DoraMethod(
        rank=settings.rank,
        start_rank=settings.start_rank,
        alpha=ALPHA,
        dropout=DROPOUT,
        warmup_fraction=warmup,
        final_fraction=final,
        prune_interval=1,
    )
    method = make(section)
    projections = find_projections(model)
    schedule = method.plan(TOTAL_STEPS, projections)
    assert not pruning or schedule.freeze_step == pruning
    model.requires_grad_(False)
    method.attach(model, projections, head, schedule)
    return method, schedule


def new_optimizer(parameters: list[nn.Parameter]) -> torch.optim.AdamW:
    """The product's fused AdamW, for every method."""
    return torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8, fused=True)


def captured(work: Callable[[], object], warmup: int = 3) -> torch.cuda.CUDAGraph:
    """`work` in a CUDA graph, after a few runs on a side stream."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warmup):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph


METHODS: Mapping[str, Callable[[Settings], Step]] = {
    "frozen": FrozenStep,
    "frozen-graph": partial(FrozenStep, graph=True),
    "frozen-quick": partial(FrozenStep, quick=True),
    "dora": DoraStep,
    "dora-graph": partial(DoraStep, graph=True),
    "dora-compacted": partial(DoraStep, compacted=True),
    "dora-compacted-graph": partial(DoraStep, graph=True, compacted=True),
    "lora": partial(ProductStep, attach=attach_lora),
    "lora-graph": partial(ProductStep, attach=attach_lora, graph=True),
    "houlsby": partial(ProductStep, attach=partial(attach_fixed, section=HoulsbyMethod(bottleneck=32))),
    "houlsby-graph": partial(
        ProductStep, attach=partial(attach_fixed, section=HoulsbyMethod(bottleneck=32)), graph=True
    ),
    "pfeiffer": partial(ProductStep, attach=partial(attach_fixed, section=PfeifferMethod(bottleneck=64))),
    "pfeiffer-graph": partial(
        ProductStep, attach=partial(attach_fixed, section=PfeifferMethod(bottleneck=64)), graph=True
    ),
    "peft-lora": partial(PlainStep, prepare=peft_lora),
    "peft-adalora": partial(PlainStep, prepare=peft_adalora),
    "published": partial(PlainStep, prepare=published),
    "full": partial(PlainStep, prepare=full),
}
"""By the names that `bench_step --methods` takes; those that end in ``-graph`` need CUDA."""
