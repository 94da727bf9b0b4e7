"""E2E through training, decoding and evaluation, on every kind of generator."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from dora_cli import evaluate, parse_recipe, train
from dora_cli.assembly.weights import load_weights
from dora_cli.data import Examples, encode_pairs, load_examples, pair_layout
from dora_cli.data.builtin import generate
from dora_cli.data.pairs import IGNORED
from dora_cli.errors import DataError
from dora_cli.evaluation.measuring import Evaluator, keep_rows
from dora_cli.library.prediction import predict_saved
from dora_cli.machine.devices import make_accelerator
from dora_cli.methods import Method
from dora_cli.recipe import Recipe
from dora_cli.tasks import get_task
from dora_cli.training import loop as loop_module
from dora_cli.training.capture.passes import CapturedPasses
from dora_cli.training.listener import SilentListener
from dora_cli.training.run import RunResult
from dora_cli.training.step import TrainingStep
from tests.training.capture.repeated import Repeated
from tests.training.test_tasks_and_models import MODELS, PROJECTIONS

FIVE = {"bleu", "nist", "meteor", "rouge_l", "cider"}


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Words and marks of the generated data, with BART's and GPT-2's special tokens at the ids that
    `MODELS` expects.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    texts = [text for column in generate("e2e", "train").texts for text in column]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1200, special_tokens=["<pad>", "<unk>", "<s>", "</s>"], show_progress=False
    )
    inner.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> dict[str, Path]:
    """Small random generators by the name of their family; positions enough for the longest example."""
    import transformers

    found = {}
    for name in ("gpt2", "llama", "bart", "t5"):
        folder = tmp_path_factory.mktemp(name)
        torch.manual_seed(0)
        model = MODELS[name]()
        config = model.config
        for key in ("n_positions", "max_position_embeddings"):
            if hasattr(config, key):
                setattr(config, key, 160)
        for key in (
            "embd_pdrop",
            "attn_pdrop",
            "resid_pdrop",
            "dropout",
            "attention_dropout",
            "activation_dropout",
            "dropout_rate",
        ):
            if hasattr(config, key):
                setattr(config, key, 0.0)
        config.tie_word_embeddings = True
        getattr(transformers, type(model).__name__)(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        found[name] = folder
    return found


def recipe_of(model: Path, *overrides: str) -> Recipe:
    text = f"""
        task: e2e
        model: {{name: {model}}}
        data: {{source: builtin, max_train_samples: 30, max_eval_samples: 5, max_length: 160}}
        method: {{name: dora, rank: 2, prune_interval: 1, dropout: 0.0, dem_weight: 0.0, alpha: 64}}
        train: {{epochs: 2, batch_size: 8, learning_rate: 2.0e-2, log_every: 2, device: cpu, max_grad_norm: null}}
        eval: {{batch_size: 4}}
        decode: {{beams: 2, max_new_tokens: 6, batch_size: 3, epoch_samples: 2}}
    """
    return parse_recipe(text, overrides=overrides)


class Told(SilentListener):
    """Remembers the notes of a run."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


QUICK = ("decode.epoch_samples=0", "decode.max_new_tokens=2", "decode.beams=1")
"""Where no text that is written matters."""


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


GetTrained = Callable[[str], tuple[RunResult, Path]]


