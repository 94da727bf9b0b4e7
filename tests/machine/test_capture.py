"""Whether steps are captured in CUDA graphs: what is known, what is tried in another process, what is kept, and what a
user is told.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
import transformers
import yaml
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from dora_cli import train
from dora_cli.assembly import prepare as prepare_module
from dora_cli.assembly.dry_run import dry_run
from dora_cli.errors import DeviceError, RecipeError
from dora_cli.machine import capture
from dora_cli.machine.capture import Answer, Question, cache_file, choose_capture, known_answer, try_steps
from dora_cli.methods import Method
from dora_cli.models import packed_attention as packed_module
from dora_cli.models.fused import fused_blocks as fused_module
from dora_cli.models.fused.fused_blocks import Backend, FusedBlocks
from dora_cli.recipe import dump_recipe, parse_recipe
from dora_cli.recipe.methods import METHODS
from dora_cli.recipe.writing.json_schema import recipe_json_schema
from dora_cli.runs.resume import changed_keys, recipe_hash
from dora_cli.training import loop as loop_module
from dora_cli.training.capture import trial
from dora_cli.training.listener import SilentListener
from tests.commands.conftest import dora
from tests.patience import PATIENCE
from tests.training.conftest import MakeRecipe
from tests.training.test_run import largest_difference, read

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
DORA = {"name": "dora", "dropout": 0.1}
SMALLEST = "task: glue/rte\nmodel: {name: m}\n"

_USUAL = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 99,
    "num_hidden_layers": 3,
}
_GROUPED = {**_USUAL, "num_key_value_heads": 2}
_BART = {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "encoder_attention_heads": 4,
"decoder_attention_heads": 4,
         "encoder_layers": 3, "decoder_layers": 4, "vocab_size": 99}  # fmt: skip
_GPT2 = {"n_embd": 32, "n_head": 4, "n_layer": 3, "vocab_size": 99}
FAMILIES: dict[str, tuple[dict[str, Any], bool | None]] = {
    "RobertaForSequenceClassification": (_USUAL, True),
    "BertForSequenceClassification": (_USUAL, True),
    "GPT2LMHeadModel": (_GPT2, True),
    "GPT2ForSequenceClassification": (_GPT2, True),
    "LlamaForCausalLM": (_USUAL, True),
    "LlamaForSequenceClassification": (_USUAL, True),
    "BartForConditionalGeneration": (_BART, True),
    "MPNetForSequenceClassification": (_USUAL, False),
    "DebertaV2ForSequenceClassification": ({**_USUAL, "relative_attention": True, "pos_att_type": ["p2c", "c2p"],
                                          "position_buckets": 4, "norm_rel_ebd": "layer_norm", "share_att_key": True},
                                          False),
    "T5ForConditionalGeneration": ({"d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4, "num_layers": 3,
    "vocab_size": 99}, True),
    "DistilBertForSequenceClassification": ({"dim": 32, "n_heads": 4, "hidden_dim": 64, "n_layers": 3,
    "vocab_size": 99}, True),
    "ElectraForSequenceClassification": ({**_USUAL, "embedding_size": 16}, True),
    "AlbertForSequenceClassification": ({**_USUAL, "embedding_size": 16}, True),
    "OPTForCausalLM": ({**_USUAL, "ffn_dim": 64, "word_embed_proj_dim": 32}, True),
    "Qwen2ForCausalLM": (_GROUPED, True),
    "Qwen2ForSequenceClassification": (_GROUPED, True),
    "MistralForCausalLM": (_GROUPED, True),
    "GPTNeoXForCausalLM": (_USUAL, None),
    "GPTNeoForCausalLM": ({"hidden_size": 32, "num_heads": 4, "num_layers": 4,
    "attention_types": [[["global", "local"], 2]],
                           "vocab_size": 99}, False),
    "MixtralForCausalLM": ({**_GROUPED, "num_local_experts": 4}, None),
}  # fmt: skip
"""Small models by their class, and whether their steps are known to be captured; None where that is for
a trial to say.
"""


def make(name: str, **changes: Any) -> nn.Module:
    model_class = getattr(transformers, name)
    config = model_class.config_class(**{"pad_token_id": 0, **FAMILIES.get(name, ({},))[0], **changes})
    model: nn.Module = model_class(config)
    return model


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder; the user's own is left alone."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "dora" / "capture.json"


@pytest.fixture
def newest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Versions of which the table is known to hold, whatever is installed."""
    monkeypatch.setattr(capture, "installed_version", {"torch": "2.11.0+cu128", "transformers": "5.17.0"}.get)


