"""A few training steps of a small likeness of a model, and an evaluation: what of it could not be captured in a CUDA
graph would show.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dora_cli.assembly.build import put_on
from dora_cli.assembly.origin import make, sites_of
from dora_cli.data.packed import in_one_row
from dora_cli.errors import ProjectionError
from dora_cli.evaluation.passes import evaluation_mode, work_of
from dora_cli.machine.devices import autocast_type, make_accelerator
from dora_cli.methods import Method
from dora_cli.models import head_parameters, max_positions, vocabulary_rows
from dora_cli.models.outputs import logits_in
from dora_cli.models.packed_attention import PackedRows
from dora_cli.models.shortcuts import shortcuts
from dora_cli.recipe.methods import METHODS
from dora_cli.training.capture.passes import FEW
from dora_cli.training.optimizer import make_optimizer, make_scheduler
from dora_cli.training.step import TrainingStep

if TYPE_CHECKING:
    from dora_cli.models.fused.fused_blocks import FusedBlocks

STEPS = 4
"""One runs eagerly, one is captured, and two are the graph's alone; passes of the evaluation likewise."""
BATCH, LENGTH = 4, 16
TOTAL_STEPS = 100_000
"""Many, so that settings made for a long run go with them."""
LOW_RANK = 2
FEW_LAYERS = 1
"""Blocks that a method adapts at a time, where it has a key for that: the likeness has two."""


class NotCompiledError(RuntimeError):
    """The blocks could not be compiled, which may be the machine's fault."""


_LAYERS = re.compile(r"(n|num)_((hidden|encoder|decoder)_)?layers?|(encoder|decoder)_layers")


def try_steps(question: Mapping[str, Any], device: torch.device, *, cuda_graph: bool) -> None:
    """Makes such a model with random weights, adapts it, trains it for `STEPS` steps and evaluates it on as many
    batches; raises whatever happens.
    """
    model = build(question).to(device)
    batch = make_batch(model, question["model_class"], device)
    method = _with_any_targets(model, question["method"])
    optimizer = make_optimizer(method, learning_rate=1e-3, weight_decay=0.01, betas=(0.9, 0.999), eps=1e-8)
    accelerator, rows = make_accelerator(device, question["precision"]), bool(question.get("packed"))
    compiled, longest = bool(question.get("fused")), None if rows else LENGTH
    fused = _fused_blocks(model, method) if compiled else None
    step = TrainingStep(
        model=model.train(),
        method=method,
        loss=_loss,
        optimizer=optimizer,
        scheduler=make_scheduler(optimizer, warmup_steps=0, total_steps=TOTAL_STEPS),
        accelerator=accelerator,
        max_grad_norm=1.0,
        cuda_graph=cuda_graph,
        evaluations=FEW,  # enough to be captured from the second batch on
        fused=fused,
        packed=PackedRows(model, LENGTH) if rows else None,
        shortcuts=shortcuts(model, autocast_type(accelerator), longest=longest, compiled=compiled),
    )
    learned = _in_one_row(batch, int(model.config.pad_token_id)) if rows else batch
    for number in range(1, STEPS + 1):
        step(number, [learned], BATCH, event=False)
        if fused is not None and fused.failure is not None:  # a run would go on without
            raise NotCompiledError(fused.failure)
    step.read(STEPS)
    work = work_of(model, _loss, step.accelerator, step.run_evaluation)
    with evaluation_mode(model):
        for _ in range(STEPS):
            step.run_evaluation(work, batch).cpu()


def _fused_blocks(model: nn.Module, method: Method) -> FusedBlocks:
    """What of them cannot be compiled is said by the run."""
    from dora_cli.models.fused.fused_blocks import FusedBlocks  # it loads PyTorch's compiler

    return FusedBlocks(model, method.sites, note=lambda _: None)


