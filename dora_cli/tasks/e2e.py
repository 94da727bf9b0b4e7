"""The E2E NLG challenge: meaning representations of restaurants to text (Novikova, Dusek and Rieser 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from dora_cli.data.sources.fields import CsvLayout, HubSource
from dora_cli.libraries import loading
from dora_cli.tasks.base import Scores
from dora_cli.tasks.generate import GenerateTask


def _score(outputs: Sequence[str], references: Sequence[Sequence[str]], *, quick: bool) -> Scores:
    with loading("what computes the metrics of e2e"):
        from dora_cli.metrics.e2e.score import score_e2e
    found = score_e2e(outputs, references, meteor=not quick)
    return Scores(found.metrics, found.notes)


def _missing() -> str | None:
    """METEOR and the official tokenisation are Java programs."""
    from dora_cli.metrics.e2e.java import look_for_java

    problem = look_for_java()["problem"]
    return problem and (
        f"METEOR will not be computed at the end, and ROUGE-L and CIDEr will use a tokenisation in Python: {problem}"
    )


E2E: Final = GenerateTask(
    name="e2e",
    text_columns=("meaning_representation", "human_reference"),
    splits={"train": 42061, "validation": 4672, "test": 4693},
    eval_splits=("validation",),
    primary="loss",
    decoded_split="test",
    scorer=_score,
    scores=("bleu", "nist", "meteor", "rouge_l", "cider"),
    epoch_scores=("bleu", "nist", "rouge_l", "cider"),
    # The main branch needs a script, which is never run; the hub keeps its own conversion beside it.
    hub=HubSource("tuetschek/e2e_nlg", "default", "refs/convert/parquet"),
    csv=CsvLayout(
        files={  # the challenge's release, then the cleaned one's (Dusek, Howcroft and Rieser 2019)
            "train": ("trainset.csv", "train-fixed.no-ol.csv"),
            "validation": ("devset.csv", "devel-fixed.no-ol.csv"),
            "test": ("testset_w_refs.csv", "test-fixed.csv", "testset.csv"),
        },
        source="mr",
        target="ref",
    ),
    example="name[Blue Spice], eatType[pub], area[riverside]",
    missing=_missing,
)
