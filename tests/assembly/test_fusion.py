"""What ``train.fuse`` comes to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import RobertaConfig, RobertaForSequenceClassification

from dora_cli.assembly import fusion
from dora_cli.assembly.fusion import (
    COMPILE_SECONDS,
    SAVED_PER_BLOCK,
    SAVED_PER_LLAMA_BLOCK,
    Fusion,
    breaks_even,
    choose_fusion,
)
from dora_cli.methods import METHODS
from tests.methods.small import new_lora

CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def model() -> nn.Module:
    config = RobertaConfig(
        vocab_size=8, hidden_size=4, num_hidden_layers=3, num_attention_heads=2, intermediate_size=4, num_labels=2
    )
    with torch.device("meta"):
        return RobertaForSequenceClassification(config)


def choose(setting: str = "auto", base: nn.Module | None = None, **changes: Any) -> Fusion:
    given: dict[str, Any] = {"device": CUDA, "captured": True, "steps": 10**7, "deterministic": False} | changes
    return choose_fusion(setting, base or model(), new_lora(rank=1), given.pop("device"), **given)


def test_auto_is_on_where_it_wins() -> None:
    assert choose() == Fusion(True)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device": CPU}, "it is made for CUDA"),
        ({"captured": False}, "steps are not captured in CUDA graphs"),
        ({"deterministic": True}, "train.deterministic is on"),
        ({"steps": 10}, f"compiling takes longer than 10 steps win; from {breaks_even(3, 'roberta'):,} on it pays"),
    ],
)
def test_auto_is_off_where_it_wins_nothing_and_on_asks_nobody(changes: dict[str, Any], reason: str) -> None:
    assert choose(**changes) == Fusion(False, reason)
    assert choose("on", **changes) == Fusion(True)
    assert choose("off", **changes) == Fusion(False)


def test_a_run_is_long_enough_where_it_wins_what_compiling_takes() -> None:
    enough = breaks_even(3, "roberta")
    assert enough == round(COMPILE_SECONDS / (3 * SAVED_PER_BLOCK))
    assert choose(steps=enough) == Fusion(True)
    assert not choose(steps=enough - 1).on
    assert breaks_even(30, "llama") == breaks_even(30, "qwen2") == round(COMPILE_SECONDS / (30 * SAVED_PER_LLAMA_BLOCK))
    assert breaks_even(30, "llama") < breaks_even(30, "gpt2")


def test_a_family_that_nobody_has_tried_is_left_as_it_is() -> None:
    base: Any = model()
    base.config.model_type = "brand-new"
    assert choose(base=base) == Fusion(False, "it is not tried with brand-new")
    assert choose("on", base) == Fusion(True)


def test_a_run_that_goes_on_keeps_to_what_it_began_with() -> None:
    assert choose(began=False) == Fusion(False, "the run began without")
    assert choose(began=True, steps=1) == Fusion(True)
    assert choose("on", began=False) == Fusion(True)
    assert choose("off", began=True) == Fusion(False)


def test_what_stands_in_the_way_holds_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    base = model()
    next(base.modules()).gradient_checkpointing = True  # type: ignore[assignment]
    for setting in ("auto", "on"):
        assert choose(setting, base, began=True).reason == ("gradient checkpointing is on, which computes blocks twice")
        assert choose(setting, nn.Linear(2, 2)).reason == "the model has no repeated blocks"
    monkeypatch.setattr(fusion, "installed_version", lambda name: "2.10.1")
    assert choose("on").reason == "PyTorch 2.10.1 is older than 2.11"


def test_methods_say_whether_blocks_can_be_compiled_around_them() -> None:
    assert {name for name, method in METHODS.items() if not method.fuses} == {"bitfit", "houlsby", "pfeiffer"}
    method = METHODS["bitfit"]()
    found = choose_fusion("on", model(), method, CUDA, captured=True, steps=1, deterministic=False)
    assert found.reason == "bitfit computes within the blocks what the compiler does not see"
