"""From outputs and references to the five numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dora_cli.metrics.e2e import measures
from dora_cli.metrics.e2e.tokenisation import treebank


@dataclass(frozen=True)
class E2EScores:
    """What `score_e2e` found.

    Attributes:
        metrics: ``bleu, nist, meteor, rouge_l, cider`` on the official script's scale (BLEU as a fraction); ``meteor``
            is None where Java or `pycocoevalcap` is absent.
        notes: what differs from the official script on this machine, and what to install; empty where nothing does.
    """

    metrics: dict[str, float | None]
    notes: tuple[str, ...]


def score_e2e(outputs: Sequence[str], references: Sequence[Sequence[str]], *, meteor: bool = True) -> E2EScores:
    """The five metrics of the E2E challenge.

    Args:
        outputs: one text for each meaning representation, as generated (not tokenised, case kept); may be empty.
        references: for each output, at least one text.
        meteor: whether METEOR is asked for; it starts a Java program, which takes seconds.
    """
    assert len(outputs) == len(references), "one list of references per output"
    assert outputs, "there is at least one output"
    assert all(references), "every output has at least one reference"
    metrics: dict[str, Any] = {}
    asked = (measures.bleu, measures.nist, *((measures.meteor,) if meteor else ()), measures.rouge_l, measures.cider)
    for measure in asked:
        metrics |= measure(outputs, references)
    notes = []
    if (problem := metrics.pop("problem", None)) is not None:
        notes.append(f"METEOR is not computed: {problem}")
    if (other := treebank(outputs, references).problem) is not None:
        notes.append(
            "ROUGE-L and CIDEr use a tokenisation in Python, which agrees with the official one on E2E text"
            + ("" if other == problem else f": {other}")
        )
    return E2EScores(metrics, tuple(notes))
