"""A saved adapter and a model it does not fit: what is said."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertForSequenceClassification

from dora_cli import attach, load_adapter, save_adapter
from dora_cli.errors import CheckpointError, ModelError
from tests.library.test_own_loop import SETTINGS, T, bert

CLASS = "BertForSequenceClassification"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = bert()
    method = attach(model, **SETTINGS)
    for step in range(1, T + 1):
        method.after_step(step)
    save_adapter(model, tmp_path / "saved")
    return tmp_path / "saved"


def two_labels() -> Any:
    model = bert()
    torch.manual_seed(0)
    return BertForSequenceClassification(type(model.config).from_dict({**model.config.to_dict(), "num_labels": 2}))


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda: bert().bfloat16(),
            r"^this model is bfloat16, the adapter's base was float32; load it with dtype=torch\.float32$",
        ),
        (
            lambda: bert(seed=1),
            (
                r"^this model is not the one the adapter was trained on \(fingerprint \w{12}, not \w{12}\); load .*, "
                r"unchanged$"
            ),
        ),
        (
            lambda: bert().bert,
            (
                r"^head tensor \S+ is in the checkpoint but not in this BertModel; load the base model of the run with "
                r"the head for its task$"
            ),
        ),
        (
            two_labels,
            (
                rf"^head tensor classifier\.bias is \(3,\) in the checkpoint and \(2,\) in this {CLASS}; load the "
                r"model with the num_labels of the run's task$"
            ),
        ),
    ],
)
def test_a_model_that_does_not_fit(saved: Path, make: Callable[[], Any], says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        load_adapter(saved, make())


def test_ranks_that_are_not_final(tmp_path: Path) -> None:
    model = bert()
    attach(model, **SETTINGS).after_step(1)
    save_adapter(model, tmp_path / "saved", allow_unfrozen=True)
    says = "is from before the freeze (step 1): its ranks are not final; use a later checkpoint, or allow_unfrozen=True"
    with pytest.raises(CheckpointError, match=re.escape(says)):
        load_adapter(tmp_path / "saved", bert())


def test_models_that_are_adapted_or_quantised() -> None:
    model = bert()
    attach(model, **SETTINGS)
    says = f"^this {CLASS} carries an adapter of dora already; dora_cli.merge it, or load the base model anew$"
    with pytest.raises(ModelError, match=says):
        attach(model, **SETTINGS)
    model = bert()
    model.is_quantized = True
    with pytest.raises(ModelError, match=f"^this {CLASS} holds quantised weights, which cannot be adapted; load it "):
        attach(model, **SETTINGS)
