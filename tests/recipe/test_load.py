"""Reading recipes: defaults, overrides, and one message with every problem."""

from __future__ import annotations

import os
import re

import pydantic
import pytest

from dora_cli.errors import RecipeError
from dora_cli.recipe import DoraMethod, HeadMethod, LoraMethod, Recipe, load_recipe, parse_recipe
from dora_cli.recipe import load as load_module

BASE = "task: glue/rte\nmodel: {name: some/model}\n"


def problems_of(text, *overrides):
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "r.yaml", overrides)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def only_problem(text, *overrides):
    (problem,) = problems_of(text, *overrides)
    return problem


# Defaults and types


def test_defaults():
    recipe = parse_recipe(BASE)
    assert recipe.task == "glue/rte"
    assert recipe.model.model_dump() == {
        "name": "some/model",
        "revision": None,
        "dtype": "float32",
        "trust_remote_code": False,
    }
    assert recipe.data.model_dump() == {
        "source": "hub",
        "name": None,
        "config": None,
        "path": None,
        "columns": None,
        "labels": None,
        "scale": None,
        "validation": None,
        "invalid": "error",
        "separator": None,
        "max_train_samples": None,
        "max_eval_samples": None,
        "max_length": 128,
        "group_by_length": False,
    }
    assert recipe.method.model_dump() == {
        "name": "dora",
        "preset": "published",
        "rank": 8,
        "start_rank": None,
        "min_rank": 0,
        "max_rank": None,
        "budget": "components",
        "start": "published",
        "calibration_examples": 256,
        "gates": "trained",
        "learning_rate_ratio": 1.0,
        "gate_rate": 1.0,
        "alpha": 8.0,
        "scaling": "start",
        "dropout": 0.1,
        "gradients": "plain",
        "damping": None,
        "targets": ("attention", "ffn"),
        "score": "published",
        "ema_beta": 0.9,
        "rotate": "none",
        "refit": False,
        "warmup_fraction": 0.15,
        "final_fraction": 0.5,
        "events": None,
        "prune_interval": 10,
        "curve": "published",
        "guard": False,
        "dem_weight": 0.5,
        "dem_scale": "published",
        "dem_until": "freeze",
        "compact": True,
        "flatness": 0.0,
        "step_bound": None,
    }
    assert recipe.train.model_dump() == {
        "epochs": 80,
        "max_steps": None,
        "batch_size": 16,
        "batch_parts": "auto",
        "gradient_accumulation": 1,
        "learning_rate": 0.002,
        "weight_decay": 0.01,
        "adam_betas": (0.9, 0.999),
        "adam_eps": 1e-8,
        "lr_warmup_fraction": 0.06,
        "lr_warmup_steps": None,
        "max_grad_norm": 1.0,
        "label_smoothing": 0.0,
        "average_last": 0.0,
        "precision": "auto",
        "device": "auto",
        "threads": "auto",
        "deterministic": False,
        "cuda_graph": "auto",
        "fuse": "auto",
        "pack": "auto",
        "skip_nonfinite": 0,
        "log_every": 50,
        "log_with": None,
        "seed": 1,
    }
    assert recipe.eval.model_dump() == {
        "batch_size": 64, "select": "best-after-freeze", "metric": None, "every": "epoch", "held_out": None,
        "held_out_by": None,
    }  # fmt: skip
    assert recipe.save.model_dump() == {"every_steps": None, "every_minutes": None, "every_epoch": True, "keep": 2}
    assert recipe.decode is None
    assert parse_recipe(BASE + "decode: {}").decode.model_dump() == {
        "split": None,
        "beams": 10,
        "length_penalty": 0.8,
        "max_new_tokens": 64,
        "no_repeat_ngram": 4,
        "batch_size": 16,
        "epoch_samples": 64,
    }
    assert recipe.federated is None
    assert parse_recipe(BASE + "method: {name: lora}\nfederated: {}").federated.model_dump() == {
        "clients": 8,
        "rounds": 10,
        "local_steps": 50,
        "split": "iid",
        "alpha": None,
        "participation": 1.0,
        "aggregation": "lora-fair",
        "residual": None,
    }