# -- the recipe's key --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("auto", "auto"),
        ("on", "on"),
        ('"on"', "on"),
        ("true", "on"),
        ("off", "off"),
        ("'off'", "off"),
        ("false", "off"),
    ],
)
def test_every_spelling_of_on_and_off(written: str, meant: str) -> None:
    recipe = parse_recipe(SMALLEST + f"train: {{cuda_graph: {written}}}")
    assert recipe.train.cuda_graph == meant
    assert parse_recipe(SMALLEST, overrides=[f"train.cuda_graph={written}"]) == recipe
    assert parse_recipe(dump_recipe(recipe)) == recipe
    assert yaml.safe_load(dump_recipe(recipe))["train"]["cuda_graph"] == meant  # a reader of YAML 1.1
    tree = {"task": "glue/rte", "model": {"name": "m"}, "train": yaml.safe_load(f"cuda_graph: {written}")}
    assert pytest.importorskip("jsonschema").Draft202012Validator(recipe_json_schema()).is_valid(tree)


@pytest.mark.parametrize("written", ["1", "yes", "'true'", "null", "[on]"])
def test_other_spellings_are_refused(written: str) -> None:
    with pytest.raises(RecipeError, match=r"train\.cuda_graph: .*auto, on, off"):
        parse_recipe(SMALLEST + f"train: {{cuda_graph: {written}}}")


def test_it_may_change_when_a_run_goes_on() -> None:
    one, two = (parse_recipe(SMALLEST, overrides=[f"train.cuda_graph={value}"]) for value in ("auto", "off"))
    assert one != two
    assert changed_keys(one, two) == ""
    assert recipe_hash(one) == recipe_hash(two)


# -- what is known -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.usefixtures("newest")
def test_the_table(name: str) -> None:
    answer, known = known_answer(make(name), "bf16", DORA), FAMILIES[name][1]
    assert (None if answer is None else answer.captured) == known
    assert answer is None or (answer.reason is None) == answer.captured


@pytest.mark.usefixtures("newest")
def test_reasons_against_a_model_of_a_good_family() -> None:
    class BertOfSomeone(BertForSequenceClassification):
        pass

    custom = known_answer(BertOfSomeone(BertConfig(**_USUAL)), "bf16", DORA)
    assert custom == Answer(False, "BertOfSomeone is code that came with the model, which is not tried")

    checkpointed = make("BertForSequenceClassification")
    checkpointed.bert.encoder.layer[1].gradient_checkpointing = True
    assert "gradient checkpointing is on" in str(known_answer(checkpointed, "bf16", DORA))
    dropped = known_answer(make("BartForConditionalGeneration", encoder_layerdrop=0.1), "bf16", DORA)
    assert dropped == Answer(False, "the host draws which blocks are left out (encoder_layerdrop: 0.1)")
    assert "picks end tokens by a mask" in str(
        known_answer(make("BartForSequenceClassification", **_BART), "bf16", DORA)
    )


@pytest.mark.usefixtures("newest")
def test_what_the_table_does_not_cover_is_for_a_trial() -> None:
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    key = "rope_parameters" if hasattr(transformers.LlamaConfig(), "rope_parameters") else "rope_scaling"
    assert known_answer(make("LlamaForCausalLM", **{key: rope}), "bf16", DORA) is None
    model = make("BertForSequenceClassification")
    assert known_answer(model, "bf16", DORA) == Answer(True)
    model.config._attn_implementation = "eager"
    assert known_answer(model, "bf16", DORA) == Answer(True)
    model.config._attn_implementation = "flash_attention_2"
    assert known_answer(model, "bf16", DORA) is None


@pytest.mark.parametrize(
    ("package", "version"), [("torch", "2.10.1"), ("transformers", "4.57.0"), ("transformers", None)]
)
def test_other_versions_than_the_table_was_seen_with_are_tried(
    monkeypatch: pytest.MonkeyPatch, package: str, version: str | None
) -> None:
    monkeypatch.setattr(
        capture, "installed_version", ({"torch": "3.0", "transformers": "10.0.dev0"} | {package: version}).get
    )
    assert known_answer(make("BertForSequenceClassification"), "bf16", DORA) is None
    assert not known_answer(make("MPNetForSequenceClassification"), "bf16", DORA).captured  # type: ignore[union-attr]
    monkeypatch.setattr(capture, "installed_version", {"torch": "3.0", "transformers": "10.0.dev0"}.get)
    assert known_answer(make("BertForSequenceClassification"), "bf16", DORA) == Answer(True)


