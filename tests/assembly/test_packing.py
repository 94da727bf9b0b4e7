"""What ``train.pack`` comes to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from torch import nn

from dora_cli.assembly import packing
from dora_cli.assembly.packing import Packed, choose_packing
from dora_cli.methods import Method
from tests.assembly.test_fusion import model as classifier
from tests.methods.small import new_lora


class Strangers(Method):
    """One that nobody has held against rows."""

    name = "strangers"


CUDA, CPU = torch.device("cuda"), torch.device("cpu")
SHAPES: dict[str, Any] = {
    "vocab_size": 8, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 4
}  # fmt: skip


def llama(**changes: Any) -> nn.Module:
    with torch.device("meta"):
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SHAPES, **changes))


def choose(setting: str = "auto", base: nn.Module | None = None, **changes: Any) -> Packed:
    given: dict[str, Any] = {
        "method": new_lora(rank=1),
        "device": CUDA,
        "precision": "bf16",
        "captured": True,
    } | changes
    before = [given.pop(name) for name in ("method", "device", "precision")]
    return choose_packing(setting, base or llama(), *before, **given)


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is one for heads of 16 under bf16."""
    monkeypatch.setattr(packing, "has_kernel", lambda _, dtype, width: dtype == torch.bfloat16 and width == 16)


def test_auto_is_on_where_it_wins() -> None:
    assert choose() == Packed(True)


NO_KERNEL = "there is no kernel for texts of different lengths, which takes bf16 or fp16, PyTorch 2.11 and Ampere"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device": CPU}, "it is made for CUDA"),
        ({"captured": False}, "steps are not captured in CUDA graphs"),
        ({"precision": "fp32"}, NO_KERNEL),
        ({"base": llama(head_dim=12)}, NO_KERNEL),
    ],
)
def test_auto_is_off_where_it_wins_nothing_and_on_asks_nobody(changes: dict[str, Any], reason: str) -> None:
    assert choose(**changes) == Packed(False, reason)
    assert choose("on", **changes) == Packed(True)
    assert choose("off", **changes) == Packed(False)


def test_a_run_that_goes_on_keeps_to_what_it_began_with() -> None:
    assert choose(began=False) == Packed(False, "the run began without")
    assert choose(began=True, captured=False) == Packed(True)
    assert choose("on", began=False) == Packed(True)
    assert choose("off", began=True) == Packed(False)


def other_kind() -> nn.Module:
    with torch.device("meta"):
        return transformers.GemmaForCausalLM(transformers.GemmaConfig(**SHAPES, head_dim=16))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"base": classifier()}, "RobertaForSequenceClassification is no decoder that writes text"),
        ({"base": nn.Linear(2, 2)}, "Linear is no decoder that writes text"),
        ({"base": other_kind()}, "it is not tried with gemma"),
        ({"base": llama(attention_dropout=0.1)}, "the model drops weights of its attention, 0.1 of them"),
        (
            {"base": llama(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})},
            "the model scales its positions by the longest text of a batch",
        ),
        ({"method": Strangers()}, "what strangers takes from a step may be counted by texts"),
    ],
)
def test_what_stands_in_the_way_holds_for_all(changes: dict[str, Any], reason: str) -> None:
    for setting in ("auto", "on"):
        assert choose(setting, began=True, **changes) == Packed(False, reason)


def test_older_versions_of_transformers_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "at_least", lambda *_: False)
    monkeypatch.setattr(packing, "installed_version", lambda _: "4.50.0")
    assert choose("on").reason == "transformers 4.50.0 is older than 5.17"
