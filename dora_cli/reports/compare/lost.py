"""Which methods have runs that diverged or collapsed, in sentences."""

from __future__ import annotations

from dora_cli.reports.compare.results import Lost, Results
from dora_cli.wording import plural


def losses(results: Results) -> list[str]:
    """A sentence for each method that has any, over all tasks: of its measured runs, and of those of the tuning."""
    found = []
    for method in results.methods:
        cells = results.of_method(method)
        parts = {
            "measured run": Lost.of(cell.measured for cell in cells),
            "tuning run": Lost.of(cell.tuned for cell in cells),
        }
        said = [_said(lost, what) for what, lost in parts.items() if lost.collapsed]
        if said:
            found.append(f"{method.name}: {'; '.join(said)}")
    return found


def _said(lost: Lost, what: str) -> str:
    """All that diverged are among those that collapsed."""
    whole = f"{lost.collapsed:,} of {plural(lost.runs, what)} collapsed"
    if lost.diverged is None:
        return whole
    return f"{whole}, {f'{lost.diverged:,} of them diverged' if lost.diverged else 'none diverged'}"