# -- a trial -----------------------------------------------------------------------------------------------------------

Stub = Callable[[str], Path]


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    """Puts some code in the place of the trial.

    Gives the folder into which it may write; there, `asked` grows with every call.
    """

    def put(code: str) -> Path:
        mark = f"folder = {str(tmp_path)!r}\nopen(folder + '/asked', 'a').write('x')\n"
        text = f"import json, os, sys, time\nquestion = sys.stdin.read()\n{mark}"
        monkeypatch.setattr(capture, "_COMMAND", (sys.executable, "-c", text + code))
        return tmp_path

    return put


def asked(folder: Path) -> int:
    path = folder / "asked"
    return len(path.read_text()) if path.exists() else 0


YES, NO = 'print(json.dumps({"captured": True}))', 'print(json.dumps({"captured": False, "reason": "it waits"}))'
TRIAL = "a trial of GPTNeoXForCausalLM with dora in a process of its own"


@pytest.mark.parametrize(("code", "answer"), [(YES, Answer(True)), (NO, Answer(False, f"{TRIAL} failed (it waits)"))])
def test_an_answer_is_kept(stub: Stub, cache: Path, code: str, answer: Answer) -> None:
    folder = stub(f"print('noise of a library')\n{code}")
    model = make("GPTNeoXForCausalLM")
    assert choose_capture("auto", model, CUDA, "bf16", DORA, trial=False) is None
    assert [choose_capture("auto", model, CUDA, "bf16", DORA) for _ in range(2)] == [answer, answer]
    assert known_answer(make("GPTNeoXForCausalLM"), "bf16", DORA) == answer
    assert asked(folder) == 1
    assert list(json.loads(cache.read_text()).values()) == [asdict(answer)]
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]

    choose_capture("auto", model, CUDA, "fp16", DORA)
    choose_capture("auto", make("GPTNeoXForCausalLM", hidden_act="relu"), CUDA, "bf16", DORA)
    assert asked(folder) == 3
    assert len(json.loads(cache.read_text())) == 3


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (f"{NO}\nsys.exit(1)", f"{TRIAL} failed (it waits)"),
        ("os.kill(os.getpid(), 9)", f"{TRIAL} was killed by signal 9"),
        (f"{YES}\nsys.stdout.flush()\nos.kill(os.getpid(), 6)", f"{TRIAL} was killed by signal 6"),
        ("sys.exit('no such library\\n')", f"{TRIAL} ended with exit code 1 (no such library)"),
        ("print('true')", f"{TRIAL} ended with exit code 0"),
        ("print('{\"captured\": 1}')", f"{TRIAL} ended with exit code 0"),
        ("print('[' * 100000)", f"{TRIAL} ended with exit code 0"),
        ("os.write(1, b'\\xff\\n')", f"{TRIAL} ended with exit code 0"),
    ],
)
def test_what_may_be_otherwise_next_time_is_not_kept(stub: Stub, cache: Path, code: str, reason: str) -> None:
    folder = stub(code)
    for _ in range(2):
        assert choose_capture("auto", make("GPTNeoXForCausalLM"), CUDA, "bf16", DORA) == Answer(False, reason)
    assert asked(folder) == 2
    assert not cache.exists()


