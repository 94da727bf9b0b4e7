"""What a comparison says, in sentences. Every verdict's wording stands here and nowhere else.

All ASCII, so that any terminal and log file can show it; pages and tables for papers put signs in its place
(`typeset`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from dora_cli.reports.units import number
from dora_cli.runs.records.comparison import ComparisonOfRecord, ComparisonRecord, TestedRecord, Value, Verdict
from dora_cli.wording import last_names, plural, spelled

SHORT: dict[Verdict, str] = {
    "better": "better",
    "worse": "worse",
    "equivalent": "equivalent",
    "non-inferior": "not inferior",
    "undecided": "undecided",
    "withheld": "withheld",
}
"""For the cell of a table."""
SOURCES = {"pilot": "from the spread of the pilot", "given": "given in the experiment", "none": ""}
SMALLEST = 0.0001
"""p below it is not written out."""
_MINUS = re.compile(r"(?<![\w.-])-(?=\d+\.\d)")


def signed(value: float | None) -> str:
    """A difference: ``+0.0123``, ``-0.0045``, ``0.0000``; ``-`` if unknown."""
    written = number(value)
    return f"+{written}" if value is not None and value > 0 and float(written) else written.replace("-0.0000", "0.0000")


def p_value(p: float | None) -> str:
    """``0.034``, ``0.0012`` or ``< 0.0001``; ``-`` if unknown."""
    if p is None or not math.isfinite(p):
        return "-"
    if p < SMALLEST:
        return f"< {SMALLEST}"
    return f"{p:.3f}" if p >= 0.01 else f"{p:.4f}"


def interval(tested: TestedRecord) -> str:
    """``-0.0012 to +0.0258``; ``-`` if unknown."""
    if tested.low is None or tested.high is None:
        return "-"
    return f"{signed(tested.low)} to {signed(tested.high)}"


def listed(values: Iterable[int]) -> str:
    """Whole numbers with their runs joined: ``1-5, 7, 9``."""
    parts: list[list[int]] = []
    for value in sorted(values):
        if parts and value == parts[-1][-1] + 1:
            parts[-1].append(value)
        else:
            parts.append([value])
    return ", ".join(f"{part[0]}-{part[-1]}" if len(part) > 2 else ", ".join(map(str, part)) for part in parts)


def typeset(text: str) -> str:
    """A sentence of this module with the signs of print for plus-minus and minus; names in it stay as they are."""
    return _MINUS.sub("\u2212", text.replace("+/-", "\u00b1"))


# The verdict ----------------------------------------------------------------------------------------------------------


def verdict(found: ComparisonOfRecord) -> str:
    """What may be said of a method beside its baseline, with the numbers it rests on, in one sentence."""
    method, baseline = found.method, found.baseline
    margin = number(found.margin)
    if found.verdict in ("better", "worse"):
        return f"{method} is {found.verdict} than {baseline}: {_effect(found)}{_p(found.p_holm)}."
    if found.verdict == "equivalent":
        return (
            f"{method} and {baseline} are equivalent within a margin of +/-{margin}: "
            f"{_effect(found)}{_p(found.p_equivalent, 'equivalence')}."
        )
    if found.verdict == "non-inferior":
        return (
            f"{method} is not worse than {baseline} by the margin of {margin} or more: "
            f"{_effect(found)}{_p(found.p_non_inferior, 'non-inferiority')}."
        )
    if found.verdict == "undecided":
        equal = "" if found.margin is None else f" nor equivalence within a margin of +/-{margin}"
        shown = f"shows neither a difference{equal}" if equal else "shows no difference, nor that there is none"
        return f"Undecided: {method} beside {baseline} {shown}: {_effect(found)}{_p(found.p_holm)}."
    asked = f"what is asked of {method} beside {baseline}"
    if not found.seeds:
        return f"Withheld: no seed has a run on both sides, so nothing shows {asked}{_needed(found)}."
    few = f"{plural(found.seeds, 'seed')} cannot show {asked}{_needed(found)}"
    return f"Withheld: {few}. So far: {_effect(found)}."


def _needed(found: ComparisonOfRecord) -> str:
    return "" if found.seeds_needed is None else f"; it takes {plural(found.seeds_needed, 'seed')}"


def _effect(found: ComparisonOfRecord) -> str:
    if found.mean is None:
        return "the difference is not known"
    where = f"95 % interval {interval(found)}" if found.low is not None else "without an interval"
    settings = over_values([place.pooled for place in found.by_task])
    mean = f" (mean over {settings})" if settings else ""
    return f"difference {signed(found.mean)}{mean}, {where}, over {plural(found.seeds, 'seed')}"


def _p(p: float | None, of: str = "") -> str:
    if p is None:
        return ""
    said = p_value(p)
    return f", adjusted p{' of ' + of if of else ''} {said if said.startswith('<') else '= ' + said}"


def warnings(found: ComparisonOfRecord) -> list[str]:
    """What must be known before the verdict is believed, a sentence each."""
    said = []
    # a note may say it together with the place
    dropped = [seed for seed in found.dropped if not any(note.startswith(f"seed {seed} ") for note in found.notes)]
    if dropped:
        which, verb = ("Seed", "lacks") if len(dropped) == 1 else ("Seeds", "lack")
        are = "is" if len(dropped) == 1 else "are"
        said.append(f"{which} {listed(dropped)} {verb} a run on one side and {are} left out.")
    if found.seeds_needed is not None and found.verdict != "withheld":
        said.append(f"To reach what is asked takes {plural(found.seeds_needed, 'seed')}.")
    return [*said, *found.notes]


def remarks(found: ComparisonOfRecord) -> list[str]:
    """What else is known of a comparison, a sentence each."""
    said = []
    if found.detectable is not None:
        said.append(f"A true difference of {number(found.detectable)} would be found with 80 % power.")
    if found.power_equivalent is not None:
        said.append(f"If nothing differed, equivalence would be shown with {100 * found.power_equivalent:.0f} % power.")
    if found.bootstrap is not None:
        low, high = found.bootstrap
        said.append(f"By bootstrap-t the interval is {signed(low)} to {signed(high)}.")
    if found.size_ratio is not None:
        said.append(f"It stores {found.size_ratio:.3f} times the parameters of its baseline.")
    return said


# The experiment -------------------------------------------------------------------------------------------------------


def over_values(settings: Iterable[Mapping[str, Value]]) -> str:
    """Pooled keys by their last names, each with all its values: ``rank 1, 2, 4``; empty where none is pooled."""
    values: dict[str, dict[str, None]] = {}
    for setting in settings:
        for key, value in setting.items():
            values.setdefault(key, {})[spelled(value)] = None
    return _joined([f"{name} {', '.join(values[key])}" for key, name in last_names(values).items()])


def _joined(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def each_place(record: ComparisonRecord) -> str:
    """What the parts of a comparison differ in: ``task``, ``rank``, ``task and rank``."""
    tasks = ["task"] if len(record.tasks) > 1 or not record.pool else []
    return _joined([*tasks, *last_names(record.pool).values()])


def estimand(record: ComparisonRecord) -> str:
    """What the differences estimate, in plain words."""
    tasks = len(record.tasks)
    bases = [method.swept for method in record.methods if method.baseline]
    settings = over_values([{key: swept[key] for key in record.pool if key in swept} for swept in bases])
    lower = [task.name for task in record.tasks if task.lower_is_better]
    baselines = list(dict.fromkeys(found.baseline for found in record.comparisons)) or [record.baseline]
    beside = baselines[0] if len(baselines) == 1 else f"{record.baseline} of the same setting"
    means = [*([f"these {tasks} tasks"] if tasks > 1 else []), *([settings] if settings else [])]
    over = f"the mean over {' and over '.join(means)} (they are fixed, no sample of others) of " if means else ""
    same = _joined([*last_names(record.pool).values(), "seed"])
    turned = ""
    if lower:
        turned = f" ({', '.join(lower)}: less is better, so the sign is turned)"
    return (
        f"Estimated is {over}the mean difference in score between a method and {beside} with the same {same}, over "
        f"{plural(len(record.seeds), 'seed')}. Above 0 is better{turned}."
    )


def scoring(record: ComparisonRecord) -> str:
    """When and on what a run is scored."""
    if record.measured_share is None:
        return (
            "Every run that measures has a fresh seed and the whole training split, and is scored once, at its end, on "
            "the dev split."
        )
    return (
        "Every run that measures has a fresh seed and is scored once, at its end, on the "
        f"{100 * record.measured_share:g} % of the training split that are held out of all runs alike, those of the "
        "tuning too; the dev split was not read."
    )


def inference(record: ComparisonRecord) -> str:
    """How differences are tested, the correction and the margin."""
    count = record.power.comparisons
    over = f"adjusted by Holm over {plural(count, 'comparison')}" if count != 1 else "of the one comparison"
    text = f"Intervals (95 %) and p by paired t over seeds; p {over}."
    if record.margin is None:
        return text + " No margin is set, so equivalence is not tested."
    source = f" ({SOURCES[record.margin_source]})" if SOURCES[record.margin_source] else ""
    return text + (
        f" Equivalence and non-inferiority by one-sided tests (TOST) within a margin of +/-{number(record.margin)}"
        f"{source}, adjusted likewise."
    )


def tuning(record: ComparisonRecord) -> str:
    """How the tuned key was chosen."""
    plan = record.tuning
    if plan is None:
        return "Nothing was tuned: every method has the values of its recipe."
    grid = f"{plural(len(plan.grid), 'value')} from {min(plan.grid):g} to {max(plan.grid):g}" if plan.grid else "values"
    keep = ", by successive halving" if plan.keep == "halving" else ""
    seeds = f"seeds {listed(plan.seeds)}" if len(plan.seeds) > 1 else f"seed {listed(plan.seeds)}"
    held_out = "held out so that no text is on both sides" if plan.held_out_by == "text" else "held out by rows"
    return (
        f"{plan.key} was chosen for each method on each task among {grid} on {100 * plan.held_out:g} % of the training "
        f"split, {held_out}, with {seeds}{keep}."
    )


def sizing(record: ComparisonRecord) -> str:
    """How methods were made equally large."""
    if record.match == "none":
        return "Methods were not matched in size."
    return "Methods were matched in stored parameters."


def foreseen(record: ComparisonRecord) -> str | None:
    """What the seeds could show, known before the tuning; None where that is not known."""
    power = record.power
    if power.detectable is None:
        return None
    level = f", at the level of {plural(power.comparisons, 'comparison')}" if power.comparisons > 1 else ""
    return (
        f"Known before the tuning: {plural(power.seeds, 'seed')} find a difference of {power.detectable:.2f} standard "
        f"deviations of the paired difference with 80 % power{level}."
    )


def unfinished(record: ComparisonRecord) -> str | None:
    """What is said of an experiment that is not over."""
    if record.complete:
        return None
    return "The experiment is not finished: this is what there is so far, and verdicts may change."
