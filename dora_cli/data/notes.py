"""What is odd about examples that can be trained and scored all the same, each said in one line with its counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from dora_cli.wording import plural

if TYPE_CHECKING:
    from dora_cli.data.examples import Examples
    from dora_cli.data.sources.fields import Labels


def text_notes(place: str, examples: Examples) -> Iterator[str]:
    """Texts that say nothing, or hold what no text holds.

    Args:
        place: where the examples come from, such as ``"split train"``.
        examples: as they are used.
    """
    for what, odd in (
        ("an empty text", lambda text: not text.strip()),
        (r"a text with NUL characters (\x00), such as a wrong encoding leaves in it", lambda text: "\0" in text),
    ):
        if count := _rows(examples, odd):
            yield f"{place}: {count:,} of {plural(len(examples), 'row')} {'has' if count == 1 else 'have'} {what}"


def _rows(examples: Examples, odd: Callable[[str], bool]) -> int:
    return sum(any(odd(text) for text in texts) for texts in zip(*examples.texts, strict=True))


def label_notes(
    place: str, labels: Labels | None, examples: Examples, *, training: bool, zero: Sequence[str] = ()
) -> Iterator[str]:
    """Labels that are all the same, and classes that are missing.

    Args:
        place: as for `text_notes`.
        labels: what they may be; None for references.
        examples: as they are used.
        training: whether a model learns from them; else it is scored on them.
        zero: the scores that are 0 where all labels are the same.
    """
    if examples.labels is None or labels is None:
        return
    counts = Counter(examples.labels)
    names = labels.names
    if len(counts) == 1:
        (label,) = counts
        shown = f"{label:g}" if names is None else repr(names[int(label)])
        rows = "the only row has" if len(examples) == 1 else f"all {len(examples):,} rows have"
        same = f"{place}: {rows} the label {shown}"
        if training:
            yield f"{same}; the model can learn nothing but to say that"
        else:
            yield f"{same}; " + (f"{' and '.join(zero)} will be 0" if zero else "scores say nothing of other labels")
    elif names is not None and len(counts) < len(names):
        missing = ", ".join(repr(name) for index, name in enumerate(names) if index not in counts)
        there = ", ".join(f"{count:,} {names[int(label)]!r}" for label, count in sorted(counts.items()))
        yield f"{place}: none of {len(examples):,} rows has the label {missing} ({there})"


def alike_note(place: str, names: Sequence[str]) -> str | None:
    """What to say of classes whose names differ in white space or capitals alone; None where there are none."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(" ".join(name.casefold().split()), []).append(name)
    alike = [", ".join(map(repr, group)) for group in groups.values() if len(group) > 1]
    if not alike:
        return None
    return (
        f"{place}: the labels {'; '.join(alike[:5])} differ in white space or capitals alone, and are different classes"
    )


def limit_note(place: str, key: str, limit: int | None, count: int, what: str) -> str | None:
    """What to say of a `limit` that is above the `count` of what there is; None where it is not.

    Args:
        place: as for `text_notes`.
        key: the recipe's key of the limit.
        limit: at most so many are used.
        count: so many are used, of one kind.
        what: which kind: ``"example"`` or ``"source"``.
    """
    if limit is None or count >= limit:
        return None
    return (
        f"{place}: {key} is {limit:,}, but there {'is' if count == 1 else 'are'} {plural(count, what)}, so all are used"
    )
