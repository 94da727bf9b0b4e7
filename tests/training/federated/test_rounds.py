"""Rounds against plain training, and against clients and a server that are written out by hand."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from dora_cli import train
from dora_cli.assembly.build import adapt, load_base, make_method
from dora_cli.assembly.clients import ClientData, client_data, client_parts
from dora_cli.assembly.data import encode_split, load_data
from dora_cli.assembly.resolve import resolve
from dora_cli.data import Group, inputs_of, plan_epoch
from dora_cli.machine.graphs import EAGER_FIRST, Graphs
from dora_cli.methods.low_rank.noise.flatness import Flatness
from dora_cli.recipe import Recipe
from dora_cli.runs.run_folder import RunRecords
from dora_cli.training.checkpoint import Snapshot
from dora_cli.training.federated.aggregation import AGGREGATIONS, Merged
from dora_cli.training.federated.clients import Client, Turns, client_seed
from dora_cli.training.step import TrainingStep
from tests.training.federated.conftest import MakeFederated
from tests.training.test_run import largest_difference, lines, read, without_timing

Tensors = dict[str, torch.Tensor]

ALONE = (
    "federated.clients=1",
    "train.gradient_accumulation=2",
    "train.batch_size=3",
    "train.batch_parts=2",
    "data.group_by_length=true",
)
"""One client: 23 examples, six steps a pass, so that the three rounds of four steps are two passes."""
PLAIN = ("federated=null", "train.max_steps=12")


def snapshot(run: Path, step: int) -> Snapshot:
    return Snapshot.load(RunRecords(run).checkpoints / f"step-{step}")


# One client -----------------------------------------------------------------------------------------------------------

METHODS = {
    "lora": "method={name: lora, rank: 2, dropout: 0.2, learning_rate_ratio: 4, ranks: {'*.query': 3, '*.key': 0}}",
    "lora-pro": "method={name: lora-pro, rank: 2, dropout: 0.2}",
    "lora-pro full": "method={name: lora-pro, rank: 2, dropout: 0.2, moments: full}",
    "flat-lora": "method={name: flat-lora, rank: 2, dropout: 0.2, flatness: 0.1}",
}


@pytest.mark.parametrize(
    ("method", "aggregation", "every"),
    [
        ("lora", "average", "epoch"),
        ("lora-pro", "lora-fair", "end"),
        ("lora-pro full", "average", "end"),
        ("flat-lora", "lora-fair", "epoch"),
    ],
)
def test_one_client_is_plain_training(
    federated: MakeFederated, tmp_path: Path, method: str, aggregation: str, every: str
) -> None:
    """To the bit: weights, moments, random state, metrics and log, with dropout, accumulation and groups by length."""
    common = (*ALONE, METHODS[method], f"eval.every={every}")
    train(federated(*common, *PLAIN), tmp_path / "plain")
    result = train(federated(*common, f"federated.aggregation={aggregation}"), tmp_path / "rounds")

    assert len(result.metrics["rounds"]) == 3
    assert "real_tokens" not in result.metrics
    plain, found = (snapshot(tmp_path / name, 12) for name in ("plain", "rounds"))
    assert largest_difference(tmp_path / "plain" / "adapter", tmp_path / "rounds" / "adapter") == 0
    assert_same({f"1.{name}": value for name, value in plain.optimizer.items()}, found.optimizer)
    assert_same({f"1.{name}": value for name, value in plain.random_of(0).items()}, without_method(found.random))
    assert read(tmp_path / "plain" / "metrics.json")["metrics"] == read(tmp_path / "rounds" / "metrics.json")["metrics"]
    logs = [
        [
            {**line, "epoch": 0}
            for line in without_timing(lines(tmp_path / name / "log.jsonl"))
            if line["type"] == "train"
        ]
        for name in ("plain", "rounds")
    ]
    assert logs[0] == logs[1]
    assert [line["step"] for line in logs[0]] == [3, 6, 9, 12]


def assert_same(one: Mapping[str, torch.Tensor], two: Mapping[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    assert all(one[name].equal(two[name]) for name in one)


def without_method(random: Mapping[str, torch.Tensor]) -> Tensors:
    return {name: value for name, value in random.items() if name != "method"}


def test_the_exact_server_keeps_the_product_of_one_client_alone(federated: MakeFederated, tmp_path: Path) -> None:
    one_round = ("federated.rounds=1", "federated.local_steps=8")
    train(federated(*ALONE, "federated=null", "train.max_steps=8"), tmp_path / "plain")
    train(federated(*ALONE, *one_round, "federated.aggregation=exact"), tmp_path / "exact")
    plain, exact = (load_file(tmp_path / name / "adapter" / "adapter.safetensors") for name in ("plain", "exact"))
    for name in names_of(plain):
        assert float(plain[f"{name}.B"].norm()) > 0
        torch.testing.assert_close(product(exact, name), product(plain, name), rtol=0, atol=1e-6)
        assert not torch.allclose(exact[f"{name}.A"], plain[f"{name}.A"], atol=1e-3)


def test_only_the_first_client_draws_as_the_run_would() -> None:
    seeds = [client_seed(seed, number) for seed in range(20) for number in range(2, 100)]
    assert len({*seeds, *range(20)}) == len(seeds) + 20
    assert [client_seed(seed, 1) for seed in range(20)] == list(range(20))


def names_of(adapter: Tensors) -> list[str]:
    return sorted(name.removesuffix(".A") for name in adapter if name.endswith(".A"))


def product(adapter: Tensors, name: str) -> torch.Tensor:
    return adapter[f"{name}.B"] @ adapter[f"{name}.A"]


def test_noise_of_a_step_is_that_of_all_clients(
    federated: MakeFederated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    begin_step = Flatness.begin_step
    monkeypatch.setattr(Flatness, "begin_step", lambda self, step: (begun.append(step), begin_step(self, step))[1])
    train(federated(METHODS["flat-lora"], "federated.rounds=2", "federated.local_steps=2"), tmp_path / "run")
    # the first is that of the beginning, and a rehearsal may take a step of its own; noise follows from seed and step
    assert begun[-12:] == [1, 2, 1, 2, 1, 2, 3, 4, 3, 4, 3, 4]


# By hand --------------------------------------------------------------------------------------------------------------


class ByHand(NamedTuple):
    """What plain loops come to.

    Attributes:
        weights: of the server after every round, by name.
        sent: of every round, by client.
    """

    weights: list[Tensors]
    sent: list[dict[int, Tensors]]


class Layer(nn.Module):
    """``W x + s B A x``, written out."""

    def __init__(self, base: nn.Module, A: torch.Tensor, B: torch.Tensor, scaling: float) -> None:
        super().__init__()
        self.base, self.scaling = base, scaling
        self.A, self.B = nn.Parameter(A.clone()), nn.Parameter(B.clone())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.scaling * F.linear(F.linear(x, self.A), self.B)


def by_hand(recipe: Recipe, drawn: Sequence[Sequence[int]]) -> ByHand:
    """Federated averages of LoRA by loops over clients that have a model and an AdamW each.

    Args:
        drawn: the numbers of the clients of every round.
    """
    recipe, task = resolve(recipe)
    federated, settings = recipe.federated, recipe.train
    assert federated is not None
    data = load_data(recipe, task)
    base = load_base(recipe, task)
    plain = copy.deepcopy(base.model)
    adapted = adapt(
        recipe, task, base, make_method(recipe), torch.device("cpu"), total_steps=federated.steps, fresh=True
    )
    start = {name: value for name, value in adapted.method.state_dict().items() if name.endswith((".A", ".B"))}
    parts = client_data(recipe, task, data.training, client_parts(recipe, data.training), adapted)

    def model_of_client() -> tuple[nn.Module, dict[str, nn.Parameter]]:
        model = copy.deepcopy(plain).requires_grad_(False).train()
        trained: dict[str, nn.Parameter] = {}
        for site in adapted.projections:
            A, B = start[f"{site.name}.A"], start[f"{site.name}.B"]
            layer = Layer(model.get_submodule(site.name), A, B, recipe.method.alpha / recipe.method.rank)
            model.set_submodule(site.name, layer)
            trained |= {f"{site.name}.A": layer.A, f"{site.name}.B": layer.B}
        own = dict(model.named_parameters())
        for name, value in adapted.head.items():
            trained[name] = own[name].requires_grad_(True)
            trained[name].data.copy_(value.detach())
        return model, trained

    models = [model_of_client() for _ in parts]
    optimizers = [
        torch.optim.AdamW(
            trained.values(), lr=1.0, betas=settings.adam_betas, eps=settings.adam_eps,
            weight_decay=settings.weight_decay,
        )
        for _, trained in models
    ]  # fmt: skip

    def order(number: int, part: ClientData) -> Iterator[Group]:
        for epoch in count(1):
            yield from plan_epoch(
                part.train.lengths, part.train.units, seed=client_seed(settings.seed, number), epoch=epoch,
                micro_batch=settings.batch_size, accumulation=settings.gradient_accumulation,
            )  # fmt: skip

    orders = [order(number, part) for number, part in enumerate(parts, start=1)]
    server = {name: value.detach().clone() for name, value in models[0][1].items()}
    warmup = settings.lr_warmup_steps
    assert warmup is not None
    found = ByHand([], [])
    for number, present in enumerate(drawn):
        sent = {}
        for client in present:
            (model, trained), optimizer = models[client - 1], optimizers[client - 1]
            for name, parameter in trained.items():
                parameter.data.copy_(server[name])
            for step in range(number * federated.local_steps, (number + 1) * federated.local_steps):
                share = step / warmup if step < warmup else (federated.steps - step) / (federated.steps - warmup)
                optimizer.param_groups[0]["lr"] = settings.learning_rate * share
                optimizer.zero_grad()
                group = next(orders[client - 1])
                for rows in group.micro_batches:
                    batch = parts[client - 1].train.collate(rows)
                    logits = model(**inputs_of(batch)).logits
                    (F.cross_entropy(logits, batch["labels"], reduction="sum") / group.examples).backward()
                nn.utils.clip_grad_norm_(trained.values(), settings.max_grad_norm)
                optimizer.step()
            sent[client] = {name: parameter.detach().clone() for name, parameter in trained.items()}
        total = sum(parts[client - 1].examples for client in present)
        server = {
            name: sum(parts[client - 1].examples / total * sent[client][name].double() for client in present).float()
            for name in server
        }
        found.weights.append(server)
        found.sent.append(sent)
    return found


def came(record: Mapping[str, Any]) -> list[int]:
    return [client["client"] for client in record["clients"] if client["state"] == "trained"]


@pytest.mark.parametrize("participation", [1.0, 0.5])
def test_rounds_are_loops_over_clients_and_means_of_what_they_send(
    federated: MakeFederated, tmp_path: Path, participation: float
) -> None:
    recipe = federated(
        "method.dropout=0", "federated.aggregation=average", "federated.clients=4", "train.lr_warmup_steps=2",
        f"federated.participation={participation}", "train.adam_eps=1.0e-4", "train.gradient_accumulation=2",
        "train.batch_size=2",
    )  # fmt: skip
    result = train(recipe, tmp_path / "run")
    drawn = [came(record) for record in result.metrics["rounds"]]
    assert [len(numbers) for numbers in drawn] == [round(4 * participation)] * 3
    assert participation == 1 or len({tuple(numbers) for numbers in drawn}) > 1
    expected = by_hand(recipe, drawn)
    for number, (weights, sent) in enumerate(zip(expected.weights, expected.sent, strict=True), start=1):
        checkpoint = tmp_path / "run" / "checkpoints" / f"step-{4 * number}"
        found = load_file(checkpoint / "adapter.safetensors") | load_file(checkpoint / "head.safetensors")
        assert weights.keys() <= found.keys()
        for name, value in weights.items():
            torch.testing.assert_close(found[name], value, rtol=0, atol=1e-6)
        record = result.metrics["rounds"][number - 1]
        assert record["distance"] == pytest.approx(distance(sent, shares(record)), rel=1e-3)
        assert record["correction"] == 0


def shares(record: Mapping[str, Any]) -> dict[int, float]:
    examples = {client["client"]: client["examples"] for client in record["clients"] if client["state"] == "trained"}
    return {client: count / sum(examples.values()) for client, count in examples.items()}


def distance(sent: Mapping[int, Tensors], p: Mapping[int, float]) -> float:
    """How far the product of the means is from the mean of the products, over all projections, by whole matrices."""
    apart, size = [], []
    for name in names_of(next(iter(sent.values()))):
        A, B = (sum(p[client] * sent[client][f"{name}.{factor}"].double() for client in p) for factor in "AB")
        dW = sum(p[client] * sent[client][f"{name}.B"].double() @ sent[client][f"{name}.A"].double() for client in p)
        apart.append(dW - B @ A)
        size.append(dW)
    return float(norm(apart) / norm(size))


def norm(matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([matrix.flatten() for matrix in matrices]).norm()


# What is written down -------------------------------------------------------------------------------------------------


def test_what_a_round_records_is_what_travelled(
    federated: MakeFederated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes, correction and distance of LoRA-FAIR from the factors that were sent, by whole matrices."""
    seen: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, Merged]] = []

    def spy(A: torch.Tensor, B: torch.Tensor, weights: torch.Tensor, residual: float) -> Merged:
        merged = lora_fair(A, B, weights, residual)
        seen.append((A.double(), B.double(), weights, merged))
        return merged

    lora_fair = AGGREGATIONS["lora-fair"]
    monkeypatch.setitem(AGGREGATIONS, "lora-fair", spy)
    recipe = federated("federated.residual=1.0e-4", "federated.participation=0.67")
    result = train(recipe, tmp_path / "run")
    records = result.metrics["rounds"]
    projections = len(seen) // len(records)
    trained = result.metrics["budget"]["trainable_parameters_start"]
    assert projections == 6
    for number, record in enumerate(records):
        apart, size, moved = [], [], []
        for A, B, p, merged in seen[number * projections : (number + 1) * projections]:
            assert p.tolist() == pytest.approx(list(shares(record).values()))
            means = torch.einsum("k,krd->rd", p, A), torch.einsum("k,kor->or", p, B)
            size.append(torch.einsum("k,kor,krd->od", p, B, A))
            apart.append(size[-1] - means[1] @ means[0])
            moved.append(merged.B.double() - means[1])
            torch.testing.assert_close(merged.A.double(), means[0], rtol=0, atol=1e-7)
        assert record["distance"] == pytest.approx(float(norm(apart) / norm(size)), rel=1e-6)
        assert record["correction"] == pytest.approx(float(norm(moved)), rel=1e-4)
        assert record["bytes_up"] == record["bytes_down"] == 2 * 4 * trained
        assert record["aggregation"] == "lora-fair"
        assert [client["state"] for client in record["clients"]].count("left out") == 1
        assert record["metrics"] == result.metrics["epochs"][number]["metrics"]
    assert sum(record["correction"] > 0 for record in records) == 3
    written = [line for line in lines(tmp_path / "run" / "log.jsonl") if line["type"] == "round"]
    assert [{"type": "round", **record} for record in read(tmp_path / "run" / "metrics.json")["rounds"]] == written


