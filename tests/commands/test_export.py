"""``dora export``: a run on its way to other tools."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from dora_cli.commands.export import Dtype, Format, Layout, Padding
from dora_cli.export.factors import LAYOUTS, PADDINGS
from dora_cli.export.plain import DTYPES
from dora_cli.export.saved import FORMATS
from dora_cli.reports.units import size
from tests.commands.conftest import Refuse, Trained, contents, dora


@pytest.fixture
def run(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the run, moved to another place and named from the current folder."""
    shutil.copytree(trained.folder, tmp_path / "copied run")
    monkeypatch.chdir(tmp_path)
    return Path("copied run")


def test_the_choices_are_those_of_the_export() -> None:
    for choices, known in ((Format, FORMATS), (Dtype, tuple(DTYPES)), (Layout, LAYOUTS), (Padding, PADDINGS)):
        assert tuple(choice.value for choice in choices) == known


def test_an_adapter_for_peft(run: Path) -> None:
    before = contents(run)
    done = dora("export", "-c", run, "--format", "peft", "-o", "new/adapter")
    assert (done.code, done.err) == (0, "")
    ranks = json.loads((run / "ranks.json").read_text())
    live = [layer for layer in ranks["layers"] if layer["rank"]]
    parameters = sum(layer["rank"] * sum(layer["shape"]) for layer in live)
    head = 16 * 16 + 16 + 16 * 2 + 2
    lines = done.out.splitlines()
    assert lines[0] == (
        f"peft, float32: {ranks['live_components']} components in {len(live)} of {len(ranks['layers'])} projections, "
        f"{parameters:,} parameters, largest rank {max(layer['rank'] for layer in live)}, and {head} parameters of the "
        "head"
    )
    assert re.search(r" 96 .* logits ", lines[1])
    assert lines[2].endswith("written to new/adapter; README.md there has the lines that load it")
    out = Path("new/adapter")
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "dora_export.json",
    ]
    assert sum(tensor.numel() for tensor in load_file(out / "adapter_model.safetensors").values()) == parameters + head
    record = json.loads((out / "dora_export.json").read_text())
    assert (record["format"], record["live_components"], record["head_parameters"]) == (
        "peft",
        ranks["live_components"],
        head,
    )
    assert record["probe"]["difference"] < 1e-5
    card = (out / "README.md").read_text()
    metric = json.loads((run / "metrics.json").read_text())["metrics"]["accuracy"]
    assert f"| accuracy | {metric:.4f} |" in card
    assert "arXiv 2405.17357" in card
    assert "prune_interval: 3" in card
    assert contents(run) == before, "an export changes nothing in the run"


def test_padding_says_what_it_costs(run: Path) -> None:
    done = dora("export", "-c", run, "--format", "peft", "-o", "padded", "--pad", "common", "--dtype", "bfloat16")
    assert done.code == 0, done.err
    layers = [layer for layer in json.loads((run / "ranks.json").read_text())["layers"] if layer["rank"]]
    highest = max(layer["rank"] for layer in layers)
    more = sum(highest - layer["rank"] for layer in layers)
    cost = sum((highest - layer["rank"]) * sum(layer["shape"]) for layer in layers)
    assert cost > 0
    assert done.out.splitlines()[1:3] == [
        f"layout uniform: every one at rank {highest}, alpha {highest}",
        f"padding: {more} zero components more, {cost:,} parameters, {size(2 * cost)}",
    ]


def test_layouts(run: Path, refuses: Refuse) -> None:
    highest = max(layer["rank"] for layer in json.loads((run / "ranks.json").read_text())["layers"])
    said = {
        "patterns": "On 96 random tokens ",
        "constant-alpha": f"layout constant-alpha: each at its own rank, alpha {highest} for all",
        "uniform": f"layout uniform: every one at rank {highest}, alpha {highest}",
    }
    for layout, line in said.items():
        bound = ("--max-rank", str(highest))
        done = dora("export", "-c", run, "--format", "peft", "-o", layout, "--layout", layout, *bound)
        assert (done.code, done.err) == (0, "")
        lines = done.out.splitlines()
        assert f", largest rank {highest}, " in lines[0]
        assert lines[1].startswith(line)
        assert json.loads((Path(layout) / "dora_export.json").read_text())["layout"] == layout
    bound = ("--max-rank", str(highest - 1))
    refuses(
        "export", "-c", run, "--format", "peft", "-o", "no", *bound, says=[" ".join(bound), f"raise it to {highest}"]
    )


