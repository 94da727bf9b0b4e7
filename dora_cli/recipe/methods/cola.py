"""The keys of Chain of LoRA, what holds between them, and their defaults; none are published."""

from __future__ import annotations

from typing import Literal

from dora_cli.recipe.about import About
from dora_cli.recipe.effects import ForRun
from dora_cli.recipe.fields import Count, FractionBelowOne, Positive, RankList, Section, Targets
from dora_cli.recipe.rules import Rule, fits_fp16


class ColaMethod(Section):
    """COLA, Chain of LoRA (Xia et al. 2024): links of LoRA, one after the other, each on top of those before it.

    Attributes:
        name: which method: ``cola`` trains a chain of links (the task of that name is ``glue/cola``).
        links: how many there are, each of an equal share of the steps.
        rank: of every link, where `ranks` is null.
        ranks: of each link, a list as long as there are links; null gives all of them `rank`.
        alpha: the update of a link is scaled by ``alpha / rank``, by its own rank.
        dropout: on the input of the link that trains; those before it are read without.
        restart_learning_rate: whether the learning rate rises and falls anew with each link, or once in the run.
        targets: ``attention``, ``ffn`` or glob patterns of projections; out_proj and the like of Mamba-type models only
            by pattern.
    """

    name: ForRun[Literal["cola"]] = "cola"
    links: ForRun[Count] = 3
    rank: ForRun[Count] = 8
    ranks: ForRun[RankList | None] = None
    alpha: ForRun[Positive] = 8.0
    dropout: ForRun[FractionBelowOne] = 0.1
    restart_learning_rate: ForRun[bool] = True
    targets: ForRun[Targets] = ("attention", "ffn")


def _one_rank_each(ranks: tuple[int, ...] | None, links: int) -> str | None:
    if ranks is not None and len(ranks) != links:
        return (
            f"must be as many ranks as there are links, got {len(ranks)} for method.links = {links}; change one of the "
            "two, or set ranks to null"
        )
    return None


def _fp16_scale(alpha: float, rank: int, ranks: tuple[int, ...] | None, precision: str, dtype: str) -> str | None:
    least = min(ranks or (rank,))  # that link has the largest scale
    return fits_fp16(alpha / least, f"{alpha:g}", f"the rank of {least}", "alpha / rank", precision, dtype)


SECTION = ColaMethod
RULES = (
    Rule(("method.ranks", "method.links"), _one_rank_each),
    Rule(("method.alpha", "method.rank", "method.ranks", "train.precision", "model.dtype"), _fp16_scale),
)


def _notes(section: ColaMethod) -> list[str]:
    ranks = [section.rank] * section.links if section.ranks is None else section.ranks
    each = f"each of rank {ranks[0]}" if len(set(ranks)) == 1 else f"of the ranks {', '.join(map(str, ranks))}"
    found = [f"There are {section.links} links, {each}." if section.links > 1 else f"There is one link, {each}."]
    if not section.restart_learning_rate:
        found.append("The learning rate went through one schedule for all of them.")
    return found


def _scale(section: ColaMethod, start_rank: int, rank: int) -> float:
    """That of the first link; where ranks differ, others have another."""
    return section.alpha / start_rank


ABOUT = About(
    title="COLA, Chain of LoRA",
    summary="links of LoRA, one after the other, each on top of what those before it have learned",
    paper="Xia et al. 2024, arXiv 2401.04151",
    adapts="attention and FFN projections",
    ranks="grown",
    mergeable=True,
    lora=True,
    card="""\
Trained with **COLA, Chain of LoRA** (Xia et al. 2024, [arXiv 2401.04151](https://arxiv.org/abs/2401.04151)): a LoRA
was trained, tied to the frozen base, and followed by a fresh one, with the optimiser's moments anew. The links are kept
beside the base, so the update of a projection is their sum, a LoRA of the sum of their ranks.""",
    tags=("chain-of-lora",),
    notes=_notes,
    scale=_scale,
)
