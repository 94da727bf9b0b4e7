"""The page of an experiment: what stands where."""

from __future__ import annotations

from pathlib import Path

from dora_cli.reports.compare.results import Results
from dora_cli.reports.compare.verdicts import estimand, typeset, verdict
from dora_cli.reports.html.document import document
from dora_cli.reports.html.elements import tag


def experiment_page(results: Results, folder: Path) -> str:
    """The whole page. The same records give the same bytes, whenever it is made."""
    record = results.record
    said = [tag("li", typeset(verdict(found))) for found in record.comparisons]
    return document("Report", tag("header", tag("h1", record.experiment), tag("p", estimand(record))), tag("ul", *said))
