"""Base models that generate text: decoders, and encoder-decoders, with their language-modelling head."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from torch import nn

from dora_cli.errors import ModelError
from dora_cli.models.agreement import fit_tokenizer
from dora_cli.models.family import is_decoder_only, is_encoder_decoder
from dora_cli.models.loading import LoadedModel, brings, build_from_config, load_checkpoint, load_outline, read_config
from dora_cli.models.source import Source
from dora_cli.models.suitability import kind_if_suitable

if TYPE_CHECKING:
    from dora_cli.models.known import Kind


@dataclass(frozen=True)
class GeneratorHead:
    """The language-modelling head that a checkpoint brings. See `dora_cli.models.head.Head`."""

    def load(self, name: str, *, revision: str | None, dtype: str, seed: int, trust_remote_code: bool) -> LoadedModel:
        return load_generator(name, revision=revision, dtype=dtype, seed=seed, trust_remote_code=trust_remote_code)

    def from_config(self, name: str, *, revision: str | None, trust_remote_code: bool) -> nn.Module:
        return config_generator(name, revision=revision, trust_remote_code=trust_remote_code)

    def outline(self, name: str, *, revision: str | None, trust_remote_code: bool, ask_hub: bool = True) -> LoadedModel:
        found = load_outline(
            name,
            revision=revision,
            trust_remote_code=trust_remote_code,
            choose=choose_generator,
            fit=_fit,
            ask_hub=ask_hub,
        )
        return replace(found, decoder_start=_decoder_start(name, found.model))

    def kind_of(self, name: str) -> Kind | None:
        refused: dict[Kind, str] = {
            "encoder": "does not generate text; choose a decoder (GPT-2, Llama, ...) or a sequence-to-sequence model "
            "(BART, T5, ...)"
        }
        return kind_if_suitable(name, choose_generator, refused=refused)

    def auto_class(self, *, encoder_decoder: bool) -> str:
        return "AutoModelForSeq2SeqLM" if encoder_decoder else "AutoModelForCausalLM"

    def arguments(self) -> list[str]:
        return []

    @property
    def reads_last_token(self) -> bool:
        return False


def load_generator(
    name: str, *, revision: str | None = None, dtype: str = "float32", seed: int = 0, trust_remote_code: bool = False
) -> LoadedModel:
    """Loads `name` with its language-modelling head; the model's config says whether it is a decoder or an
    encoder-decoder.

    The head comes with the checkpoint or is tied to its embeddings; it is never fresh, and `head_parameters` leaves it
    frozen.

    Args:
        name: ``builtin:NAME``, a local folder, or a hub id.
        revision: branch, tag or commit of a hub model.
        dtype: of all weights: float32, bfloat16 or float16.
        seed: the draws of the loader come from it, though no parameter may be left to them.
        trust_remote_code: whether Python code that comes with the model is run.

    Raises:
        ModelError: not found or damaged, an encoder alone, no fast tokenizer, no end token, no start token for a
            decoder beside an encoder, or a checkpoint that lacks any weight.
    """
    loaded = load_checkpoint(
        name,
        revision=revision,
        dtype=dtype,
        seed=seed,
        trust_remote_code=trust_remote_code,
        choose=choose_generator,
        fit=_fit,
    )
    if loaded.fresh:
        missing = sorted(loaded.fresh)
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise ModelError(
            f"model.name: the checkpoint of {name!r} lacks weights of {type(loaded.model).__name__}: "
            f"{missing[0]}{more}; text cannot be generated with random ones: choose a checkpoint that was saved with "
            "its language-modelling head"
        )
    return replace(loaded, decoder_start=_decoder_start(name, loaded.model))


def config_generator(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> nn.Module:
    """Builds the model of `load_generator` on the meta device from its config alone: shapes without weights.

    Raises:
        ModelUnreachableError: a hub model whose config is not at hand.
        ModelError: as `load_generator`, as far as a config can tell, and the tokenizer where it is at hand.
    """
    model = build_from_config(
        name, revision=revision, trust_remote_code=trust_remote_code, choose=choose_generator, fit=_fit
    )
    _decoder_start(name, model)
    return model


def _fit(name: str, model: nn.Module, tokenizer: Any) -> None:
    fit_tokenizer(name, model, tokenizer)
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"model.name: the tokenizer of {name!r} has no end-of-sequence token, which ends every reference; set its "
            "eos_token"
        )


def choose_generator(source: Source) -> tuple[Any, Any]:
    """Chooses the language-modelling head; raises ModelError for a model that does not generate text from text."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING

    config = read_config(source)
    if is_encoder_decoder(config):
        if type(config) in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING or brings(source, config, "AutoModelForSeq2SeqLM"):
            return AutoModelForSeq2SeqLM, config
    elif is_decoder_only(config) or brings(source, config, "AutoModelForCausalLM"):
        return AutoModelForCausalLM, config
    raise ModelError(
        f"model.name: {source.name!r} is of the model type {config.model_type!r}, which does not generate text from "
        "text; choose a decoder (GPT-2, Llama, ...) or a sequence-to-sequence model (BART, T5, ...)"
    )


def _decoder_start(name: str, model: nn.Module) -> int | None:
    """By transformers' own rule: the start token of the config or of the generation config, else its `bos` token."""
    config: Any = model.config
    if not is_encoder_decoder(config):
        return None
    generation: Any = model.generation_config
    for holder, key in (
        (config, "decoder_start_token_id"),
        (generation, "decoder_start_token_id"),
        (generation, "bos_token_id"),
    ):
        start = getattr(holder, key, None)
        if start is not None:
            return int(start)
    raise ModelError(
        f"model.name: the config.json of {name!r} says with which token its decoder starts neither as "
        "decoder_start_token_id nor as bos_token_id; add decoder_start_token_id as its makers state it"
    )
