"""An adapter saved out of a loop of the user's own is read by `load_adapter` and by PEFT, whole or not at all."""

from __future__ import annotations

import json
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import nn

from dora_cli import attach, load_adapter, merge, save_adapter
from dora_cli.errors import CheckpointError, ModelError, OutputError
from dora_cli.methods.attached import attached
from tests.hostile.edits import sign
from tests.library.test_own_loop import SETTINGS, T, batches, bert, run, trainable
from tests.models.structure.test_projections import causal

FOR_PEFT = {"adapter_config.json", "adapter_model.safetensors"}
OURS = {"adapter.json", "adapter.safetensors", "head.safetensors", "manifest.json", "state.json"}


def trained(steps: int = T, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    model = bert().to(dtype).train()
    method = attach(model, **(SETTINGS | changes))
    run(model, method, torch.optim.AdamW(trainable(model), lr=1e-2), steps)
    return model.eval()


@torch.no_grad()
def logits(model: nn.Module) -> torch.Tensor:
    return model.eval()(**next(batches())).logits


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def model() -> Any:
    """Nobody changes it."""
    return trained()


@pytest.mark.parametrize(
    "changes", [{}, {"compact": False}, {"head": False}, {"targets": ("*.query",), "fresh": ["bert.pooler.dense.bias"]}]
)
def test_load_adapter_and_peft_read_what_is_saved(changes: dict[str, Any], tmp_path: Path) -> None:
    model = trained(**changes)
    expected, state = logits(model), {name: value.clone() for name, value in model.state_dict().items()}
    assert not torch.allclose(expected, logits(bert()), rtol=0, atol=1e-5), "it has learnt something"
    save_adapter(model, tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved").iterdir()} == OURS | FOR_PEFT
    assert torch.equal(logits(model), expected)
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in state.items()
    }

    again = bert()
    random = torch.get_rng_state()
    method = load_adapter(tmp_path / "saved", again)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(logits(again), expected)
    assert [item.rank for item in method.allocation()] == [item.rank for item in attached(model).allocation()]
    assert {name for name, p in again.named_parameters() if p.requires_grad} == {
        name for name, p in model.named_parameters() if p.requires_grad
    }

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = PeftModel.from_pretrained(bert(), tmp_path / "saved")
    torch.testing.assert_close(logits(theirs), expected, atol=1e-6, rtol=0)

    save_adapter(again, tmp_path / "twice")
    assert content(tmp_path / "twice") == content(tmp_path / "saved")


def test_a_float64_model_is_saved_and_loaded_as_it_is(tmp_path: Path) -> None:
    model = trained(dtype=torch.float64)
    save_adapter(model, tmp_path / "saved")
    again = bert().double()
    load_adapter(tmp_path / "saved", again)
    assert torch.equal(logits(again), logits(model))
    with pytest.raises(
        CheckpointError,
        match=r"float32, .*float64; .*dtype=torch\.float64",
    ):
        load_adapter(tmp_path / "saved", bert())


def test_before_the_freeze_it_must_be_asked_for(tmp_path: Path) -> None:
    model = trained(steps=6)
    with pytest.raises(CheckpointError, match=r"not final.*allow_unfrozen=True"):
        save_adapter(model, tmp_path / "saved")
    assert not list(tmp_path.iterdir())
    save_adapter(model, tmp_path / "saved", allow_unfrozen=True)
    state = json.loads((tmp_path / "saved" / "state.json").read_text())
    assert (state["step"], state["phase"], state["frozen"]) == (6, "pruning", False)
    again = bert()
    with pytest.raises(CheckpointError, match=r"\(step 6\).*allow_unfrozen=True"):
        load_adapter(tmp_path / "saved", again)
    load_adapter(tmp_path / "saved", again, allow_unfrozen=True)
    assert torch.equal(logits(again), logits(model))


def test_another_base_is_refused(model: Any, tmp_path: Path) -> None:
    save_adapter(model, tmp_path / "saved")
    with pytest.raises(CheckpointError, match=r"\(fingerprint"):
        load_adapter(tmp_path / "saved", bert(seed=1))
    record = tmp_path / "saved" / "adapter.json"
    content = json.loads(record.read_text())
    content["method"]["targets"][0] = "bert.encoder.layer.0.attention.self.quarry"
    record.write_text(json.dumps(content))
    sign(record.parent)
    with pytest.raises(CheckpointError, match="quarry"):
        load_adapter(tmp_path / "saved", bert())


def test_a_record_that_does_not_hold_is_refused(model: Any, tmp_path: Path) -> None:
    save_adapter(model, tmp_path / "saved")
    record = tmp_path / "saved" / "adapter.json"
    pristine = record.read_text()
    for change in ({"schema_version": 2}, {"method": {"name": "dora", "rank": -1}}, {"base": {}}, {"more": 1}):
        record.write_text(json.dumps({**json.loads(pristine), **change}))
        sign(record.parent)
        with pytest.raises(CheckpointError, match=r"adapter\.json"):
            load_adapter(tmp_path / "saved", bert())
    record.write_text(pristine.replace('"rank": 2', '"rank": 3'))
    with pytest.raises(CheckpointError, match=r"adapter\.json .*manifest"):
        load_adapter(tmp_path / "saved", bert())


def test_only_an_earlier_adapter_is_replaced_and_only_when_asked(model: Any, tmp_path: Path) -> None:
    place = tmp_path / "saved"
    save_adapter(model, place)
    before = content(place)
    with pytest.raises(OutputError, match=r"holds an adapter already.*overwrite=True"):
        save_adapter(model, place)
    save_adapter(model, place, overwrite=True)
    assert content(place) == before
    (place / "thesis.tex").write_text("mine")
    for folder, says in ((place, r"holds thesis\.tex"), (place / "thesis.tex", "is a file")):
        with pytest.raises(OutputError, match=says):
            save_adapter(model, folder, overwrite=True)
    assert content(place) == {**before, "thesis.tex": b"mine"}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.bin").write_text("mine")
    with pytest.raises(OutputError, match=r"holds model\.bin"):
        save_adapter(model, tmp_path / "other", overwrite=True)


def test_a_full_disk_leaves_the_earlier_adapter_whole(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "saved"
    save_adapter(model, place)
    before = content(place)

    def full(*arguments: Any, **more: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OutputError, match=r"No space left on device.*then save again"):
        save_adapter(model, place, overwrite=True)
    assert content(place) == before
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_values_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    model = trained()
    name = next(name for name, p in model.named_parameters() if p.requires_grad and name.endswith(".B"))
    with torch.no_grad():
        model.get_parameter(name).fill_(float("inf"))
    with pytest.raises(ModelError, match=rf"not finite .* in {name}:"):
        save_adapter(model, tmp_path / "saved")
    assert not list(tmp_path.iterdir())


def test_what_peft_refuses_is_saved_for_us_alone(tmp_path: Path) -> None:
    model = causal("mamba")
    method = attach(model, rank=1, total_steps=4, targets=("*.out_proj",), head=False, prune_interval=1)
    for step in range(1, 5):
        method.after_step(step)
    with pytest.warns(UserWarning, match=r"is not written for PEFT: PEFT "):
        save_adapter(model, tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved").iterdir()} == OURS
    assert load_adapter(tmp_path / "saved", causal("mamba")).frozen


def test_a_model_without_an_adapter_has_nothing_to_save(tmp_path: Path) -> None:
    for make in (bert, partial(lambda: merge(trained()))):
        with pytest.raises(ModelError, match="no adapter"):
            save_adapter(make(), tmp_path / "saved")
