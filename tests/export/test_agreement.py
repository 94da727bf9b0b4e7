"""The training model, the exported adapter in PEFT, PEFT's own merge of it, and the merged model are one function."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file

from dora_cli.assembly.restore import Restored
from dora_cli.export.saved import Export, export_saved
from dora_cli.library.prediction import predict_saved
from tests.export.conftest import CLASSIFIER, KINDS, GetRun, batch_for, config_of, load_base, logits, restored

kinds = pytest.mark.parametrize("name", KINDS)


@dataclass(frozen=True)
class Case:
    """A run as a model, and what it says of a batch; nobody changes it."""

    own: Restored
    batch: dict[str, torch.Tensor]
    expected: torch.Tensor


GetCase = Callable[[str], Case]
GetExport = Callable[[str, str], tuple[Path, Export]]


@pytest.fixture(scope="module")
def case_of(run_of: GetRun) -> GetCase:
    made: dict[str, Case] = {}

    def get(name: str) -> Case:
        if name not in made:
            own = restored(run_of(name))
            batch = batch_for(own.adapted.model, own.adapted.tokenizer, KINDS[name])
            made[name] = Case(own, batch, logits(own.adapted.model, batch))
        return made[name]

    return get


@pytest.fixture(scope="module")
def export_of(run_of: GetRun, tmp_path_factory: pytest.TempPathFactory) -> GetExport:
    """The folder of an export and what was said of it; made once, and nobody changes it."""
    made: dict[tuple[str, str], tuple[Path, Export]] = {}

    def get(name: str, format: str) -> tuple[Path, Export]:
        if (name, format) not in made:
            folder = tmp_path_factory.mktemp("export") / format
            made[name, format] = folder, export_saved(run_of(name), folder, format=format)
        return made[name, format]

    return get


@kinds
def test_the_run_peft_its_merge_and_ours_agree_to_1e5(
    name: str, case_of: GetCase, export_of: GetExport, bases: dict[str, Path], tmp_path: Path
) -> None:
    kind, case = KINDS[name], case_of(name)
    own, batch, expected = case.own, case.batch, case.expected
    ranks = {layer.name: layer.rank for layer in own.adapted.method.allocation()}
    assert own.adapted.method.frozen
    assert 0 < sum(rank == 0 for rank in ranks.values()) < len(ranks), "some projections are meant to be at rank 0"
    assert len(set(ranks.values())) > 1
    assert not torch.allclose(expected, logits(load_base(kind, bases[kind.base], own), batch), atol=1e-2), (
        "the run changed nothing"
    )

    peft, found = export_of(name, "peft")
    assert found.agreement.difference < 1e-5
    assert found.exact.components == sum(ranks.values())
    config = config_of(peft)
    assert config["base_model_name_or_path"] == str(bases[kind.base])
    assert config["fan_in_fan_out"] is (kind.base == "gpt2")
    assert config["target_modules"] == [path for path, rank in ranks.items() if rank]
    adapter = PeftModel.from_pretrained(load_base(kind, bases[kind.base], own), peft)
    adapted = {
        path.removeprefix("base_model.model."): module
        for path, module in adapter.named_modules()
        if hasattr(module, "lora_A")
    }
    assert {path: module.r["default"] for path, module in adapted.items()} == {
        path: rank for path, rank in ranks.items() if rank
    }
    assert {module.scaling["default"] for module in adapted.values()} == {1.0}
    torch.testing.assert_close(logits(adapter, batch), expected, atol=1e-5, rtol=0)

    adapter.save_pretrained(tmp_path / "again")
    again = PeftModel.from_pretrained(load_base(kind, bases[kind.base], own), tmp_path / "again")
    assert torch.equal(logits(again, batch), logits(adapter, batch))
    ours, theirs = (load_file(place / "adapter_model.safetensors") for place in (peft, tmp_path / "again"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[key]) for key, tensor in ours.items())

    torch.testing.assert_close(logits(adapter.merge_and_unload(), batch), expected, atol=1e-5, rtol=0)

    folder, found = export_of(name, "merged")
    assert found.agreement.difference < 1e-5
    merged = getattr(transformers, kind.auto_class).from_pretrained(folder)
    torch.testing.assert_close(logits(merged, batch), expected, atol=1e-5, rtol=0)


_MERGED = ("bert, regression", "gpt2 (Conv1D), classification", "llama, grouped queries", "bart")


@pytest.mark.parametrize(
    ("name", "format"),
    [(name, "merged" if name in _MERGED else "peft") for name in KINDS],
)
def test_the_lines_of_the_model_card_load_it(
    name: str,
    format: str,
    run_of: GetRun,
    case_of: GetCase,
    export_of: GetExport,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every Python block of the card, one after the other, in the exported folder; what they print is what the run
    predicts.
    """
    kind, case = KINDS[name], case_of(name)
    own, batch, expected = case.own, case.batch, case.expected
    shutil.copytree(export_of(name, format)[0], tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert len(blocks) == (3 if format == "peft" else 2)
    monkeypatch.chdir(tmp_path / "out")
    said, names = io.StringIO(), {}
    for block in blocks:
        with contextlib.redirect_stdout(said):
            exec(block, names)
        torch.testing.assert_close(logits(names["model"], batch), expected, atol=1e-5, rtol=0)
    if kind.auto_class == CLASSIFIER:
        inputs = own.adapted.tokenizer(*(f"the {column}" for column in own.task.text_columns), return_tensors="pt")
        with torch.no_grad():
            found = own.adapted.model(**inputs).logits[0]
        if own.task.regression:
            assert float(said.getvalue()) == pytest.approx(float(found[0]), abs=1e-5)
        else:
            assert said.getvalue().strip() == own.task.label_names[int(found.argmax())]
    else:
        (tmp_path / "mrs.txt").write_text(names["source"] + "\n")
        assert said.getvalue().strip() == predict_saved(run_of(name), file=tmp_path / "mrs.txt")[0]["output"]
        assert said.getvalue().strip()


@pytest.mark.parametrize("padding", ["power-of-two", "common"])
def test_padding_changes_ranks_and_not_the_function(
    padding: str, run_of: GetRun, case_of: GetCase, export_of: GetExport, bases: dict[str, Path], tmp_path: Path
) -> None:
    name = "llama, grouped queries"
    kind, case = KINDS[name], case_of(name)
    own, batch = case.own, case.batch
    folder, plain = export_of(name, "peft")
    found = export_saved(run_of(name), tmp_path / "padded", padding=padding)
    adapter = PeftModel.from_pretrained(load_base(kind, bases[kind.base], own), tmp_path / "padded")
    torch.testing.assert_close(logits(adapter, batch), case.expected, atol=1e-5, rtol=0)
    ranks = {layer.name: (layer.rank, sum(layer.shape)) for layer in own.adapted.method.allocation() if layer.rank}
    highest = max(rank for rank, _ in ranks.values())
    wanted = {path: highest if padding == "common" else {1: 1, 2: 2, 3: 4}[rank] for path, (rank, _) in ranks.items()}
    got = {
        path.removeprefix("base_model.model."): module.r["default"]
        for path, module in adapter.named_modules()
        if hasattr(module, "lora_A")
    }
    assert got == wanted
    cost = sum((wanted[path] - rank) * width for path, (rank, width) in ranks.items())
    assert found.padding_bytes == 4 * cost > 0
    assert plain.padding_bytes == 0
    tensors = {
        name: sum(tensor.numel() for tensor in load_file(place / "adapter_model.safetensors").values())
        for name, place in (("plain", folder), ("padded", tmp_path / "padded"))
    }
    assert tensors["padded"] - tensors["plain"] == cost
    if padding == "common":
        assert config_of(tmp_path / "padded")["rank_pattern"] == {}


@pytest.mark.parametrize("name", ["bert, fresh pooler and classifier", "llama, grouped queries", "bart"])
def test_bf16_stays_within_a_few_percent_of_the_largest_logit(
    name: str, run_of: GetRun, case_of: GetCase, bases: dict[str, Path], tmp_path: Path
) -> None:
    """bf16 has 8 bits of mantissa.

    Rounding the adapter alone costs a few thousandths, rounding every weight of a merged model more.
    """
    kind, run, case = KINDS[name], run_of(name), case_of(name)
    own, batch, expected = case.own, case.batch, case.expected
    scale = float(expected.abs().max())
    export_saved(run, tmp_path / "peft", dtype="bfloat16")
    assert {tensor.dtype for tensor in load_file(tmp_path / "peft" / "adapter_model.safetensors").values()} == {
        torch.bfloat16
    }
    adapter = PeftModel.from_pretrained(load_base(kind, bases[kind.base], own), tmp_path / "peft")
    difference = float((logits(adapter, batch) - expected).abs().max()) / scale
    export_saved(run, tmp_path / "merged", format="merged", dtype="bfloat16")
    merged = getattr(transformers, kind.auto_class).from_pretrained(tmp_path / "merged")
    assert merged.dtype == torch.bfloat16
    whole = float((logits(merged, batch) - expected).abs().max()) / scale
    print(f"{name}: {difference:.2g} {whole:.2g}")
    assert 0 < difference < 0.02
    assert 0 < whole < 0.05


def test_a_half_precision_base(run_of: GetRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The head is fp32 over a bf16 base; the card's lines load it so that it computes, to bf16's few bits, what the run
    does.
    """
    run = run_of("roberta, classification", "model.dtype=bfloat16")
    for format, dtype in (("peft", None), ("peft", "bfloat16"), ("merged", None), ("merged", "float32")):
        found = export_saved(run, tmp_path / f"{format}-{dtype}", format=format, dtype=dtype)
        assert found.dtype == (dtype or ("float32" if format == "peft" else "bfloat16"))
        assert found.agreement.difference < 0.02 * found.agreement.largest
    merged = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged-None")
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.bfloat16}
    whole = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged-float32")
    assert {parameter.dtype for parameter in whole.parameters()} == {torch.float32}
    own = restored(run)
    batch = batch_for(own.adapted.model, own.adapted.tokenizer, KINDS["roberta, classification"])
    expected = logits(whole, batch)
    monkeypatch.chdir(tmp_path / "peft-None")
    names: dict[str, object] = {}
    exec(re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), flags=re.DOTALL)[0], names)
    for model in (names["model"], merged):
        assert float((logits(model, batch) - expected).abs().max()) < 0.02 * float(expected.abs().max())