@pytest.fixture(scope="module")
def trained(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> GetTrained:
    """What training a kind of generator returns, and the run's folder; trained once, and nobody changes it."""
    made: dict[str, tuple[RunResult, Path]] = {}

    def get(name: str) -> tuple[RunResult, Path]:
        if name not in made:
            run = tmp_path_factory.mktemp("trained") / "run"
            made[name] = train(recipe_of(models[name]), run), run
        return made[name]

    return get


@pytest.mark.parametrize("name", ["gpt2", "llama", "bart", "t5"])
def test_every_kind_of_generator_trains_decodes_and_is_reproduced(trained: GetTrained, name: str) -> None:
    result, run = trained(name)
    metrics = result.metrics["metrics"]
    assert set(metrics) == {"loss", "perplexity"} | FIVE
    assert metrics["perplexity"] == pytest.approx(2.718281828459045 ** metrics["loss"])
    assert len(result.ranks["layers"]) == PROJECTIONS[name]
    assert result.ranks["live_components"] == 2 * PROJECTIONS[name]
    for epoch in result.metrics["epochs"]:
        assert set(epoch["metrics"]) == set(get_task("e2e").epoch_metrics)
    assert result.metrics["epochs"][-1]["train_loss"] < result.metrics["epochs"][0]["train_loss"]

    outputs = read_lines(run / "predictions.jsonl")
    test = load_examples(get_task("e2e").fields, "builtin", "test", max_samples=5)
    assert [record["meaning_representation"] for record in outputs] == list(dict.fromkeys(test.texts[0]))
    assert [text for record in outputs for text in record["references"]] == sorted_by_source(test)

    again = evaluate(run)
    assert again["metrics"] == metrics
    assert again["identical"] is True
    assert again["splits"] == {
        "validation": len(load_examples(get_task("e2e").fields, "builtin", "validation", max_samples=5)),
        "test": len(test),
    }
    assert [record["output"] for record in predict_saved(run)] == [record["output"] for record in outputs]


def sorted_by_source(examples: Examples) -> list[str]:
    groups: dict[str, list[str]] = {}
    for source, reference in zip(*examples.texts, strict=True):
        groups.setdefault(source, []).append(reference)
    return [text for texts in groups.values() for text in texts]


def test_a_seed_repeats_its_outputs_and_weights(models: dict[str, Path], tmp_path: Path) -> None:
    for name in ("one", "two"):
        train(recipe_of(models["gpt2"], "method.dropout=0.1", "train.epochs=1"), tmp_path / name)
    assert (tmp_path / "one" / "predictions.jsonl").read_bytes() == (
        tmp_path / "two" / "predictions.jsonl"
    ).read_bytes()
    first, second = (load_weights(tmp_path / name / "adapter").adapter for name in ("one", "two"))
    assert all(torch.equal(tensor, second[key]) for key, tensor in first.items())


@pytest.mark.parametrize("name", ["gpt2", "bart"])
def test_accumulated_batches_of_unequal_token_counts_equal_the_large_batch(
    models: dict[str, Path], tmp_path: Path, name: str
) -> None:
    """30 examples in groups of 12, 12 and 6, whose references differ in length: a mean of means would not give the
    same weights.
    """
    for batch, accumulation in ((12, 1), (3, 4)):
        changes = (
            f"train.batch_size={batch}",
            f"train.gradient_accumulation={accumulation}",
            "train.learning_rate=1.0e-3",
            "data.max_eval_samples=2",
        )
        train(recipe_of(models[name], *changes, "train.epochs=1", *QUICK), tmp_path / f"{batch}")
    large, small = (load_weights(tmp_path / batch / "adapter").adapter for batch in ("12", "3"))
    for key, tensor in large.items():
        torch.testing.assert_close(small[key].float(), tensor.float(), atol=2e-5, rtol=1e-4)


def test_the_selected_epoch_is_decoded_even_if_it_is_not_the_last(models: dict[str, Path], tmp_path: Path) -> None:
    recipe = recipe_of(
        models["gpt2"], "train.learning_rate=1.0", "eval.select=best", "train.epochs=4", "train.lr_warmup_steps=12"
    )
    result = train(recipe, tmp_path / "run")
    losses = [epoch["metrics"]["loss"] for epoch in result.metrics["epochs"]]
    best = losses.index(min(losses)) + 1
    assert best < len(losses), "the learning rate is meant to be far too high"
    assert result.metrics["best_epoch"] == best
    assert result.metrics["metrics"]["loss"] == pytest.approx(losses[best - 1], rel=1e-6)
    assert evaluate(tmp_path / "run")["identical"] is True


@pytest.mark.parametrize("select", ["last", "best"])
def test_the_last_weights_write_what_is_known_of_them(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, select: str
) -> None:
    """Their loss is not measured again, that of weights that are loaded is; moments and graphs are gone by then."""
    steps: list[weakref.ref[TrainingStep]] = []
    known: list[Mapping[str, float | None] | None] = []
    finish = Evaluator.finish

    class Step(TrainingStep):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            steps.append(weakref.ref(self))

    def noted(
        evaluator: Evaluator, model: nn.Module, method: Method, measured: Mapping[str, float | None] | None
    ) -> Any:
        known.append(measured)
        assert steps.pop()() is None
        return finish(evaluator, model, method, measured)

    rate = () if select == "last" else ("train.learning_rate=1.0", "train.lr_warmup_steps=12", "train.epochs=4")
    with monkeypatch.context() as patched:
        patched.setattr(loop_module, "TrainingStep", Step)
        patched.setattr(Evaluator, "finish", noted)
        result = train(recipe_of(models["gpt2"], f"eval.select={select}", *rate), tmp_path / "run")
    selected, last = result.metrics["epochs"][result.metrics["best_epoch"] - 1], result.metrics["epochs"][-1]
    assert (selected is last) == (select == "last")
    assert known == [selected["metrics"] if select == "last" else None]
    assert not any(name.startswith("greedy_") for name in result.metrics["metrics"])
    assert result.metrics["metrics"]["loss"] == pytest.approx(selected["metrics"]["loss"], rel=1e-6)
    assert evaluate(tmp_path / "run")["identical"] is True


def test_a_mean_of_weights_is_what_writes(models: dict[str, Path], tmp_path: Path) -> None:
    """Also where the selected epoch is the last one, whose model is there and is not loaded again."""
    result = train(recipe_of(models["gpt2"], "train.average_last=0.5", "eval.select=last"), tmp_path / "run")
    assert result.metrics["averaged_steps"] == 4
    again = evaluate(tmp_path / "run")
    assert again["metrics"] == result.metrics["metrics"]
    outputs = [record["output"] for record in read_lines(tmp_path / "run" / "predictions.jsonl")]
    assert [record["output"] for record in predict_saved(tmp_path / "run")] == outputs


@pytest.mark.parametrize("samples", [0, 2])
def test_nothing_is_written_at_the_end_where_no_split_is_named(
    models: dict[str, Path], trained: GetTrained, tmp_path: Path, samples: int
) -> None:
    """What trains is the same, and a split that is asked for later is written all the same."""
    result, run = trained("gpt2")  # which writes of 2 samples after an epoch
    if samples != 2:
        run = tmp_path / "written"
        result = train(recipe_of(models["gpt2"], f"decode.epoch_samples={samples}"), run)
    written = result.metrics
    recipe = recipe_of(models["gpt2"], f"decode.epoch_samples={samples}", "decode.split=none")
    silent = train(recipe, tmp_path / "silent").metrics
    assert silent["epochs"] == written["epochs"]
    assert silent["metrics"] == silent["epochs"][silent["best_epoch"] - 1]["metrics"]
    assert {name.startswith("greedy_") for name in silent["metrics"]} == ({True, False} if samples else {False})
    assert "decoding_seconds" in written["timing"]
    assert "decoding_seconds" not in silent["timing"]
    assert not (tmp_path / "silent" / "predictions.jsonl").exists()
    again = evaluate(tmp_path / "silent")
    assert again["identical"] is True
    assert list(again["splits"]) == ["validation"]
    assert set(evaluate(tmp_path / "silent", split="test")["metrics"]) > FIVE
    assert predict_saved(tmp_path / "silent") == predict_saved(run)


def test_nothing_is_written_about_what_is_held_out_where_no_split_is_named(
    models: dict[str, Path], tmp_path: Path
) -> None:
    """The runs of an experiment are made so that are scored on a part of the training split."""
    told = Told()
    held_out = ("eval.held_out=0.2", "decode.epoch_samples=0")
    written = train(recipe_of(models["gpt2"], *held_out), tmp_path / "written", listener=told).metrics
    assert [note for note in told.notes if "write split" in note] == [
        "the selected weights write split train-held-out, 2 beams"
    ]
    silent = train(recipe_of(models["gpt2"], *held_out, "decode.split=none"), tmp_path / "silent").metrics
    assert silent["epochs"] == written["epochs"]
    assert set(silent["metrics"]) == {"loss", "perplexity"}
    assert set(written["metrics"]) > FIVE
    assert "decoding_seconds" not in silent["timing"]
    assert evaluate(tmp_path / "silent")["identical"] is True


def test_the_selected_epoch_follows_the_metric_that_the_recipe_names(models: dict[str, Path], tmp_path: Path) -> None:
    result = train(recipe_of(models["gpt2"], "eval.metric=greedy_rouge_l", "eval.select=best"), tmp_path / "run")
    values = [epoch["metrics"]["greedy_rouge_l"] for epoch in result.metrics["epochs"]]
    assert result.metrics["best_epoch"] == values.index(max(values)) + 1


def test_other_decoding_settings_of_an_evaluation(trained: GetTrained) -> None:
    _, run = trained("gpt2")
    greedy = evaluate(run, overrides=["decode.beams=1", "decode.max_new_tokens=4"])
    assert "identical" not in greedy
    other = evaluate(run, split="validation")
    assert set(other["metrics"]) == {"loss", "perplexity"} | FIVE
    assert list(other["splits"]) == ["validation"]
    last = max((run / "checkpoints").glob("step-*"))
    checkpoint = evaluate(last)
    assert set(checkpoint["recorded"]) == {"loss", "perplexity"}
    assert checkpoint["identical"] is True


def test_the_dev_loss_is_the_mean_over_target_tokens_without_smoothing(models: dict[str, Path], tokenizer: Any) -> None:
    from dora_cli.models import load_generator

    loaded = load_generator(str(models["bart"]))
    layout = pair_layout(loaded.tokenizer, decoder_start=loaded.decoder_start)
    examples = load_examples(get_task("e2e").fields, "builtin", "validation", max_samples=3)
    split = encode_pairs(examples, loaded.tokenizer, 160, layout)
    total, count = 0.0, 0
    with torch.no_grad():
        for row in range(len(split)):
            batch = split.collate([row], pad_multiple=1)
            labels = batch.pop("labels")[0]
            logits = loaded.model.double()(**batch).logits[0]
            kept = labels != IGNORED
            total += float(functional.cross_entropy(logits[kept], labels[kept], reduction="sum"))
            count += int(kept.sum())
    assert count == int(split.units.sum())
    loaded.model.float()
    accelerator = make_accelerator(torch.device("cpu"), "fp32")
    task: Any = get_task("e2e")
    for batch_size in (1, 4, 100):
        kept = keep_rows(loaded.model, split, task, batch_size=batch_size, accelerator=accelerator)
        assert task.measure(kept, split) == {"loss": pytest.approx(total / count, rel=1e-5)}


@pytest.mark.parametrize("samples", [0, 2])
def test_losses_between_epochs_are_measured_by_captured_passes(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, samples: int
) -> None:
    """Over four evaluations, also where a folded model writes after each: what is captured stays true."""
    recipe = recipe_of(models["llama"], "decode.split=none", f"decode.epoch_samples={samples}", "train.epochs=4")
    plain = train(recipe, tmp_path / "plain").metrics
    graphs = Repeated()

    class Step(TrainingStep):
        def __init__(self, *, evaluations: int, **settings: Any) -> None:
            super().__init__(evaluations=evaluations, **settings)
            self.run_evaluation = CapturedPasses(graphs, evaluations)

    monkeypatch.setattr(loop_module, "TrainingStep", Step)
    captured = train(recipe, tmp_path / "captured").metrics
    assert captured["epochs"] == plain["epochs"]
    assert len({epoch["metrics"]["loss"] for epoch in plain["epochs"]}) == 4
    assert graphs.captured
    assert graphs.replays >= 3 * len(graphs.captured)


def test_label_smoothing_is_in_the_training_loss_alone(models: dict[str, Path], tmp_path: Path) -> None:
    """At a learning rate of almost nothing the model stays, so that the two losses of one run can be told apart."""
    changes = ("train.learning_rate=1.0e-12", "train.batch_size=15", *QUICK)
    plain = train(recipe_of(models["gpt2"], *changes), tmp_path / "plain").metrics
    smooth = train(recipe_of(models["gpt2"], *changes, "train.label_smoothing=0.5"), tmp_path / "smooth").metrics
    assert smooth["epochs"][0]["metrics"] == plain["epochs"][0]["metrics"]
    assert abs(smooth["epochs"][0]["train_loss"] - plain["epochs"][0]["train_loss"]) > 1e-4


def test_no_clipping_is_a_bound_that_is_never_met(models: dict[str, Path], tmp_path: Path) -> None:
    for name, bound in (("none", "null"), ("far", "1.0e+9"), ("near", "1.0e-3")):
        changes = (f"train.max_grad_norm={bound}", "train.epochs=1", "data.max_train_samples=24")
        train(recipe_of(models["gpt2"], *changes, *QUICK), tmp_path / name)
    weights = {name: load_weights(tmp_path / name / "adapter").adapter for name in ("none", "far", "near")}
    norms = {
        name: [line["grad_norm"] for line in read_lines(tmp_path / name / "log.jsonl") if line["type"] == "train"]
        for name in weights
    }
    assert norms["none"] == norms["far"]
    assert all(torch.equal(tensor, weights["far"][key]) for key, tensor in weights["none"].items())
    assert not all(torch.equal(tensor, weights["near"][key]) for key, tensor in weights["none"].items())


def test_predictions_for_sources_of_ones_own(trained: GetTrained, tmp_path: Path) -> None:
    _, run = trained("llama")
    sources = ["name[Blue Rose], view[sea]", "name[The Wooden Garden], rating[4 out of 5]"]
    (tmp_path / "mrs.txt").write_text("\n".join(sources) + "\n")
    (tmp_path / "mrs.csv").write_text("MR\n" + "".join(f'"{source}"\n' for source in sources))
    (tmp_path / "mrs.jsonl").write_text("".join(json.dumps({"mr": source, "ref": "a"}) + "\n" for source in sources))
    found = {name: predict_saved(run, file=tmp_path / f"mrs.{name}") for name in ("txt", "csv", "jsonl")}
    assert [record["meaning_representation"] for record in found["txt"]] == sources
    assert found["csv"] == found["txt"]
    assert [record["output"] for record in found["jsonl"]] == [record["output"] for record in found["txt"]]
    assert [record["references"] for record in found["jsonl"]] == [["a"], ["a"]]
    assert all("references" not in record for record in found["txt"])
    (tmp_path / "twice.txt").write_text(f"{sources[1]}\n{sources[0]}\n{sources[1]}\n")
    again = predict_saved(run, file=tmp_path / "twice.txt")
    first, second = (record["output"] for record in found["txt"])
    assert [record["output"] for record in again] == [second, first, second], "one output a line"


def test_a_test_split_without_references_is_said_before_training(models: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    pairs = '"name[A], view[sea]","A has a view of the sea."\n'
    for name in ("trainset.csv", "devset.csv"):
        (folder / name).write_text('"mr","ref"\n' + pairs)
    (folder / "testset.csv").write_text('"MR"\n"name[A], view[sea]"\n')
    overrides = ("data.source=e2e-csv", f"data.path={folder}")
    with pytest.raises(DataError, match=r"split test: e2e has no references .*decode\.split"):
        train(recipe_of(models["gpt2"], "train.epochs=3", *overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_outputs_longer_than_the_model_allows_are_said_before_training(models: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="max_new_tokens"):
        train(recipe_of(models["gpt2"], "decode.max_new_tokens=150"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
