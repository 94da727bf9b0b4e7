"""Methods that train the base itself, against the published algorithm written out, and what they share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification as Classifier
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    DebertaV2Config,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    PreTrainedModel,
    RobertaConfig,
    Trainer,
    XLNetConfig,
)

from dora_cli.errors import CheckpointError
from dora_cli.machine.devices import make_accelerator
from dora_cli.methods import METHODS
from dora_cli.methods.base import Method
from dora_cli.models import head_parameters
from dora_cli.training.optimizer import make_optimizer, make_scheduler
from dora_cli.training.step import Batch, TrainingStep
from tests.methods.small import tiny_gpt2, tiny_roberta

STEPS, WARMUP = 60, 12
PEAK, DECAY, CLIP, EPS = 5e-3, 0.1, 0.5, 1e-8
BETAS = (0.9, 0.98)
methods = pytest.mark.parametrize("name", ["full", "bitfit"])


def tiny_bart() -> Any:
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=40, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=20, dropout=0.0,
        init_std=0.2, pad_token_id=1, bos_token_id=0, eos_token_id=2, decoder_start_token_id=2,
    )  # fmt: skip
    return BartForConditionalGeneration(config).double()


def one_block(build: Callable[[], Any]) -> Callable[[], Any]:
    def built() -> Any:
        model = build()
        base = model.base_model
        blocks = base.h if hasattr(base, "h") else base.encoder.layer
        del blocks[1:]
        return model

    return built


def tiny_lm() -> Any:
    """Its embedding is tied to its language-modelling head."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=40, n_positions=20, n_embd=16, n_layer=1, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
    )
    return GPT2LMHeadModel(config).double()


def texts(step: int) -> Batch:
    """Sequences of a width of their own, some padded, with a class each."""
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(3, 40, (6, 5 + step % 4), generator=generator)
    mask = torch.ones_like(ids)
    mask[:2, -2:] = 0
    return {"input_ids": torch.where(mask.bool(), ids, 1), "attention_mask": mask, "labels": ids[:, 0] % 3}


def tokens(step: int) -> Batch:
    """Sequences whose every token says another one."""
    batch = texts(step)
    return {**batch, "labels": batch["input_ids"] // 2}


def losses(outputs: Any, batch: Batch) -> torch.Tensor:
    return F.cross_entropy(outputs.logits.flatten(0, -2), batch["labels"].flatten(), reduction="none")


def inputs(batch: Batch) -> dict[str, torch.Tensor]:
    return {key: value for key, value in batch.items() if key != "labels"}


def attached(name: str, model: nn.Module, total_steps: int = STEPS) -> Method:
    """The method on all of `model`, its head found as a run finds it."""
    head = list(head_parameters(model).values())
    model.requires_grad_(False)
    for parameter in head:
        parameter.requires_grad_(True)
    method = METHODS[name]()
    method.check(model, head)
    method.attach(model, [], head, method.plan(total_steps, []), seed=3)
    return method


def step_of(model: nn.Module, method: Method, total_steps: int = STEPS) -> TrainingStep:
    optimizer = make_optimizer(method, learning_rate=PEAK, weight_decay=DECAY, betas=BETAS, eps=EPS)
    return TrainingStep(
        model=model.train(),
        method=method,
        loss=losses,
        optimizer=optimizer,
        scheduler=make_scheduler(optimizer, warmup_steps=WARMUP, total_steps=total_steps),
        accelerator=make_accelerator(torch.device("cpu"), "fp32"),
        max_grad_norm=CLIP,
    )


def train_literally(
    model: nn.Module, trained: Callable[[str], bool], decays: Callable[[str], bool], batch: Callable[[int], Batch]
) -> None:
    """AdamW (Loshchilov and Hutter 2019, decoupled), clipping of the global norm and the linear schedule, formula by
    formula.
    """
    parameters = {name: parameter for name, parameter in model.named_parameters() if trained(name)}
    sizes = [parameter.numel() for parameter in parameters.values()]
    w = torch.cat([parameter.detach().flatten() for parameter in parameters.values()])
    decay = torch.cat(
        [torch.full((size,), DECAY * decays(name), dtype=w.dtype) for name, size in zip(parameters, sizes, strict=True)]
    )
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for t in range(1, STEPS + 1):
        one = batch(t)
        loss = losses(model(**inputs(one)), one).mean()
        g = torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, list(parameters.values()))])
        g = g * min(1.0, CLIP / (float(g.norm()) + 1e-6))
        done = t - 1
        rate = PEAK * (done / WARMUP if done < WARMUP else (STEPS - done) / (STEPS - WARMUP))
        m = BETAS[0] * m + (1 - BETAS[0]) * g
        v = BETAS[1] * v + (1 - BETAS[1]) * g * g
        unbiased = m / (1 - BETAS[0] ** t), v / (1 - BETAS[1] ** t)
        w = w - rate * decay * w - rate * unbiased[0] / (unbiased[1].sqrt() + EPS)
        with torch.no_grad():
            for parameter, values in zip(parameters.values(), w.split(sizes), strict=True):
                parameter.copy_(values.view_as(parameter))


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Batch], str]] = {
    "roberta": (one_block(tiny_roberta), texts, "classifier."),
    "gpt2": (one_block(tiny_gpt2), texts, "score."),
    "lm": (tiny_lm, tokens, "none."),
}


