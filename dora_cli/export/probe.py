"""Whether an export computes what the run does: logits of one fixed batch of random tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dora_cli.errors import ExportError
from dora_cli.models import max_positions
from dora_cli.models.family import is_encoder_decoder
from dora_cli.models.outputs import logits_in
from dora_cli.models.quiet import quiet_loading

ROWS, TOKENS = 4, 24


@dataclass(frozen=True)
class Agreement:
    """How far two models' logits on the probe batch are apart.

    Attributes:
        difference: the largest absolute difference.
        largest: the largest absolute logit of the run's own model, for scale.
        tokens: of the batch.
        by: what computed the export's logits, such as ``"PEFT 0.21.2"``; None for the model itself.
        approximated: of an update that was approximated, the largest absolute difference to a model that computes with
            the approximation: what is left is rounding. None where nothing was.
    """

    difference: float
    largest: float
    tokens: int
    by: str | None = None
    approximated: float | None = None

    @property
    def rounding(self) -> float:
        """The difference that only rounding may explain."""
        return self.difference if self.approximated is None else self.approximated


def probe_batch(model: nn.Module, tokenizer: Any, start: Sequence[int] = ()) -> dict[str, torch.Tensor]:
    """Random ordinary tokens, the same whenever the model is the same; everything `model` needs to give logits.

    Args:
        model: classifier or generator.
        tokenizer: its own.
        start: tokens with which the decoder of a generating encoder-decoder begins.
    """
    limit = max_positions(model)
    width = TOKENS if limit is None else min(TOKENS, limit)
    special = set(tokenizer.all_special_ids)
    ordinary = torch.tensor(sorted(set(tokenizer.get_vocab().values()) - special))
    generator = torch.Generator().manual_seed(0)

    def draw() -> torch.Tensor:
        return ordinary[torch.randint(len(ordinary), (ROWS, width), generator=generator)]

    ids = draw()
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if start:
        batch["decoder_input_ids"] = torch.cat([torch.tensor(list(start)).expand(ROWS, -1), draw()], dim=1)[:, :width]
    elif is_encoder_decoder(model.config):  # such classifiers read the decoder's output at the end token
        ids[:, -1] = tokenizer.eos_token_id
    return batch


@torch.no_grad()
def logits_of(
    model: nn.Module, batch: dict[str, torch.Tensor], autocast: AbstractContextManager[Any] | None = None
) -> torch.Tensor:
    """Logits of `batch` in float64 on the CPU; `model` is left in evaluation mode."""
    model.eval()
    device = next(model.parameters()).device
    with autocast or nullcontext():
        found = logits_in(model(**{key: value.to(device) for key, value in batch.items()}))
        return torch.cat([logits.double() for logits in found.values()], dim=-1).cpu()


def compare(
    reference: torch.Tensor,
    found: torch.Tensor,
    batch: dict[str, torch.Tensor],
    *,
    by: str | None = None,
    approximated: torch.Tensor | None = None,
) -> Agreement:
    """The largest differences; a value that is not finite makes them infinite.

    Args:
        reference: logits of the run's own model.
        found: those of the export.
        by: what computed them; told of, no more.
        approximated: those of the run's model with an approximation of its update, where the export holds that.
    """
    rest = None if approximated is None else _largest(approximated - found)
    largest = float(reference.abs().max())
    return Agreement(_largest(reference - found), largest, batch["input_ids"].numel(), by, rest)


def _largest(difference: torch.Tensor) -> float:
    return float(difference.abs().max()) if bool(difference.isfinite().all()) else float("inf")


def installed_peft() -> str | None:
    """Name and version of the PEFT that can be asked here; None where there is none, or one that cannot be imported."""
    try:
        with quiet_loading():
            import peft
    except Exception:  # whatever a broken installation raises; nothing of ours needs it
        return None
    return f"PEFT {peft.__version__}"


def load_with_peft(model: nn.Module, folder: Path) -> nn.Module:
    """`model` as PEFT makes it of the adapter in `folder`: in place, so the plain model is of no use afterwards.

    Raises:
        ExportError: PEFT refuses the adapter.
    """
    from peft import PeftModel

    try:
        with quiet_loading():
            found: nn.Module = PeftModel.from_pretrained(model, folder)  # type: ignore[arg-type]
    except MemoryError:
        raise
    except Exception as error:  # refusals and misfits come as errors of many kinds
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ExportError(
            f"{installed_peft()} refuses this adapter: {reason[:400]}; export it with --format merged instead"
        ) from error
    return found


@contextmanager
def with_factors(model: nn.Module, factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> Iterator[None]:
    """Inside, every projection named in `factors` adds ``B A x``, in fp32, as PEFT's LoRA layer does."""

    def adding(A: torch.Tensor, B: torch.Tensor) -> Any:
        def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            with torch.autocast(output.device.type, enabled=False):
                update = inputs[0].float() @ A.T.to(output.device) @ B.T.to(output.device)
                return output + update.to(output.dtype)

        return hook

    handles = [model.get_submodule(name).register_forward_hook(adding(A, B)) for name, (A, B) in factors.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