def test_the_method_is_chosen_by_name():
    assert isinstance(parse_recipe(BASE + "method: {rank: 4}").method, DoraMethod)
    assert isinstance(parse_recipe(BASE + "method: {name: dora}").method, DoraMethod)
    assert parse_recipe(BASE + "method: {name: head}").method == HeadMethod()


def test_a_learning_rate_without_a_dot_and_whole_numbers_for_floats():
    recipe = parse_recipe(BASE + "train: {learning_rate: 2e-3, max_grad_norm: 1}\nmethod: {alpha: 16}")
    assert recipe.train.learning_rate == 0.002
    assert (recipe.train.max_grad_norm, recipe.method.alpha) == (1.0, 16.0)


def test_a_recipe_is_frozen():
    recipe = parse_recipe(BASE)
    with pytest.raises(pydantic.ValidationError):
        recipe.task = "glue/cola"
    with pytest.raises(pydantic.ValidationError):
        recipe.train.seed = 2
    assert isinstance(recipe.method.targets, tuple)


def test_recipes_compare_by_value():
    assert parse_recipe(BASE) == parse_recipe(BASE + "train: {seed: 1}")
    assert parse_recipe(BASE) != parse_recipe(BASE + "train: {seed: 2}")


def test_a_recipe_made_in_python_obeys_the_same_bounds_and_rules():
    good = Recipe.model_validate({"task": "t", "model": {"name": "m"}, "method": {"rank": 2}})
    assert good == parse_recipe("task: t\nmodel: {name: m}\nmethod: {rank: 2}")
    with pytest.raises(pydantic.ValidationError, match=r"method\.start_rank: .*= 4, got 3"):
        Recipe.model_validate({"task": "t", "model": {"name": "m"}, "method": {"rank": 4, "start_rank": 3}})
    assert Recipe(task="t", model=good.model, method=HeadMethod()).method.name == "head"


# Overrides


def test_precedence_is_defaults_file_then_flags_in_order():
    text = BASE + "train:\n  seed: 5\n  batch_size: 4\n"
    assert parse_recipe(text).train.epochs == 80
    assert parse_recipe(text).train.seed == 5
    recipe = parse_recipe(text, overrides=["train.seed=6", "train.seed=7"])
    assert (recipe.train.seed, recipe.train.batch_size) == (7, 4)


@pytest.mark.parametrize(
    ("flag", "get", "value"),
    [
        ("task=glue/cola", lambda r: r.task, "glue/cola"),
        ("train.learning_rate=2e-3", lambda r: r.train.learning_rate, 0.002),
        ("train.adam_betas=[0.8, 0.9]", lambda r: r.train.adam_betas, (0.8, 0.9)),
        ("method.targets=[attention, '*.wo']", lambda r: r.method.targets, ("attention", "*.wo")),
        ("method.start_rank=null", lambda r: r.method.start_rank, None),
        ("method.compact=false", lambda r: r.method.compact, False),
        ("method={name: head}", lambda r: r.method, HeadMethod()),
        ("train.threads=8", lambda r: r.train.threads, 8),
        ("train.batch_parts=3", lambda r: r.train.batch_parts, 3),
        ("train.batch_parts=auto", lambda r: r.train.batch_parts, "auto"),
        ("train.threads=auto", lambda r: r.train.threads, "auto"),
        ("train.device=cuda:1", lambda r: r.train.device, "cuda:1"),
        ("model.name=/a=b/c", lambda r: r.model.name, "/a=b/c"),  # only the first '=' splits
        (" train.seed = 3", lambda r: r.train.seed, 3),
    ],
)
def test_overrides_take_yaml_values(flag, get, value):
    assert get(parse_recipe(BASE + "method: {rank: 4, start_rank: 5}", overrides=[flag])) == value


