"""What an experiment compares: every method's entry at every value that it sweeps, and who is compared with whom.

A variant is one entry at one value of each swept key. A list for a key that takes one value sweeps it; a list for a key
that takes lists (targets, betas) is its value. ``sweep`` lists values of several keys that go together, by the first of
which the variants are told apart. A comparison is made of pairs of variants: of one, or where swept keys are pooled, of
one at each of their values.
"""

from __future__ import annotations

import itertools
import json
import re
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dora_cli.compare.experiment import OF_AN_ENTRY, RANKS_FROM, SWEEP, Experiment, is_swept
from dora_cli.recipe.methods import METHODS, about
from dora_cli.wording import last_names, spelled

_SHUFFLE = "method.ranks_shuffle"


@dataclass(frozen=True)
class Variant:
    """One entry at one value of each key that it sweeps.

    Attributes:
        entry: its name in the experiment.
        method: the recipe's name of its method.
        keys: what it changes in a recipe.
        swept: those of them that are swept here.
        ranks_of: the variant whose final ranks it takes, run by run.
        sized_as: the variant whose stored size it is given.
        alone: whether the entry has no other variant of its size; then its name does not say whose that is.
    """

    entry: str
    method: str
    keys: Mapping[str, Any]
    swept: Mapping[str, Any] = field(default_factory=dict)
    ranks_of: Variant | None = None
    sized_as: Variant | None = None
    alone: bool = True

    def __hash__(self) -> int:
        return hash(self.name)

    @property
    def name(self) -> str:
        """Such as ``lora rank=2``."""
        return self.name_without(())

    def name_without(self, keys: Collection[str]) -> str:
        """Its name without the values of these keys: what variants share that differ in nothing else."""
        words = [self.entry, *(words for key, words in self._values.items() if key not in keys)]
        if self.sized_as is not None and not self.alone:
            words.append(f"sized as {self.sized_as.name_without(keys)}")
        return " ".join(words)

    @property
    def slug(self) -> str:
        """Its name as that of a folder; no two share one. It says whose size it has in any case: what else is compared
        has no say in it.
        """
        words = [self.entry, *map(_of_a_folder, self._values.values())]
        if self.sized_as is not None:
            words.append(f"sized={self.sized_as.slug}")
        return "-".join(words)

    @property
    def whole_sweep(self) -> Mapping[str, Any]:
        """What is swept here and in the entry whose ranks it takes."""
        return self.swept if self.ranks_of is None else {**self.ranks_of.swept, **self.swept}

    @property
    def _values(self) -> dict[str, str]:
        """``rank=2`` by key."""
        swept = self.whole_sweep
        return {key: f"{name}={spelled(swept[key])}" for key, name in last_names(swept).items()}

    @property
    def emerges(self) -> bool:
        """Whether only a run shows how much it stores: ranks differ between layers, and layers in what a rank costs."""
        return self.ranks_of is None and about(self.method).ranks == "pruned"

    @property
    def has_size(self) -> bool:
        """Whether it adapts anything that a size could be matched to."""
        return about(self.method).ranks != "none"

    @property
    def can_be_sized(self) -> bool:
        """Whether ranks can be given to it, projection by projection."""
        return RANKS_FROM in METHODS[self.method].model_fields  # `ranks` alone may be of links

    def overrides(self) -> list[str]:
        """What it changes, as ``--set`` takes it, but for what takes another run's ranks."""
        return [override(key, value) for key, value in self.keys.items() if not self._waits(key)]

    def rank_overrides(self, folder: str) -> list[str]:
        """What gives a run the ranks of the one in `folder`, and changes them; of a variant with `ranks_of`."""
        return [
            override(f"method.{RANKS_FROM}", folder),
            *(override(key, value) for key, value in self.keys.items() if self._waits(key)),
        ]

    def _waits(self, key: str) -> bool:
        return self.ranks_of is not None and key == _SHUFFLE


@dataclass(frozen=True)
class Pair:
    """A method's variant beside the baseline's."""

    variant: Variant
    baseline: Variant


@dataclass(frozen=True)
class Contrast:
    """A comparison as it is declared: a method beside its baseline.

    Attributes:
        pairs: what it is made of; of several, the mean is compared.
        pooled: the swept keys in which they differ, and over whose values that mean is.
    """

    pairs: tuple[Pair, ...]
    pooled: tuple[str, ...] = ()

    @property
    def method(self) -> str:
        """The method's name: that of its variant, without the pooled values."""
        return self.pairs[0].variant.name_without(self.pooled)

    @property
    def baseline(self) -> str:
        """The baseline's name, likewise."""
        return self.pairs[0].baseline.name_without(self.pooled)

    @property
    def name(self) -> str:
        """No two comparisons of an experiment share it."""
        return f"{self.method} | {self.baseline}"

    def values(self, pair: Pair) -> dict[str, Any]:
        """The pooled keys with their values in one of its pairs."""
        return {key: pair.variant.whole_sweep[key] for key in self.pooled}

    def __str__(self) -> str:
        each = ", ".join(f"{pair.variant.name} with {pair.baseline.name}" for pair in self.pairs)
        if not self.pooled:
            return each
        over = " and ".join(last_names(self.pooled).values())
        return f"{self.method} with {self.baseline}, the mean over {over} of {each}"


