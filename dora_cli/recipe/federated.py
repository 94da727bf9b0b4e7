"""The keys of a federated training, what must hold between them and the rest of a recipe, and their defaults."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

from dora_cli.recipe.effects import ForRun
from dora_cli.recipe.fields import Count, NonNegative, Positive, Section, ShareOrAll
from dora_cli.recipe.methods import METHODS, about
from dora_cli.recipe.rules import Rule
from dora_cli.wording import plural

ALPHA = 0.3
"""`FederatedSection.alpha` where a split has one and the recipe none."""
RESIDUAL = 0.01
"""`FederatedSection.residual` likewise; what is reported of LoRA-FAIR's experiments."""


class FederatedSection(Section):
    """A training on several clients, none of which sees the examples of another, in rounds that a server ends.

    Attributes:
        clients: how many there are; each has its own part of the training split.
        rounds: how often the server makes one start of the clients' factors; a round takes the place of an epoch.
        local_steps: optimiser steps of every client in a round.
        split: how the training split is parted: ``iid``, at random and evenly; ``dirichlet``, each class by shares of
            its own, drawn at `alpha`.
        alpha: of the Dirichlet distribution; the smaller, the more the clients' classes differ. None is 0.3.
        participation: share of the clients that are drawn for a round.
        aggregation: what the server makes of the factors: ``lora-fair``, their averages with a correction of `B`;
            ``average`` (FedIT); ``exact``, the best approximation of the averaged update.
        residual: weight of the correction's norm in the objective of ``lora-fair`` (lambda). None is 0.01.
    """

    clients: ForRun[Count] = 8
    rounds: ForRun[Count] = 10
    local_steps: ForRun[Count] = 50
    split: ForRun[Literal["iid", "dirichlet"]] = "iid"
    alpha: ForRun[Positive | None] = None
    participation: ForRun[ShareOrAll] = 1.0
    aggregation: ForRun[Literal["lora-fair", "average", "exact"]] = "lora-fair"
    residual: ForRun[NonNegative | None] = None

    @property
    def steps(self) -> int:
        """Optimiser steps that a client has in all rounds together."""
        return self.rounds * self.local_steps

    @property
    def drawn(self) -> int:
        """How many clients are drawn for a round: the nearest whole number to their share, and at least one."""
        return max(1, round(Fraction(str(self.participation)) * self.clients))


def _method(name: str, clients: int) -> str | None:
    if about(name).federated:
        return None
    fitting = [known for known in METHODS if about(known).federated]
    return (
        f"{name} cannot be trained federated, which takes two factors for every projection that keep their shapes and "
        f"both train; choose one of {', '.join(fitting)}, or remove the section federated"
    )


def _max_steps(steps: int | None, rounds: int, local_steps: int) -> str | None:
    if steps in (None, rounds * local_steps):
        return None
    return (
        f"must be federated.rounds x federated.local_steps = {rounds * local_steps} in a federated training, got "
        f"{steps}; remove it (--set train.max_steps=null), and change the rounds or their steps"
    )


def _within_a_round(value: object, clients: int) -> str | None:
    if value is None:
        return None
    return (
        "saves within an epoch, and a federated training is saved where a round ends; remove it, or lower "
        "federated.local_steps for shorter rounds"
    )


def _average_last(share: float, clients: int) -> str | None:
    if not share:
        return None
    return (
        f"must be 0 in a federated training, got {share:g}: what is kept is what the server makes of the clients' "
        "weights, which is a mean already; set it to 0, or remove the section federated"
    )


def _alpha(alpha: float | None, split: str) -> str | None:
    if alpha is not None and split != "dirichlet":
        return f"is only read with federated.split dirichlet, got {split}; set split: dirichlet, or remove this key"
    return None


def _residual(residual: float | None, aggregation: str) -> str | None:
    if residual is not None and aggregation != "lora-fair":
        return (
            f"is only read with federated.aggregation lora-fair, got {aggregation}; set aggregation: lora-fair, or "
            "remove this key"
        )
    return None


RULES = (
    Rule(("method.name", "federated.clients"), _method),
    Rule(("train.max_steps", "federated.rounds", "federated.local_steps"), _max_steps),
    Rule(("save.every_steps", "federated.clients"), _within_a_round),
    Rule(("train.average_last", "federated.clients"), _average_last),
    Rule(("federated.alpha", "federated.split"), _alpha),
    Rule(("federated.residual", "federated.aggregation"), _residual),
)
"""They hold where the recipe has the section."""

_SERVERS = {
    "lora-fair": "by LoRA-FAIR (Bian et al. 2024, [arXiv 2411.14961](https://arxiv.org/abs/2411.14961))",
    "average": (
        "by averages of the factors (FedIT; Zhang et al. 2023, [arXiv 2305.05644](https://arxiv.org/abs/2305.05644))"
    ),
    "exact": (
        "by the best approximation of the averaged update (as in FlexLoRA; Bai et al. 2024, "
        "[arXiv 2402.11505](https://arxiv.org/abs/2402.11505))"
    ),
}


def note_on_clients(section: FederatedSection) -> str:
    """A sentence for a model card on who trained it."""
    split = "at random" if section.split == "iid" else "by class, unevenly"
    return (
        f"It was trained federated: {plural(section.clients, 'client')}, among which the training split was shared out "
        f"{split}, in {plural(section.rounds, 'round')} of {plural(section.local_steps, 'step')}, joined "
        f"{_SERVERS[section.aggregation]}."
    )
