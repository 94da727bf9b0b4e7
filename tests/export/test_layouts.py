"""Every layout of an adapter gives the run's own update, to readers with patterns and to readers without."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file

from dora_cli import parse_recipe, train
from dora_cli.errors import ExportError
from dora_cli.export.factors import LAYOUTS
from dora_cli.export.saved import export_saved
from tests.export.conftest import KINDS, GetRun, Kind, batch_for, config_of, load_base, logits, restored, text_of

METHODS = {
    "dora": None,  # of `run_of`: every third projection at rank 0
    "lora, one rank": "{name: lora, rank: 3, dropout: 0.0, alpha: 24}",
    "lora, ranks by pattern": (
        "{name: lora, rank: 2, ranks: {'*query': 0, '*key': 5, 'layer.0.*.value': 1}, dropout: 0.0, alpha: 24, "
        "scaling: rank-stabilised, learning_rate_ratio: 4}"
    ),
}
NAME = "bert, regression"
GetMethod = Callable[[str], Path]


@pytest.fixture(scope="module")
def run_with(run_of: GetRun, bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> GetMethod:
    """The folder of a run with a method; each is trained once."""
    made: dict[str, Path] = {}

    def get(method: str) -> Path:
        section = METHODS[method]
        if section is None:
            return run_of(NAME, "method.start_rank=4")
        if method not in made:
            made[method] = tmp_path_factory.mktemp("run") / "run"
            # a section is replaced as a whole: what is DoRA's alone is not LoRA's
            text = re.sub(r"method: \{.*\}", f"method: {section}", text_of(KINDS[NAME], bases["bert"]))
            train(parse_recipe(text, overrides=["train.learning_rate=5e-2"]), made[method])
        return made[method]

    return get


@pytest.fixture
def kind() -> Kind:
    return KINDS[NAME]


def read(folder: Path, scale: Callable[[dict[str, Any], str, int], float]) -> dict[str, torch.Tensor]:
    """The updates that a reader with its own rule for the scale makes of an adapter, in float64."""
    config, tensors = config_of(folder), load_file(folder / "adapter_model.safetensors")
    found = {}
    for name in config["target_modules"]:
        A, B = (tensors[f"base_model.model.{name}.lora_{factor}.weight"].double() for factor in "AB")
        found[name] = scale(config, name, len(A)) * B @ A
    return found


def by_pattern(config: dict[str, Any], name: str, rank: int) -> float:
    """In PEFT and vLLM 0.32: the first pattern that matches the end of a name counts."""

    def asked(patterns: dict[str, int], default: int) -> int:
        return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), default)

    assert asked(config["rank_pattern"], config["r"]) == rank
    return asked(config["alpha_pattern"], config["lora_alpha"]) / rank


def by_config(config: dict[str, Any], name: str, rank: int) -> float:
    """In vLLM 0.31 and SGLang: one alpha over one rank, whatever the tensors have."""
    return config["lora_alpha"] / config["r"]


def by_tensor(config: dict[str, Any], name: str, rank: int) -> float:
    """In llama.cpp and TensorRT-LLM: one alpha over the rank of the tensor."""
    return config["lora_alpha"] / rank


SUITS = {"patterns": {by_pattern, by_config}, "constant-alpha": {by_pattern, by_tensor},
         "uniform": {by_pattern, by_config, by_tensor}}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("method", METHODS)
def test_each_layout_is_exact_for_the_readers_it_suits(
    method: str, layout: str, run_with: GetMethod, bases: dict[str, Path], kind: Kind, tmp_path: Path
) -> None:
    run = run_with(method)
    own = restored(run)
    ranks = {layer.name: layer.rank for layer in own.adapted.method.allocation()}
    assert (0 in ranks.values()) == (method != "lora, one rank")
    live = {name: rank for name, rank in ranks.items() if rank}
    updates = {name: one.B.double() @ one.A.double() for name, one in own.adapted.method.to_lora().items()}
    assert min(update.abs().max() for update in updates.values()) > 1e-5
    mixed, highest = len(set(live.values())) > 1, max(live.values())
    assert mixed == (method != "lora, one rank")
    found = export_saved(run, tmp_path / "out", layout=layout)
    assert (found.layout, found.largest_rank, found.exact.components) == (layout, highest, sum(live.values()))
    assert found.agreement.by is not None
    assert found.agreement.difference < 1e-5

    config = config_of(tmp_path / "out")
    others = {re.escape(name): rank for name, rank in live.items() if rank != highest}
    assert config["target_modules"] == list(live)
    assert (config["r"], config["lora_alpha"]) == (highest, highest)
    assert config["rank_pattern"] == ({} if layout == "uniform" else others)
    assert config["alpha_pattern"] == (others if layout == "patterns" else {})

    for rule in (by_pattern, by_config, by_tensor):
        theirs = read(tmp_path / "out", rule)
        differences = [float((theirs[name] - update).abs().max()) for name, update in updates.items()]
        if rule in SUITS[layout] or not mixed:
            assert max(differences) < 1e-6
        else:
            assert max(differences) > 1e-5, "a reader that this layout does not suit"

    model = PeftModel.from_pretrained(load_base(kind, bases[kind.base], own), tmp_path / "out")
    layers = {
        path.removeprefix("base_model.model."): module
        for path, module in model.named_modules()
        if hasattr(module, "lora_A")
    }
    assert layers.keys() == updates.keys()
    for name, layer in layers.items():
        torch.testing.assert_close(layer.get_delta_weight("default").double(), updates[name], atol=1e-6, rtol=1e-6)
    batch = batch_for(own.adapted.model, own.adapted.tokenizer, kind)
    expected = logits(own.adapted.model, batch)
    torch.testing.assert_close(logits(model, batch), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits(model.merge_and_unload(), batch), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("layout", ["constant-alpha", "uniform"])
def test_without_peft_the_scale_of_the_file_is_counted(
    layout: str, run_with: GetMethod, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dora_cli.export.saved.installed_peft", lambda: None)
    found = export_saved(run_with("lora, ranks by pattern"), tmp_path / "out", layout=layout)
    assert found.agreement.by is None
    assert found.agreement.difference < 1e-5


def test_padding_goes_with_every_layout(run_with: GetMethod, tmp_path: Path) -> None:
    run = run_with("lora, ranks by pattern")  # 1, 2 and 5
    export_saved(run, tmp_path / "wide", layout="uniform", padding="power-of-two")
    assert config_of(tmp_path / "wide")["r"] == 8
    export_saved(run, tmp_path / "common", padding="common")
    export_saved(run, tmp_path / "uniform", layout="uniform")
    for file in ("adapter_config.json", "adapter_model.safetensors", "README.md"):
        assert (tmp_path / "common" / file).read_bytes() == (tmp_path / "uniform" / file).read_bytes()
    own = restored(run)
    export_saved(run, tmp_path / "divided", layout="constant-alpha", padding="power-of-two")
    for name, update in read(tmp_path / "divided", by_tensor).items():
        one = own.adapted.method.to_lora()[name]
        torch.testing.assert_close(update, one.B.double() @ one.A.double(), atol=1e-6, rtol=1e-6)


def test_a_bound_on_ranks(run_with: GetMethod, tmp_path: Path) -> None:
    run = run_with("lora, ranks by pattern")
    assert export_saved(run, tmp_path / "out", max_rank=5, layout="uniform").largest_rank == 5
    with pytest.raises(ExportError, match=r"^--max-rank 4: .*\.key has rank 5\b"):
        export_saved(run, tmp_path / "none", max_rank=4)
    with pytest.raises(ExportError, match=r"--max-rank 6: .*rank 8.* leave --pad power-of-two out"):
        export_saved(run, tmp_path / "none", max_rank=6, padding="power-of-two")
    with pytest.raises(ExportError, match="--max-rank 0: "):
        export_saved(run, tmp_path / "none", max_rank=0)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"layout": "gguf"}, "--layout gguf: .*patterns, constant-alpha, uniform"),
        ({"layout": "uniform", "format": "merged"}, "--layout uniform is for --format peft"),
        ({"max_rank": 8, "format": "merged"}, "--max-rank 8 is for --format peft"),
        ({"layout": "constant-alpha", "padding": "common"}, "--pad common .*--layout constant-alpha"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=says):
        export_saved(tmp_path / "run", tmp_path / "out", **options)


def test_the_card_names_the_layout_and_the_method(run_with: GetMethod, tmp_path: Path) -> None:
    for layout in LAYOUTS:
        export_saved(run_with("lora, ranks by pattern"), tmp_path / layout, layout=layout)
        card = (tmp_path / layout / "README.md").read_text()
        assert f" `{layout}`" in card
        assert "`max_lora_rank` of 8 or more" in card
        assert "(Hu et al.," in card
        assert "`alpha / sqrt(rank)`" in card
        assert "4 times " in card
        assert "Mao " not in card
        assert "pruned" not in card
        assert yaml.safe_load(card.split("---\n")[1])["tags"] == ["lora", "glue/stsb"]
    export_saved(run_with("lora, one rank"), tmp_path / "same")
    card = (tmp_path / "same" / "README.md").read_text()
    assert " `uniform`" in card, "patterns that say nothing suit every reader"
    assert "at rank 0" not in card
