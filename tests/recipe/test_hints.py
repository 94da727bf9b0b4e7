"""The nearest known name."""

from __future__ import annotations

import pytest

from dora_cli.recipe.hints import nearest, nearest_device

KEYS = ["epochs", "max_steps", "batch_size", "gradient_accumulation", "learning_rate", "weight_decay", "seed"]


@pytest.mark.parametrize(
    ("typed", "known"),
    [
        ("epoch", "epochs"),
        ("learning-rate", "learning_rate"),
        ("Batch_Size", "batch_size"),
        ("lr", "learning_rate"),
        ("wd", "weight_decay"),
        ("accumulation", "gradient_accumulation"),
        ("grad", "gradient_accumulation"),
        ("dropout", None),
        ("x", None),
        ("", None),
    ],
)
def test_nearest(typed, known):
    assert nearest(typed, KEYS) == known


def test_nothing_is_near_nothing():
    assert nearest("seed", []) is None


@pytest.mark.parametrize(
    ("typed", "known", "meant"),
    [
        ("csv", ["hub", "glue-tsv", "e2e-csv", "files"], "files"),
        ("tsv", ["hub", "glue-tsv", "e2e-csv", "files"], "files"),
        ("HF", ["hub", "files"], "hub"),
        ("float16", ["auto", "fp32", "bf16", "fp16"], "fp16"),
        ("fp16", ["float32", "bfloat16", "float16"], "float16"),
        ("half", ["float32", "bfloat16", "float16"], "float16"),
        ("csv", ["e2e-csv"], "e2e-csv"),
    ],
)
def test_other_words_for_the_same(typed, known, meant):
    assert nearest(typed, known) == meant


@pytest.mark.parametrize(
    ("typed", "device"),
    [
        ("gpu", "cuda"),
        ("GPU", "cuda"),
        ("gpu:1", "cuda:1"),
        ("cuda1", "cuda:1"),
        ("cuda:01", "cuda:1"),
        ("CUDA", "cuda"),
        ("cuda:", "cuda"),
        ("0", "cuda:0"),
        (2, "cuda:2"),
        ("rocm", "cuda"),
        ("cpu:0", "cpu"),
        ("atuo", "auto"),
        ("tpu", None),
        ("xpu", None),
        ("mps", None),
        ("", None),
        (-1, None),
    ],
)
def test_the_device_that_is_meant(typed, device):
    assert nearest_device(typed) == device
