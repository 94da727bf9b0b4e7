"""Base models with a classification head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from dora_cli.errors import ModelError
from dora_cli.models.agreement import fit_tokenizer
from dora_cli.models.end_token import append_end
from dora_cli.models.loading import (
    Choose,
    LoadedModel,
    brings,
    build_from_config,
    load_checkpoint,
    load_outline,
    read_config,
)
from dora_cli.models.source import Source
from dora_cli.models.suitability import kind_if_suitable

if TYPE_CHECKING:
    from dora_cli.models.known import Kind


@dataclass(frozen=True)
class ClassifierHead:
    """A head that gives one row of numbers for each input. See `dora_cli.models.head.Head`.

    Attributes:
        num_labels: numbers of a row.
        label_names: of the classes, kept in the model's config; None where the numbers stand for no classes.
        regression: whether the one output is a number, not a class.
    """

    num_labels: int
    label_names: tuple[str, ...] | None = None
    regression: bool = False

    def load(self, name: str, *, revision: str | None, dtype: str, seed: int, trust_remote_code: bool) -> LoadedModel:
        return load_model(
            name,
            revision=revision,
            dtype=dtype,
            num_labels=self.num_labels,
            label_names=self.label_names,
            regression=self.regression,
            seed=seed,
            trust_remote_code=trust_remote_code,
        )

    def from_config(self, name: str, *, revision: str | None, trust_remote_code: bool) -> nn.Module:
        return config_model(
            name,
            revision=revision,
            num_labels=self.num_labels,
            label_names=self.label_names,
            regression=self.regression,
            trust_remote_code=trust_remote_code,
        )

    def outline(self, name: str, *, revision: str | None, trust_remote_code: bool, ask_hub: bool = True) -> LoadedModel:
        return load_outline(
            name,
            revision=revision,
            trust_remote_code=trust_remote_code,
            choose=choose_classifier(self.num_labels, self.label_names, self.regression),
            fit=_fit,
            ask_hub=ask_hub,
        )

    def kind_of(self, name: str) -> Kind | None:
        return kind_if_suitable(name, choose_classifier(2))  # how many it gives is all one

    def auto_class(self, *, encoder_decoder: bool) -> str:
        return "AutoModelForSequenceClassification"

    def arguments(self) -> list[str]:
        found = [f"num_labels={self.num_labels}"]
        if self.label_names is not None:
            found.append(f"id2label={dict(enumerate(self.label_names))!r}")
            found.append(f"label2id={ {label: index for index, label in enumerate(self.label_names)}!r}")
        return found

    @property
    def reads_last_token(self) -> bool:
        return True


def load_model(
    name: str,
    *,
    revision: str | None = None,
    dtype: str = "float32",
    num_labels: int,
    label_names: Sequence[str] | None = None,
    regression: bool = False,
    seed: int = 0,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Loads `name` for sequence classification or regression.

    Parameters missing from the checkpoint are drawn from `seed` alone: the same in every process and whatever the state
    of the global random generator, which is left as it was. A head of another size than asked for (a checkpoint tuned
    on a task with other labels) is drawn anew too.

    Args:
        name: ``builtin:NAME``, a local folder, or a hub id.
        revision: branch, tag or commit of a hub model.
        dtype: of all weights: float32, bfloat16 or float16.
        num_labels: outputs of the head; 1 for regression.
        label_names: kept in the model's config; None for regression.
        regression: whether the one output is a number, not a class.
        seed: for fresh parameters.
        trust_remote_code: whether Python code that comes with the model is run.

    Raises:
        ModelError: not found or damaged, no such head, no fast tokenizer, or a checkpoint that does not fill the base
            model.
    """
    choose = choose_classifier(num_labels, label_names, regression)
    return load_checkpoint(
        name, revision=revision, dtype=dtype, seed=seed, trust_remote_code=trust_remote_code, choose=choose, fit=_fit
    )


def config_model(
    name: str,
    *,
    revision: str | None = None,
    num_labels: int,
    label_names: Sequence[str] | None = None,
    regression: bool = False,
    trust_remote_code: bool = False,
) -> nn.Module:
    """Builds the model of `load_model` on the meta device from its config alone: shapes without weights.

    Raises:
        ModelUnreachableError: a hub model whose config is not at hand.
        ModelError: as `load_model`, as far as a config can tell, and the tokenizer where it is at hand.
    """
    choose = choose_classifier(num_labels, label_names, regression)
    return build_from_config(name, revision=revision, trust_remote_code=trust_remote_code, choose=choose, fit=_fit)


def _fit(name: str, model: nn.Module, tokenizer: Any) -> None:
    fit_tokenizer(name, model, tokenizer)
    append_end(name, model, tokenizer)


def choose_classifier(num_labels: int, label_names: Sequence[str] | None = None, regression: bool = False) -> Choose:
    """Chooses the head for so many labels; raises ModelError for a model that has no such head."""
    assert num_labels == 1 if regression else num_labels >= 1, (num_labels, regression)
    assert label_names is None or len(label_names) == num_labels, (label_names, num_labels)

    def choose(source: Source) -> tuple[Any, Any]:
        from transformers import AutoModelForSequenceClassification
        from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

        config = read_config(source)
        own = brings(source, config, "AutoModelForSequenceClassification")
        if not own and type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
            raise ModelError(
                f"model.name: {source.name!r} is of the model type {config.model_type!r}, for which transformers has "
                "no sequence-classification head; choose a text model: an encoder (BERT, RoBERTa, DeBERTa, ...), a "
                "decoder (GPT-2, Llama, ...) or a sequence-to-sequence model (BART, T5, ...)"
            )
        config.num_labels = num_labels
        if label_names is not None:
            config.id2label = dict(enumerate(label_names))
            config.label2id = {label: index for index, label in enumerate(label_names)}
        config.problem_type = "regression" if regression else "single_label_classification"
        return AutoModelForSequenceClassification, config

    return choose
