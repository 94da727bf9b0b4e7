"""Every recipe that comes with the project is ready to run: it loads, and its dry run needs neither weights nor a
network.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dora_cli.recipe import load_recipe
from dora_cli.recipe.methods import about
from dora_cli.recipe.shipped_recipes import EXPERIMENTS
from dora_cli.reports.dry_run import EMERGES
from dora_cli.tasks import get_task
from tests.commands.conftest import CONFIGS, dora

ALL = sorted(path for path in CONFIGS.rglob("*.y*ml") if path.parent.name != EXPERIMENTS)
ON_THE_HUB = [path for path in ALL if not load_recipe(path).model.name.startswith("builtin:")]


LORA_TARGETS = {
    ("*.query", "*.value"): (24, 24 * 2 * 768),  # of RoBERTa-base
    ("*.c_attn",): (24, 24 * (1024 + 3072)),  # of GPT-2 medium
}
"""Projections and parameters per unit of rank of the recipes whose targets are those of the LoRA paper."""


def name(path: Path) -> str:
    return str(path.relative_to(CONFIGS))


def words(text: str) -> list[tuple[str, ...]]:
    """The lines of `text` by their words: how wide a column is does not matter."""
    return [tuple(line.split()) for line in text.splitlines()]


@dataclass(frozen=True)
class Size:
    """A model's configuration in a folder, its projections, and their parameters per unit of rank."""

    folder: Path
    projections: int
    per_rank: int


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Size]:
    """By the name in the recipe: folders with a configuration of that model's size, and nothing else."""
    from transformers import BartConfig, GPT2Config, LlamaConfig, RobertaConfig

    bart = {"encoder_layers": 6, "decoder_layers": 6, "encoder_attention_heads": 12, "decoder_attention_heads": 12}
    llama = {"num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "tie_word_embeddings": True}
    found = {
        # 12 blocks x (query, key, value, attention.output: 768 + 768 each; intermediate and output: 768 + 3072 each)
        "FacebookAI/roberta-base": (RobertaConfig(max_position_embeddings=514), 72, 165_888),
        # blocks x (c_attn: width + 3 widths; c_proj: 2 widths; c_fc and c_proj: width + 4 widths each)
        "openai-community/gpt2": (GPT2Config(), 48, 12 * 768 * 16),
        "openai-community/gpt2-medium": (GPT2Config(n_embd=1024, n_layer=24, n_head=16), 96, 393_216),
        # encoder blocks: 4 attention maps, fc1, fc2; decoder blocks: 4 more for cross-attention
        "facebook/bart-base": (
            BartConfig(d_model=768, encoder_ffn_dim=3072, decoder_ffn_dim=3072, **bart),
            96,
            202_752,
        ),
        # q and o: 576 + 576; k and v: 576 + 192; gate, up and down: 576 + 1536
        "HuggingFaceTB/SmolLM2-135M": (
            LlamaConfig(hidden_size=576, intermediate_size=1536, vocab_size=49152, **llama),
            210,
            30 * (2 * 1152 + 2 * 768 + 3 * 2112),
        ),
    }
    sizes = {}
    for name, (config, projections, per_rank) in found.items():
        folder = tmp_path_factory.mktemp(name.rpartition("/")[2])
        config.save_pretrained(folder)
        assert [path.name for path in folder.iterdir()] == ["config.json"]
        sizes[name] = Size(folder, projections, per_rank)
    return sizes


def size_of(path: Path, sizes: dict[str, Size]) -> Size:
    """The size of the recipe's model and targets; for a built-in one, that of a model of its family."""
    recipe = load_recipe(path)
    if (targets := getattr(recipe.method, "targets", ())) in LORA_TARGETS:
        projections, per_rank = LORA_TARGETS[targets]
        return Size(sizes[recipe.model.name].folder, projections, per_rank)
    family = "facebook/bart-base" if get_task(recipe.task).decodes else "FacebookAI/roberta-base"
    return sizes.get(recipe.model.name, sizes[family])


def parameters_of(method: Any, size: Size) -> list[str]:
    """What is said of a method's size, without the margin."""
    if method.name == "bitfit":  # of a block: 4 of 768, 3,072 and 768, two norms; and the norm of the embeddings
        return [f"of the base  {12 * (4 * 768 + 3072 + 768 + 2 * 768) + 768:,} train"]
    if method.name == "full":  # the same and matrices, weights of norms, words, 514 positions and 2 types
        block = 4 * 769 * 768 + 769 * 3072 + 3073 * 768 + 4 * 768
        return [f"of the base  {(50_265 + 514 + 2 + 2) * 768 + 12 * block:,} train"]
    if method.name in ("houlsby", "pfeiffer"):
        places, (d, m) = {"houlsby": 24, "pfeiffer": 12}[method.name], (768, method.bottleneck)
        norms = 24 * 2 * d if method.train_norms else 0
        return [f"projections  {places}", f"adapter      {places * (2 * d * m + m + d) + norms:,}"]
    rank, per_rank, count = method.rank, size.per_rank, size.projections
    if method.name == "cora":  # half train; stored are as many bases as kinds of projections, too
        outputs = 2 * 768 if len(method.targets) == 2 and method.targets != ("attention", "ffn") else 5 * 768 + 3072
        read = per_rank // 2 * rank
        return [
            f"projections  {count}",
            f"adapter      {read + outputs * rank:,} stored, of which {read:,} train at once",
            f"components  {count * rank:,} in {count} projections",
        ]
    if method.name == "melora":
        return [
            f"projections  {count}",
            f"adapter      {per_rank * rank:,}",
            f"components  {count * rank * method.minis:,} in {count} projections",
        ]
    if method.name == "nora":
        inner, outer = count * 2 * rank * method.outer_rank, per_rank * method.outer_rank
        return [
            f"projections  {count}",
            f"adapter      {inner + outer:,} stored, of which {inner:,} train at once",
            f"components  {count * rank:,} in {count} projections",
        ]
    if about(method.name).ranks == "fixed":
        return [
            f"projections  {count}",
            f"adapter      {per_rank * rank:,}",
            f"components  {count * rank:,} in {count} projections",
        ]
    if method.name == "xgblora":  # of 12 blocks, or 3
        each = count * (method.layers or 4) // 12
        final, at_once = per_rank * rank, per_rank * (method.layers or 4) // 12
        return [
            f"projections  {count}",
            f"adapter      {final:,} stored, of which {at_once:,} train at once",
            f"components  {each:,} -> {count * rank:,} in {count} projections",
            f"boosters    {count * rank // each}, one after the other",
        ]
    if method.name == "cola":
        first, last = method.rank, method.rank * method.links
        return [
            f"projections  {count}",
            f"adapter      {per_rank * last:,} stored, of which {per_rank * first:,} train at once",
            f"components  {count * first:,} -> {count * last:,} in {count} projections",
        ]
    assert method.targets == ("attention", "ffn")
    sizes = [f"projections       {count}", f"per unit of rank  {per_rank:,}"]
    if method.name == "sora":
        ends = [f"adapter, final    {EMERGES}", f"components  {count * rank:,} -> {EMERGES} in {count} projections"]
        return [*sizes, f"adapter, start    {per_rank * rank:,}", *ends]
    start = method.start_rank or -(-3 * rank // 2)
    return [
        *sizes,
        f"adapter, start    {per_rank * start:,}",
        f"adapter, final    {per_rank * rank:,} if ",
        f"components  {count * start:,} -> {count * rank:,} in {count} projections",
    ]


@pytest.fixture(autouse=True)
def _no_network_and_empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    assert huggingface_hub.constants.HF_HUB_OFFLINE
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def test_there_are_recipes() -> None:
    assert {path.parent.name for path in ALL} >= {"demo", "e2e", "glue"}
    assert len(ON_THE_HUB) >= 9


@pytest.mark.parametrize("path", ALL, ids=name)
def test_every_recipe_dry_runs_on_a_model_of_which_only_the_configuration_is_there(
    path: Path, sizes: dict[str, Size], tmp_path: Path
) -> None:
    size = size_of(path, sizes)
    done = dora("train", path, "--dry-run", "--set", f"model.name={size.folder}")
    assert (done.code, done.err) == (0, "")
    assert list(tmp_path.iterdir()) == []
    lines = done.out.splitlines()
    for line in parameters_of(load_recipe(path).method, size):
        assert any(printed.startswith(f"  {line}") for printed in lines), line
    assert f"  output             runs/{path.parent.name}-{path.stem}\n" in done.out


KINDS = {
    (get_task(recipe.task).decodes, about(recipe.method.name).ranks): path
    for path in ON_THE_HUB
    for recipe in [load_recipe(path)]
}
"""A recipe of each kind of task and of what a method does with ranks."""


@pytest.mark.parametrize("path", KINDS.values(), ids=name)
def test_a_model_out_of_reach_costs_the_parameter_counts_alone(path: Path, sizes: dict[str, Size]) -> None:
    size = size_of(path, sizes)
    folder = size.folder
    known = dora("train", path, "--dry-run", "--set", f"model.name={folder}").out
    done = dora("train", path, "--dry-run")
    assert (done.code, done.err) == (0, "")
    model = load_recipe(path).model.name
    assert f"'{model}'" in done.out
    assert "configuration" in done.out
    assert f" {size.per_rank:,}\n" not in done.out
    lost = set(words(known.partition("\nParameters\n")[0].replace(str(folder), model))) - set(words(done.out))
    of_ranks = {"pruned": {"components", "events"}, "grown": {"components"}, "fixed": {"components"}, "none": set()}
    name = load_recipe(path).method.name
    # how many boosters there are, and with it the learning rate's schedule, follows from the blocks
    of_blocks = {"Schedule", "boosting", "boosters", "learning"} if name == "xgblora" else set()
    assert {line[0] for line in lost} == {"threads", "parts"} | of_blocks | of_ranks[about(name).ranks or "none"], (
        "all that does not depend on the model is still said"
    )


@pytest.mark.parametrize("path", [path for path in ALL if path not in ON_THE_HUB], ids=name)
def test_a_built_in_model_dry_runs_as_it_is(path: Path) -> None:
    done = dora("train", path, "--dry-run")
    assert (done.code, done.err) == (0, "")
    assert ("pruning" in done.out) == (load_recipe(path).method.name in ("dora", "adalora"))
    assert re.search(r"^  threads +1 \(auto: ", done.out, re.MULTILINE), "a tiny model takes one thread"


def test_a_number_of_threads_that_was_chosen_is_said() -> None:
    chosen = dora("train", CONFIGS / "demo" / "sst2.yaml", "--dry-run", "--set", "train.threads=7")
    assert re.search(r"^  threads +7 \(train\.threads\)$", chosen.out, re.MULTILINE)