def test_overrides_make_the_sections_they_need():
    flags = [
        "data.source=files",
        "data.path=x",
        "data.columns.sentence=text",
        "data.columns.label=stars",
        "data.labels=['0', '1']",
    ]
    recipe = parse_recipe(BASE + "data: {columns: null}", overrides=flags)
    assert recipe.data.columns == {"sentence": "text", "label": "stars"}
    assert recipe.data.labels == ("0", "1")


def test_an_override_may_mend_the_file():
    assert parse_recipe(BASE + "method: {rank: 0}", overrides=["method.rank=2"]).method.rank == 2
    assert parse_recipe("model: {name: m}", overrides=["task=t"]).task == "t"
    # Replacing a section takes its old keys, and their problems, away.
    assert parse_recipe(BASE + "method: {rnak: 0}", overrides=["method={name: head}"]).method.name == "head"


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("train.seed", "expected KEY=VALUE"),
        ("", "expected KEY=VALUE"),
        ("=3", "key"),
        ("train..seed=3", "key"),
        ("train. seed=3", "key"),
        ("train.seed=", "'='"),
        ("train.seed=[1", "YAML"),
        ("train.seed=!!python/name:os.system ''", "!!python/name:os.system"),
        ("method={rank: 1, rank: 2}", "duplicate key"),
        ("method.targets=[*.query]", "quotes"),
        ("task.name=x", "no keys"),
        ("train.seed=two", "train.seed: "),
        ("train.lr=3", "train.learning_rate?"),
        ("trian.seed=3", "train?"),
        ("method.rank=0", ": method.rank: "),
        ("method.start_rank=1", "method.rank = 8"),
        ("method.targets.0=x", "list"),
    ],
)
def test_a_bad_override_is_named(flag, words):
    problem = only_problem(BASE, flag)
    assert problem.startswith(f"--set {flag}".strip() + ":")
    assert words in problem


def test_a_long_flag_is_cut():
    assert len(only_problem(BASE, "train.seed=" + "x" * 5000)) < 300


# Problems of single keys


