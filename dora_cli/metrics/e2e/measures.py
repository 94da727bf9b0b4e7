"""The five metrics by name, of outputs and lists of texts that they are compared with, at least one for each output."""

from __future__ import annotations

from collections.abc import Sequence

from dora_cli.metrics.e2e import bleu as _bleu
from dora_cli.metrics.e2e import cider as _cider
from dora_cli.metrics.e2e import nist as _nist
from dora_cli.metrics.e2e import rouge_l as _rouge_l
from dora_cli.metrics.e2e.java import JavaError, meteor_score
from dora_cli.metrics.e2e.tokenisation import mteval, treebank


def bleu(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """``bleu``: n-gram precision up to four words, with a penalty for short outputs; a fraction."""
    tokens = mteval(outputs, references)
    return {"bleu": _bleu.bleu(tokens.outputs, tokens.references)}


def nist(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """``nist``: information in the matched n-grams up to five words."""
    tokens = mteval(outputs, references)
    return {"nist": _nist.nist(tokens.outputs, tokens.references)}


def meteor(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float | str | None]:
    """``meteor``: METEOR 1.5 by its own Java program; None where that cannot be run, and then ``problem`` says why."""
    tokens = treebank(outputs, references)
    try:
        return {
            "meteor": meteor_score(
                [*map(" ".join, tokens.outputs)], [[*map(" ".join, wanted)] for wanted in tokens.references]
            )
        }
    except JavaError as error:
        return {"meteor": None, "problem": str(error)}


def rouge_l(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """``rouge_l``: longest common subsequence with a reference."""
    tokens = treebank(outputs, references)
    return {"rouge_l": _rouge_l.rouge_l(tokens.outputs, tokens.references)}


def cider(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """``cider``: agreement in n-grams that are rare among the references."""
    tokens = treebank(outputs, references)
    return {"cider": _cider.cider(tokens.outputs, tokens.references)}
