"""What the model will see of the data, counted by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from dora_cli.assembly.data import load_data
from dora_cli.assembly.length import RunLength
from dora_cli.assembly.look import look_at_data
from dora_cli.assembly.padding import tokens_of_epoch, tokens_of_evaluation
from dora_cli.assembly.resolve import resolve
from dora_cli.data.cuts import UNCUT
from dora_cli.data.parts import parts_by_class
from dora_cli.recipe import dump_recipe, parse_recipe


def test_counts_of_ones_own_files(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(
        "text,label\na good film and a bad film,yes\na good film and a bad film,no\na bad film,no\na bad film,no\n"
    )
    (tmp_path / "dev.csv").write_text("text,label\na bad film,no\nnew,yes\n,no\n")
    found = look_at_data(
        parse_recipe(
            f"""
            task: classification
            model: {{name: "builtin:tiny-encoder"}}
            data: {{source: files, path: {tmp_path}, max_length: 8}}
            method: {{name: lora}}
            """
        )
    )
    train, dev = found["splits"]["train"], found["splits"]["validation"]
    assert train["labels"] == {"no": 3, "yes": 1}
    assert dev["labels"] == {"no": 2, "yes": 1}
    assert train["baseline"]["accuracy"] == 0.75
    assert (train["duplicates"], train["contradictions"], train["empty"]) == (2, 1, 0)
    assert (dev["in_train"], dev["empty"], dev["duplicates"]) == (1, 1, 0)
    assert train["tokens"] == {"p50": 7, "p90": 9, "p95": 9, "p99": 9, "longest": 9}
    assert (train["cut"], dev["cut"]) == (2, 0)
    first = found["shown"][0]
    assert (first["texts"], first["label"]) == (["a good film and a bad film"], "yes")
    assert first["tokens"] == ["<s>", "a", "good", "film", "and", "a", "bad", "</s>"]


def test_the_clients_of_a_federated_recipe(tmp_path: Path) -> None:
    """Each with its part of the training split, counted by hand from the parts."""
    rows = [f"film {number},{'yes' if number % 3 else 'no'}" for number in range(30)]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    (tmp_path / "dev.csv").write_text("text,label\na bad film,no\nnew,yes\n")
    recipe = parse_recipe(
        f"""
        task: classification
        model: {{name: "builtin:tiny-encoder"}}
        data: {{source: files, path: {tmp_path}}}
        method: {{name: lora}}
        federated: {{clients: 4, split: dirichlet}}
        """
    )
    found = look_at_data(recipe)["clients"]
    parts = parts_by_class([0 if number % 3 == 0 else 1 for number in range(30)], 4, 0.3, seed=1)
    assert parts is not None
    assert found == [
        {
            "client": client + 1,
            "examples": len(part),
            "labels": {"no": sum(row % 3 == 0 for row in part), "yes": sum(row % 3 > 0 for row in part)},
        }
        for client, part in enumerate(parts)
    ]
    central = parse_recipe(dump_recipe(recipe), overrides=["federated=null"])
    assert look_at_data(central)["clients"] is None
    assert look_at_data(recipe)["splits"]["train"]["real"] is None  # batches are the clients'


def test_clients_with_numbers_for_labels(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\na,1\nb,2\nc,4\nd,5\n")
    (tmp_path / "dev.csv").write_text("text,label\ne,3\n")
    recipe = parse_recipe(
        f"""
        task: regression
        model: {{name: "builtin:tiny-encoder"}}
        data: {{source: files, path: {tmp_path}}}
        method: {{name: lora}}
        federated: {{clients: 2}}
        """
    )
    clients = look_at_data(recipe)["clients"]
    assert [client["examples"] for client in clients] == [2, 2]
    assert sum(client["labels"]["mean"] for client in clients) == 6  # twice 3, the mean of all
    assert {client["labels"]["least"] for client in clients} >= {1.0}


@pytest.mark.parametrize("model", ["tiny-decoder", "tiny-seq2seq"])
def test_a_generators_tokens_are_those_it_is_trained_on(model: str) -> None:
    """What is said to be cut at a length is what the encoding cuts."""
    recipe = parse_recipe(
        f"""
        task: e2e
        model: {{name: "builtin:{model}"}}
        data: {{source: builtin, max_train_samples: 40, max_eval_samples: 5, max_length: 62}}
        method: {{name: lora}}
        train: {{device: cpu}}
        """
    )
    found = look_at_data(recipe)
    recipe, task = resolve(recipe)
    base = task.head.outline(recipe.model.name, revision=None, trust_remote_code=False)
    encoded = task.encode(load_data(recipe, task).training, base.tokenizer, 62, task.layout(base))
    assert found["splits"]["train"]["cut"] == encoded.cut  # type: ignore[attr-defined]
    assert found["splits"]["train"]["baseline"] == {}
    assert ("decoder_tokens" in found["shown"][0]) is (model == "tiny-seq2seq")
    length = RunLength.of(recipe, len(encoded), 1)
    real = None if model == "tiny-seq2seq" else tokens_of_epoch(recipe, encoded.padded_to(1), length, 1, UNCUT).share
    assert found["splits"]["train"]["real"] == real
    assert found["splits"]["test"]["real"] is None  # decoded, never measured


@pytest.mark.parametrize("held_out", ["null", "0.2"])
def test_the_real_tokens_are_those_of_a_run(held_out: str) -> None:
    recipe, task = resolve(
        parse_recipe(
            f"""
            task: glue/sst2
            model: {{name: "builtin:tiny-encoder"}}
            data: {{source: builtin, max_train_samples: 90, max_eval_samples: 40, max_length: 10}}
            method: {{name: lora}}
            train: {{max_steps: 3, batch_size: 8, device: cpu}}
            eval: {{batch_size: 12, held_out: {held_out}}}
            """
        )
    )
    found = look_at_data(recipe)["splits"]
    base = task.head.outline(recipe.model.name, revision=None, trust_remote_code=False)
    data = load_data(recipe, task)
    splits = {name: task.encode(part, base.tokenizer, 10, None).padded_to(1) for name, part in data.by_split.items()}
    length = RunLength.of(recipe, len(data.training), 1)
    assert found["train"]["real"] == tokens_of_epoch(recipe, splits["train"], length, 1, UNCUT).share
    (evaluated,) = set(found) - {"train"}
    assert found[evaluated]["real"] == tokens_of_evaluation({evaluated: splits[evaluated]}, 12).share
    assert 0 < min(found["train"]["real"], found[evaluated]["real"]) < 1
