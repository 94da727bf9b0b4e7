"""The files PEFT reads, and what cannot be said in them."""

from __future__ import annotations

import copy
import re
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from torch import nn

from dora_cli import parse_recipe, train
from dora_cli.assembly.dry_run import dry_run
from dora_cli.errors import ExportError
from dora_cli.export.peft import adapter_config, adapter_tensors, head_modules, no_lora
from dora_cli.export.saved import export_saved
from dora_cli.methods import Houlsby
from dora_cli.methods.base import LoraFactors, Method
from tests.assembly.test_build import Notes
from tests.export.conftest import KINDS, GetRun, config_of, text_of
from tests.models.structure.test_projections import STATE_SPACE, causal, peft_takes


def zeros(rank: int, d_in: int = 4, d_out: int = 4) -> LoraFactors:
    return LoraFactors(torch.zeros(rank, d_in), torch.zeros(d_out, rank))


def config(model: nn.Module, ranks: dict[str, int], saved: list[str] | None = None) -> dict[str, Any]:
    factors = {name: zeros(rank) for name, rank in ranks.items()}
    return adapter_config(model, factors, saved or [], task_type="SEQ_CLS", base="base", revision="abc", dropout=0.1)


def chain(*names: str) -> nn.Module:
    """A model with a linear map under every dotted name."""
    model = nn.Module()
    for name in names:
        parent = model
        *path, last = name.split(".")
        for part in path:
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(last, nn.Linear(4, 4))
    return model


def test_the_patterns_match_one_projection_each_though_a_dot_matches_anything() -> None:
    names = ["net.1.fc", "net.11.fc", "netx1.fc"]
    found = config(chain(*names), {"net.1.fc": 2, "net.11.fc": 3, "netx1.fc": 5})
    assert (found["r"], found["lora_alpha"]) == (5, 5)
    assert found["target_modules"] == names
    assert found["rank_pattern"] == found["alpha_pattern"] == {r"net\.1\.fc": 2, r"net\.11\.fc": 3}
    assert found["revision"] == "abc"
    known = set(LoraConfig.__dataclass_fields__)
    assert set(found) <= known | {"peft_type", "task_type"}


@pytest.mark.parametrize(
    ("names", "targets", "saved", "says"),
    [
        (["fc.a", "deep.fc.a"], ["fc.a"], [], "would also adapt deep.fc.a"),
        (["fc.a", "pooler", "x.pooler"], ["fc.a"], ["pooler"], "would also replace x.pooler"),
        (["fc.a", "fc.score"], ["fc.a"], [], "would also replace fc.score"),  # PEFT adds "score" by itself
        (["fc.a", "out"], ["fc.a"], ["out"], "would also replace lora_dropout"),
        (["x.head.fc", "head"], ["x.head.fc"], ["head"], "x.head.fc looks like a part of the head"),
    ],
)
def test_names_that_peft_cannot_tell_apart(names: list[str], targets: list[str], saved: list[str], says: str) -> None:
    with pytest.raises(ExportError, match=says):
        config(chain(*names), dict.fromkeys(targets, 2), saved)


def test_two_names_of_one_length_are_fine_if_both_are_adapted() -> None:
    found = config(chain("fc.a", "deep.fc.a"), {"fc.a": 2, "deep.fc.a": 2})
    assert found["rank_pattern"] == {}


def test_a_shared_projection_cannot_be_said() -> None:
    model = chain("fc.a")
    model.add_module("twin", model.get_submodule("fc.a"))
    with pytest.raises(ExportError, match=r"fc\.a is also used as twin.*--format merged"):
        config(model, {"fc.a": 2})


def test_no_live_projection_at_all() -> None:
    with pytest.raises(ExportError, match=r"no projection has a component left.*--format merged"):
        config(chain("fc.a"), {})


def test_the_head_is_children_outside_the_base_and_owners_within_it() -> None:
    model = chain("base.pooler.dense", "base.layers.0", "classifier.out")
    model.base_model_prefix = "base"
    head = ["base.pooler.dense.weight", "base.pooler.dense.bias", "classifier.out.weight", "classifier.out.bias"]
    assert head_modules(model, head) == ["base.pooler.dense", "classifier"]
    with pytest.raises(ExportError, match="belongs to the model itself"):
        head_modules(model, ["scale"])