@pytest.mark.parametrize(
    ("section", "named"),
    [
        ("method: {rank: 0}", ["method.rank: ", "1", "0"]),
        ("method: {rank: 2.0}", ["method.rank: ", "2.0", "2"]),
        ("method: {rank: 2147483648}", ["method.rank: ", "2147483647"]),
        ("method: {rank: '8'}", ["method.rank: ", "'8'"]),
        ("method: {rank: true}", ["method.rank: ", "true"]),
        ("method: {rank: null}", ["method.rank: ", "null"]),
        ("method: {start_rank: 0, rank: 1}", ["method.start_rank: ", "1"]),
        ("method: {start_rank: 7}", ["method.start_rank: ", "method.rank", "8", "7"]),
        ("method: {alpha: 0}", ["method.alpha: ", "0"]),
        ("method: {alpha: 1.0e+300}", ["method.alpha: ", "1e+38", "3.4e+38", "1e+300"]),
        ("method: {dem_weight: 1.0e+39}", ["method.dem_weight: ", "1e+38"]),
        ("train: {adam_eps: 1.0e-300}", ["train.adam_eps: ", "1e-37", "1.2e-38"]),
        ("train: {learning_rate: 1.0e+300}", ["train.learning_rate: ", "1e+38"]),
        ("train: {weight_decay: 1.0e+300}", ["train.weight_decay: ", "1e+38"]),
        ("train: {max_grad_norm: 1.0e+300}", ["train.max_grad_norm: ", "1e+38"]),
        ("method: {alpha: 786049}\ntrain: {precision: fp16}", ["method.alpha: ", "65504", "12"]),
        ("method: {name: lora, alpha: 524033}\ntrain: {precision: fp16}", ["method.alpha: ", "65504", "8"]),
        (
            "method: {name: lora, alpha: 131009, ranks: {'*.q': 2, '*.k': 0}}\ntrain: {precision: fp16}",
            ["method.alpha: ", "65504", "2"],
        ),
        (
            "method: {name: lora, rank: 4, alpha: 131009, scaling: rank-stabilised}\ntrain: {precision: fp16}",
            ["method.alpha: ", "65504", "4"],
        ),
        ("method: {name: lora, ranks: {q: 2}, ranks_from: run}", ["method.ranks: "]),
        ("method: {name: lora, ranks_shuffle: 1}", ["method.ranks_shuffle: "]),
        ("method: {name: lora, ranks: {q: -1}}", ["method.ranks.q: ", "0", "-1"]),
        ("method: {name: lora, ranks: {}}", ["method.ranks: "]),
        ("method: {name: lora, learning_rate_ratio: 0}", ["method.learning_rate_ratio: ", "0"]),
        ("method: {dropout: 1}", ["method.dropout: ", "0", "1"]),
        ("method: {dropout: -0.1}", ["method.dropout: ", "0", "1", "-0.1"]),
        ("method: {targets: attention}", ["method.targets: ", "[a, b]", "'attention'"]),
        ("method: {targets: []}", ["method.targets: "]),
        ("method: {targets: [ffn, ffn]}", ["method.targets: "]),
        ("method: {targets: [ffn, 3]}", ["method.targets[1]: ", "3"]),
        ("method: {targets: [ffn, '']}", ["method.targets[1]: "]),
        ("method: {ema_beta: 1.0}", ["method.ema_beta: ", "0", "1"]),
        ("method: {warmup_fraction: 1.2, final_fraction: 0.1}", ["method.warmup_fraction: ", "0", "1", "1.2"]),
        ("method: {warmup_fraction: 0.5}", ["1", "0.5", "1.0"]),
        ("method: {warmup_fraction: 0.9, final_fraction: 0.1}", ["1", "0.1", "0.9", "1.0"]),
        ("method: {prune_interval: 0}", ["method.prune_interval: ", "1"]),
        ("method: {curve: cubic}", ["method.curve: ", "'cubic'"]),
        ("method: {dem_weight: -1}", ["method.dem_weight: ", "0"]),
        ("method: {dem_scale: Published}", ["published?"]),
        ("method: {dem_until: forever}", ["method.dem_until: "]),
        ("method: {compact: yes}", ["method.compact: ", "'yes'"]),
        ("method: {flatness: -0.1}", ["method.flatness: ", "0"]),
        ("method: {name: flat-lora, flatness: 0}", ["method.flatness: ", "above 0"]),
        ("method: {compact: 1}", ["method.compact: ", "1"]),
        ("method: {name: loar}", ["method.name: ", "'loar'", "lora?"]),
        ("method: {name: null}", ["method.name: ", "null"]),
        ("method: {name: [dora]}", ["method.name: "]),
        ("method: {name: head, rank: 2}", ["method.rank: "]),
        ("method: {name: head, x: 2}", ["method.x: "]),
        ("method: {rnak: 2}", ["method.rnak: ", "method.rank"]),
        ("method: {r: 2}", ["method.r: "]),
        ("method: dora", ["method: ", "'method: {name: ...}'", "'dora'"]),
        ("train:", ["train: "]),
        ("train: [1]", ["train: ", "'train: {epochs: ...}'", "[1]"]),
        ("train: {epochs: 0}", ["train.epochs: ", "1", "0"]),
        ("train: {epochs: null}", ["train.epochs: ", "null"]),
        ("train: {max_steps: 0}", ["train.max_steps: ", "1"]),
        ("train: {batch_size: 0}", ["train.batch_size: ", "1"]),
        ("train: {gradient_accumulation: 0}", ["train.gradient_accumulation: ", "1"]),
        ("train: {learning_rate: 0}", ["train.learning_rate: ", "0"]),
        ("train: {learning_rate: .inf}", ["train.learning_rate: ", "0"]),
        ("train: {learning_rate: .nan}", ["train.learning_rate: ", "0"]),
        ("train: {learning_rate: 1e999}", ["train.learning_rate: ", "0"]),
        ("train: {learning_rate: '2e-3'}", ["train.learning_rate: ", "'2e-3'"]),
        ("train: {weight_decay: -0.01}", ["train.weight_decay: ", "0"]),
        ("train: {adam_betas: 0.9}", ["train.adam_betas: "]),
        ("train: {adam_betas: [0.9]}", ["train.adam_betas: ", "[0.9, 0.999]", "[0.9]"]),
        ("train: {adam_betas: [0.9, 0.99, 0.999]}", ["train.adam_betas: "]),
        ("train: {adam_betas: [0.9, 1]}", ["train.adam_betas[1]: ", "0", "1"]),
        ("train: {adam_eps: 0}", ["train.adam_eps: ", "0"]),
        ("train: {lr_warmup_fraction: 1.1}", ["train.lr_warmup_fraction: ", "0", "1", "1.1"]),
        ("train: {lr_warmup_steps: -1}", ["train.lr_warmup_steps: ", "0", "-1"]),
        ("train: {lr_warmup_steps: 10, max_steps: 10}", ["train.lr_warmup_steps: ", "train.max_steps", "10"]),
        ("train: {max_grad_norm: 0}", ["train.max_grad_norm: ", "0"]),
        ("train: {precision: FP16}", ["train.precision: ", "'FP16'", "fp16?"]),
        ("train: {precision: fp16, device: cpu}", ["train.precision: "]),
        ("train: {device: gpu}", ["train.device: ", "'gpu'", "cuda?"]),
        ("train: {device: 1}", ["train.device: ", "1"]),
        ("data: {source: csv}", ["data.source: ", "'csv'", "files?"]),
        ("train: {device: 'cuda:'}", ["train.device: "]),
        ("train: {batch_parts: 0}", ["train.batch_parts: ", "1", "32", "0"]),
        ("train: {batch_parts: 33}", ["train.batch_parts: ", "1", "32", "33"]),
        ("train: {threads: 0}", ["train.threads: ", "1", "1024", "0"]),
        ("train: {threads: 1025}", ["train.threads: ", "1", "1024", "1025"]),
        ("train: {threads: 2.0}", ["train.threads: ", "1", "1024", "2.0"]),
        ("train: {threads: true}", ["train.threads: ", "1", "1024", "true"]),
        ("train: {threads: all}", ["train.threads: ", "1", "1024", "'all'"]),
        ("train: {deterministic: 'true'}", ["train.deterministic: ", "'true'"]),
        ("train: {log_every: 0}", ["train.log_every: ", "1"]),
        ("train: {seed: -1}", ["train.seed: ", "0", "-1"]),
        ("train: {seed: 4294967296}", ["train.seed: ", "4294967295"]),
        ("train: {lr: 1e-3}", ["train.lr: ", "train.learning_rate"]),
        ("train: {rank: 4}", ["train.rank: ", "method.rank"]),
        ("train: {label_smoothing: 1.0}", ["train.label_smoothing: ", "0", "1", "1.0"]),
        ("train: {max_grad_norm: 0.0}", ["train.max_grad_norm: ", "0", "0.0"]),
        ("save: {keep: 0}", ["save.keep: ", "1", "0"]),
        ("save: {every_minutes: 0}", ["save.every_minutes: ", "0"]),
        ("train: {skip_nonfinite: -1}", ["train.skip_nonfinite: ", "0", "-1"]),
        ("decode: {beam: 4}", ["decode.beam: ", "decode.beams"]),
        ("decode: {beams: 0}", ["decode.beams: ", "1", "0"]),
        ("decode: {length_penalty: .nan}", ["decode.length_penalty: ", "-10", "10"]),
        ("federated: {client: 4}\nmethod: {name: lora}", ["federated.client: ", "federated.clients"]),
        ("federated: {lambda: 0.1}\nmethod: {name: lora}", ["federated.lambda: ", "federated.residual"]),
        ("federated: {clients: 0}\nmethod: {name: lora}", ["federated.clients: ", "1", "0"]),
        ("federated: {participation: 0}\nmethod: {name: lora}", ["federated.participation: ", "above 0", "1"]),
        ("federated: {participation: 1.5}\nmethod: {name: lora}", ["federated.participation: ", "at most 1", "1.5"]),
        ("federated: {split: non-iid}\nmethod: {name: lora}", ["federated.split: ", "did you mean dirichlet"]),
        ("federated: {aggregation: fedavg}\nmethod: {name: lora}", ["federated.aggregation: ", "did you mean average"]),
        ("federated: 3", ["federated: ", "mapping"]),
        ("learning_rate: 1e-3", ["learning_rate: ", "train.learning_rate"]),
        ("evaluate: {}", ["evaluate: ", "eval?"]),
        ("eval: {batch_size: 0}", ["eval.batch_size: ", "1"]),
        ("eval: {select: first}", ["eval.select: ", "'first'"]),
        ("data: {source: hbu}", ["data.source: ", "'hbu'", "hub?"]),
        ("data: {source: glue-tsv}", ["data.path: ", "data.source"]),
        ("data: {source: files}", ["data.path: ", "data.source"]),
        ("data: {path: x}", ["data.path: ", "data.source", "'x'"]),
        ("data: {source: builtin, path: x}", ["data.path: ", "data.source"]),
        ("data: {source: glue-tsv, path: ''}", ["data.path: "]),
        ("data: {columns: {sentence: text}}", ["data.columns: ", "data.source"]),
        ("data: {source: glue-tsv, path: x, labels: [a, b]}", ["data.labels: ", "data.source"]),
        ("data: {source: files, path: x, columns: {sentence: 0}}", ["data.columns.sentence: ", "0"]),
        ("data: {source: files, path: x, columns: [a]}", ["data.columns: "]),
        ("data: {source: files, path: x, columns: {}}", ["data.columns: "]),
        ("data: {source: files, path: x, labels: [0, b]}", ["data.labels[0]: ", "0"]),
        ("data: {source: files, path: x, labels: [a]}", ["data.labels: "]),
        ("data: {source: files, path: x, labels: [a, a]}", ["data.labels: "]),
        ("data: {max_train_samples: 0}", ["data.max_train_samples: ", "1"]),
        ("data: {max_eval_samples: -1}", ["data.max_eval_samples: ", "1"]),
        ("data: {max_length: 4}", ["data.max_length: ", "8", "4"]),
        ("data: {group_by_length: no}", ["data.group_by_length: ", "'no'"]),
    ],
)
def test_one_wrong_key(section, named):
    """Its line, the key, what was given, and the bound or the nearest name."""
    problem = only_problem(BASE + section)
    assert problem.startswith("r.yaml:3: ")
    assert all(part in problem for part in named), problem


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model: {name: m}", "r.yaml: task: missing"),
        ("task: t", "r.yaml: model: missing"),
        ("task: t\nmodel: {revision: x}", "r.yaml:2: model.name: missing"),
        (
            "task: t\nmodel: m",
            "r.yaml:2: model: must be a mapping",
        ),
        (
            "task: t\nmodel: {name: 3}",
            "r.yaml:2: model.name: must be text, got 3",
        ),
        ("task: t\nmodel: {name: m, revision: 123456}", "r.yaml:2: model.revision: must be text, got 123456"),
        ("task: t\nmodel: {name: m, dtype: fp16}", "r.yaml:2: model.dtype: "),
        ("task: null\nmodel: {name: m}", "r.yaml:1: task: must be text, got null"),
        ("task: ' '\nmodel: {name: m}", "r.yaml:1: task: must be text"),
        ('task: "\\ud800"\nmodel: {name: m}', "r.yaml:1: task: must be Unicode"),
        ('task: "a\\0"\nmodel: {name: m}', "r.yaml:1: task: must be Unicode"),
        (BASE + "task: again", "r.yaml:3: task: duplicate key"),
        (BASE + "train:\n  seed: 1\n  seed: 2", "r.yaml:5: train.seed: duplicate key"),
        (
            BASE + "train: {seed: !!python/name:os.system ''}",
            "r.yaml:3: train.seed: ",
        ),
        (BASE + "3: x", "r.yaml:3: "),
        ("", "r.yaml: the recipe is empty"),
        ("# only a comment\n", "r.yaml: the recipe is empty"),
        ("- task", "r.yaml: the recipe must be a mapping of keys, such as 'task: glue/rte'; got the list ['task']"),
        (
            "just text",
            "r.yaml: the recipe must be a mapping of keys, such as 'task: glue/rte'; got the text 'just text'",
        ),
        (
            "!!set {a}",
            "r.yaml: the recipe must be a mapping of keys, such as 'task: glue/rte'; the YAML tag !!set is not allowed",
        ),
        ("task: [1", "r.yaml:1: "),
        ("a: &a [*a]", "r.yaml: expands "),
    ],
)
def test_what_is_wrong_with_the_whole(text, words):
    assert only_problem(text).startswith(words)