def test_losses_of_a_round_are_means_over_examples(federated: MakeFederated, tmp_path: Path) -> None:
    """What clients have seen in a round, weighted by what they have; steps of a round share its pace."""
    result = train(federated("train.log_every=2"), tmp_path / "run")
    written = lines(tmp_path / "run" / "log.jsonl")
    for record, epoch in zip(result.metrics["rounds"], result.metrics["epochs"], strict=True):
        losses = {client["client"]: client["loss"] for client in record["clients"]}
        expected = sum(share * losses[client] for client, share in shares(record).items())
        assert epoch["train_loss"] == pytest.approx(expected)
        steps = [line for line in written if line["type"] == "train" and line["epoch"] == record["round"]]
        assert [line["step"] for line in steps] == [record["step"] - 2, record["step"]]
        paces = [line["timing"] for line in steps]
        assert paces[0] == paces[1]
        # three clients, four steps of four examples but where a part of seven ends
        assert 44 <= 4 * paces[0]["samples_per_second"] / paces[0]["steps_per_second"] <= 48


def test_who_is_left_out_keeps_its_state(federated: MakeFederated, tmp_path: Path) -> None:
    result = train(federated("federated.participation=0.34", "federated.rounds=4", "eval.every=end"), tmp_path / "run")
    alike, begun = 0, set(came(result.metrics["rounds"][0]))
    for record in result.metrics["rounds"][1:]:
        before, after = (snapshot(tmp_path / "run", step) for step in (record["step"] - 4, record["step"]))
        for client in record["clients"]:
            number = client["client"]
            states = [
                (one.random_of(number), {k: v for k, v in one.optimizer.items() if k.startswith(f"{number}.")},
                 one.progress["clients"][number - 1])
                for one in (before, after)
            ]  # fmt: skip
            if client["state"] == "left out":
                for one, two in zip(states[0][:2], states[1][:2], strict=True):
                    assert_same(one, two)
                assert states[0][2] == states[1][2]
                alike += number in begun
            else:
                assert states[0][2] != states[1][2]
                assert states[1][2]["counters"]["scheduler"] == record["step"]
        begun |= set(came(record))
    assert alike > 0


