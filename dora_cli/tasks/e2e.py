"""The E2E NLG challenge: meaning representations of restaurants to text (Novikova, Dusek and Rieser 2017)."""

from __future__ import annotations

from typing import Final

from dora_cli.data.sources.fields import CsvLayout, HubSource
from dora_cli.tasks.generation import GenerationTask

E2E: Final = GenerationTask(
    name="e2e",
    text_columns=("meaning_representation", "human_reference"),
    splits={"train": 42061, "validation": 4672, "test": 4693},
    eval_splits=("validation",),
    decoded_split="test",
    score="e2e",
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
)