@pytest.mark.parametrize(("name", "case"), [("full", "roberta"), ("full", "lm"), ("bitfit", "gpt2")])
def test_sixty_steps_are_those_of_the_literal_algorithm(name: str, case: str) -> None:
    build, batch, head = CASES[case]
    ours, theirs, untrained = build(), build(), build()
    step = step_of(ours, attached(name, ours))
    for t in range(1, STEPS + 1):
        one = batch(t)
        step(t, [one], one["labels"].numel(), event=False)

    norms = ("LayerNorm", "ln_", "layer_norm", "layernorm")
    train_literally(
        theirs.train(),
        lambda path: name == "full" or path.startswith(head) or path.endswith(".bias"),
        lambda path: not (path.endswith(".bias") or any(norm in path for norm in norms)),
        batch,
    )
    expected, before = dict(theirs.named_parameters()), dict(untrained.named_parameters())
    moved = 0
    for path, parameter in ours.named_parameters():
        torch.testing.assert_close(
            parameter, expected[path], rtol=0, atol=1e-9, msg=lambda text, path=path: path + text
        )
        moved += bool((parameter - before[path]).abs().max() > 0.01)
        if name == "bitfit" and not path.endswith(".bias") and not path.startswith(head):
            assert torch.equal(parameter, before[path]), path
    assert moved > 5, "hardly anything was learned: a test of nothing"


CONFIGS: dict[str, Any] = {
    "bert": BertConfig, "roberta": RobertaConfig, "deberta": DebertaV2Config, "gpt2": GPT2Config, "llama": LlamaConfig,
    "xlnet": XLNetConfig,  # some of its biases are matrices
}  # fmt: skip


@pytest.mark.parametrize("kind", CONFIGS)
def test_weight_decay_falls_where_the_trainer_lets_it_fall(kind: str) -> None:
    with torch.device("meta"):
        model: Any = Classifier.from_config(CONFIGS[kind](num_labels=3))
    assert isinstance(model, PreTrainedModel)
    decaying, spared = attached("full", model).groups()
    assert (decaying.weight_decay, spared.weight_decay) == (None, 0.0)
    names = {id(parameter): path for path, parameter in model.named_parameters()}
    expected = set(Trainer.get_decay_parameter_names(None, model))  # type: ignore[arg-type]
    assert {names[id(parameter)] for parameter in decaying.parameters} == expected & set(names.values())
    assert len(decaying.parameters) + len(spared.parameters) == len(names)


@methods
def test_a_tied_tensor_trains_once_and_stays_tied_through_merging(name: str) -> None:
    for model, places in (
        (tiny_lm(), ("transformer.wte.weight", "lm_head.weight")),
        (tiny_bart(), ("model.shared.weight", "model.encoder.embed_tokens.weight", "lm_head.weight")),
    ):
        method = attached(name, model)
        assert method.head == []
        parameters = method.parameters()
        assert len({id(parameter) for parameter in parameters}) == len(parameters) > 5
        method.merge(torch.bfloat16)
        first = model.get_parameter(places[0])
        assert all(model.get_parameter(place) is first for place in places)
        assert all(parameter.dtype == torch.bfloat16 for parameter in parameters)
        if name == "full":
            assert first.dtype == torch.bfloat16
            assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