def test_no_client_sees_an_example_of_another(
    federated: MakeFederated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one pass of each, all training examples are seen once."""
    seen: dict[int, Counter[tuple[int, ...]]] = {}
    present: list[int] = []
    turn, step = Turns.__call__, TrainingStep.__call__

    def noted_turn(self: Turns, client: Client, *arguments: Any) -> Any:
        present.append(client.number)
        return turn(self, client, *arguments)

    def noted_step(self: TrainingStep, number: int, batches: Sequence[Any], *arguments: Any, **options: Any) -> Any:
        rows = [
            tuple(ids[mask.bool()].tolist())
            for batch in batches
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]
        seen.setdefault(present[-1], Counter()).update(rows)
        return step(self, number, batches, *arguments, **options)

    monkeypatch.setattr(Turns, "__call__", noted_turn)
    monkeypatch.setattr(TrainingStep, "__call__", noted_step)
    recipe = federated("federated.rounds=2", "federated.local_steps=1")  # two steps are a pass over 8 or 7 examples
    train(recipe, tmp_path / "run")

    recipe, task = resolve(recipe)
    data = load_data(recipe, task)
    adapted = adapt(
        recipe, task, load_base(recipe, task), make_method(recipe), torch.device("cpu"), total_steps=2, fresh=True
    )
    for number, rows in enumerate(client_parts(recipe, data.training), start=1):
        own = encode_split(recipe, task, data.training.only(rows), adapted)
        expected = Counter(
            tuple(row[mask.bool()].tolist())
            for batch in [own.collate(range(len(rows)))]
            for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        )
        assert seen[number] == expected
    assert present == [1, 2, 3, 1, 2, 3]


# On a GPU -------------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_captured_rounds_are_the_eager_ones(
    federated: MakeFederated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients are swapped under one set of graphs: what can repeat is captured once, whoever comes."""
    wanted: Counter[Any] = Counter()
    captures = 0
    run, graph = Graphs.run, torch.cuda.graph

    def counted_run(self: Graphs, key: Any, *arguments: Any, eager_first: int = EAGER_FIRST) -> None:
        wanted[key, eager_first] += 1
        run(self, key, *arguments, eager_first=eager_first)

    def counted_graph(*arguments: Any, **options: Any) -> Any:
        nonlocal captures
        captures += 1
        return graph(*arguments, **options)

    monkeypatch.setattr(Graphs, "run", counted_run)
    monkeypatch.setattr(torch.cuda, "graph", counted_graph)
    common = (
        "train.device=cuda", "train.precision=fp32", "train.deterministic=true", "train.learning_rate=5.0e-3",
        "federated.participation=0.67", "data.group_by_length=true",
    )  # fmt: skip
    train(federated(*common, "train.cuda_graph=off"), tmp_path / "eager")
    assert not wanted
    train(federated(*common, "train.cuda_graph=on"), tmp_path / "captured")
    assert captures == sum(times > eager_first for (_, eager_first), times in wanted.items())
    assert wanted["update", EAGER_FIRST] == 3 * 2 * 4
    eager, captured = (read(tmp_path / name / "metrics.json") for name in ("eager", "captured"))
    assert [came(record) for record in eager["rounds"]] == [came(record) for record in captured["rounds"]]
    assert largest_difference(tmp_path / "eager" / "adapter", tmp_path / "captured" / "adapter") < 1e-5


@pytest.mark.gpu
def test_one_captured_client_is_plain_captured_training(federated: MakeFederated, tmp_path: Path) -> None:
    common = (*ALONE, "train.device=cuda", "train.precision=fp32", "train.deterministic=true", "train.cuda_graph=on")
    train(federated(*common, *PLAIN), tmp_path / "plain")
    train(federated(*common), tmp_path / "rounds")
    assert largest_difference(tmp_path / "plain" / "adapter", tmp_path / "rounds" / "adapter") == 0
