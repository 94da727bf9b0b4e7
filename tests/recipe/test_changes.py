"""Every key says what a change of it has an effect on, and the lists of keys that may change follow from that."""

from __future__ import annotations

import pytest

from dora_cli.assembly.restore import CHANGEABLE
from dora_cli.export.subject import _CHANGEABLE
from dora_cli.recipe.changes import effect_of, every_key, keys_of
from dora_cli.recipe.effects import Effect
from dora_cli.recipe.fields import Section
from dora_cli.recipe.methods import METHODS
from dora_cli.recipe.schema import Recipe
from dora_cli.reports.html.groups import WITHOUT_EFFECT
from dora_cli.runs.resume import HARMLESS, LOCATIONS
from tests.recipe.writing.test_descriptions import SECTIONS

KEYS = [pytest.param(section, key, id=f"{place}{key}") for place, section, key in every_key()]


@pytest.mark.parametrize(("section", "key"), KEYS)
def test_every_key_says_what_a_change_of_it_has_an_effect_on(section: type[Section], key: str) -> None:
    said = [mark for mark in section.model_fields[key].metadata if isinstance(mark, Effect)]
    assert len(said) == 1, "write its type as ForRun[...] or another alias of dora_cli.recipe.effects"
    assert effect_of(section, key) is said[0]


def test_no_key_is_passed_over() -> None:
    leaves = {(section, key) for section in SECTIONS if section is not Recipe for key in section.model_fields}
    assert {(section, key) for _, section, key in every_key()} == leaves | {(Recipe, "task")}
    assert all(effect_of(section, key) is Effect.RUN for section in METHODS.values() for key in section.model_fields)


def test_a_key_that_says_nothing_belongs_to_the_run() -> None:
    class Other(Section):
        strength: float = 1.0

    assert effect_of(Other, "strength") is Effect.RUN


def test_the_lists_that_follow() -> None:
    """The lists that were kept by hand before."""
    records = {"save.every_epoch", "save.every_steps", "save.every_minutes", "save.keep"}
    records |= {"train.log_every", "train.log_with"}
    batching = {"eval.batch_size", "decode.batch_size"}
    assert set(HARMLESS) == records | batching | {"train.cuda_graph", "train.fuse", "train.pack"}
    assert set(LOCATIONS) == {"model.name", "data.path"}
    assert records | batching | {"train.seed"} == WITHOUT_EFFECT
    assert _CHANGEABLE == ("model.name", "model.revision")
    assert set(CHANGEABLE) == batching | {
        "model.name", "model.revision", "model.trust_remote_code", "data.source", "data.name", "data.config",
        "data.path", "data.columns",
        "data.labels", "data.invalid", "data.separator", "data.max_eval_samples", "data.max_length", "train.device",
        "train.precision", "train.threads",
        "train.deterministic", "decode.split", "decode.beams", "decode.length_penalty", "decode.max_new_tokens",
        "decode.no_repeat_ngram",
    }  # fmt: skip


def test_keys_come_in_the_order_of_a_recipe() -> None:
    assert keys_of(Effect.SEED, Effect.PLACE) == ("model.name", "data.path", "train.seed")