# Many at once


def test_all_problems_come_in_one_error_in_the_order_of_the_lines_then_of_the_flags():
    text = """\
model: {nme: x}
train:
  epochs: 0
  epochs: 5
  seed: x
method:
  rnak: 3
  rank: 4
  start_rank: 3
  dropout: 2
data:
  source: files
"""
    problems = problems_of(text, "eval.batch_size=0", "train.log_every", "model.dtype=int8")
    wheres = [problem.split(": ")[:2] for problem in problems]
    assert wheres == [
        ["r.yaml", "task"],
        ["r.yaml:1", "model.name"],
        ["r.yaml:1", "model.nme"],
        ["r.yaml:4", "train.epochs"],  # given twice; which of the two values counts is not known, so neither is judged
        ["r.yaml:5", "train.seed"],
        ["r.yaml:7", "method.rnak"],
        ["r.yaml:9", "method.start_rank"],
        ["r.yaml:10", "method.dropout"],
        ["r.yaml:11", "data.path"],
        ["--set model.dtype=int8", "model.dtype"],
        ["--set eval.batch_size=0", "eval.batch_size"],
        ["--set train.log_every", "expected KEY=VALUE, such as --set train.seed=2"],
    ]


def test_a_rule_is_silent_where_one_of_its_keys_is_wrong_already():
    # With the default rank of 8 in place of the text, start_rank 4 would be blamed wrongly.
    assert only_problem(BASE + "method: {rank: four, start_rank: 4}").startswith("r.yaml:3: method.rank:")
    assert only_problem(BASE + "data: {source: tsv, path: x}").startswith("r.yaml:3: data.source:")