@methods
def test_nothing_is_folded_and_what_is_merged_is_what_was_trained(name: str) -> None:
    model = tiny_roberta()
    method = attached(name, model)
    objects = dict(model.named_parameters())
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.01)
    one = texts(1)
    expected = model(**inputs(one)).logits
    with method.folded():
        assert all(model.get_parameter(path) is parameter for path, parameter in objects.items())
        assert torch.equal(model(**inputs(one)).logits, expected)
    merged = dict(method.merged_tensors(torch.float32))
    assert merged.keys() == method.state_dict().keys()
    for path, tensor in merged.items():
        assert torch.equal(tensor, objects[path].detach().float())
    method.merge()
    assert torch.equal(model(**inputs(one)).logits, expected)
    assert method.to_lora() is None
    assert method.allocation() == []


@methods
def test_what_was_saved_is_loaded_into_the_model_itself(name: str) -> None:
    model, other = tiny_roberta(0), tiny_roberta(1)
    saved = attached(name, model).state_dict()
    with torch.no_grad():
        for tensor in saved.values():
            tensor.add_(0.01)  # the model's own
    method = attached(name, other)
    head = dict(other.classifier.named_parameters())
    kept = {path: parameter.detach().clone() for path, parameter in head.items()}
    method.load_state_dict(saved)
    for path, parameter in other.named_parameters():
        assert path not in saved or torch.equal(parameter, model.get_parameter(path))
    query = "roberta.encoder.layer.0.attention.self.query.weight"
    assert torch.equal(other.get_parameter(query), model.get_parameter(query)) == (name == "full")
    assert all(torch.equal(parameter, kept[path]) for path, parameter in head.items())
    assert not any(path.startswith("classifier") for path in saved)


def without(state: Mapping[str, torch.Tensor], path: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in state.items() if key != path}


LAST = "roberta.encoder.layer.1.output.LayerNorm.bias"
MISFITS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "missing": (lambda state: without(state, LAST), LAST),
    "of another shape": (lambda state: {**state, LAST: torch.zeros(3).double()}, LAST),
    "of another type": (lambda state: {**state, LAST: state[LAST].half()}, LAST),
    "unknown": (lambda state: {**state, "zzz.bias": torch.zeros(1)}, "zzz.bias is in the checkpoint"),
}


@methods
@pytest.mark.parametrize("misfit", MISFITS)
def test_a_tensor_that_does_not_fit_is_named_and_nothing_is_written(name: str, misfit: str) -> None:
    change, says = MISFITS[misfit]
    state = change(attached(name, tiny_roberta(1)).state_dict())
    model = tiny_roberta(0)
    method = attached(name, model)
    before = {path: parameter.detach().clone() for path, parameter in model.named_parameters()}
    with pytest.raises(CheckpointError, match=says):
        method.load_state_dict(state)
    assert all(torch.equal(parameter, before[path]) for path, parameter in model.named_parameters())


@methods
def test_a_bad_step_changes_nothing(name: str) -> None:
    model = tiny_roberta()
    step = step_of(model, attached(name, model))
    good = texts(1)
    step(1, [good], 6, event=False)
    step(2, [good], 6, event=False)  # the first has no learning rate yet
    before = {path: parameter.detach().clone() for path, parameter in model.named_parameters()}
    assert not torch.equal(before[LAST], tiny_roberta().get_parameter(LAST))
    step.loss = lambda outputs, batch: losses(outputs, batch) * math.inf
    step(3, [good], 6, event=False)
    assert all(torch.equal(parameter, before[path]) for path, parameter in model.named_parameters())


@methods
def test_the_size_is_known_without_weights(name: str) -> None:
    model = tiny_roberta(dtype=torch.float32)
    size = attached(name, model).size()
    entries = sum(
        parameter.numel()
        for path, parameter in model.named_parameters()
        if not path.startswith("classifier") and (name == "full" or path.endswith(".bias"))
    )
    assert (size.stored, size.trained, size.bytes) == (entries, entries, 4 * entries)
    assert attached(name, tiny_roberta(dtype=torch.float32).to("meta")).size() == size
