"""`dora data`: what it prints, and the same as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from tests.commands.conftest import Refuse, dora


def test_what_a_recipe_sees(recipe: Path) -> None:
    done = dora("data", recipe)
    assert (done.code, done.err) == (0, "")
    found = json.loads(dora("data", recipe, "--json").out)
    train = found["splits"]["train"]
    assert f"{train['examples']}" in done.out
    for name, count in train["labels"].items():
        assert f"{name}" in done.out
        assert f"{count} (" in done.out
    assert " ".join(found["shown"][0]["tokens"]) in done.out.replace("\n", " ")


def test_changes_count(recipe: Path) -> None:
    found = json.loads(dora("data", recipe, "--json", "--set", "data.max_train_samples=7").out)
    assert found["splits"]["train"]["examples"] == 7


def test_what_each_client_has(recipe: Path) -> None:
    """A line for each with the share of every class, and one for all; of many clients a few."""
    change = ("--set", "method={name: lora}", "--set", "federated={clients: 3, split: dirichlet}")
    found = json.loads(dora("data", recipe, *change, "--json").out)
    lines = [" ".join(line.split()) for line in dora("data", recipe, *change).out.splitlines()]
    start = lines.index("client examples negative positive")
    for line, client in zip(lines[start + 1 : start + 4], found["clients"], strict=True):
        count, labels = client["examples"], client["labels"]
        shares = [f"{labels[name]} ({labels[name] / count:.1%})" if labels[name] else "0" for name in labels]
        assert line == " ".join([str(client["client"]), str(count), *shares])
    assert lines[start + 4].startswith(f"all {found['splits']['train']['examples']} ")
    many = dora("data", recipe, "--set", "method={name: lora}", "--set", "federated.clients=40").out
    assert "and 10 clients more, with 2 examples each" in many  # 94 examples: 3 for the first 14, 2 for the others


def test_bad_input(recipe: Path, refuses: Refuse) -> None:
    refuses("data", recipe, "--set", "data={source: files, path: nowhere}", says=["data.path", "nowhere"])
    refuses("data", "nowhere.yaml", says=["nowhere.yaml"])