def test_buffers_of_the_head_are_saved_with_it() -> None:
    model = chain("fc.a", "classifier")
    model.get_submodule("classifier").register_buffer("count", torch.tensor([3]))
    tensors = adapter_tensors(model, {"fc.a": zeros(2)}, ["classifier"], torch.bfloat16)
    kept = "base_model.model.classifier."
    assert {name.removeprefix(kept): tensor.dtype for name, tensor in tensors.items() if name.startswith(kept)} == {
        "weight": torch.bfloat16,
        "bias": torch.bfloat16,
        "count": torch.int64,
    }


def test_modules_to_save_of_a_fresh_pooler(run_of: GetRun, tmp_path: Path) -> None:
    export_saved(run_of("bert, fresh pooler and classifier"), tmp_path / "out")
    found = config_of(tmp_path / "out")
    assert found["modules_to_save"] == ["bert.pooler.dense", "classifier"]
    assert found["task_type"] == "SEQ_CLS"
    assert not (tmp_path / "out" / "tokenizer_config.json").exists(), (
        "PEFT would resize the base's embeddings to fit it"
    )


def test_the_file_is_as_large_as_the_live_parameters(tmp_path: Path) -> None:
    """Within 2 % where a factor has some kilobytes; PEFT's names take about a hundred bytes each."""
    import transformers
    from transformers import AutoTokenizer

    from dora_cli.models.source import find_source

    place = find_source("builtin:tiny-encoder").location
    tokenizer = AutoTokenizer.from_pretrained(place)
    torch.manual_seed(0)
    shape = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=512, num_hidden_layers=2, num_attention_heads=4, intermediate_size=1024
    )
    transformers.BertForMaskedLM(shape).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    recipe = parse_recipe(f"""
        task: glue/sst2
        model: {{name: {tmp_path / "base"}}}
        data: {{source: builtin, max_train_samples: 40, max_eval_samples: 4, max_length: 8}}
        method: {{name: dora, rank: 8, prune_interval: 1}}
        train: {{epochs: 1, batch_size: 4, device: cpu}}
    """)
    budget = train(recipe, tmp_path / "run").metrics["budget"]
    head = 512 * 512 + 512 + 512 * 2 + 2
    for dtype, width in (("float32", 4), ("bfloat16", 2)):
        found = export_saved(tmp_path / "run", tmp_path / dtype, dtype=dtype)
        assert (found.exact.parameters, found.head_parameters) == (budget["adapter_parameters_final"], head)
        weights = width * (found.exact.parameters + head)
        assert weights < found.files["adapter_model.safetensors"] < 1.02 * weights


def test_a_run_of_the_head_alone_is_merged_only(bases: dict[str, Path], tmp_path: Path) -> None:
    import transformers

    text = text_of(KINDS["bert, fresh pooler and classifier"], bases["bert"])
    recipe = parse_recipe(re.sub("method: .*", "method: {name: head}", text))
    train(recipe, tmp_path / "run")
    with pytest.raises(ExportError, match=r"head.*--format merged"):
        export_saved(tmp_path / "run", tmp_path / "peft")
    assert not (tmp_path / "peft").exists()
    found = export_saved(tmp_path / "run", tmp_path / "merged", format="merged")
    assert found.agreement.difference < 1e-6
    assert found.exact.components == 0
    assert transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").config.num_labels == 3


def test_a_method_that_can_neither_be_merged_is_sent_to_neither() -> None:
    class Turned(Method):
        name = "turned"

    assert str(no_lora(Turned())).endswith("which PEFT would load; export it with --format merged instead")
    inserted = str(no_lora(Houlsby(bottleneck=2, activation="relu", start_std=0.1, train_norms=False)))
    assert "method houlsby inserts modules" in inserted
    assert "load_adapter" in inserted
    assert "--format merged" not in inserted


