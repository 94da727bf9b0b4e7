"""What is said where memory runs out: what was too large, and the key to lower."""

from __future__ import annotations

import pytest

from dora_cli import parse_recipe
from dora_cli.errors import OutOfMemoryError
from dora_cli.machine.memory import Trained, memory_advice

RECIPE = "task: e2e\nmodel: {name: gpt2}\ndecode: {batch_size: 4, beams: 3}"


@pytest.mark.parametrize(
    ("batch", "overrides", "says"),
    [
        (
            "train",
            ("train.batch_size=8",),
            (
                "out of memory in training with train.batch_size 8; set train.batch_size=4 and "
                "train.gradient_accumulation=2 (the same global batch, in a run from the start), or use "
                "model.dtype=bfloat16"
            ),
        ),
        (
            "train",
            ("train.batch_size=5", "train.gradient_accumulation=3"),
            (
                "out of memory in training with train.batch_size 5; set train.batch_size=3 and "
                "train.gradient_accumulation=6, or use model.dtype=bfloat16"
            ),
        ),
        (
            "train",
            ("train.batch_size=1", "data.max_length=100"),
            (
                "out of memory in training with train.batch_size 1; lower data.max_length (now 100), or lower "
                "method.rank (now 8) or name fewer method.targets, or use model.dtype=bfloat16"
            ),
        ),
        (
            "train",
            ("train.batch_size=1", "data.max_length=100", "method={name: full}"),
            (
                "out of memory in training with train.batch_size 1; lower data.max_length (now 100), or use "
                "train.precision=bf16, or a method of few parameters such as lora"
            ),
        ),
        ("attach", ("method={name: full}",), "out of memory while loading gpt2; choose a smaller model"),
        (
            "attach",
            ("method={name: lora, rank: 700}",),
            (
                "out of memory with gpt2 and its adapters; lower method.rank (now 700) or name fewer method.targets, "
                "set model.dtype=bfloat16 (now float32), or choose a smaller model"
            ),
        ),
        ("load", ("method={name: full}",), "out of memory while loading gpt2; choose a smaller model"),
        (
            "eval",
            ("eval.batch_size=32",),
            "out of memory in an evaluation with eval.batch_size 32; lower it: it changes speed, not training",
        ),
        (
            "decode",
            (),
            (
                "out of memory in decoding with decode.batch_size 4 and decode.beams 3; lower the batch size: it "
                "changes speed, not training"
            ),
        ),
        (
            "load",
            (),
            "out of memory while loading gpt2; set model.dtype=bfloat16 (now float32) or choose a smaller model",
        ),
    ],
)
def test_the_advice_names_the_numbers(batch: str, overrides: tuple[str, ...], says: str) -> None:
    with pytest.raises(OutOfMemoryError) as caught, memory_advice(parse_recipe(RECIPE, overrides=overrides), batch):
        raise MemoryError
    assert str(caught.value) == says


@pytest.mark.parametrize(
    ("adapters", "batch", "method", "says"),
    [
        (
            24,
            1,
            "{name: dora, rank: 512}",
            "; lower method.rank (now 512) or name fewer method.targets, or lower data.",
        ),
        (24, 8, "{name: dora, rank: 512}", "; lower method.rank (now 512) or name fewer method.targets, or set train."),
        (24, 8, "{name: dora, rank: 8, start_rank: 512}", "; lower method.start_rank (now 512) or name fewer "),
        (24, 8, "{name: lora, ranks: {'*': 512}}", "; lower method.ranks or name fewer method.targets, or set train."),
        (24, 8, "{name: houlsby, bottleneck: 512}", "; lower method.bottleneck (now 512) or name fewer "),
        (24, 8, "{name: full}", "; set train."),  # another method is advised
        (25, 8, "{name: dora, rank: 512}", "; lower method.rank "),
        (23, 8, "{name: dora, rank: 512}", "; set train."),
    ],
)
def test_adapters_that_take_as_much_as_the_base_model_are_to_blame(
    adapters: int, batch: int, method: str, says: str
) -> None:
    """A base of 96 entries in fp32 takes as many bytes as 24 entries with a gradient and two moments."""
    recipe = parse_recipe(RECIPE, overrides=(f"train.batch_size={batch}", f"method={method}"))
    with pytest.raises(OutOfMemoryError) as caught, memory_advice(recipe, "train", Trained(adapters, 96, 4 * 96)):
        raise MemoryError
    assert says in str(caught.value)
    blamed = f"and adapters of {adapters} parameters on a base model of 96;"
    assert (blamed in str(caught.value)) == (adapters > 23 and "full" not in method)


def test_other_errors_are_no_shortage() -> None:
    error = RuntimeError("mat1 and mat2")
    with pytest.raises(RuntimeError) as caught, memory_advice(parse_recipe(RECIPE)):
        raise error
    assert caught.value is error
