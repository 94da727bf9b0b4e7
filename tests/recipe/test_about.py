"""What is known of every method without running it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Literal

import pytest

from dora_cli.methods import METHODS as CLASSES
from dora_cli.recipe import methods
from dora_cli.recipe.fields import Section
from dora_cli.recipe.methods import METHODS, about, method_catalogue


def test_every_method_is_known() -> None:
    found = {method["name"]: method for method in method_catalogue()}
    assert found.keys() == METHODS.keys() == CLASSES.keys()
    assert [name for name, method in found.items() if method["default"]] == ["dora"]
    for name in ("dora", "lora", "houlsby", "pfeiffer", "head"):
        known = about(name)
        assert known.title
        assert known.summary
        assert known.card
        assert None not in (known.ranks, known.mergeable, known.lora)
        assert known.lora == (known.ranks != "none")
    assert found["lora"]["keys"][:2] == ["rank", "ranks"]
    assert [name for name, method in found.items() if method["federated"]] == ["lora", "lora-pro", "flat-lora"]


def test_scales_are_those_of_the_methods() -> None:
    dora, lora = METHODS["dora"](alpha=6.0), METHODS["lora"](alpha=6.0)  # type: ignore[call-arg]
    stable = METHODS["lora"](alpha=6.0, scaling="rank-stabilised")  # type: ignore[call-arg]
    assert about("dora").scale(dora, 12, 3) == 0.5
    assert about("lora").scale(lora, 3, 3) == 2
    assert about("lora").scale(stable, 9, 9) == 2


def test_options_of_a_run_are_told() -> None:
    lora = METHODS["lora"]
    assert not about("lora").notes(lora())
    told = " ".join(
        about("lora").notes(lora(scaling="rank-stabilised", learning_rate_ratio=16, ranks={"*": 2}, ranks_shuffle=1))  # type: ignore[call-arg]
    )
    for words in (
        "2312.03732",
        "16 times the rate of `A` (LoRA+",
        "given by pattern or by name",
        "exchanged at random",
    ):
        assert words in told


def test_a_method_of_another_package_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class OtherMethod(Section):
        """Trains biases.

        Attributes:
            name: which method.
        """

        name: Literal["other"] = "other"

    monkeypatch.setitem(methods._MODULES, "other", SimpleNamespace(SECTION=OtherMethod))  # type: ignore[arg-type]
    monkeypatch.setitem(METHODS, "other", OtherMethod)
    found = method_catalogue()[-1]
    assert (found["name"], found["summary"], found["paper"]) == ("other", "Trains biases", "")
    assert (found["ranks"], found["mergeable"], found["lora"]) == (None, None, None)
    assert about("other").card == "Trained with the method `other`: Trains biases."
    assert about("other").scale(OtherMethod(), 3, 3) == 1