def test_a_trial_that_does_not_end_is_not_waited_for(stub: Stub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(f"time.sleep({2 * PATIENCE})")
    monkeypatch.setattr(capture, "TIME_LIMIT", 0.5)
    assert choose_capture("auto", make("GPTNeoXForCausalLM"), CUDA, "bf16", DORA) == Answer(
        False, f"{TRIAL} took longer than 0.5 s"
    )
    assert not cache.exists()


def test_other_steps_are_tried_by_themselves(stub: Stub, cache: Path) -> None:
    """What is known of the model as it stands says nothing of them; the trial is told, and each answer kept apart."""
    folder = stub(f"open(folder + '/told', 'w').write(question)\n{NO}")
    model = make("LlamaForCausalLM")
    kinds = {
        (True, False): "compiled blocks",
        (False, True): "texts in one row",
        (True, True): "compiled blocks and texts in one row",
    }
    for count, ((fused, packed), tried) in enumerate(kinds.items(), start=1):
        reason = f"a trial of LlamaForCausalLM with dora and {tried} in a process of its own failed (it waits)"
        for _ in range(2):
            assert try_steps(model, CUDA, "bf16", DORA, fused=fused, packed=packed) == Answer(False, reason)
        assert asked(folder) == count
        told = json.loads((folder / "told").read_text())
        assert (told["fused"], told["packed"]) == (fused, packed)
    assert known_answer(model, "bf16", DORA) == Answer(True)


def test_a_trial_that_does_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(capture, "_COMMAND", (str(tmp_path / "python"),))
    answer = choose_capture("auto", make("GPTNeoXForCausalLM"), CUDA, "bf16", DORA)
    assert answer == Answer(False, f"{TRIAL} did not start (No such file or directory)")


def test_what_a_trial_is_told(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of the model but its weights; nothing of the launcher, or it would wait for the other processes."""
    for name in (
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "MASTER_PORT",
        "ACCELERATE_MIXED_PRECISION",
        "TORCHELASTIC_RUN_ID",
    ):
        monkeypatch.setenv(name, "7")
    folder = stub(
        f"json.dump([json.loads(question), dict(os.environ), os.getcwd()], open(folder + '/told', 'w'))\n{YES}"
    )
    model = make("GPTNeoXForCausalLM")
    choose_capture("auto", model, torch.device("cuda:3"), "fp16", DORA)
    question, environment, place = json.loads((folder / "told").read_text())
    assert question == {**asdict(Question.of(model, "fp16", DORA)), "device": "cuda:3"}
    assert question["config"]["hidden_size"] == 32
    assert not {
        name
        for name in environment
        if "RANK" in name or name.startswith(("WORLD", "MASTER", "ACCELERATE", "TORCHELASTIC"))
    }
    assert environment["PATH"]
    assert Path(place) == Path(capture.__file__).parents[2]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[]", b'{"x": 1, "y": {"captured": "yes"}}', b"[" * 100_000])
def test_a_damaged_cache_is_made_anew(stub: Stub, cache: Path, content: bytes) -> None:
    folder = stub(YES)
    cache.parent.mkdir(parents=True)
    cache.write_bytes(content)
    for _ in range(2):
        assert choose_capture("auto", make("GPTNeoXForCausalLM"), CUDA, "bf16", DORA) == Answer(True)
    assert asked(folder) == 1
    assert len(json.loads(cache.read_text())) == 1


def test_a_cache_that_cannot_be_written_only_costs_time(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = stub(YES)
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        assert choose_capture("auto", make("GPTNeoXForCausalLM"), CUDA, "bf16", DORA) == Answer(True)
    assert asked(folder) == 2


def test_where_the_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    assert cache_file() == cache
    monkeypatch.setenv("HOME", str(tmp_path))
    for nothing in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", nothing)
        assert cache_file() == tmp_path / ".cache" / "dora" / "capture.json"


def test_a_key_says_what_an_answer_holds_for(monkeypatch: pytest.MonkeyPatch) -> None:
    question = Question.of(make("GPTNeoXForCausalLM"), "bf16", DORA)
    renamed = make("GPTNeoXForCausalLM", id2label={0: "a", 1: "b"}, use_cache=False, architectures=["GPTNeoXModel"])
    assert Question.of(renamed, "bf16", DORA).key == question.key
    others = [
        replace(question, **change)
        for change in (
            {"model_class": "X"},
            {"attention": "eager"},
            {"precision": "fp32"},
            {"config": {}},
            {"method": {"name": "lora", "dropout": 0.1}},
            {"method": {"name": "dora", "dropout": 0.0}},
        )
    ]
    keys = {question.key, *(other.key for other in others)}
    for package in ("torch", "transformers"):
        monkeypatch.setattr(capture, "installed_version", lambda name, package=package: "9" if name == package else "1")
        keys.add(question.key)
    assert len(keys) == 9
    assert Question.of(renamed, "bf16", {**DORA, "rank": 3, "targets": ["attention"]}).key == question.key


@pytest.mark.usefixtures("newest")
def test_the_table_is_of_methods_that_were_tried() -> None:
    model = make("BertForSequenceClassification")
    assert [known_answer(model, "bf16", {"name": name}) for name in ("dora", "lora", "head")] == [Answer(True)] * 3
    assert known_answer(model, "bf16", {"name": "lora", "gradients": "plain"}) == Answer(True)
    assert known_answer(model, "bf16", {"name": "lora", "gradients": "pro"}) is None
    assert known_answer(model, "bf16", {"name": "another"}) is None


@pytest.mark.usefixtures("newest")
def test_an_answer_is_of_one_method(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """What an older version kept, without a method in its key, counts for none."""
    model = make("GPTNeoXForCausalLM")
    question = Question.of(model, "bf16", DORA)
    older = question.key.rsplit("/", 2)[0]
    cache.parent.mkdir(parents=True)
    cache.write_text(json.dumps({older: {"captured": True, "reason": None}}))
    assert known_answer(model, "bf16", DORA) is None
    capture._remember(question.key, Answer(True))
    assert known_answer(model, "bf16", DORA) == Answer(True)
    assert known_answer(model, "bf16", {"name": "lora", "dropout": 0.1}) is None


# -- the trial itself --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_small_models_of_every_family_take_eager_steps(name: str) -> None:
    """All of a trial but the graphs: build, batch, adapters, steps, evaluation.

    What cannot be done here would count as not captured.
    """
    model = make(name)
    question = json.loads(json.dumps(asdict(Question.of(model, "fp32", DORA))))
    small = trial.build(question)
    assert type(small) is type(model)
    assert small.config._attn_implementation == model.config._attn_implementation
    # shared blocks; a pattern that fits its length alone
    if name not in ("AlbertForSequenceClassification", "GPTNeoForCausalLM"):
        assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    trial.try_steps(question, CPU, cuda_graph=False)


def test_a_trial_evaluates_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """It evaluates as often as it takes to capture a pass; one that fails ends it, as a step does."""
    modes: list[bool] = []
    broken = False

    def look(module: nn.Module, inputs: object) -> None:
        modes.append(module.training)
        if broken and not module.training:
            raise RuntimeError("the host is asked")

    def build(question: Any, build: Any = trial.build) -> Any:
        model = build(question)
        model.register_forward_pre_hook(look)
        return model

    monkeypatch.setattr(trial, "build", build)
    question = asdict(Question.of(make("GPT2LMHeadModel"), "fp32", DORA))
    trial.try_steps(question, CPU, cuda_graph=False)
    assert modes == [True] * trial.STEPS + [False] * trial.STEPS
    broken = True
    with pytest.raises(RuntimeError, match="the host is asked"):
        trial.try_steps(question, CPU, cuda_graph=False)


def test_a_trial_compiles_blocks_where_that_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it but the kernels; what cannot be compiled ends it."""
    used: list[FusedBlocks] = []
    backend: str | Backend = "eager"

    class Traced(FusedBlocks):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs, backend=backend)
            used.append(self)

    monkeypatch.setattr(fused_module, "FusedBlocks", Traced)
    question = asdict(Question.of(make("RobertaForSequenceClassification"), "fp32", DORA, fused=True))
    trial.try_steps(question, CPU, cuda_graph=False)
    assert [fused.failure for fused in used] == [None]
    backend = _no_kernels
    with pytest.raises(trial.NotCompiledError):
        trial.try_steps(question, CPU, cuda_graph=False)


@pytest.mark.parametrize("name", ["GPT2LMHeadModel", "LlamaForCausalLM"])
def test_a_trial_puts_texts_in_one_row_where_that_is_asked(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """In its training steps; evaluations are padded."""
    ways: list[str] = []
    for way in ("_one_by_one", "_masked"):
        found = getattr(packed_module, way)
        monkeypatch.setattr(packed_module, way, lambda *a, way=way, found=found: ways.append(way) or found(*a))
    question = asdict(Question.of(make(name), "fp32", DORA, packed=True))
    trial.try_steps(question, CPU, cuda_graph=False)
    assert ways == ["_one_by_one"] * 2 * trial.STEPS


def _no_kernels(*_: object) -> NoReturn:
    raise NotImplementedError


@pytest.mark.parametrize("name", METHODS)
def test_a_trial_trains_the_method_that_was_asked_for(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Method] = []
    make_optimizer = trial.make_optimizer

    def noted(method: Method, **settings: Any) -> Any:
        tried.append(method)
        return make_optimizer(method, **settings)

    monkeypatch.setattr(trial, "make_optimizer", noted)
    keys = METHODS[name].model_fields
    ranked = "rank" in keys
    fitting = {"rank": 16, "alpha": 3.0, "outer_rank": 16, "bottleneck": 8}  # a model that is 32 wide
    section = METHODS[name](**{key: value for key, value in fitting.items() if key in keys}).model_dump(mode="json")
    question = json.loads(json.dumps(asdict(Question.of(make("RobertaForSequenceClassification"), "fp32", section))))
    trial.try_steps(question, CPU, cuda_graph=False)
    (method,) = tried
    assert method.name == name
    if ranked:
        assert getattr(method, "rank") == trial.LOW_RANK  # noqa: B009


def test_two_layers() -> None:
    config = {"num_hidden_layers": 12, "layer_types": ["a", "b"] * 6, "factors": [0.5] * 12, "labels": [1, 2, 3],
    "hidden_size": 12,
              "decoder_layers": 1, "text_config": {"n_layer": 4, "kinds": [0, 1, 2, 3]}}  # fmt: skip
    assert trial.with_two_layers(config) == {
        "num_hidden_layers": 2, "layer_types": ["a", "b"], "factors": [0.5] * 12, "labels": [1, 2, 3],
        "hidden_size": 12,
        "decoder_layers": 1, "text_config": {"n_layer": 2, "kinds": [0, 1]},
    }  # fmt: skip


def test_without_cuda_a_trial_says_so(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    answer = choose_capture("auto", make("GPTNeoXForCausalLM"), CUDA, "fp32", DORA)
    assert answer is not None
    assert not answer.captured
    assert "train.device is cuda" in str(answer.reason)
    assert not cache.exists()


# -- a run -------------------------------------------------------------------------------------------------------------


class Notes(SilentListener):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_on_needs_a_gpu(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    recipe = make_recipe("train.cuda_graph=on")
    with pytest.raises(
        DeviceError,
        match=r"train\.cuda_graph is on, but this run is on the CPU.*set "
        r"train\.cuda_graph: auto or off",
    ):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(DeviceError, match=r"^train\.cuda_graph "):
        dry_run(recipe)
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    done = dora("train", str(tmp_path / "recipe.yaml"), "--output", str(tmp_path / "run"))
    assert done.code == 2


def test_on_needs_a_model_that_can() -> None:
    with pytest.raises(
        DeviceError,
        match=r"^train\.cuda_graph is on, but MPNet makes .*; set train\.cuda_graph: auto "
        r"or off$",
    ):
        choose_capture("on", make("MPNetForSequenceClassification"), CUDA, "bf16", DORA)


def test_off_asks_nothing(stub: Stub) -> None:
    folder = stub(YES)
    assert choose_capture("off", make("GPTNeoXForCausalLM"), CUDA, "bf16", DORA) == Answer(False)
    assert asked(folder) == 0


@pytest.mark.parametrize("setting", ["auto", "off"])
def test_on_the_cpu_nothing_is_said(make_recipe: MakeRecipe, tmp_path: Path, setting: str) -> None:
    listener, recipe = Notes(), make_recipe(f"train.cuda_graph={setting}", "train.max_steps=9")
    train(recipe, tmp_path / "run", listener=listener)
    assert not [note for note in listener.notes if "graph" in note]
    assert "CUDA graphs" not in dict(dry_run(recipe).rows)


@pytest.mark.parametrize("answer", [Answer(True), Answer(False, "it waits"), Answer(False)])
def test_a_run_does_as_was_found(
    make_recipe: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    """The decision and its reason, on a machine that could not do it."""
    given: list[Mapping[str, Any]] = []
    plain = loop_module.TrainingStep

    def step(**arguments: Any) -> Any:
        given.append(arguments)
        return plain(**{**arguments, "cuda_graph": False})

    monkeypatch.setattr(loop_module, "TrainingStep", step)
    monkeypatch.setattr(prepare_module, "choose_capture", lambda *_: answer)
    listener = Notes()
    train(make_recipe("train.max_steps=9"), tmp_path / "run", listener=listener)
    assert [arguments["cuda_graph"] for arguments in given] == [answer.captured]
    said = [note for note in listener.notes if "graph" in note]
    assert [note.partition(": ")[2] for note in said] == ([answer.reason] if answer.reason else [])


@pytest.mark.usefixtures("newest")
def test_a_dry_run_says_what_would_be(make_recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch, stub: Stub) -> None:
    from dora_cli.assembly import dry_run as module

    folder = stub(YES)
    monkeypatch.setattr(module, "resolve_device", lambda _: CUDA)
    monkeypatch.setattr(module, "resolve_precision", lambda *_: "bf16")
    assert dict(dry_run(make_recipe()).rows)["CUDA graphs"] == "yes"
    assert "CUDA graphs" not in dict(dry_run(make_recipe("train.cuda_graph=off")).rows)
    monkeypatch.setattr(capture, "KNOWN_GOOD", frozenset())
    assert "trial" in dict(dry_run(make_recipe()).rows)["CUDA graphs"]
    monkeypatch.setitem(capture.KNOWN_BAD, "bert", "it waits")  # type: ignore[arg-type]
    assert dict(dry_run(make_recipe()).rows)["CUDA graphs"] == "no: it waits"
    with pytest.raises(DeviceError, match="it waits"):
        dry_run(make_recipe("train.cuda_graph=on"))
    assert asked(folder) == 0


# -- on a GPU ----------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["lora", "head"])
def test_the_table_holds_for_the_methods_beside_dora(name: str) -> None:
    section = METHODS[name]().model_dump(mode="json")
    for model in ("RobertaForSequenceClassification", "GPT2LMHeadModel", "T5ForConditionalGeneration"):
        if name == "head" and not model.endswith("ForSequenceClassification"):
            continue  # a generator has none
        assert capture._try(Question.of(make(model), "bf16", section), CUDA) == Answer(True)


@pytest.mark.gpu
@pytest.mark.parametrize("name", FAMILIES)
def test_trials_agree_with_the_table(name: str, capsys: pytest.CaptureFixture[str], cache: Path) -> None:
    """What is not in the table is printed, so that it can be put there; and so is what is kept out of trials: it may
    depend on the size.
    """
    question, known = Question.of(make(name), "bf16", DORA), FAMILIES[name][1]
    answer = capture._try(question, CUDA)
    if not known:
        with capsys.disabled():
            print(f"\n{name}: {'captured' if answer.captured else answer.reason}")
    else:
        assert answer.captured == known, answer.reason
    assert question.key in json.loads(cache.read_text()), answer.reason  # it came to an end by itself


@pytest.mark.gpu
def test_a_failed_trial_leaves_random_states_alone() -> None:
    torch.cuda.manual_seed(3)
    expected = [torch.rand(4, device=CUDA) for _ in range(3)]
    torch.cuda.manual_seed(3)
    found = [torch.rand(4, device=CUDA)]
    assert not capture._try(Question.of(make("MPNetForSequenceClassification"), "bf16", DORA), CUDA).captured
    found.append(torch.rand(4, device=CUDA))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        drawn = torch.rand(4, device=CUDA)
    graph.replay()
    assert torch.equal(torch.stack(found), torch.stack(expected[:2]))
    assert torch.equal(drawn, expected[2])


@pytest.mark.gpu
def test_a_captured_run_is_the_eager_run(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    for setting in ("on", "off"):
        train(
            make_recipe("train.device=cuda", "train.precision=fp32", f"train.cuda_graph={setting}"), tmp_path / setting
        )
    assert largest_difference(tmp_path / "on" / "adapter", tmp_path / "off" / "adapter") < 1e-4
    on, off = (read(tmp_path / setting / "ranks.json") for setting in ("on", "off"))
    assert [layer["rank"] for layer in on["layers"]] == [layer["rank"] for layer in off["layers"]]


@pytest.mark.gpu
def test_resuming_with_another_choice(make_recipe: MakeRecipe, tmp_path: Path) -> None:
    from tests.runs.test_resume import SAVES, cut

    accumulated = ("train.batch_size=4", "train.gradient_accumulation=2")
    same = ("train.device=cuda", "train.precision=fp32", *SAVES, *accumulated)
    train(make_recipe(*same, "train.cuda_graph=off"), tmp_path / "straight")
    cut(make_recipe(*same, "train.cuda_graph=on"), tmp_path / "run", step=5)
    train(make_recipe(*same, "train.cuda_graph=off"), tmp_path / "run", resume=True)
    assert largest_difference(tmp_path / "straight" / "adapter", tmp_path / "run" / "adapter") < 1e-4