def test_a_checkpoint_from_before_the_freeze(run_of: GetRun, bases: dict[str, Path], tmp_path: Path) -> None:
    """With three start components everywhere, as many as were trained."""
    import transformers

    kind = KINDS["llama, grouped queries"]
    run = run_of("llama, grouped queries", "save.every_steps=2", "save.keep=20")
    early = run / "checkpoints" / "step-2"
    for format in ("peft", "merged"):
        with pytest.raises(ExportError, match=r"\bstep 2, .*--allow-unfrozen"):
            export_saved(early, tmp_path / format, format=format)
        assert not (tmp_path / format).exists()
        assert export_saved(early, tmp_path / format, format=format, allow_unfrozen=True).agreement.difference < 1e-5
    found = config_of(tmp_path / "peft")
    assert (found["r"], found["rank_pattern"], len(found["target_modules"])) == (3, {}, 14)
    assert "frozen" in (tmp_path / "peft" / "README.md").read_text()
    base = getattr(transformers, kind.auto_class).from_pretrained(bases["llama"])
    assert PeftModel.from_pretrained(base, tmp_path / "peft").peft_config["default"].r == 3
    assert len(load_file(tmp_path / "peft" / "adapter_model.safetensors")) == 2 * 14


# --- what PEFT itself says --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STATE_SPACE)
def test_what_peft_refuses_of_a_state_space_model_is_refused(name: str) -> None:
    """The facts are held against PEFT's own answers, projection by projection."""
    model = causal(name)
    for path in [path for path, module in model.named_modules() if isinstance(module, nn.Linear) and path != "lm_head"]:
        if peft_takes(model, [path]):
            assert config(model, {path: 1})["target_modules"] == [path]
        else:
            with pytest.raises(ExportError, match=rf"PEFT takes no adapter on {path} .*type {name}; .*--format merged"):
                config(model, {path: 1})


def falcon_h1(folder: Path, tokenizer: Any) -> Any:
    import transformers

    shape = copy.deepcopy(STATE_SPACE["falcon_h1"][0])
    shape.vocab_size, shape.max_position_embeddings = 1200, 160
    torch.manual_seed(0)
    transformers.FalconH1ForCausalLM(shape).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    text = text_of(KINDS["gpt2 (Conv1D)"], folder)
    return partial(parse_recipe, text)


def test_a_hybrid_model_is_exported_by_default_targets_and_merged_by_others(tokenizer: Any, tmp_path: Path) -> None:
    recipe = falcon_h1(tmp_path / "base", tokenizer)
    short = ["train.max_steps=6", "decode.beams=1", "decode.max_new_tokens=2"]
    listener = Notes()
    train(recipe(overrides=short), tmp_path / "default", listener=listener)
    note = dict(dry_run(recipe(overrides=short)).rows)["targets"]
    assert "out_proj (x2)" in note
    assert listener.notes.count(note) == 1
    found = export_saved(tmp_path / "default", tmp_path / "adapter")
    assert str(found.agreement.by).startswith("PEFT ")
    assert found.agreement.difference < 1e-5
    train(recipe(overrides=[*short, "method.targets=['*.out_proj']"]), tmp_path / "out_proj")
    with pytest.raises(ExportError, match="--format merged"):
        export_saved(tmp_path / "out_proj", tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    assert export_saved(tmp_path / "out_proj", tmp_path / "merged", format="merged").agreement.difference < 1e-5


def test_peft_is_asked_before_an_export_is_in_its_place(
    run_of: GetRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_of("roberta, classification")

    def refuse(*arguments: Any, **more: Any) -> None:
        raise ValueError("not on a Sunday\nsecond line")

    with monkeypatch.context() as patch:
        patch.setattr(PeftModel, "from_pretrained", refuse)
        with pytest.raises(ExportError, match=r"^PEFT \S+ .*: not on a Sunday; .*--format merged"):
            export_saved(run, tmp_path / "out")
    assert not list(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        # takes it, and does something else with it
        patch.setattr(PeftModel, "from_pretrained", lambda model, folder: model)
        with pytest.raises(ExportError, match="logits"):
            export_saved(run, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_without_peft_the_export_is_checked_by_the_model_itself(
    run_of: GetRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)  # as the import system says that there is none
    found = export_saved(run_of("roberta, classification"), tmp_path / "out")
    assert found.agreement.by is None
    assert found.agreement.difference < 1e-5