def test_a_file_that_is_not_yaml_still_reports_bad_flags():
    assert [p.split(": ")[0] for p in problems_of("a: [", "train.seed")] == ["r.yaml:1", "--set train.seed"]


# Files


def test_a_file_is_read_and_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(BASE + "train: {seed: -1}")
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}:3: train.seed: ")
    assert load_recipe(str(path), ["train.seed=4"]).train.seed == 4


def test_byte_order_mark_crlf_and_unicode(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + "task: glue/rte\r\nmodel: {name: modèles/été}\r\n".encode())
    assert load_recipe(path).model.name == "modèles/été"


def test_files_that_cannot_be_recipes(tmp_path, monkeypatch):
    (tmp_path / "rte.yaml").write_text(BASE)
    (tmp_path / "latin.yaml").write_bytes(b"task: t\nmodel: {name: \xe9}\n")
    (tmp_path / "utf16.yaml").write_bytes("task: t".encode("utf-16"))
    (tmp_path / "large.yaml").write_bytes(b"#" * (load_module.MAX_BYTES + 1))
    (tmp_path / "empty.yaml").write_bytes(b"")

    def message(name):
        with pytest.raises(RecipeError) as caught:
            load_recipe(os.path.join(tmp_path, name))
        assert len(caught.value.problems) == 1
        return str(caught.value)

    assert message("rt.yaml") == f"{tmp_path}/rt.yaml: there is no such recipe file; did you mean {tmp_path}/rte.yaml?"
    assert message("no/such.yaml") == f"{tmp_path}/no/such.yaml: there is no such recipe file; check the path"
    assert "is a folder" in message("")
    assert message("latin.yaml").startswith(f"{tmp_path}/latin.yaml:2: not UTF-8; it fits Latin-1")
    assert "utf16.yaml: is UTF-16, not UTF-8" in message("utf16.yaml")
    assert "larger than" in message("large.yaml")
    assert "is empty" in message("empty.yaml")
    assert "cannot be read: Not a directory" in message("rte.yaml/x")
    assert "cannot be read" in message("a\0b")
    assert "cannot be read" in message("x" * 5000)

    os.mkfifo(tmp_path / "pipe.yaml")  # nobody writes to it
    (tmp_path / "endless.yaml").symlink_to("/dev/zero")
    assert "cannot be read: it is a pipe, not a regular file" in message("pipe.yaml")
    assert "cannot be read: it is a device" in message("endless.yaml")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    assert "cannot be read: Permission denied; check the path and its permissions" in message("rte.yaml")


