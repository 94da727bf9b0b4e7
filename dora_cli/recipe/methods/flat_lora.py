"""The keys of Flat-LoRA: those of LoRA, with noise on the adapted weights by default."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from dora_cli.recipe.effects import ForRun
from dora_cli.recipe.fields import Positive
from dora_cli.recipe.methods import lora


class FlatLoraMethod(lora.LoraMethod):
    """Flat-LoRA (Li et al. 2025): LoRA with noise on the adapted weights in training, for flat minima.

    Attributes:
        name: which method: ``flat-lora`` is ``lora`` with `flatness`.
        flatness: sigma of the noise on the adapted weights in training, which grows to it along half a cosine.
    """

    name: ForRun[Literal["flat-lora"]] = "flat-lora"  # type: ignore[assignment]
    flatness: ForRun[Positive] = 0.05


SECTION = FlatLoraMethod
RULES = lora.RULES

ABOUT = replace(
    lora.ABOUT,
    title="Flat-LoRA",
    summary="LoRA with noise on the adapted weights in training, so that it ends in a flat minimum",
    paper="Li et al. 2025, arXiv 2409.14396",
    card="""\
Trained with **Flat-LoRA** (Li et al., ICML 2025, [arXiv 2409.14396](https://arxiv.org/abs/2409.14396)): every adapted
projection of the frozen base learns a LoRA of a rank that stays as it is, while noise on its whole weight, drawn anew
for every optimiser step, leads to minima that are flat not only for the adapter. The finished model has none.""",
    tags=("lora", "flat-lora"),
)
