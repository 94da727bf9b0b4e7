"""What an evaluation does with a batch: the same on CUDA whether it is captured or not, and nothing that waits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dora_cli.data.pairs import IGNORED
from dora_cli.evaluation import passes
from dora_cli.evaluation.passes import directly, work_of
from dora_cli.models.attention_masks import masks_always_made
from dora_cli.tasks import get_task
from tests.models.test_attention_masks import batch_of, made, masks

__all__ = ["masks"]  # a fixture


def accelerator_of(device: str, precision: str = "no") -> Any:
    return SimpleNamespace(
        device=torch.device(device),
        mixed_precision=precision,
        autocast=lambda settings: torch.autocast("cpu", torch.bfloat16, cache_enabled=settings is None),
    )


@torch.no_grad()
def test_only_on_cuda_masks_are_made_that_are_not_needed(masks: list[bool]) -> None:
    """What the CPU computes stays as it is."""
    model = made("gpt2")
    for device, expected in (("cpu", False), ("cuda", True)):
        masks.clear()
        work_of(model, lambda outputs, batch: outputs.logits, accelerator_of(device))(batch_of(model))
        assert set(masks) == {expected}


@torch.no_grad()
def test_on_cuda_attention_over_short_texts_makes_no_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer ones may; whoever has forbidden them finds them forbidden. A pass that fails leaves all as it was."""
    allowed = torch.backends.cuda.cudnn_sdp_enabled
    monkeypatch.setattr(passes, "_SHORT", 4)

    def model(input_ids: torch.Tensor) -> torch.Tensor:
        seen.append(allowed())
        if not len(input_ids):
            raise RuntimeError("no rows")
        return input_ids

    def run(device: str, rows: int, width: int) -> None:
        work = work_of(model, lambda outputs, batch: outputs, accelerator_of(device))  # type: ignore[arg-type]
        work({"input_ids": torch.zeros(rows, width, dtype=torch.long)})

    for before in (True, False):
        seen = list[bool]()
        torch.backends.cuda.enable_cudnn_sdp(before)
        try:
            for case in (("cuda", 2, 4), ("cuda", 2, 5), ("cpu", 2, 4)):
                run(*case)
            with pytest.raises(RuntimeError, match="no rows"):
                run("cuda", 0, 4)
            assert seen == [False, before, before, False]
            assert allowed() is before
        finally:
            torch.backends.cuda.enable_cudnn_sdp(True)


@torch.no_grad()
@pytest.mark.parametrize("captured", [False, True])
def test_no_copy_of_a_weight_is_kept_for_another_graph(captured: bool) -> None:
    model, cached = made("gpt2").float(), []

    def run(work: passes.Work, batch: passes.Batch) -> torch.Tensor:
        return work(batch)

    def keep(outputs: Any, batch: passes.Batch) -> torch.Tensor:
        return outputs.logits  # type: ignore[no-any-return]

    model.register_forward_hook(lambda *_: cached.append(torch.is_autocast_cache_enabled()))
    work = work_of(model, keep, accelerator_of("cpu", "bf16"), run if captured else directly)
    assert work(batch_of(model)).dtype == torch.bfloat16
    assert cached == [not captured]


@torch.no_grad()
@pytest.mark.parametrize("name", ["gpt2", "llama", "bart", "t5"])
def test_the_losses_of_a_generator_ask_the_device_for_nothing(name: str) -> None:
    """The meta device has no values to answer with."""
    model = made(name)
    batch = batch_of(model, padded=True)
    labels = batch.get("decoder_input_ids", batch["input_ids"]).clone()
    labels[:, :2] = IGNORED
    batch |= {"labels": labels}
    task = get_task("e2e")
    with masks_always_made():
        plain = work_of(model, task.keep, accelerator_of("cpu"))(batch)
        model.to("meta")
        moved = {name: tensor.to("meta") for name, tensor in batch.items()}
        found = work_of(model, task.keep, accelerator_of("meta"))(moved)
    assert bool(plain.isfinite().all())
    assert (found.shape, found.dtype, found.device.type) == (plain.shape, plain.dtype, "meta")
