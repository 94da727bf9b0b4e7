"""What a user gets for bad input: one message that names the value or the key. Nothing is written or lost. How the
messages are worded is tested beside the modules that write them.

What every refusal has in common (exit code 2, one message on stderr, no traceback, an untouched disk) is checked by
`refuses`.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from dora_cli.recipe.methods import METHODS
from tests.commands.conftest import Refuse, dora


def test_the_recipe_is_missing(recipe: Path, refuses: Refuse) -> None:
    refuses("train", "smal.yaml", says=["smal.yaml", "small.yaml"])


def test_the_recipe_is_a_folder(recipe: Path, refuses: Refuse) -> None:
    Path("configs").mkdir()
    refuses("train", "configs", says=["configs: ", "folder"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"task: [glue/sst2\nmodel: x", ["small.yaml:"]),
        (b"\x89PNG\r\n\x1a\n\xff\xfe", ["small.yaml:1: ", "UTF-8"]),
        (b"", ["small.yaml: ", "empty", "'task'", "'model'"]),
        (b"just words", ["small.yaml: ", "mapping", "'just words'"]),
        (b"- a\n- b", ["small.yaml: ", "mapping", "list"]),
    ],
)
def test_the_recipe_is_no_yaml_mapping(recipe: Path, refuses: Refuse, content: bytes, says: list[str]) -> None:
    recipe.write_bytes(content)
    refuses("train", recipe, says=says)


def test_a_value_of_the_wrong_type(recipe: Path, refuses: Refuse) -> None:
    recipe.write_text(recipe.read_text().replace("rank: 2", "rank: two"))
    refuses("train", recipe, says=["small.yaml:4: method.rank: ", "'two'"])


def test_an_unknown_key_names_the_nearest(recipe: Path, refuses: Refuse) -> None:
    recipe.write_text(recipe.read_text().replace("rank: 2", "rnak: 2"))
    refuses("train", recipe, says=["small.yaml:4: method.rnak: ", "method.rank?"])


def test_all_problems_at_once(recipe: Path, refuses: Refuse) -> None:
    recipe.write_text(recipe.read_text().replace("rank: 2", "rank: 0").replace("epochs: 4", "epochs: 4.5"))
    message = refuses(
        "train", recipe, "--set", "train.sede=2", "--set", "nonsense",
        says=["small.yaml:4: method.rank: ", "got 0", "small.yaml:5: train.epochs: ", "got 4.5",
              "--set train.sede=2: train.sede: ", "train.seed?", "--set nonsense: "],
    )  # fmt: skip
    assert len(message.splitlines()) == 5, "a heading and a line for each"


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("method.start_rank=1", ["method.start_rank", "method.rank = 2", "got 1"]),
        ("method.warmup_fraction=1.5", ["method.warmup_fraction", "below 1, got 1.5"]),
        ("method.warmup_fraction=0.6", ["method.warmup_fraction", "0.5 + 0.6 = 1.1", "below 1"]),
        ("method.final_fraction=-0.1", ["method.final_fraction", "at least 0", "got -0.1"]),
        # 1 / 0.35
        ("train.max_steps=2", ["2 optimiser steps", "3 steps", "train.epochs", "train.max_steps"]),
        ("method.alpha=.nan", ["method.alpha", "above 0 and finite"]),
        ("train.batch_size=0", ["train.batch_size", "at least 1, got 0"]),
        ("train.device=gpu", ["train.device", "cuda:N", "'gpu'"]),
        ("train.precision=fp16", ["train.precision", "fp16", "GPU", "fp32 or bf16"]),
        ("method.name=droa", ["method.name", ", ".join(METHODS), "dora?"]),
        ("train.seed=", ["--set train.seed=", "no value"]),
        ("=3", ["--set =3", "key"]),
        ("seed", ["--set seed", "expected KEY=VALUE"]),
    ],
)  # fmt: skip
def test_a_value_out_of_bounds(recipe: Path, refuses: Refuse, override: str, says: list[str]) -> None:
    refuses("train", recipe, "--set", override, says=says)


def test_a_task_that_does_not_exist(recipe: Path, refuses: Refuse) -> None:
    refuses(
        "train",
        recipe,
        "--set",
        "task=glue/sst-2",
        says=["task: ", "'glue/sst-2'", "nearest: glue/sst2", "glue/wnli"],
    )


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("./models/mine", ["model.name", "folder './models/mine'", "builtin:"]),
        ("builtin:tiny", ["model.name", "'builtin:tiny'", "builtin:tiny-encoder"]),
        (
            "nobody/no-such-model",
            ["model.name", "'nobody/no-such-model'", "HF_HUB_OFFLINE=1"],
        ),
        ("small.yaml", ["model.name", "'small.yaml'", "file"]),
        ("empty", ["model.name", "'empty'", "config.json"]),
    ],
)
def test_a_model_that_does_not_exist_or_is_out_of_reach(
    recipe: Path, refuses: Refuse, name: str, says: list[str]
) -> None:
    Path("empty").mkdir()
    refuses("train", recipe, "--set", f"model.name={name}", says=says)


def test_hub_data_out_of_reach(
    recipe: Path, refuses: Refuse, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    # whatever this machine has loaded before
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    refuses(
        "train",
        recipe,
        "--set",
        "data.source=hub",
        says=["nyu-mll/glue (sst2), split train", "glue-tsv", "data.path"],
    )


@pytest.mark.parametrize(
    ("train", "says"),
    [
        (
            "text,label\na film .,0\n",
            ["own/train.csv: ", "'sentence'", "'text', 'label'", "--set 'data.columns={sentence: text}'"],
        ),
        (
            "sentence,mood\na film .,0\n",
            ["own/train.csv: ", "'label'", "'sentence', 'mood'", "--set 'data.columns={label: mood}'"],
        ),
        (
            "sentence,label\na film .,0\na play .,7\n",
            ["own/train.csv, line 3: label '7'", "'negative', '0', 'positive', '1'", "data.labels"],
        ),
        ("", ["own/train.csv: ", "empty"]),
        ("sentence,label\n", ["own/train.csv: ", "no examples"]),
        ("sentence,label\na film, a play .,0\n", ["own/train.csv, line 2: ", "3 fields"]),
        (
            None,
            [
                "data.path: 'own'",
                "split train",
                "train.{csv,tsv,json,jsonl,parquet}",
                "'validation.csv'",
            ],
        ),
    ],
)
def test_own_files_that_do_not_fit(recipe: Path, refuses: Refuse, train: str | None, says: list[str]) -> None:
    Path("own").mkdir()
    Path("own/validation.csv").write_text("sentence,label\na film .,0\n")
    if train is not None:
        Path("own/train.csv").write_text(train)
    refuses("train", recipe, "--set", "data.source=files", "--set", "data.path=own", says=says)


def test_own_files_without_their_folder(recipe: Path, refuses: Refuse) -> None:
    refuses("train", recipe, "--set", "data.source=files", says=["data.path: ", "missing"])
    refuses(
        "train",
        recipe,
        "--set",
        "data.source=files",
        "--set",
        "data.path=away",
        says=["data.path: 'away'"],
    )


def test_an_output_that_is_taken(recipe: Path, refuses: Refuse) -> None:
    Path("thesis").mkdir()
    Path("thesis/thesis.tex").write_text("years of work")
    refuses(
        "train",
        recipe,
        "-o",
        "thesis",
        says=["--output thesis", "not empty"],
    )
    refuses("train", recipe, "-o", "thesis", "--overwrite", says=["--output thesis", "not empty"])
    refuses("train", recipe, "-o", "small.yaml", says=["--output small.yaml", "file"])


def test_an_output_that_holds_a_run(recipe: Path, refuses: Refuse) -> None:
    flags = ["--overwrite"]
    assert dora("train", recipe, "--set", "train.max_steps=4").code == 0
    refuses("train", recipe, says=["--output runs/small", "finished run", *flags])
    refuses("train", recipe, "--seeds", "1,2", says=["--output runs/small", "single run", *flags])
    Path("runs/small/metrics.json").unlink()
    refuses("train", recipe, says=["--output runs/small", "unfinished run", *flags])
    assert dora("train", recipe, "--set", "train.max_steps=4", "--seeds", "1", "-o", "several").code == 0
    refuses("train", recipe, "-o", "several", says=["--output several", "several seeds", *flags])
    refuses(
        "train",
        recipe,
        "-o",
        "several",
        "--seeds",
        "1,2",
        says=["several/seed-1", "another recipe", *flags],
    )


def test_an_output_that_cannot_be_written(recipe: Path, refuses: Refuse) -> None:
    refuses(
        "train",
        recipe,
        "-o",
        "small.yaml/run",
        says=["--output small.yaml/run ", "small.yaml is a file"],
    )


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="an administrator may write anywhere")
def test_an_output_without_permission(recipe: Path, refuses: Refuse) -> None:
    Path("locked").mkdir(mode=0o500)
    refuses("train", recipe, "-o", "locked/run", says=["--output locked/run ", "permission"])


def test_a_pattern_that_adapts_nothing(recipe: Path, refuses: Refuse) -> None:
    could = ["attention.self.query", "attention.output.dense", "intermediate.dense"]
    refuses(
        "train",
        recipe,
        "--set",
        "method.targets=[q_proj]",
        says=["'q_proj'", *could],
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
@pytest.mark.parametrize("flags", [[], ["--dry-run"]])
def test_cuda_asked_for_and_absent(recipe: Path, refuses: Refuse, device: str, flags: list[str]) -> None:
    says = [f"train.device is {device}", "no CUDA device"]
    refuses("train", recipe, "--set", f"train.device={device}", *flags, says=says)


@pytest.mark.parametrize(
    ("seeds", "says"),
    [
        ("1,x", ["--seeds '1,x'", "whole numbers", "1,2,3"]),
        ("", ["--seeds ''", "1,2,3"]),
        ("1,,2", ["--seeds '1,,2'", "1,2,3"]),
        ("1 2", ["--seeds '1 2'", "1,2,3"]),
        ("0.5", ["--seeds '0.5'", "1,2,3"]),
        ("1_0", ["--seeds '1_0'", "whole numbers"]),
        ("１", ["--seeds '１'", "whole numbers"]),
        ("2,1,2", ["--seeds 2,1,2", "twice"]),
        ("-1", ["--seeds -1", "from 0 to 4294967295"]),
        ("1,99999999999", ["--seeds 1,99999999999 names 99999999999", "from 0 to 4294967295"]),
    ],
)
@pytest.mark.parametrize("flags", [[], ["--dry-run"]])
def test_seeds_that_are_none(recipe: Path, refuses: Refuse, seeds: str, says: list[str], flags: list[str]) -> None:
    refuses("train", recipe, f"--seeds={seeds}", *flags, says=says)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model.name=./models/mine", ["folder './models/mine'"]),
        ("method.targets=[q_proj]", ["'q_proj'", "attention.self.query"]),
        ("train.max_steps=2", ["2 optimiser steps"]),
        ("task=glue/sst-2", ["nearest: glue/sst2"]),
    ],
)
def test_a_dry_run_finds_it_too(recipe: Path, refuses: Refuse, override: str, says: list[str]) -> None:
    refuses("train", recipe, "--dry-run", "--set", override, says=says)


def test_a_dry_run_finds_too_few_steps_without_the_models_configuration(recipe: Path, refuses: Refuse) -> None:
    short = ("--set", "train.max_steps=2", "--set", "model.name=nobody/no-such-model")
    refuses("train", recipe, "--dry-run", *short, says=["2 optimiser steps", "3 steps"])


def test_ranks_of_nothing(recipe: Path, refuses: Refuse) -> None:
    refuses("ranks", says=["ranks.json", "runs/", "dora ranks DIR"])
    refuses("ranks", "away", says=["folder away"])


def test_debug_shows_the_traceback(recipe: Path) -> None:
    done = dora("--debug", "train", "away.yaml")
    assert done.code == 2
    assert done.err.startswith("Traceback (most recent call last):")
    assert done.err.splitlines()[-1].startswith("dora: error: away.yaml: ")


def test_a_choice_that_is_none_is_said_in_our_words(recipe: Path) -> None:
    done = dora("ranks", "--by", "colour")
    assert done.code == 2
    said = " ".join(done.err.replace("│", " ").split())
    assert all(word in said for word in ("--by", "'colour'", "block", "projection"))
    assert "Value error" not in done.err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "output cannot be written: No space left on device;"),
        (OSError(errno.ENOSPC, "No space left on device", "x.json"), "[Errno 28] No space left on device: 'x.json';"),
        (ConnectionError("no route to the hub"), "no route to the hub;"),
    ],
)
def test_an_error_of_the_system_says_what_failed(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, said: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("dora_cli.recipe.load_recipe", fail)
    done = dora("train", recipe)
    assert done.code == 2
    assert done.err.startswith(f"dora: error: {said}")


def test_a_folder_does_not_fit_through_stdout(recipe: Path, refuses: Refuse) -> None:
    refuses("train", recipe, "-o", "-", says=["--output -", "stdout", "./-"])
    refuses("train", recipe, "-o", "-", "--dry-run", says=["--output -", "stdout"])
    refuses("train", recipe, "-o", "-", "--seeds", "1,2", says=["--output -", "stdout"])
    refuses("export", "-c", "run", "--format", "peft", "-o", "-", says=["--output -", "stdout"])
