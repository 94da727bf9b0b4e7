"""What is said of values that do not go together or that no arithmetic holds."""

from __future__ import annotations

import pytest

from dora_cli.errors import RecipeError
from dora_cli.recipe import FederatedSection, parse_recipe


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ("method: {rank: 2147483648}", "method.rank: must be at most 2147483647"),
        (
            "method: {alpha: 1.0e+300}",
            "method.alpha: must be at most 1e+38, since the arithmetic's fp32 ends at 3.4e+38, got 1e+300",
        ),
        (
            "train: {adam_eps: 1.0e-300}",
            "train.adam_eps: must be at least 1e-37, since the arithmetic's fp32 begins at 1.2e-38",
        ),
        (
            "method: {name: lora, alpha: 524033}\ntrain: {precision: fp16}",
            "method.alpha: must be at most 65504 times the rank of 8",
        ),
        (
            "train: {lr_warmup_steps: 10, max_steps: 10}",
            "train.lr_warmup_steps: must be below train.max_steps = 10, got 10",
        ),
        ("train: {precision: fp16, device: cpu}", "train.precision: fp16 needs a GPU"),
        ("data: {source: glue-tsv}", "data.path: is missing: data.source glue-tsv needs it"),
        ("data: {path: x}", "data.path: is not read with data.source hub, got 'x'"),
        ("data: {columns: {sentence: text}}", "data.columns: is only read with data.source files, got data.source hub"),
        (
            "method: {name: adalora}\nfederated: {}",
            "r.yaml:3: method.name: adalora cannot be trained federated, which takes two factors for every projection",
        ),
        ("method: {name: full}\nfederated: {}", "choose one of lora, lora-pro, flat-lora, or remove the section"),
        ("federated: {}", "r.yaml: method.name: dora cannot be trained federated"),
        (
            "method: {name: lora}\nfederated: {rounds: 3, local_steps: 4}\ntrain: {max_steps: 13}",
            "train.max_steps: must be federated.rounds x federated.local_steps = 12 in a federated training, got 13",
        ),
        (
            "method: {name: lora}\nfederated: {}\nsave: {every_steps: 10}",
            "save.every_steps: saves within an epoch, and a federated training is saved where a round ends; remove it",
        ),
        (
            "method: {name: lora}\nfederated: {}\ntrain: {average_last: 0.2}",
            "train.average_last: must be 0 in a federated training, got 0.2: what is kept is what the server makes of",
        ),
        ("train: {average_last: 1.0}", "train.average_last: must be at least 0 and below 1, got 1.0"),
        (
            "method: {name: lora}\nfederated: {alpha: 0.3}",
            "federated.alpha: is only read with federated.split dirichlet, got iid; set split: dirichlet, or remove",
        ),
        (
            "method: {name: lora}\nfederated: {aggregation: average, residual: 0.1}",
            "federated.residual: is only read with federated.aggregation lora-fair, got average; set aggregation:",
        ),
    ],
)
def test_what_is_said(section: str, says: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(f"task: glue/rte\nmodel: {{name: some/model}}\n{section}", "r.yaml")
    assert says in str(caught.value)


def test_rules_of_a_federated_training_are_no_matter_without_one() -> None:
    """The section's defaults stand for nothing where it is not there, or taken away."""
    text = "task: glue/rte\nmodel: {name: some/model}\ntrain: {max_steps: 13}\nsave: {every_steps: 2}\n"
    assert parse_recipe(text).federated is None
    assert parse_recipe(f"{text}federated: {{rounds: 2}}", overrides=["federated=null"]).federated is None


def test_a_federated_training_may_say_its_length() -> None:
    text = "task: glue/rte\nmodel: {name: some/model}\nmethod: {name: flat-lora}\ntrain: {max_steps: 500}\n"
    assert parse_recipe(f"{text}federated: {{}}").federated is not None


@pytest.mark.parametrize(
    ("clients", "participation", "drawn"), [(8, 1.0, 8), (8, 0.5, 4), (10, 0.26, 3), (8, 0.01, 1), (3, 0.35, 1)]
)
def test_how_many_clients_are_drawn(clients: int, participation: float, drawn: int) -> None:
    assert FederatedSection(clients=clients, participation=participation).drawn == drawn
