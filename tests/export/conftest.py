"""Runs of every kind of model, a few steps past the freeze, with every third projection at rank 0."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import AutoTokenizer

from dora_cli import parse_recipe, train
from dora_cli.assembly.restore import Restored, restore
from dora_cli.methods import Dora
from dora_cli.recipe import Recipe
from tests.training.conftest import tiny_model
from tests.training.test_generation import models, tokenizer
from tests.training.test_tasks_and_models import MODELS

__all__ = ["models", "tiny_model", "tokenizer"]


@dataclass(frozen=True)
class Kind:
    """What a run is of: a task, a base model, the transformers class that loads it, and further changes
    to its recipe.
    """

    task: str
    base: str
    auto_class: str
    changes: tuple[str, ...] = ()


CLASSIFIER, CAUSAL, SEQ2SEQ = "AutoModelForSequenceClassification", "AutoModelForCausalLM", "AutoModelForSeq2SeqLM"
KINDS = {
    "bert, fresh pooler and classifier": Kind("glue/mnli", "bert", CLASSIFIER),
    "bert, regression": Kind("glue/stsb", "bert", CLASSIFIER),
    "roberta, classification": Kind("glue/sst2", "roberta", CLASSIFIER),
    "gpt2 (Conv1D)": Kind("e2e", "gpt2", CAUSAL, ("decode.no_repeat_ngram=0",)),
    "gpt2 (Conv1D), classification": Kind("glue/rte", "gpt2", CLASSIFIER),
    "llama, grouped queries": Kind("e2e", "llama", CAUSAL, ("decode.no_repeat_ngram=0",)),
    "llama, grouped queries, untied": Kind("e2e", "llama-untied", CAUSAL, ("decode.no_repeat_ngram=0",)),
    "bart": Kind("e2e", "bart-talking", SEQ2SEQ),
    "bart, classification": Kind("glue/sst2", "bart-reading", CLASSIFIER),
}


def roberta(folder: Path, tokenizer: Any) -> None:
    config = transformers.RobertaConfig(
        vocab_size=1200, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=162,
        pad_token_id=0, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    transformers.RobertaForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def untied_llama(folder: Path, tokenizer: Any) -> None:
    config = MODELS["llama"]().config
    config.max_position_embeddings, config.tie_word_embeddings = 160, False
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def talking_bart(folder: Path, tokenizer: Any) -> None:
    """With ``<s>`` and ``</s>`` around every text; left to itself a random BART writes nothing but tokens that are no
    words.
    """
    config = MODELS["bart"]().config
    config.max_position_embeddings, config.dropout = 160, 0.0
    model = transformers.BartForConditionalGeneration(config)
    model.final_logits_bias[0, tokenizer.all_special_ids] = -5.0
    model.final_logits_bias[0, len(tokenizer) :] = -5.0
    model.save_pretrained(folder)
    own = copy.deepcopy(tokenizer)
    marks = [("<s>", own.bos_token_id), ("</s>", own.eos_token_id)]
    own.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=marks)
    own.save_pretrained(folder)


def reading_bart(folder: Path, tokenizer: Any) -> None:
    """A classifier on BART reads the end token, so its tokenizer must write one."""
    MODELS["bart"]().save_pretrained(folder)
    tokenizer.add_special_tokens({"eos_token": "[SEP]"})
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def bases(
    tiny_model: Path, models: dict[str, Path], tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Base models by name."""
    found = {**models, "bert": tiny_model}
    words = AutoTokenizer.from_pretrained(tiny_model)
    makers = {
        "roberta": (roberta, tokenizer),
        "llama-untied": (untied_llama, tokenizer),
        "bart-talking": (talking_bart, tokenizer),
    }
    for name, (make, reads) in {**makers, "bart-reading": (reading_bart, words)}.items():
        torch.manual_seed(0)
        found[name] = tmp_path_factory.mktemp(name)
        make(found[name], reads)
    return found


def text_of(kind: Kind, base: Path) -> str:
    common = "method: {name: dora, rank: 2, start_rank: 3, prune_interval: 1, dropout: 0.0, alpha: 64}"
    if kind.task == "e2e":
        return f"""
            task: e2e
            model: {{name: {base}}}
            data: {{source: builtin, max_train_samples: 46, max_eval_samples: 5, max_length: 160}}
            {common}
            train: {{epochs: 2, batch_size: 8, learning_rate: 5.0e-3, device: cpu}}
            decode: {{beams: 2, max_new_tokens: 12, batch_size: 3, epoch_samples: 0}}
        """
    return f"""
        task: {kind.task}
        model: {{name: {base}}}
        data: {{source: builtin, max_train_samples: 30, max_eval_samples: 8}}
        {common}
        train: {{epochs: 2, batch_size: 8, learning_rate: 2.0e-2, device: cpu}}
    """


Scores = Callable[[Dora], torch.Tensor]


def train_starved(recipe: Recipe, folder: Path) -> None:
    """Trains, and prunes every third projection to nothing: its components score lowest, and they are as many as are to
    be pruned.
    """
    plain: Scores = Dora.scores

    def scores(method: Dora) -> torch.Tensor:
        found = plain(method)
        found[::3] *= 1e-6
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Dora, "scores", scores)
        train(recipe, folder)


GetRun = Callable[..., Path]


@pytest.fixture(scope="session")
def run_of(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> GetRun:
    """The folder of a run of a kind; each is trained once."""
    made: dict[tuple[str, tuple[str, ...]], Path] = {}

    def get(name: str, *changes: str) -> Path:
        if (name, changes) not in made:
            kind = KINDS[name]
            folder = tmp_path_factory.mktemp("run") / "run"
            train_starved(parse_recipe(text_of(kind, bases[kind.base]), overrides=[*kind.changes, *changes]), folder)
            made[name, changes] = folder
        return made[name, changes]

    return get


def restored(run: Path) -> Restored:
    return restore(run, (), lambda recipe, task: ())


def batch_for(model: nn.Module, tokenizer: Any, kind: Kind) -> dict[str, torch.Tensor]:
    """Random tokens, two rows of which are padded on the right."""
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(6, 60, (4, 12), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 7:], mask[3, 10:] = 0, 0
    ids[mask == 0] = tokenizer.pad_token_id
    if kind.auto_class == CLASSIFIER and getattr(model.config, "is_encoder_decoder", False):
        ids[torch.arange(4), mask.sum(1) - 1] = tokenizer.eos_token_id  # read where a text ends
    batch = {"input_ids": ids, "attention_mask": mask}
    if kind.auto_class == SEQ2SEQ:
        batch["decoder_input_ids"] = torch.randint(6, 60, (4, 9), generator=generator)
    return batch


@torch.no_grad()
def logits(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits where they count: decoders' at padding mean nothing."""
    found = model.eval()(**copy.deepcopy(batch)).logits.float()
    return found[batch["attention_mask"].bool()] if found.ndim == 3 and "decoder_input_ids" not in batch else found


def load_base(kind: Kind, base: Path, run: Restored) -> Any:
    """The base model as a user of the adapter loads it, by transformers alone."""
    arguments: dict[str, Any] = {"dtype": "float32"}
    if kind.auto_class == CLASSIFIER:
        arguments |= {
            "num_labels": run.task.num_labels,
            "pad_token_id": AutoTokenizer.from_pretrained(base).pad_token_id,
        }
    return getattr(transformers, kind.auto_class).from_pretrained(base, **arguments)


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "adapter_config.json").read_text())
