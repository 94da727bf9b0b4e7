"""The ranks of a run in PEFT's words, and what PEFT makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model
from torch import nn

from dora_cli import parse_recipe
from dora_cli.atomic import write_json
from dora_cli.errors import CheckpointError
from dora_cli.recipe import dump_recipe
from dora_cli.reports.ranks.rank_pattern import rank_pattern
from dora_cli.reports.runs import find_ranks
from dora_cli.runs.records.ranks import ranks_record
from dora_cli.runs.run_folder import RunRecords
from tests.reports.examples import FakeAllocation, FakeProjection

NAMES = ("a.fc", "b.a.fc", "b.c", "d.c1", "dXc1")


def run(folder: Path, method: str, ranks: dict[str, tuple[int, int]]) -> Path:
    """A finished run whose projections have `ranks`, at the start and in the end."""
    records = RunRecords(folder)
    folder.mkdir()
    text = f"task: glue/sst2\nmodel: {{name: builtin:tiny-encoder}}\nmethod: {method}\n"
    records.recipe.write_text(dump_recipe(parse_recipe(text)))
    projections = [FakeProjection(name, "encoder", 0, None, name, "ffn") for name in ranks]
    allocations = [FakeAllocation(name, (4, 4), start, end) for name, (start, end) in ranks.items()]
    live = sum(end for _, end in ranks.values())
    write_json(
        records.ranks,
        ranks_record(
            projections,
            allocations,
            unit="component",
            start_rank=None,
            target_rank=None,
            live_components=live,
            history=[],
        ),
    )
    return folder


def given(folder: Path) -> dict[str, Any]:
    return rank_pattern(find_ranks(folder))


def peft_layers(arguments: dict[str, Any]) -> dict[str, tuple[int, float]]:
    """Rank and scale of every layer that PEFT makes of them, by name."""
    model = nn.Module()
    for name in NAMES:
        *path, last = name.split(".")
        parent = model
        for part in path:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(last, nn.Linear(4, 4))
    found = get_peft_model(model, LoraConfig(**arguments))
    return {
        path.removeprefix("base_model.model."): (module.r["default"], module.scaling["default"])
        for path, module in found.named_modules()
        if hasattr(module, "lora_A")
    }


def test_lora_keeps_its_alpha(tmp_path: Path) -> None:
    """Each projection by its own rank: one alpha for all."""
    ends = dict(zip(NAMES, (3, 5, 2, 5, 4), strict=True))
    folder = run(tmp_path / "run", "{name: lora, alpha: 8}", {name: (rank, rank) for name, rank in ends.items()})
    found = given(folder)
    assert (found["r"], found["lora_alpha"], found["alpha_pattern"]) == (5, 8, {})
    assert found["rank_pattern"] == {r"^a\.fc": 3, r"b\.c": 2, "dXc1": 4}
    assert peft_layers(found) == {name: (rank, 8 / rank) for name, rank in ends.items()}


def test_rank_stabilised_scales_are_kept(tmp_path: Path) -> None:
    ends = dict(zip(NAMES, (1, 4, 9, 4, 2), strict=True))
    folder = run(
        tmp_path / "run",
        "{name: lora, alpha: 6, scaling: rank-stabilised}",
        {name: (rank, rank) for name, rank in ends.items()},
    )
    found = given(folder)
    assert (found["r"], found["lora_alpha"]) == (9, 18)  # 18 / 9 is 6 / sqrt(9)
    layers = peft_layers(found)
    assert {name: rank for name, (rank, _) in layers.items()} == ends
    assert {name: scale for name, (_, scale) in layers.items()} == pytest.approx(
        {name: 6 / rank**0.5 for name, rank in ends.items()}, rel=1e-11
    )


def test_doras_scale_is_by_the_start_rank(tmp_path: Path) -> None:
    ends = dict(zip(NAMES, (12, 0, 7, 1, 12), strict=True))
    folder = run(tmp_path / "run", "{name: dora, alpha: 8}", {name: (12, rank) for name, rank in ends.items()})
    found = given(folder)
    assert (found["r"], found["lora_alpha"]) == (12, 8)
    assert found["alpha_pattern"] == pytest.approx({r"b\.c": 8 / 12 * 7, r"d\.c1": 8 / 12})
    assert found["target_modules"] == ["a.fc", "b.c", "d.c1", "dXc1"]
    # "b.a.fc", at rank 0, ends like another one, as a plain name in target_modules cannot tell
    layers = {name: what for name, what in peft_layers(found).items() if name != "b.a.fc"}
    assert {name: rank for name, (rank, _) in layers.items()} == {name: rank for name, rank in ends.items() if rank}
    assert [scale for _, scale in layers.values()] == pytest.approx([8 / 12] * 4)


def test_a_projection_at_rank_0_whose_name_ends_like_another_is_left_out(tmp_path: Path) -> None:
    """PEFT finds targets by the end of a name: ``a.fc`` would bring ``x.a.fc`` with it."""
    alike = next(name for name in NAMES if any(name.endswith(f".{other}") for other in NAMES))
    ranks = {name: (4, 0 if name == alike else 4) for name in NAMES}
    found = given(run(tmp_path / "run", "{name: lora, alpha: 8}", ranks))
    assert found["exclude_modules"] == [alike]
    assert peft_layers(found) == {name: (4, 2.0) for name in NAMES if name != alike}


def test_runs_without_ranks(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="the method head adapts no projection"):
        given(run(tmp_path / "head", "{name: head}", {}))
    with pytest.raises(CheckpointError, match="every projection is at rank 0"):
        given(run(tmp_path / "zero", "{name: dora}", {"a": (3, 0)}))


def test_the_mean_of_several_runs_has_no_patterns(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for seed in (1, 2):
        run(tmp_path / "runs" / f"seed-{seed}", "{name: dora}", {"a": (3, 2)})
    with pytest.raises(CheckpointError, match="name one of the runs"):
        given(tmp_path / "runs")
