"""JSON as it is written."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from dora_cli.atomic import write_json
from dora_cli.json_text import to_json
from dora_cli.runs.reading import read_json


def test_json_is_strict_and_holds_plain_values_only():
    text = to_json(
        {
            "a": math.nan,
            "b": np.float32(0.5),
            "c": np.arange(3),
            "d": (1, math.inf),
            "e": Path("x"),
            "f": np.bool_(True),
            "g": "\u00e9",
        }
    )
    parsed = json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    assert parsed == {"a": None, "b": 0.5, "c": [0, 1, 2], "d": [1, None], "e": "x", "f": True, "g": "\u00e9"}
    assert text.endswith("}\n")
    with pytest.raises(TypeError, match="object"):
        to_json({"a": object()})


def test_json_keeps_numbers_on_one_line_however_many():
    text = to_json({"layers": [{"name": "x" * 150, "scores": [0.123456789] * 200}]})
    assert json.loads(text)["layers"][0]["scores"] == [0.123456789] * 200
    assert len(text.splitlines()) == 8


@pytest.mark.parametrize("value", [0.1, 1e-300, 1 / 3, 123456789.123456789, 5e-324])
def test_floats_survive_exactly(tmp_path: Path, value: float):
    write_json(tmp_path / "x.json", {"value": value})
    assert read_json(tmp_path / "x.json")["value"] == value


def test_json_holds_nothing_that_a_terminal_obeys():
    value = {"k\u2028\x9b": "\x1b\x7f\u202e\ud800"}
    assert json.loads(to_json(value)) == value
    assert to_json(value).rstrip("\n").isprintable()
