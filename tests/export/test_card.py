"""The model card of a model from the hub; those of local models are executed elsewhere."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from markdown_it import MarkdownIt
from torch import nn

from dora_cli import load_recipe, parse_recipe
from dora_cli.export.card import Card, Written, merged_card, peft_card
from dora_cli.export.saved import export_saved
from dora_cli.methods.base import LoraFactors, Site
from dora_cli.tasks import get_task
from tests.export.conftest import GetRun


def projection(block: int, name: str) -> Site:
    return Site(f"layers.{block}.{name}", nn.Linear(2, 2), (2, 2), block=block, projection=name)


def written(ranks: dict[str, int]) -> Written:
    factors = {name: LoraFactors(torch.zeros(rank, 2), torch.zeros(2, rank)) for name, rank in ranks.items()}
    return Written("peft", "patterns", factors, "float32", "They agree.")


RECIPE = parse_recipe(
    "task: glue/mrpc\nmodel: {name: FacebookAI/roberta-base}\ndata: {source: glue-tsv, path: /home/someone/MRPC}\n"
)
CARD = Card(
    recipe=RECIPE,
    trained=RECIPE,
    task=get_task("glue/mrpc"),
    base="FacebookAI/roberta-base",
    revision="e2da8e2f811d1448a5b465c236feacd80ffbac7b",
    auto_class="AutoModelForSequenceClassification",
    pad_with_end=False,
    pad_token=None,
    layout=None,
    generation={},
    weights="epoch 3, step 120",
    metrics={"accuracy": 0.875, "f1": None},
    projections=[projection(0, "up"), projection(0, "down"), projection(1, "up")],
    written=written({"layers.0.up": 3, "layers.1.up": 12}),
)


def test_the_front_matter_is_what_the_hub_reads() -> None:
    front = yaml.safe_load(peft_card(CARD).split("---\n")[1])
    assert (front["library_name"], front["base_model"]) == ("peft", "FacebookAI/roberta-base")
    assert front["pipeline_tag"] == "text-classification"
    assert "datasets" not in front
    hub = replace(CARD, recipe=parse_recipe("task: glue/mrpc\nmodel: {name: FacebookAI/roberta-base}\n"))
    assert yaml.safe_load(merged_card(hub).split("---\n")[1])["datasets"] == ["nyu-mll/glue"]


def test_the_base_is_loaded_at_its_commit_with_labels_in_order() -> None:
    card = peft_card(CARD)
    commit = f'revision="{CARD.revision}"'
    tokenizer, base = card.split("tokenizer = ")[1].split("base = ")[0], card.split("base = ")[1].split("model = ")[0]
    assert commit in tokenizer
    assert commit in base
    assert "num_labels=2" in base
    assert "id2label={0: 'not_equivalent', 1: 'equivalent'}" in base


def test_ranks_stand_in_blocks_by_projections() -> None:
    lines = peft_card(CARD).splitlines()
    at = lines.index("| encoder block | up | down |")
    assert lines[at + 2 : at + 4] == ["| 0 | 3 | 0 |", "| 1 | 12 |  |"]
    assert "15 components in 2 of 3 projections" in " ".join(lines)
    assert lines[lines.index("| metric | value |") + 2 :][:2] == ["| accuracy | 0.8750 |", "| f1 | - |"]


def test_the_method_of_the_run_is_told() -> None:
    for method, says, tags in (
        ("dora", "Mao et al., ACL 2024", ["dynamic-low-rank-adaptation"]),
        ("lora", "Hu et al., ICLR 2022", ["lora"]),
    ):
        recipe = parse_recipe(f"task: glue/mrpc\nmodel: {{name: a/b}}\nmethod: {{name: {method}}}\n")
        card = merged_card(replace(CARD, recipe=recipe, trained=recipe))
        assert says in card
        assert ("use_dora" in card) == (method == "dora")
        assert yaml.safe_load(card.split("---\n")[1])["tags"] == [*tags, "glue/mrpc"]
    recipe = parse_recipe("task: glue/mrpc\nmodel: {name: a/b}\nmethod: {name: head}\n")
    card = merged_card(replace(CARD, recipe=recipe, trained=recipe, projections=[], written=written({})))
    assert "head alone" in card
    assert "adapters" not in card
    assert "## Ranks" not in card


@pytest.mark.parametrize(
    ("aggregation", "paper"), [("lora-fair", "2411.14961"), ("average", "2305.05644"), ("exact", "2402.11505")]
)
def test_clients_are_told(aggregation: str, paper: str) -> None:
    text = "task: glue/mrpc\nmodel: {name: a/b}\nmethod: {name: lora}\n"
    recipe = parse_recipe(f"{text}federated: {{clients: 3, rounds: 1, aggregation: {aggregation}}}")
    for make in (merged_card, peft_card):
        card = make(replace(CARD, recipe=recipe, trained=recipe))
        assert re.search(r"\b3 clients\b.*\b1 round of 50 steps\b", card)
        assert f"https://arxiv.org/abs/{paper}" in card
        assert paper not in make(CARD)


def test_what_vllm_must_be_told_is_one_of_its_own_ranks() -> None:
    for rank, bound in ((1, "1"), (9, "16"), (65, "128"), (512, "512"), (513, None)):
        card = peft_card(replace(CARD, written=written({"layers.0.up": rank})))
        assert (f"`max_lora_rank` of {bound} or more" in card) == (bound is not None)
        assert ("max_lora_rank" in card) == (bound is not None)


EVIL = "x\n\n# h <b>b <!-- | `c` ``` [l](http://l) www.l.com &amp; \u202e\x1b[2J"


@pytest.mark.parametrize("make", [peft_card, merged_card])
def test_names_by_strangers_are_text_and_nothing_else(make: Callable[[Card], str]) -> None:
    """Read as a Markdown reader reads it: the same headings, code and tables as of ordinary names, and no link or HTML
    of theirs.
    """
    recipe = RECIPE.model_copy(
        update={
            "model": RECIPE.model.model_copy(update={"name": f"builtin:{EVIL}"}),
            "data": RECIPE.data.model_copy(update={"path": "a\n```\n\n# h\n"}),
        }
    )
    evil = replace(
        CARD, recipe=recipe, trained=recipe, base="/models/" + EVIL.replace("/", ""), revision=EVIL,
        metrics={EVIL: 0.5, "f1": None},
        projections=[projection(0, EVIL), projection(0, "down"), projection(1, EVIL)],
        written=written({f"layers.0.{EVIL}": 3, f"layers.1.{EVIL}": 12}),
    )  # fmt: skip
    plain = replace(evil, base="/models/mine", revision="main", recipe=RECIPE, trained=RECIPE, metrics=CARD.metrics,
                    projections=CARD.projections, written=CARD.written)  # fmt: skip
    page = make(evil)
    assert page.replace("\n", "").isprintable()
    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    blocks, expected = (reader.parse(text.partition("---\n\n")[2]) for text in (page, make(plain)))
    assert [token.type for token in blocks] == [token.type for token in expected]
    found = [child.type for block in blocks for child in block.children or ()]
    wanted = [child.type for block in expected for child in block.children or ()]
    assert found.count("link_open") == wanted.count("link_open")
    assert "html_inline" not in found
    assert any(
        "".join(child.content for child in block.children or ()).startswith(r"x\n\n# h <b>b") for block in blocks
    )
    for block in blocks:
        if block.type == "fence" and block.info == "python":
            compile(block.content, "card", "exec")


def test_a_card_tells_nobody_where_things_lay(tmp_path: Path) -> None:
    model = tmp_path / "mine"
    model.mkdir()
    recipe = parse_recipe(
        f"task: glue/mrpc\nmodel: {{name: {model}}}\ndata: {{source: glue-tsv, path: /home/someone/MRPC}}\n"
    )
    card = merged_card(replace(CARD, recipe=recipe, trained=recipe, base=str(model)))
    assert "/home/someone" not in card
    assert str(tmp_path) not in card
    assert "base_model" not in card
    assert "name: mine" in card
    model.rmdir()  # and of what is no longer there
    assert str(tmp_path) not in merged_card(replace(CARD, trained=recipe))


def test_the_recipe_is_the_runs_own_not_that_of_the_export(run_of: GetRun, tmp_path: Path) -> None:
    """An export computes on the CPU in the base model's precision, from wherever the base model is now; the run did
    not.
    """
    run = run_of("bert, regression", "train.precision=fp32")
    moved = tmp_path / "moved"
    shutil.copytree(load_recipe(run / "recipe.yaml").model.name, moved)
    for kind in ("peft", "merged"):
        export_saved(run, tmp_path / kind, format=kind, overrides=[f"model.name={moved}", "train.precision=auto"])
        shown = (tmp_path / kind / "README.md").read_text().split("## Recipe")[1].split("```yaml")[1].split("```")[0]
        stored = load_recipe(run / "recipe.yaml")
        assert parse_recipe(shown).train == stored.train
        assert parse_recipe(shown).model.name == Path(stored.model.name).name
