"""What is said of a start rank that some projections cannot have: at the start of a run and in its dry run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from dora_cli import train
from dora_cli.assembly import build as build_module
from dora_cli.assembly.build import note_on_rank
from dora_cli.assembly.dry_run import dry_run
from dora_cli.errors import ModelError
from dora_cli.methods import HeadOnly
from dora_cli.methods.base import Site
from dora_cli.training.listener import SilentListener
from tests.methods.small import new_dora, new_lora
from tests.training.conftest import MakeRecipe


def projection(name: str, d_out: int, d_in: int) -> Site:
    return Site(name, nn.Identity(), (d_out, d_in), projection=name)


PROJECTIONS = [
    projection("up", 32, 16),
    projection("down", 16, 32),
    projection("values", 8, 16),
    projection("wide", 32, 32),
]


class Notes(SilentListener):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_components_beyond_the_smaller_side_are_told() -> None:
    assert note_on_rank(new_dora(start_rank=8), PROJECTIONS) is None
    assert note_on_rank(HeadOnly(), PROJECTIONS) is None
    note = note_on_rank(new_dora(start_rank=9), PROJECTIONS)
    assert note is not None
    assert "start with 9 components, more than min(d_in, d_out) of 1 of 4 (least: 8 of values, 16 to 8)" in note
    assert note.endswith("lower their start rank")
    assert "of 3 of 4" in (note_on_rank(new_dora(start_rank=17), PROJECTIONS) or "")
    note = note_on_rank(new_lora(rank=8, ranks={"values": 12, "wide": 40}), PROJECTIONS)
    assert "start with 12 components, more than min(d_in, d_out) of 2 of 4" in (note or "")


def test_the_dry_run_and_the_run_say_so_once(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    impossible = make_recipe("method.start_rank=17", "train.max_steps=9")  # the model is 16 wide
    note = dict(dry_run(impossible).rows)["rank"]
    assert re.search(r" 17 .* 6 of 6 \(least: 16 of bert\.encoder\.layer\.0\.", note)
    listener = Notes()
    train(impossible, tmp_path / "run", listener=listener)
    assert listener.notes.count(note) == 1


def test_nothing_is_said_of_ranks_that_can_be(make_recipe: MakeRecipe) -> None:
    assert "rank" not in dict(dry_run(make_recipe("method.start_rank=16")).rows)
    assert "rank" not in dict(dry_run(make_recipe("method={name: head}")).rows)


CLS_WITHOUT_ID = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {},
}


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("tokenizer_config.json", "model_max_length", [1]),
        ("tokenizer_config.json", "padding_side", []),
        ("tokenizer.json", "added_tokens", [{"id": 2**40}]),
        ("tokenizer.json", "post_processor", CLS_WITHOUT_ID),  # panics at the first text
        ("config.json", "num_attention_heads", 0),
        ("config.json", "hidden_act", "no such function"),
    ],
)
def test_whatever_the_files_of_a_model_hold_there_is_one_message(
    make_recipe: MakeRecipe, tiny_model: Path, tmp_path: Path, file: str, key: str, value: object
) -> None:
    shutil.copytree(tiny_model, tmp_path / "model")
    content = json.loads((tmp_path / "model" / file).read_text())
    (tmp_path / "model" / file).write_text(json.dumps(content | {key: value}))
    recipe = make_recipe(f"model.name={tmp_path / 'model'}", "train.max_steps=4")
    with pytest.raises(ModelError, match=r"^model\.name: "):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_triton_a_run_on_a_gpu_says_so(make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_module, "triton_obstacle", lambda: "it is not installed")
    recipe = make_recipe()
    said = "adapters are computed without Triton, which would be faster: it is not installed"
    assert build_module.note_on_kernels(recipe, torch.device("cuda")) == said
    assert build_module.note_on_kernels(recipe, torch.device("cpu")) is None
    assert build_module.note_on_kernels(make_recipe("method={name: head}"), torch.device("cuda")) is None
    monkeypatch.setattr(build_module, "triton_obstacle", lambda: None)
    assert build_module.note_on_kernels(recipe, torch.device("cuda")) is None
