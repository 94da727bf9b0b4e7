"""The E2E test set with a human reference held out as the output, and what the official script says of it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "e2e"
needs_data = pytest.mark.skipif(
    not (DATA / "testset_w_refs.csv").is_file(), reason="needs the official E2E files beside the checkout"
)


def texts(name: str) -> list[tuple[str, str]]:
    """Meaning representations and references of an official file, line breaks inside fields as spaces."""
    with (DATA / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return [(row["mr"], " ".join(row["ref"].split())) for row in csv.DictReader(file)]


def held_out() -> tuple[list[str], list[list[str]]]:
    """The first reference of every meaning representation as the output, the others as its references, where there are
    others.
    """
    grouped: dict[str, list[str]] = {}
    for mr, text in texts("testset_w_refs"):
        grouped.setdefault(mr, []).append(text)
    several = [group for group in grouped.values() if len(group) > 1]
    return [group[0] for group in several], [group[1:] for group in several]


def worn(outputs: list[str]) -> list[str]:
    """Every fifth word lost and the first two of the rest exchanged."""
    found = []
    for number, text in enumerate(outputs):
        words = [word for place, word in enumerate(text.split(" ")) if (number + place) % 5]
        words[:2] = words[1::-1]
        found.append(" ".join(words))
    return found


OFFICIAL = {"bleu": 0.3187028, "nist": 5.8971692, "meteor": 0.3401347, "rouge_l": 0.5370206, "cider": 1.0230434}
"""For `worn` outputs, from measure_scores.py of tuetschek/e2e-metrics (commit 1b9c4d8) with -p, printed with more
digits.
"""