def _with_any_targets(model: nn.Module, settings: Mapping[str, Any]) -> Method:
    """`adapted` at as much of `model` as can be: experts are not adapted, and some methods take one group alone."""
    for targets in (("attention", "ffn"), ("attention",)):
        try:
            return adapted(model, settings, targets)
        except ProjectionError:
            continue
    return adapted(model, settings, ("ffn",))


def _loss(outputs: Any, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """A loss of each row, whatever the head gives."""
    rows = [logits.float().square().flatten(1).mean(1) for logits in logits_in(outputs).values()]
    return torch.stack(rows).sum(0)


def adapted(model: nn.Module, settings: Mapping[str, Any], targets: tuple[str, ...]) -> Method:
    """The method of a recipe's section, of a low rank where it has one, on `targets` of `model`, as a run begins."""
    keys = METHODS[settings["name"]]
    changes: dict[str, Any] = {"targets": targets, "rank": LOW_RANK, "layers": FEW_LAYERS}
    own = {key: value for key, value in changes.items() if key in keys.model_fields}
    section: Any = keys.model_validate({**settings, **own})
    method = make(section)
    projections = sites_of(model, section, method)
    schedule = method.plan(TOTAL_STEPS, projections)
    put_on(model, method, projections, schedule, head_parameters(model, frozenset()), seed=0)
    return method


def build(question: Mapping[str, Any]) -> Any:
    """The model with two layers, all of them where it cannot have two.

    Widths stay: which kernels run depends on them.
    """
    import transformers

    model_class = getattr(transformers, question["model_class"])

    def made(plain: dict[str, Any]) -> nn.Module:
        config = model_class.config_class.from_dict(plain)
        config._attn_implementation = question["attention"]
        config.use_cache = False
        if config.pad_token_id is None:
            config.pad_token_id = 0
        model: nn.Module = model_class(config)
        return model

    try:
        return made(with_two_layers(question["config"]))
    except Exception:
        return made(question["config"])


def with_two_layers(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config`, and those nested in it, with two layers at most; lists with an entry per layer are cut alike."""
    counts = {value for key, value in config.items() if _LAYERS.fullmatch(key) and isinstance(value, int) and value > 2}

    def cut(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return with_two_layers(value)
        if isinstance(value, list):
            return value[:2] if len(value) in counts and not any(isinstance(item, float) for item in value) else value
        return 2 if _LAYERS.fullmatch(key) and value in counts else value

    return {key: cut(key, value) for key, value in config.items()}


def _in_one_row(batch: Mapping[str, torch.Tensor], pad: int) -> dict[str, torch.Tensor]:
    """A row as a run has it, filled up."""
    padded = {name: tensor.cpu() for name, tensor in batch.items()}
    padded["labels"] = padded["input_ids"]
    total = int(padded["attention_mask"].sum()) + 1
    return {name: tensor.to(batch["input_ids"].device) for name, tensor in in_one_row(padded, total, pad).items()}


def make_batch(model: Any, model_class: str, device: torch.device) -> dict[str, torch.Tensor]:
    """Random tokens, the last texts shorter than the first; what the product's own batches hold."""
    length = min(LENGTH, max_positions(model) or LENGTH)
    rows = vocabulary_rows(model) or int(getattr(model.config, "vocab_size", LENGTH))
    tokens = torch.randint(min(3, rows - 1), rows, (BATCH, length))
    mask = (torch.arange(length) < length - torch.arange(BATCH)[:, None] * (length // 8)).long()
    pad = int(model.config.pad_token_id)
    batch = {
        "input_ids": tokens.where(mask.bool(), pad),
        "attention_mask": mask,
        "labels": torch.zeros(BATCH, dtype=torch.long),
    }
    if model_class.endswith("ForSequenceClassification") and getattr(model.config, "type_vocab_size", 0) > 1:
        batch["token_type_ids"] = torch.zeros_like(tokens)
    if getattr(model.config, "is_encoder_decoder", False):
        batch["decoder_input_ids"] = tokens
    return {name: tensor.to(device) for name, tensor in batch.items()}
