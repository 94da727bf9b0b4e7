"""One whole training step of each way to fine-tune a classifier or a language model, behind one face, for `bench_step`.

Everything trains the head too, clips to norm 1 and steps fused AdamW, except the frozen floor, which trains nothing.
Before it is timed, each has its own copy of the model; all see the same batches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal

import torch
from bench_liger import Liger
from bench_models import LlamaShapes, Shapes, random_classifier, random_generator
from published_dora import PublishedDora
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from dora_cli.assembly.build import put_on
from dora_cli.assembly.origin import make, sites_of
from dora_cli.machine.devices import autocast_type, make_accelerator
from dora_cli.methods import Method
from dora_cli.methods.base import Schedule, Site
from dora_cli.methods.linear import weight_of
from dora_cli.methods.low_rank.allocation.scores import SCORES
from dora_cli.methods.low_rank.arithmetic.dropout import ModelDropouts
from dora_cli.methods.low_rank.lean.passes import Passes
from dora_cli.methods.low_rank.links import LinkSchedule
from dora_cli.methods.low_rank.same_input.readers import NOBODY
from dora_cli.models import find_projections, head_parameters, load_model
from dora_cli.models.fused.fused_blocks import FusedBlocks
from dora_cli.models.shortcuts import shortcuts
from dora_cli.recipe import LoraMethod
from dora_cli.recipe.methods import MethodSection
from dora_cli.recipe.methods.adalora import AdaloraMethod
from dora_cli.recipe.methods.bitfit import BitfitMethod
from dora_cli.recipe.methods.cola import ColaMethod
from dora_cli.recipe.methods.cora import CoraMethod
from dora_cli.recipe.methods.dora import DoraMethod
from dora_cli.recipe.methods.flat_lora import FlatLoraMethod
from dora_cli.recipe.methods.full import FullMethod
from dora_cli.recipe.methods.houlsby import HoulsbyMethod
from dora_cli.recipe.methods.lora_pro import LoraProMethod
from dora_cli.recipe.methods.melora import MeloraMethod
from dora_cli.recipe.methods.nora import NoraMethod
from dora_cli.recipe.methods.pfeiffer import PfeifferMethod
from dora_cli.recipe.methods.sora import SoraMethod
from dora_cli.recipe.methods.xgblora import XgbloraMethod
from dora_cli.training.optimizer import make_optimizer, make_scheduler
from dora_cli.training.step import TrainingStep

TOTAL_STEPS = 1_000_000  # so long that whatever is timed stays in the phase it is meant for
PRUNE_INTERVAL = 10
PRELUDE = 3  # steps of training after which ranks are frozen, where what is timed comes after the freeze
ALPHA, DROPOUT = 8.0, 0.1
LEARNING_RATE = 1e-4
SEED = 1
LINKS = 3  # of a chain, which is timed in the last
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
    shapes: Shapes | LlamaShapes = field(default_factory=Shapes)
    dropout: float = DROPOUT  # of the adapters' input
    model: str | None = None  # a local folder instead of random weights; a classifier

    @property
    def generates(self) -> bool:
        """Whether every token has a label, not every sequence."""
        return self.model is None and isinstance(self.shapes, LlamaShapes)

    @property
    def units(self) -> int:
        """Labels of a batch."""
        return self.batch * self.length if self.generates else self.batch

    def build(self) -> tuple[nn.Module, frozenset[str]]:
        """A new model on the device, in training mode, and the names of its fresh parameters."""
        torch.manual_seed(SEED)
        fresh = frozenset[str]()
        if self.model is None:
            model = (
                random_generator(self.shapes)
                if isinstance(self.shapes, LlamaShapes)
                else random_classifier(self.shapes)
            )
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
        labels = (rows, size) if self.generates else (2, (self.batch,))
        return [
            {
                "input_ids": torch.randint(min(5, rows - 1), rows, size, generator=generator).to(self.device),
                "attention_mask": torch.ones(size, dtype=torch.int64, device=self.device),
                "labels": torch.randint(*labels, generator=generator).to(self.device),
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
        fused: blocks are compiled as `train.fuse` does it.
        liger: norms, rotations and gates are those of the package liger-kernel.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        graph: bool = False,
        quick: bool = False,
        fused: bool = False,
        liger: bool = False,
    ) -> None:
        super().__init__(settings)
        self._liger = Liger(self.model) if liger else None
        if quick:
            ModelDropouts(self.model).begin()
        self.model.requires_grad_(False)
        self._embedding = self.model.get_input_embeddings()  # type: ignore[operator]
        self._batch = {key: value.clone() for key, value in self.batches[0].items()}
        self._fused = fused_blocks(self.model, ()) if fused else None
        self._graph: torch.cuda.CUDAGraph | None = None
        if graph:
            with self._liger.around() if self._liger else nullcontext():
                self._graph = captured(self._work)

    def _work(self) -> None:
        inputs = {key: value for key, value in self._batch.items() if key != "input_ids"}
        half = torch.bfloat16 if self.settings.precision == "bf16" else None
        fused = nullcontext() if self._fused is None else self._fused.around(half)
        with self.settings.autocast(cached=False), fused:
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


class ProductsStep(Step):
    """What the machine could do: the matrix products of the floor alone, each linear map's forward and its gradient to
    its input, from buffers to buffers; neither attention's own products nor anything between them. On CUDA in one
    graph.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
        self._maps = [(weight.to(dtype), rows) for weight, rows in self._linear_maps()]
        self.model = nn.Module()  # the products have their own copy of what they need
        generator = torch.Generator().manual_seed(SEED)

        def buffers(sizes: set[tuple[int, int]]) -> dict[tuple[int, int], torch.Tensor]:
            return {size: torch.randn(size, generator=generator).to(settings.device, dtype) for size in sorted(sizes)}

        sizes = {(rows, width) for weight, rows in self._maps for width in weight.shape}
        self._read, self._written = buffers(sizes), buffers(sizes)
        self._graph = captured(self._work) if settings.device.type == "cuda" else None

    @torch.no_grad()
    def _linear_maps(self) -> list[tuple[torch.Tensor, int]]:
        """The weight ``(d_out, d_in)`` and the rows of each linear map, in the order of the forward pass."""
        found: list[tuple[torch.Tensor, int]] = []

        def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], _: torch.Tensor) -> None:
            weight = weight_of(module)
            found.append((weight.detach(), inputs[0].numel() // weight.shape[1]))

        maps = [module for module in self.model.modules() if isinstance(module, (nn.Linear, Conv1D))]
        handles = [module.register_forward_hook(note) for module in maps]
        with self.settings.autocast():
            self.model(**self.batches[0])
        for handle in handles:
            handle.remove()
        return found

    @torch.no_grad()
    def _work(self) -> None:
        for weight, rows in self._maps:
            d_out, d_in = weight.shape
            torch.mm(self._read[rows, d_in], weight.T, out=self._written[rows, d_out])
        for weight, rows in reversed(self._maps):
            d_out, d_in = weight.shape
            torch.mm(self._read[rows, d_out], weight, out=self._written[rows, d_in])

    def __call__(self) -> None:
        if self._graph is None:
            self._work()
        else:
            self._graph.replay()

    def flops(self) -> int:
        """Floating-point operations of a step."""
        return sum(2 * 2 * rows * weight.numel() for weight, rows in self._maps)

    def trainable(self) -> int:
        return 0

    def loss(self) -> float:
        """0: there is none."""
        assert all(bool(product.isfinite().all()) for product in self._written.values()), "a product is not finite"
        return 0.0


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
        task_type="CAUSAL_LM" if step.settings.generates else "SEQ_CLS",
        r=step.settings.rank,
        lora_alpha=ALPHA,
        lora_dropout=step.settings.dropout,
        target_modules=list(step.projections()),
    )
    step.model = get_peft_model(step.model, config)


def peft_adalora(step: PlainStep) -> None:
    """PEFT's AdaLoRA in the middle of its pruning: importance in every step, a selection every `PRUNE_INTERVAL`, its
    orthogonal loss.
    """
    from peft import AdaLoraConfig, get_peft_model

    config = AdaLoraConfig(
        task_type="CAUSAL_LM" if step.settings.generates else "SEQ_CLS",
        init_r=step.settings.start_rank,
        target_r=step.settings.rank,
        tinit=0,
        tfinal=0,
        deltaT=PRUNE_INTERVAL,
        total_step=TOTAL_STEPS,
        lora_alpha=ALPHA,
        lora_dropout=step.settings.dropout,
        target_modules=list(step.projections()),
    )
    step.model = get_peft_model(step.model, config)
    allocate = step.model.base_model.update_and_allocate
    step.after = lambda count: allocate(TOTAL_STEPS // 2 + count)


def published(step: PlainStep) -> None:
    """DoRA in the manner of the published code; see `published_dora`."""
    step.train_head_only()
    dora = PublishedDora(
        step.model, step.projections(), start_rank=step.settings.start_rank, alpha=ALPHA, dropout=step.settings.dropout
    )
    step.extra_loss = dora.regulariser
    step.after = lambda count: dora.after_step()


Section = Callable[[Settings], MethodSection]


def label_losses(outputs: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The loss of every label, of a sequence or of a token."""
    return F.cross_entropy(outputs.logits.flatten(0, -2).float(), batch["labels"].flatten(), reduction="none")


class ProductStep(Step):
    """A method of the product, trained by its own `TrainingStep`; one that learns link after link amid the last one,
    all others tied.

    Args:
        settings: shared by all methods.
        section: the method's keys.
        graph: whether `TrainingStep` may capture its work.
        fused: whether blocks are compiled.
        single: whether projections that read the same input are computed one by one all the same.
        serial: whether captured passes have one stream all the same.
        sdpa: whether attention is computed as PyTorch does all the same.
        liger: norms, rotations and gates are those of the package liger-kernel.
    """

    def __init__(
        self,
        settings: Settings,
        section: Section,
        *,
        graph: bool = False,
        fused: bool = False,
        single: bool = False,
        serial: bool = False,
        sdpa: bool = False,
        liger: bool = False,
    ) -> None:
        super().__init__(settings)
        self.graph = graph
        accelerator = settings.accelerator
        self._liger = Liger(self.model) if liger else None
        head = head_parameters(self.model, self.fresh)
        self.method, self.schedule = attach(self.model, section(settings), head)
        if single or serial:
            passes: Passes = self.method._adapters._passes  # type: ignore[attr-defined]
            passes.readers, passes.serial = NOBODY if single else None, serial
        if isinstance(self.schedule, LinkSchedule):
            for event in self.schedule.events():
                if event < TOTAL_STEPS:
                    self.method.advance(event)
        optimizer = make_optimizer(
            self.method, learning_rate=LEARNING_RATE, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8
        )
        longest = None if sdpa else settings.length
        self._step = TrainingStep(
            model=self.model,
            method=self.method,
            loss=label_losses,
            optimizer=optimizer,
            scheduler=make_scheduler(optimizer, warmup_steps=0, total_steps=TOTAL_STEPS),
            accelerator=accelerator,
            max_grad_norm=1.0,
            cuda_graph=graph,
            fused=fused_blocks(self.model, self.method.sites) if fused else None,
            shortcuts=shortcuts(self.model, autocast_type(accelerator), longest=longest, compiled=fused or liger),
        )

    def __call__(self) -> None:
        batch = self.next_batch()
        event = self.schedule.next_event(self.count - 1) == self.count
        with self._liger.around() if self._liger else nullcontext():
            self._step(self.count, [batch], self.settings.units, event=event)

    def trainable(self) -> int:
        return sum(parameter.numel() for group in self.method.groups() for parameter in group.parameters)

    def loss(self) -> float:
        return self._step.read(self.count).loss


class DoraStep(ProductStep):
    """DoRA. Before the freeze it stays in the warm-up: scores and DEM in every step, no event.

    Args:
        settings: shared by all methods.
        graph: whether `TrainingStep` may capture its work.
        fused: whether blocks are compiled.
        single: whether projections that read the same input are computed one by one all the same.
        serial: whether captured passes have one stream all the same.
        sdpa: whether attention is computed as PyTorch does all the same.
        compacted: train on through a short pruning first, so that what is timed comes after the freeze, with tensors
            that shrank.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        graph: bool = False,
        fused: bool = False,
        single: bool = False,
        serial: bool = False,
        sdpa: bool = False,
        compacted: bool = False,
    ) -> None:
        section = partial(dora, pruning=PRELUDE if compacted else 0)
        super().__init__(settings, section, graph=graph, fused=fused, single=single, serial=serial, sdpa=sdpa)
        self.compacted = compacted
        while compacted and not self.method.frozen:
            self()

    def own_work(self) -> None:
        """The method's own part of an ordinary step alone: DEM's gradient, scores, their average, masks."""
        self.method.adjust_gradients()
        self.method.observe(self._not_skipped)

    @cached_property
    def _not_skipped(self) -> torch.Tensor:
        return torch.zeros((), dtype=torch.bool, device=self.settings.device)


def attach(
    model: nn.Module, section: MethodSection, head: Mapping[str, nn.Parameter] | None = None
) -> tuple[Method, Schedule]:
    """Puts the method of `section` on `model`, so that it and `head` train, for a run of `TOTAL_STEPS`."""
    method = make(section)
    sites = sites_of(model, section, method)
    schedule = method.plan(TOTAL_STEPS, sites)
    put_on(model, method, sites, schedule, head or {}, seed=SEED)
    return method, schedule


def dora(settings: Settings, *, pruning: int) -> MethodSection:
    """DoRA: for `pruning` steps, each with an event, until ranks are frozen; or, if 0, without any event."""
    warmup, final = (0.0, (TOTAL_STEPS - pruning) / TOTAL_STEPS) if pruning else (0.5, 0.25)
    return DoraMethod(
        rank=settings.rank,
        start_rank=settings.start_rank,
        alpha=ALPHA,
        dropout=settings.dropout,
        warmup_fraction=warmup,
        final_fraction=final,
        prune_interval=1,
    )


def scored(settings: Settings, score: str = "norm", rotate: str = "none") -> MethodSection:
    """DoRA whose components are LoRA's of its start rank: what a score, and what a rotation needs, add to LoRA."""
    return DoraMethod(
        rank=settings.rank,
        start_rank=settings.start_rank,
        alpha=ALPHA,
        dropout=settings.dropout,
        start="lora",
        gates="fixed",
        dem_weight=0,
        score=score,
        rotate=rotate,
        events=1,
        warmup_fraction=0.5,
        final_fraction=0.25,
    )


def auto(settings: Settings) -> MethodSection:
    """The settings of our own before their first cut: LoRA of the start rank, scores, and a bound on steps."""
    return DoraMethod(
        preset="auto",
        rank=settings.rank,
        start_rank=settings.start_rank,
        dropout=settings.dropout,
        warmup_fraction=0.5,
        final_fraction=0.25,
    )


def held(settings: Settings) -> MethodSection:
    """LoRA of DoRA's start rank with the bound on steps of these settings alone."""
    return LoraMethod(rank=settings.start_rank, alpha=ALPHA, dropout=settings.dropout, step_bound=3e-3)


def lora(settings: Settings) -> MethodSection:
    """LoRA of DoRA's start rank: what other methods' steps add to those of LoRA."""
    return LoraMethod(rank=settings.start_rank, alpha=ALPHA, dropout=settings.dropout)


def lora_pro(settings: Settings, moments: Literal["low-rank", "full"] = "low-rank") -> MethodSection:
    """LoRA-Pro of DoRA's start rank."""
    return LoraProMethod(rank=settings.start_rank, alpha=ALPHA, dropout=settings.dropout, moments=moments)


def riemannian(settings: Settings) -> MethodSection:
    """LoRA of DoRA's start rank with Riemannian gradients."""
    return LoraMethod(rank=settings.start_rank, alpha=ALPHA, dropout=settings.dropout, gradients="riemannian")


def flat_lora(settings: Settings) -> MethodSection:
    """The same LoRA under noise, whose strength changes nothing in its time."""
    return FlatLoraMethod(rank=settings.start_rank, alpha=ALPHA, dropout=settings.dropout)


def adalora(settings: Settings) -> MethodSection:
    """AdaLoRA amid its pruning: importance in every step, a selection every `PRUNE_INTERVAL`."""
    return AdaloraMethod(
        rank=settings.rank,
        start_rank=settings.start_rank,
        alpha=ALPHA,
        dropout=settings.dropout,
        warmup_fraction=0.0,
        final_fraction=0.25,
        prune_interval=PRUNE_INTERVAL,
    )


def sora(settings: Settings) -> MethodSection:
    """SoRA of DoRA's start rank."""
    return SoraMethod(rank=settings.start_rank, alpha=ALPHA, dropout=settings.dropout)


def nora(settings: Settings) -> MethodSection:
    """NoRA whose inner rank is DoRA's start rank."""
    return NoraMethod(rank=settings.start_rank, alpha=ALPHA, dropout=settings.dropout)


def melora(settings: Settings) -> MethodSection:
    """MELoRA as large as LoRA, of twice its rank."""
    return MeloraMethod(rank=settings.start_rank, minis=2, alpha=ALPHA, dropout=settings.dropout)


def cola(settings: Settings) -> MethodSection:
    """A chain whose links come to DoRA's start rank."""
    ranks = tuple(settings.start_rank // LINKS + (link < settings.start_rank % LINKS) for link in range(LINKS))
    return ColaMethod(links=LINKS, ranks=ranks, alpha=ALPHA, dropout=settings.dropout)


def cora(settings: Settings) -> MethodSection:
    """CoRA of DoRA's start rank, with a basis that stays."""
    return CoraMethod(rank=settings.start_rank, alpha=ALPHA, dropout=settings.dropout)


def cora_trained(settings: Settings) -> MethodSection:
    """CoRA whose basis trains."""
    return CoraMethod(rank=settings.start_rank, alpha=ALPHA, dropout=settings.dropout, train_basis=True)


def xgblora(settings: Settings) -> MethodSection:
    """Boosters that come to DoRA's start rank."""
    return XgbloraMethod(rank=settings.start_rank, alpha=ALPHA / settings.start_rank, dropout=settings.dropout)


def new_optimizer(parameters: list[nn.Parameter]) -> torch.optim.AdamW:
    """The product's fused AdamW, for every method."""
    return torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8, fused=True)


def fused_blocks(model: nn.Module, sites: Sequence[Site]) -> FusedBlocks:
    """The blocks of `model`, compiled; a measurement of what cannot be compiled would be one of something else."""

    def fail(message: str) -> None:
        raise RuntimeError(message)

    return FusedBlocks(model, sites, note=fail)


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


PRODUCT: Mapping[str, Section] = {
    "lora": lora,
    "lora-held": held,
    "dora-auto": auto,
    **{f"dora-{name}": partial(scored, score=name) for name in SCORES},
    "dora-input": partial(scored, rotate="input"),
    "lora-pro": lora_pro,
    "lora-pro-full": partial(lora_pro, moments="full"),
    "riemannian": riemannian,
    "flat-lora": flat_lora,
    "adalora": adalora,
    "sora": sora,
    "melora": melora,
    "cola": cola,
    "nora": nora,
    "cora": cora,
    "cora-trained": cora_trained,
    "xgblora": xgblora,
    "bitfit": lambda settings: BitfitMethod(),
    "houlsby": lambda settings: HoulsbyMethod(bottleneck=32),  # 1.2 million parameters each in RoBERTa-base
    "pfeiffer": lambda settings: PfeifferMethod(bottleneck=64),
    "full": lambda settings: FullMethod(),
}
"""The product's methods by name, but DoRA as it was published."""

UNFUSED = ("bitfit", "houlsby", "pfeiffer")
"""Those of them whose blocks are not compiled."""

METHODS: Mapping[str, Callable[[Settings], Step]] = {
    "frozen": FrozenStep,
    "frozen-graph": partial(FrozenStep, graph=True),
    "frozen-graph-fused": partial(FrozenStep, graph=True, fused=True),
    "frozen-graph-liger": partial(FrozenStep, graph=True, liger=True),
    "frozen-quick": partial(FrozenStep, quick=True),
    "products": ProductsStep,
    "dora": DoraStep,
    "dora-single": partial(DoraStep, single=True),
    "dora-graph": partial(DoraStep, graph=True),
    "dora-graph-single": partial(DoraStep, graph=True, single=True),
    "dora-graph-serial": partial(DoraStep, graph=True, serial=True),
    "dora-graph-sdpa": partial(DoraStep, graph=True, sdpa=True),
    "dora-graph-fused": partial(DoraStep, graph=True, fused=True),
    "dora-graph-fused-sdpa": partial(DoraStep, graph=True, fused=True, sdpa=True),
    "dora-graph-fused-serial": partial(DoraStep, graph=True, fused=True, serial=True),
    "dora-graph-fused-single": partial(DoraStep, graph=True, fused=True, single=True),
    "dora-compacted": partial(DoraStep, compacted=True),
    "dora-compacted-graph": partial(DoraStep, graph=True, compacted=True),
    "dora-compacted-graph-single": partial(DoraStep, graph=True, compacted=True, single=True),
    **{name: partial(ProductStep, section=section) for name, section in PRODUCT.items()},
    **{f"{name}-graph": partial(ProductStep, section=section, graph=True) for name, section in PRODUCT.items()},
    "lora-graph-single": partial(ProductStep, section=lora, graph=True, single=True),
    "lora-graph-serial": partial(ProductStep, section=lora, graph=True, serial=True),
    "lora-graph-liger": partial(ProductStep, section=lora, graph=True, liger=True),
    **{
        f"{name}-graph-fused": partial(ProductStep, section=section, graph=True, fused=True)
        for name, section in PRODUCT.items()
        if name not in UNFUSED
    },
    "peft-lora": partial(PlainStep, prepare=peft_lora),
    "peft-adalora": partial(PlainStep, prepare=peft_adalora),
    "published": partial(PlainStep, prepare=published),
    "torch-full": partial(PlainStep, prepare=full),
}
"""By the names that `bench_step --methods` takes; those with ``-graph`` need CUDA."""
