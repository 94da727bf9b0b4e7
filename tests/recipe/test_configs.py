"""The recipes people run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from dora_cli.methods import Adalora
from dora_cli.methods.sora import SoraSchedule
from dora_cli.recipe import dump_recipe, load_recipe, parse_recipe
from dora_cli.recipe.methods import arguments
from dora_cli.recipe.shipped_recipes import EXPERIMENTS
from dora_cli.tasks import get_task

CONFIGS = Path(__file__).parents[2] / "configs"
ALL = sorted(path for path in CONFIGS.rglob("*.y*ml") if path.parent.name != EXPERIMENTS)
GLUE = CONFIGS / "glue"

# Table 8 of the paper (Mao et al. 2024): learning rate, batch, epochs, eta, pruning interval. WNLI is not in it; ours
# are RTE's.
TABLE_8 = {
    "rte": (2e-3, 16, 80, 0.5, 10),
    "mrpc": (2.5e-3, 16, 30, 0.3, 50),
    "stsb": (3e-3, 16, 45, 0.3, 10),
    "cola": (2e-3, 16, 45, 0.3, 10),
    "sst2": (8e-4, 64, 60, 0.5, 10),
    "qnli": (3.5e-3, 16, 12, 0.5, 50),
    "qqp": (1e-3, 16, 10, 0.3, 50),
    "mnli": (3e-3, 32, 10, 0.3, 50),
}
SETTINGS = {**TABLE_8, "wnli": TABLE_8["rte"]}


# Table 9 of the LoRA paper (Hu et al. 2021), RoBERTa-base: learning rate, batch, epochs.
LORA_TABLE_9 = {
    "mnli": (5e-4, 16, 30),
    "sst2": (5e-4, 16, 60),
    "mrpc": (4e-4, 16, 30),
    "cola": (4e-4, 32, 80),
    "qnli": (4e-4, 32, 25),
    "qqp": (5e-4, 16, 25),
    "rte": (5e-4, 32, 80),
    "stsb": (4e-4, 16, 40),
}

# Table 8 of the AdaLoRA paper (Zhang et al. 2023), DeBERTaV3-base: learning rate, epochs, gamma, t_i, Delta_T, t_f in
# steps; the batch is 32 everywhere. Behind it from the authors' scripts: length, alpha, warm-up of the learning rate in
# steps (MRPC: a tenth), weight decay.
ADALORA_TABLE_8 = {
    "mnli": (5e-4, 7, 0.1, 8000, 100, 50000, 256, 16, 1000, 0.0),
    "rte": (1.2e-3, 50, 0.3, 600, 1, 1800, 320, 32, 200, 0.01),
    "qnli": (1.2e-3, 5, 0.1, 2000, 100, 8000, 512, 32, 500, 0.01),
    "mrpc": (1e-3, 30, 0.1, 600, 1, 1800, 320, 32, None, 0.01),
    "qqp": (5e-4, 5, 0.1, 8000, 100, 25000, 320, 16, 2000, 0.01),
    "sst2": (8e-4, 24, 0.1, 6000, 100, 22000, 128, 16, 1000, 0.01),
    "cola": (5e-4, 25, 0.5, 800, 10, 3500, 64, 32, 100, 0.0),
    "stsb": (2.2e-3, 25, 0.1, 800, 10, 2000, 128, 32, 100, 0.1),
}


# SoRA's scripts (github.com/TsinghuaC3I/SoRA) for DeBERTaV3-base on MNLI: learning rate, batch, epochs, weight decay,
# clipping, warm-up, length. Nothing is published for RTE.
IN_PLACE = {
    "full": (5e-5, 80, 10, 0.1, 0.1, 0.06, 256),
    "bitfit": (8e-4, 100, 10, 0.1, 0.1, 0.06, 256),
}


# Bottleneck adapters: model, bottleneck, learning rate, batch, epochs, weight decay, warm-up, clipping, norms train.
# MRPC is the example of Houlsby et al.'s code, MNLI a script of the LoRA paper's, CoLA one of the SoRA paper's; RTE is
# ours.
ADAPTERS = {
    "houlsby": {
        "mnli": ("FacebookAI/roberta-large", 8, 3e-4, 32, 5, 0.0, 0.1, 1.0, False),
        "mrpc": ("google-bert/bert-base-uncased", 64, 3e-4, 32, 5, 0.01, 0.1, 1.0, True),
        "cola": ("microsoft/deberta-v3-base", 16, 8e-4, 8, 20, 0.1, 0.06, 0.1, True),
        "rte": ("FacebookAI/roberta-base", 32, 5e-4, 32, 40, 0.01, 0.06, 1.0, False),
    },
    "pfeiffer": {
        "mnli": ("FacebookAI/roberta-large", 16, 3e-4, 32, 5, 0.0, 0.1, 1.0, False),
        "rte": ("FacebookAI/roberta-base", 64, 5e-4, 32, 40, 0.01, 0.06, 1.0, False),
    },
}


# The published scripts of SoRA (Ding et al. 2023), DeBERTaV3-base: learning rate, batch, epochs, length, weight of the
# penalty, first and last threshold.
SORA_SCRIPTS = {
    "rte": (1.2e-3, 32, 50 + 6 * 15, 320, 0.001, 0.0, 7e-4),
    "stsb": (8e-4, 8, 20, 128, 10.0, 3e-4, None),
}


# The published scripts of MELoRA (Ren et al. 2024), RoBERTa-base: learning rate, batch, epochs, length.
MELORA_SCRIPTS = {
    "mnli": (5e-4, 128, 30, 256),
    "sst2": (5e-4, 128, 60, 256),
    "mrpc": (4e-4, 128, 30, 256),
    "cola": (4e-4, 64, 8, 256),
    "qnli": (4e-4, 128, 25, 256),
    "qqp": (4e-4, 128, 25, 256),
    "rte": (4e-4, 128, 80, 512),
    "stsb": (4e-4, 128, 40, 256),
}


def commands(path):
    """The command lines a recipe shows in its opening comment."""
    return [shlex.split(line[1:]) for line in path.read_text().splitlines() if re.match(r"#\s+dora ", line)]


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_every_recipe_loads_and_is_written_back(path):
    recipe = load_recipe(path)
    assert parse_recipe(dump_recipe(recipe)) == recipe


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_the_commands_shown_name_the_file_and_their_overrides_load(path):
    shown = [words for words in commands(path) if words[1] == "train"]
    assert shown, "an opening line shows how to run the recipe"
    for words in shown:
        assert words[:3] == ["dora", "train", str(path.relative_to(CONFIGS.parent))]
        load_recipe(path, [words[i + 1] for i, word in enumerate(words) if word == "--set"])


def test_glue_is_whole():
    assert {path.stem for path in GLUE.glob("*.yaml")} == set(SETTINGS)
    assert {path.stem for path in (GLUE / "lora").iterdir()} == set(LORA_TABLE_9)
    assert {path.stem for path in (GLUE / "adalora").iterdir()} == set(ADALORA_TABLE_8)
    for method in IN_PLACE:
        assert {path.stem for path in (GLUE / method).iterdir()} == {"mnli", "rte"}
    for method, settings in ADAPTERS.items():
        assert {path.stem for path in (GLUE / method).iterdir()} == set(settings)
    assert {path.stem for path in (GLUE / "sora").iterdir()} == set(SORA_SCRIPTS)
    assert {path.stem for path in (GLUE / "melora").iterdir()} == set(MELORA_SCRIPTS)
    assert {path.stem for path in (GLUE / "federated").iterdir()} == {"cola", "sst2"}
    for method in ("cola", "cora", "flat-lora", "nora", "xgblora"):
        assert {path.stem for path in (GLUE / method).iterdir()} == {"rte"}


@pytest.mark.parametrize("name", SETTINGS)
def test_glue_has_the_published_settings(name):
    recipe = load_recipe(GLUE / f"{name}.yaml")
    train, method = recipe.train, recipe.method
    assert recipe.task == f"glue/{name}"
    assert (train.learning_rate, train.batch_size, train.epochs, method.dem_weight, method.prune_interval) == SETTINGS[
        name
    ]
    assert (recipe.model.name, recipe.model.dtype) == ("FacebookAI/roberta-base", "float32")
    assert (recipe.data.source, recipe.data.max_length, recipe.data.group_by_length) == ("hub", 128, False)
    assert (method.name, method.rank, method.start_rank, method.alpha, method.dropout) == ("dora", 8, None, 8.0, 0.1)
    assert (method.ema_beta, method.warmup_fraction, method.final_fraction) == (0.9, 0.15, 0.5)
    assert (method.curve, method.dem_scale, method.dem_until) == ("published", "published", "freeze")
    assert (train.weight_decay, train.adam_betas, train.adam_eps) == (0.01, (0.9, 0.999), 1e-8)
    assert (train.lr_warmup_fraction, train.max_grad_norm, train.gradient_accumulation) == (0.06, 1.0, 1)
    assert (train.precision, recipe.eval.select) == ("fp32", "best-after-freeze")


@pytest.mark.parametrize("name", SETTINGS)
def test_glue_names_the_source_of_every_value(name):
    text = (GLUE / f"{name}.yaml").read_text()
    body = [line for line in text.splitlines() if re.match(r"  \w", line)]
    for line in body:
        if line.split() != ["name:", "dora"]:
            assert re.search(r"# (paper|code|ours|Table 8)\b", line), line
    # The five values that differ between tasks are the paper's everywhere but for WNLI, which the paper does not have.
    for key in ("learning_rate", "batch_size", "epochs", "dem_weight", "prune_interval"):
        (line,) = [line for line in body if line.startswith(f"  {key}:") and "speed" not in line]
        assert ("# ours" if name == "wnli" else "# Table 8") in line


@pytest.mark.parametrize("name", SETTINGS)
def test_the_small_budget_is_one_override(name):
    small = commands(GLUE / f"{name}.yaml")[1]
    assert [word for word in small if word.startswith("method.")] == ["method.rank=2"]
    method = load_recipe(GLUE / f"{name}.yaml", ["method.rank=2"]).method
    assert (method.rank, method.start_rank, method.alpha) == (2, None, 8.0)  # null: ceil(1.5 * 2) = 3


@pytest.mark.parametrize("name", LORA_TABLE_9)
def test_lora_on_glue_has_the_published_settings(name):
    path = GLUE / "lora" / f"{name}.yaml"
    recipe = load_recipe(path)
    train, method = recipe.train, recipe.method
    assert (recipe.task, recipe.model.name) == (f"glue/{name}", "FacebookAI/roberta-base")
    assert (train.learning_rate, train.batch_size, train.epochs) == LORA_TABLE_9[name]
    assert (train.weight_decay, train.lr_warmup_fraction, recipe.data.max_length) == (0.1, 0.06, 512)
    assert (method.name, method.rank, method.alpha, method.targets) == ("lora", 8, 8.0, ("*.query", "*.value"))
    text = path.read_text()
    assert ("starts this task from the LoRA weights" in text) == (name in ("mrpc", "rte", "stsb"))
    for line in text.splitlines():
        if re.match(r"  \w", line) and line.split() != ["name:", "lora"]:
            assert re.search(r"# (paper|code|ours|Table 9)\b", line), line


@pytest.mark.parametrize("name", ADALORA_TABLE_8)
def test_adalora_on_glue_has_the_published_settings(name):
    rate, epochs, gamma, t_i, interval, t_f, length, alpha, lr_warmup, decay = ADALORA_TABLE_8[name]
    path = GLUE / "adalora" / f"{name}.yaml"
    recipe = load_recipe(path)
    train, method = recipe.train, recipe.method
    assert (recipe.task, recipe.model.name) == (f"glue/{name}", "microsoft/deberta-v3-base")
    assert (train.learning_rate, train.batch_size, train.epochs) == (rate, 32, epochs)
    assert (train.weight_decay, train.lr_warmup_steps, recipe.data.max_length) == (decay, lr_warmup, length)
    assert train.lr_warmup_fraction == 0.1 or lr_warmup is not None
    assert (method.name, method.rank, method.start_rank, method.alpha, method.dropout) == ("adalora", 8, None, alpha, 0)
    assert (method.orthogonality_weight, method.prune_interval) == (gamma, interval)
    assert (method.sensitivity_beta, method.uncertainty_beta) == (0.85, 0.85)
    # the shares of the steps are those that give the published numbers of steps, to the step
    size = get_task(recipe.task).splits["train"]
    plan = Adalora(**arguments(method)).plan(-(-size // 32) * epochs, [None] * 72)
    assert (plan.warmup_steps, plan.total_steps - plan.freeze_step) == (t_i, t_f)
    assert (plan.start_components, plan.final_components) == (864, 576)
    for line in path.read_text().splitlines():
        if re.match(r"  \w", line):
            assert re.search(r"# (paper|code|ours|Table 8)\b", line), line


@pytest.mark.parametrize("name", IN_PLACE)
def test_methods_that_train_the_base_have_the_published_settings_on_mnli_and_ours_on_rte(name):
    recipe = load_recipe(GLUE / name / "mnli.yaml")
    train, data = recipe.train, recipe.data
    assert (recipe.task, recipe.model.name, recipe.method.name) == ("glue/mnli", "microsoft/deberta-v3-base", name)
    assert (
        train.learning_rate, train.batch_size, train.epochs, train.weight_decay, train.max_grad_norm,
        train.lr_warmup_fraction, data.max_length,
    ) == IN_PLACE[name]  # fmt: skip
    for task, sources in (("mnli", "code|ours"), ("rte", "ours")):
        for line in (GLUE / name / f"{task}.yaml").read_text().splitlines():
            if re.match(r"  \w", line) and line.split() != ["name:", name]:
                assert re.search(rf"# ({sources})\b", line), line


@pytest.mark.parametrize(("method", "name"), [(method, name) for method in ADAPTERS for name in ADAPTERS[method]])
def test_adapters_on_glue_have_the_published_settings(method, name):
    path = GLUE / method / f"{name}.yaml"
    recipe = load_recipe(path)
    train, own = recipe.train, recipe.method
    assert (recipe.task, own.name, recipe.data.max_length) == (f"glue/{name}", method, 128)
    assert (
        recipe.model.name, own.bottleneck, train.learning_rate, train.batch_size, train.epochs, train.weight_decay,
        train.lr_warmup_fraction, train.max_grad_norm, own.train_norms,
    ) == ADAPTERS[method][name]  # fmt: skip
    assert own.targets == (("attention", "ffn") if method == "houlsby" else ("ffn",))
    assert own.activation == ("gelu" if method == "houlsby" else "relu")
    assert train.adam_eps == (1e-6 if name == "mrpc" else 1e-8)
    for line in path.read_text().splitlines():
        if re.match(r"  \w", line) and line.split() != ["name:", method]:
            assert re.search(r"# ours\b" if name == "rte" else r"# (code|ours)\b", line), line


@pytest.mark.parametrize("name", SORA_SCRIPTS)
def test_sora_on_glue_has_the_published_settings(name):
    path = GLUE / "sora" / f"{name}.yaml"
    recipe = load_recipe(path)
    train, method = recipe.train, recipe.method
    assert (recipe.task, recipe.model.name) == (f"glue/{name}", "microsoft/deberta-v3-base")
    assert (
        *(train.learning_rate, train.batch_size, train.epochs, recipe.data.max_length),
        *(method.gate_penalty, method.gate_threshold, method.max_gate_threshold),
    ) == SORA_SCRIPTS[name]
    assert (train.weight_decay, train.lr_warmup_fraction, train.max_grad_norm) == (0.1, 0.06, 0.1)
    assert (method.name, method.rank, method.alpha, method.threshold) == ("sora", 8, 16.0, "official")
    assert (method.targets, method.gate_learning_rate_ratio) == (("attention", "ffn"), 1.0)
    for line in path.read_text().splitlines():
        if re.match(r"  \w", line) and line.split() != ["name:", "sora"]:
            assert re.search(r"# (code|ours)\b", line), line


def test_sora_s_stages_on_rte_are_those_of_the_script():
    """50 epochs and six times 15, of 78 steps."""
    recipe = load_recipe(GLUE / "sora" / "rte.yaml")
    method = recipe.method
    steps = -(-2490 // recipe.train.batch_size)
    schedule = SoraSchedule.plan(
        total_steps=steps * recipe.train.epochs,
        projections=72,
        rank=method.rank,
        threshold=method.gate_threshold,
        max_threshold=method.max_gate_threshold,
        stages=method.threshold_stages,
        first_fraction=method.first_stage_fraction,
    )
    assert schedule.ends == tuple(steps * epochs for epochs in (50, 65, 80, 95, 110, 125, 140))


@pytest.mark.parametrize("name", MELORA_SCRIPTS)
def test_melora_on_glue_has_the_published_settings(name):
    path = GLUE / "melora" / f"{name}.yaml"
    recipe = load_recipe(path)
    train, method = recipe.train, recipe.method
    assert (recipe.task, recipe.model.name) == (f"glue/{name}", "FacebookAI/roberta-base")
    found = (train.learning_rate, train.batch_size, train.epochs, recipe.data.max_length)
    assert found == MELORA_SCRIPTS[name]
    assert (train.weight_decay, train.lr_warmup_fraction) == (0.1, 0.06)
    assert (method.name, method.rank, method.minis, method.alpha, method.dropout) == ("melora", 8, 2, 16.0, 0.05)
    assert method.targets == ("*.query", "*.value")
    steps = -(-get_task(recipe.task).splits["train"] // train.batch_size) * train.epochs
    text = path.read_text()
    assert f" {steps:,} optimiser steps" in text
    for line in text.splitlines():
        if re.match(r"  \w", line) and line.split() != ["name:", "melora"]:
            assert re.search(r"# (code|ours)\b", line), line


def test_a_chain_on_rte_is_ours_and_each_link_is_lora_s():
    path = GLUE / "cola" / "rte.yaml"
    recipe, lora = load_recipe(path), load_recipe(GLUE / "lora" / "rte.yaml")
    method, alone = recipe.method, lora.method
    assert (method.name, method.links, method.ranks, method.restart_learning_rate) == ("cola", 3, None, True)
    assert (method.rank, method.alpha, method.dropout, method.targets) == (
        alone.rank, alone.alpha, alone.dropout, alone.targets,
    )  # fmt: skip
    assert recipe.train == lora.train.model_copy(update={"epochs": 90})
    assert (recipe.task, recipe.model, recipe.data) == (lora.task, lora.model, lora.data)
    assert recipe.eval.select == "best-after-freeze"
    for line in path.read_text().splitlines():
        if re.match(r"  \w", line) and line.split() != ["name:", "cola"]:
            assert re.search(r"# ours\b", line), line


def test_cora_on_rte_says_that_every_value_is_ours():
    path = GLUE / "cora" / "rte.yaml"
    recipe, lora = load_recipe(path), load_recipe(GLUE / "lora" / "rte.yaml")
    assert (recipe.task, recipe.model, recipe.data, recipe.train) == (lora.task, lora.model, lora.data, lora.train)
    assert (recipe.method.name, recipe.method.rank, recipe.method.targets) == ("cora", 8, ("*.query", "*.value"))
    for line in path.read_text().splitlines():
        if re.match(r"  \w", line) and line.split() != ["name:", "cora"]:
            assert re.search(r"# ours\b", line), line


def test_nora_on_rte_is_ours_and_trained_as_lora_is():
    path = GLUE / "nora" / "rte.yaml"
    recipe, lora = load_recipe(path), load_recipe(GLUE / "lora" / "rte.yaml")
    method, alone = recipe.method, lora.method
    assert (method.name, method.outer_rank, method.outer, method.singular_values) == ("nora", 64, "plain", "output")
    assert (method.rank, method.alpha, method.dropout, method.stored) == (alone.rank, alone.alpha, alone.dropout, True)
    assert recipe.train == lora.train.model_copy(update={"learning_rate": 1.5e-3})
    assert (recipe.task, recipe.model, recipe.data, recipe.eval) == (lora.task, lora.model, lora.data, lora.eval)
    for line in path.read_text().splitlines():
        if re.match(r"  \w", line) and line.split() != ["name:", "nora"]:
            assert re.search(r"# ours\b", line), line


def test_lora_pro_on_rte_has_the_code_s_settings():
    path = GLUE / "lora-pro" / "rte.yaml"
    recipe, lora = load_recipe(path), load_recipe(GLUE / "lora" / "rte.yaml")
    method, train = recipe.method, recipe.train
    assert (method.name, method.rank, method.alpha, method.dropout) == ("lora-pro", 8, 16.0, 0.0)
    assert (method.moments, method.damping, method.targets) == ("full", 1e-8, lora.method.targets)
    theirs = {"learning_rate": 2e-5, "weight_decay": 0.0, "lr_warmup_fraction": 0.03}
    assert train == lora.train.model_copy(update=theirs)
    assert (recipe.task, recipe.model, recipe.data, recipe.eval) == (lora.task, lora.model, lora.data, lora.eval)
    for line in path.read_text().splitlines():
        if re.match(r"  \w", line) and line.split() != ["name:", "lora-pro"]:
            assert re.search(r"# (code|ours)\b", line), line


def test_boosters_on_rte_have_lora_s_budget_and_steps():
    path = GLUE / "xgblora" / "rte.yaml"
    recipe, lora = load_recipe(path), load_recipe(GLUE / "lora" / "rte.yaml")
    method, alone = recipe.method, lora.method
    assert (method.name, method.layers, method.step_size, method.norm_penalty) == ("xgblora", 4, 1.0, 1e-4)
    assert (method.rank, method.alpha, method.dropout, method.targets) == (
        alone.rank, alone.alpha / alone.rank, alone.dropout, alone.targets,
    )  # fmt: skip
    assert method.restart_learning_rate
    assert (recipe.task, recipe.model, recipe.data, recipe.train) == (lora.task, lora.model, lora.data, lora.train)
    assert recipe.eval.select == "last"
    for line in path.read_text().splitlines():
        if re.match(r"  \w", line) and line.split() != ["name:", "xgblora"]:
            assert re.search(r"# (paper|ours)\b", line), line


def test_flat_lora_on_rte_has_published_values_where_lora_s_are_not_kept():
    path = GLUE / "flat-lora" / "rte.yaml"
    recipe, lora = load_recipe(path), load_recipe(GLUE / "lora" / "rte.yaml")
    method, alone = recipe.method, lora.method
    assert (method.name, method.rank, method.alpha, method.flatness) == ("flat-lora", 8, 16.0, 0.05)
    assert recipe.train.learning_rate == 5e-4
    assert (method.dropout, method.targets) == (alone.dropout, alone.targets)
    assert (recipe.task, recipe.model, recipe.data, recipe.train) == (lora.task, lora.model, lora.data, lora.train)
    for line in path.read_text().splitlines():
        if re.match(r"  \w", line) and line.split() != ["name:", "flat-lora"]:
            source = "paper" if re.match(r"  (rank|alpha|flatness|learning_rate):", line) else "ours"
            assert f"# {source}" in line, line


@pytest.mark.parametrize("name", ["cola", "sst2"])
def test_federated_recipes_train_as_lora_s_do_and_say_what_is_ours(name):
    path = GLUE / "federated" / f"{name}.yaml"
    recipe, lora = load_recipe(path), load_recipe(GLUE / "lora" / f"{name}.yaml")
    section = recipe.federated
    assert (section.clients, section.rounds, section.split, section.aggregation) == (8, 10, "iid", "lora-fair")
    assert (section.participation, section.residual) == (1.0, None)
    assert (recipe.task, recipe.model, recipe.method, recipe.eval) == (lora.task, lora.model, lora.method, lora.eval)
    assert recipe.train == lora.train.model_copy(update={"epochs": recipe.train.epochs})
    examples = get_task(recipe.task).splits["train"] / section.clients
    passes = section.local_steps * recipe.train.batch_size / examples
    assert round(passes, 2) == {"cola": 1.5, "sst2": 0.95}[name]
    text = path.read_text()
    assert f"some {examples:,.0f} for each client; {section.steps:,} optimiser steps of a client" in text
    assert f"{section.steps * section.clients:,} of all together" in text
    for line in text.splitlines():
        if re.match(r"  \w", line) and line.split() != ["name:", "lora"]:
            assert re.search(r"# (ours|Table 9)\b", line), line


def test_lora_on_e2e_has_the_published_settings():
    recipe = load_recipe(CONFIGS / "e2e" / "gpt2-medium-lora.yaml")
    train, method, decode = recipe.train, recipe.method, recipe.decode
    assert (method.name, method.rank, method.alpha, method.dropout) == ("lora", 4, 32.0, 0.1)
    assert (train.epochs, train.batch_size, train.learning_rate, train.weight_decay) == (5, 8, 2e-4, 0.01)
    assert (train.adam_betas, train.adam_eps, train.lr_warmup_steps) == ((0.9, 0.999), 1e-6, 500)
    assert (train.max_grad_norm, train.label_smoothing, train.seed) == (None, 0.1, 110)
    assert (decode.beams, decode.length_penalty, decode.max_new_tokens, decode.no_repeat_ngram) == (10, 0.8, 64, 4)