@dataclass(frozen=True)
class Design:
    """All that is compared.

    Attributes:
        variants: what is run; one comes after those that it waits for.
        comparisons: what is compared.
        notes: what a reader should know of it.
    """

    variants: tuple[Variant, ...]
    comparisons: tuple[Contrast, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The pairs of all comparisons."""
        return tuple(pair for comparison in self.comparisons for pair in comparison.pairs)


def _of_a_folder(text: str) -> str:
    """`text` in characters that every disk takes and tells apart; what is lost by that stands in a checksum."""
    plain = re.sub(r"[^A-Za-z0-9_.+=-]+", "-", text)
    return plain if plain == text == text.casefold() else f"{plain}-{zlib.crc32(text.encode()):08x}"


def override(key: str, value: Any) -> str:
    """``key=value`` with the value in JSON, which is YAML."""
    return f"{key}={json.dumps(value)}"


def design(experiment: Experiment) -> Design:
    """Who is compared with whom.

    A variant is compared with the baseline's variant that has the same values of the keys that both sweep; where they
    share none, with each of the baseline's. Each such pair is a comparison; those that differ in the values of pooled
    keys alone are one. Under ``match: stored-parameters`` the baseline is sized as every other method that it is
    compared with; where that size emerges from runs, they come first.
    """
    own = {name: _variants(name, entry) for name, entry in experiment.methods.items() if RANKS_FROM not in entry}
    for name, entry in experiment.methods.items():
        if RANKS_FROM in entry:
            sources = own[entry[RANKS_FROM]["method"]]
            own[name] = [variant for source in sources for variant in _variants(name, entry, ranks_of=source)]
    bases = own[experiment.baseline]
    partners: list[tuple[Variant, Variant]] = []
    for name in experiment.methods:
        if name != experiment.baseline:
            partners += [(variant, base) for variant in own[name] for base in _beside(variant, bases)]
    matched = experiment.match == "stored-parameters"
    pairs = _sized(partners) if matched else [Pair(*both) for both in partners]
    notes = []
    if matched and not bases[0].can_be_sized:
        notes.append(f"{bases[0].entry} cannot be given a size, so stored parameters are as they come; see the ratios")
    if matched and any(not pair.variant.has_size for pair in pairs):
        names = ", ".join(dict.fromkeys(pair.variant.name for pair in pairs if not pair.variant.has_size))
        notes.append(f"{names}: without ranks, so no size is matched to theirs")
    return Design(_in_order(pairs), tuple(_pooled(pairs, experiment.pool)), tuple(notes))


def _variants(name: str, entry: Mapping[str, Any], *, ranks_of: Variant | None = None) -> list[Variant]:
    keys = {key: value for key, value in entry.items() if key not in OF_AN_ENTRY}
    method = keys["method.name"]
    swept = [key for key, value in keys.items() if is_swept(key, value, method)]
    found = []
    for together, *values in itertools.product(entry.get(SWEEP, [{}]), *(keys[key] for key in swept)):
        chosen = {**dict(list(together.items())[:1]), **dict(zip(swept, values, strict=True))}
        found.append(Variant(name, method, {**keys, **together, **chosen}, chosen, ranks_of))
    return found


def _beside(variant: Variant, bases: Sequence[Variant]) -> list[Variant]:
    """Those of the baseline's variants that `variant` is compared with."""
    swept = variant.whole_sweep
    shared = [key for key in swept if key in bases[0].swept]
    found = [base for base in bases if all(base.swept[key] == swept[key] for key in shared)]
    assert found, "the experiment was checked"
    return found


def _sized(partners: Sequence[tuple[Variant, Variant]]) -> list[Pair]:
    """Pairs in which the baseline has the size of the other method that it is compared with."""
    sources: dict[str, list[Variant | None]] = {}
    sized = []
    for variant, base in partners:
        source = _size_of(variant, base)
        sized.append((variant, base, source))
        if variant.has_size and source not in sources.setdefault(base.name, []):
            sources[base.name].append(source)
    pairs = []
    for variant, base, source in sized:
        if source is None:
            pairs.append(Pair(variant, base))
        else:
            alone = len(sources[base.name]) == 1
            pairs.append(Pair(variant, replace(base, sized_as=source, alone=alone)))
    return [Pair(pair.variant, _with_the_only_size(pair, pairs)) for pair in pairs]


def _size_of(variant: Variant, base: Variant) -> Variant | None:
    """Whose size the baseline `base` is given to be compared with `variant`; None where it keeps its own."""
    source = variant if variant.ranks_of is None else variant.ranks_of
    if not (source.has_size and base.can_be_sized) or source.method == base.method:
        return None
    return source


def _with_the_only_size(pair: Pair, pairs: Sequence[Pair]) -> Variant:
    """What has no size is compared with the baseline as it is run anyway, sized as another where that is so."""
    if pair.variant.has_size:
        return pair.baseline
    sized = [
        other.baseline
        for other in pairs
        if other.baseline.sized_as is not None and other.baseline.swept == pair.baseline.swept
    ]
    return sized[0] if sized else pair.baseline


def _pooled(pairs: Iterable[Pair], keys: tuple[str, ...]) -> list[Contrast]:
    """Comparisons, each of the pairs that differ in the values of `keys` alone."""
    found: dict[str, Contrast] = {}
    for pair in pairs:
        alone = Contrast((pair,), keys)
        before = found.get(alone.name)
        found[alone.name] = alone if before is None else Contrast((*before.pairs, pair), keys)
    assert len({len(comparison.pairs) for comparison in found.values()}) == 1, "all are over the same values"
    return list(found.values())


def _in_order(pairs: Iterable[Pair]) -> tuple[Variant, ...]:
    """Every variant once; before it those that it waits for."""
    found: dict[str, Variant] = {}

    def add(variant: Variant) -> None:
        for needed in (variant.ranks_of, variant.sized_as):
            if needed is not None:
                add(needed)
        found.setdefault(variant.name, variant)

    for pair in pairs:
        add(pair.variant)
        add(pair.baseline)
    return tuple(found.values())