def test_a_lone_override_is_no_list_of_its_characters() -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe("{task: glue/rte, model: {name: x}}", overrides="train.seed=2")
    (problem,) = caught.value.problems
    assert problem.startswith("overrides: ")
    assert "['train.seed=2']" in problem


# -- another method ----------------------------------------------------------------------------------------------------

DORA_KEYS = "method: {name: dora, rank: 4, dem_weight: 0.1, prune_interval: 3}\n"


@pytest.mark.parametrize(
    "flags",
    [
        ["method.name=lora", "method.rank=3", "method.alpha=2"],
        ["method.rank=3", "method.alpha=2", "method.name=lora"],
        ["method.rank=3", "method.name=head", "method.name=lora", "method.alpha=2"],
        ["method={name: lora, rank: 3}", "method.alpha=2"],
        ["method.dem_weight=3", "method={name: head}", "method.rank=3", "method.name=lora", "method.alpha=2"],
    ],
)
def test_another_method_by_a_flag_takes_its_own_defaults(flags: list[str]) -> None:
    assert parse_recipe(BASE + DORA_KEYS, overrides=flags).method == LoraMethod(rank=3, alpha=2.0)


def test_what_another_method_drops_is_said_once() -> None:
    notes: list[str] = []
    parse_recipe(BASE + DORA_KEYS, overrides=["method.rank=2", "method.name=lora"], note=notes.append)
    (note,) = notes
    assert note.startswith("--set method.name=lora ")
    assert note.endswith("(rank, dem_weight, prune_interval)")
    for flag, text in (("dora", DORA_KEYS), ("lora", ""), ("lora", "method: {name: dora}\n")):
        parse_recipe(BASE + text, overrides=[f"method.name={flag}"], note=notes.append)
    assert len(notes) == 1


def test_a_whole_section_after_a_name_wins() -> None:
    flags = ["method.name=lora", "method={rank: 2}"]
    assert parse_recipe(BASE + DORA_KEYS, overrides=flags).method == DoraMethod(rank=2)


def test_keys_of_another_method_are_one_problem() -> None:
    text = BASE + "method:\n  name: lora\n  dem_weight: 0.1\n  rank: 0\n  prune_interval: 3\n"
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, "r.yaml", overrides=["method.curve=adalora"])
    first, second, third = str(caught.value).splitlines()[-3:]
    assert re.search(r"unknown keys: .*\blora\b.* dem_weight, prune_interval \(dora ", first)
    assert "method.rank: " in second
    assert re.search(r"--set method\.curve=adalora: method\.curve: unknown key: .*\blora\b.*\(dora ", third)


def test_a_broken_rule_of_a_method_names_its_line() -> None:
    text = BASE + "method:\n  name: lora\n  ranks_shuffle: 3\n"
    with pytest.raises(RecipeError, match=r"r\.yaml:5: method\.ranks_shuffle: "):
        parse_recipe(text, "r.yaml")