def test_a_merged_model_is_a_base_model_like_any_other(run: Path) -> None:
    done = dora("export", "-c", run, "--format", "merged", "-o", "merged")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("merged, float32: ")
    config = json.loads(Path("merged/config.json").read_text())
    assert config["id2label"] == {"0": "negative", "1": "positive"}
    recipe = (run / "recipe.yaml").read_text().splitlines()
    recipe = [line if "name: /" not in line else f"  name: {Path('merged').resolve()}" for line in recipe]
    Path("again.yaml").write_text("\n".join(recipe))
    done = dora("train", "again.yaml", "--output", "again", "--set", "train.max_steps=8")
    assert done.code == 0, done.err


def test_an_export_is_replaced_when_asked(run: Path, refuses: Refuse) -> None:
    assert dora("export", "-c", run, "--format", "peft", "-o", "out").code == 0
    refuses(
        "export",
        "-c",
        run,
        "--format",
        "merged",
        "-o",
        "out",
        says=["--output out ", "--overwrite"],
    )
    done = dora("export", "-c", run, "--format", "merged", "-o", "out", "--overwrite")
    assert done.code == 0, done.err
    assert not Path("out/adapter_config.json").exists()
    assert Path("out/model.safetensors").exists()


def test_what_it_refuses(run: Path, tiny_model: Path, refuses: Refuse) -> None:
    peft = ("--format", "peft", "-o", "out")
    refuses("export", "-c", "nowhere", *peft, says=["--checkpoint nowhere "])
    refuses(
        "export",
        "-c",
        run,
        "--format",
        "peft",
        "-o",
        run,
        says=["--output copied run ", "not empty"],
    )
    refuses(
        "export",
        "-c",
        run,
        "--format",
        "merged",
        "-o",
        "out",
        "--pad",
        "common",
        says=["--pad common is for --format peft"],
    )
    refuses("export", "-c", run, *peft, "--set", "method.rank=3", says=["--set method.rank: ", "data.path"])
    refuses("export", "-c", run, *peft, "--set", "model.name=elsewhere", says=["elsewhere"])
    from safetensors.torch import save_file

    shutil.copytree(tiny_model, "other")
    weights = load_file("other/model.safetensors")
    changed = {name: value + 1 if name.endswith("query.weight") else value for name, value in weights.items()}
    save_file(changed, "other/model.safetensors", {"format": "pt"})
    refuses("export", "-c", run, *peft, "--set", "model.name=other", says=["base model other "])


def test_a_checkpoint_from_before_the_freeze(run: Path, refuses: Refuse) -> None:
    done = dora(
        "train", run / "recipe.yaml", "--output", "early", "--set", "save.every_steps=8", "--set", "save.keep=9"
    )
    assert done.code == 0, done.err
    early = Path("early/checkpoints/step-8")
    refuses(
        "export",
        "-c",
        early,
        "--format",
        "peft",
        "-o",
        "out",
        says=["step 8", "--allow-unfrozen"],
    )
    done = dora("export", "-c", early, "--format", "peft", "-o", "out", "--allow-unfrozen")
    assert done.code == 0, done.err
    assert done.out.startswith("peft, float32: 18 components in 6 of 6 projections")


@pytest.mark.parametrize("missing", ["--format", "--output", "--checkpoint"])
def test_what_it_needs(missing: str) -> None:
    given = {"--format": "peft", "--output": "out", "--checkpoint": "run"}
    done = dora("export", *(word for option, value in given.items() if option != missing for word in (option, value)))
    assert (done.code, done.out) == (2, "")
    assert missing in done.err


def test_a_format_that_there_is_not() -> None:
    done = dora("export", "-c", "run", "-o", "out", "--format", "gguf")
    assert done.code == 2
    assert "peft" in done.err
    assert "merged" in done.err
