"""Who is compared with whom, and what has to wait."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dora_cli.compare.cells import find_tasks
from dora_cli.compare.experiment import load_experiment
from dora_cli.compare.variants import Design, design, override
from dora_cli.errors import ExperimentError
from dora_cli.recipe.overrides import Override, parse_override

ROOT = Path(__file__).parents[2]
LORA, DORA, HEAD = "{method.name: lora%s}", "{method.name: dora%s}", "{method.name: head}"


def designed(folder: Path, methods: dict[str, str], more: str = "") -> Design:
    lines = "".join(f"  {name}: {entry}\n" for name, entry in methods.items())
    (folder / "x.yaml").write_text(f"tasks: [a]\nmethods:\n{lines}baseline: {next(iter(methods))}\n{more}")
    found = design(load_experiment(folder / "x.yaml"))
    names = [variant.name for variant in found.variants]
    assert len(names) == len(set(names)) == len({variant.slug.casefold() for variant in found.variants})
    for place, variant in enumerate(found.variants):
        for needed in (variant.ranks_of, variant.sized_as):
            assert needed is None or needed in found.variants[:place], "what it waits for comes first"
    return found


def pairs(found: Design) -> list[tuple[str, str]]:
    return [(pair.variant.name, pair.baseline.name) for pair in found.pairs]


def sizes(found: Design) -> dict[str, str | None]:
    return {variant.name: variant.sized_as and variant.sized_as.name for variant in found.variants}


def test_a_baseline_is_given_the_size_that_emerges(tmp_path: Path) -> None:
    found = designed(tmp_path, {"lora": LORA % "", "dora": DORA % ""})
    assert [variant.name for variant in found.variants] == ["dora", "lora"]
    assert pairs(found) == [("dora", "lora")]
    assert sizes(found) == {"dora": None, "lora": "dora"}


def test_without_matching_nobody_waits(tmp_path: Path) -> None:
    found = designed(tmp_path, {"lora": LORA % "", "dora": DORA % ""}, "match: none\n")
    assert sizes(found) == {"dora": None, "lora": None}


def test_what_both_sweep_is_compared_at_equal_values(tmp_path: Path) -> None:
    found = designed(tmp_path, {"lora": LORA % ", method.rank: [2, 8]", "dora": DORA % ", method.rank: [8, 2]"})
    assert pairs(found) == [("dora rank=8", "lora rank=8"), ("dora rank=2", "lora rank=2")]
    assert sizes(found)["lora rank=8"] == "dora rank=8"


def test_what_one_sweeps_alone_is_compared_with_all(tmp_path: Path) -> None:
    methods = {"lora": LORA % ", train.weight_decay: [0, 0.1]", "dora": DORA % ", method.prune_interval: [1, 5]"}
    found = designed(tmp_path, methods, "match: none\n")
    assert pairs(found) == [
        (f"dora prune_interval={one}", f"lora weight_decay={other}") for one in (1, 5) for other in ("0", "0.1")
    ]


def test_a_baseline_beside_several_sizes_that_emerge_is_run_at_each(tmp_path: Path) -> None:
    methods = {"lora": LORA % "", "small": DORA % ", method.rank: 2", "large": DORA % ", method.rank: 8", "head": HEAD}
    found = designed(tmp_path, methods)
    assert pairs(found) == [
        ("small", "lora sized as small"),
        ("large", "lora sized as large"),
        ("head", "lora sized as small"),
    ]
    assert [variant.slug for variant in found.variants if variant.entry == "lora"] == [
        "lora-sized=small",
        "lora-sized=large",
    ]
    (note,) = found.notes
    assert "head" in note


def test_the_head_alone_leaves_the_baseline_its_own_size(tmp_path: Path) -> None:
    found = designed(tmp_path, {"lora": LORA % "", "head": HEAD})
    assert pairs(found) == [("head", "lora")]
    assert sizes(found) == {"head": None, "lora": None}


def test_a_baseline_that_cannot_be_given_a_size(tmp_path: Path) -> None:
    found = designed(tmp_path, {"dora": DORA % "", "lora": LORA % "", "head": HEAD})
    assert sizes(found) == {"lora": None, "dora": None, "head": None}
    assert "dora cannot be given a size" in found.notes[0]


def test_entries_of_one_method_keep_their_sizes(tmp_path: Path) -> None:
    found = designed(tmp_path, {"lora": LORA % "", "plus": LORA % ", method.learning_rate_ratio: [4, 16]"})
    assert pairs(found) == [("plus learning_rate_ratio=4", "lora"), ("plus learning_rate_ratio=16", "lora")]
    assert set(sizes(found).values()) == {None}


def test_ranks_of_another_are_compared_at_its_size(tmp_path: Path) -> None:
    methods = {
        "lora": LORA % ", method.rank: [2, 8]",
        "dora": DORA % ", method.rank: [2, 8]",
        "same": LORA % ", ranks_from: {method: dora}",
        "shuffled": LORA % ", ranks_from: {method: dora}, method.ranks_shuffle: [1, 2]",
    }
    found = designed(tmp_path, methods)
    assert pairs(found)[2:] == [
        ("same rank=2", "lora rank=2"),
        ("same rank=8", "lora rank=8"),
        ("shuffled rank=2 ranks_shuffle=1", "lora rank=2"),
        ("shuffled rank=2 ranks_shuffle=2", "lora rank=2"),
        ("shuffled rank=8 ranks_shuffle=1", "lora rank=8"),
        ("shuffled rank=8 ranks_shuffle=2", "lora rank=8"),
    ]
    by_name = {variant.name: variant for variant in found.variants}
    shuffled = by_name["shuffled rank=8 ranks_shuffle=2"]
    assert shuffled.ranks_of is by_name["dora rank=8"]
    assert shuffled.overrides() == ['method.name="lora"']
    assert shuffled.rank_overrides("a/b") == ['method.ranks_from="a/b"', "method.ranks_shuffle=2"]


def test_what_is_pooled_is_one_comparison(tmp_path: Path) -> None:
    """The pairs are those that would be compared one by one."""
    methods = {
        "lora": LORA % ", method.rank: [2, 8]",
        "dora": DORA % ", method.rank: [8, 2]",
        "same": LORA % ", ranks_from: {method: dora}",
    }
    apart, found = designed(tmp_path, methods), designed(tmp_path, methods, "pool: [method.rank]\n")
    assert (pairs(found), sizes(found)) == (pairs(apart), sizes(apart))
    assert [(one.method, one.baseline, len(one.pairs)) for one in found.comparisons] == [
        ("dora", "lora", 2), ("same", "lora", 2),
    ]  # fmt: skip
    same = found.comparisons[1]
    assert [same.values(pair) for pair in same.pairs] == [{"method.rank": 8}, {"method.rank": 2}]
    assert str(same) == (
        "same with lora, the mean over rank of same rank=8 with lora rank=8, same rank=2 with lora rank=2"
    )
    assert [str(one) for one in apart.comparisons] == [f"{one} with {other}" for one, other in pairs(apart)]


def test_what_is_not_pooled_makes_several_comparisons(tmp_path: Path) -> None:
    methods = {
        "lora": LORA % ", method.rank: [2, 8], train.weight_decay: [0, 0.1]",
        "dora": DORA % ", method.rank: [2, 8], method.prune_interval: [1, 5]",
    }
    found = designed(tmp_path, methods, "match: none\npool: [method.rank]\n")
    assert [(one.method, one.baseline) for one in found.comparisons] == [
        (f"dora prune_interval={one}", f"lora weight_decay={other}") for one in (1, 5) for other in ("0", "0.1")
    ]
    for one in found.comparisons:
        assert [one.values(pair) for pair in one.pairs] == [{"method.rank": 2}, {"method.rank": 8}]
        assert {pair.variant.swept["method.rank"] - pair.baseline.swept["method.rank"] for pair in one.pairs} == {0}


def test_several_keys_are_pooled_at_every_pair_of_their_values(tmp_path: Path) -> None:
    both = ", method.rank: [2, 8], train.batch_size: [16, 32]"
    methods = {"lora": LORA % both, "dora": DORA % both}
    (found,) = designed(tmp_path, methods, "pool: [train.batch_size, method.rank]\n").comparisons
    assert [list(found.values(pair).items()) for pair in found.pairs] == [
        [("train.batch_size", size), ("method.rank", rank)] for rank in (2, 8) for size in (16, 32)
    ]


def test_a_pooled_baseline_beside_several_sizes_is_named_by_them(tmp_path: Path) -> None:
    rank = ", method.rank: [2, 8]"
    methods = {"lora": LORA % rank, "dora": DORA % rank, "sora": "{method.name: sora, method.rank: [2, 8]}"}
    found = designed(tmp_path, methods, "pool: [method.rank]\n").comparisons
    assert [(one.method, one.baseline) for one in found] == [
        ("dora", "lora sized as dora"), ("sora", "lora sized as sora"),
    ]  # fmt: skip
    for one in found:
        assert [pair.baseline.sized_as for pair in one.pairs] == [pair.variant for pair in one.pairs]


def test_keys_of_one_last_name_are_told_apart(tmp_path: Path) -> None:
    more = ", train.batch_size: [1, 2], method.batch_size: [1, 2]"  # the second is none: that is for the recipe to say
    found = designed(tmp_path, {"lora": LORA % "", "other": LORA % more})
    assert found.variants[0].name == "other train.batch_size=1 method.batch_size=1"


def test_names_of_folders_are_unique_though_disks_take_few_characters(tmp_path: Path) -> None:
    words = ["a/b", "a-b", "a b", "A-b"]
    found = designed(tmp_path, {"lora": LORA % "", "other": LORA % f", method.scaling: {words}"})
    assert len({variant.slug.casefold() for variant in found.variants}) >= 4
    assert all(set("/ ").isdisjoint(variant.slug) for variant in found.variants)


@pytest.mark.parametrize("value", [1e-5, 0.1, 3, True, None, "null", "1e-5", "a: b", [1, "x"], {"a": None}, ""])
def test_a_value_is_set_as_it_is(value: object) -> None:
    found = parse_override(override("a.b", value))
    assert isinstance(found, Override)
    assert (found.value, type(found.value)) == (value, type(value))


# -- tasks -------------------------------------------------------------------------------------------------------------


def tasks(folder: Path, *names: str) -> dict[str, Path]:
    listed = ", ".join(map(str, names))
    (folder / "x.yaml").write_text(
        f"tasks: [{listed}]\nmethods: {{a: {LORA % ''}, b: {DORA % ''}}}\nbaseline: a\n"
    )  # fmt: skip
    return dict(find_tasks(load_experiment(folder / "x.yaml")))


def test_tasks_by_name_and_by_path(tmp_path: Path) -> None:
    file = ROOT / "configs" / "glue" / "cola.yaml"
    found = tasks(tmp_path, "glue/rte", str(file))
    assert list(found) == ["glue-rte", "glue-cola"]
    assert found["glue-rte"].samefile(ROOT / "configs" / "glue" / "rte.yaml")


def test_tasks_of_one_name_are_told_apart(tmp_path: Path) -> None:
    found = tasks(tmp_path, "one/glue/rte.yaml", "two/glue/rte.yaml", "glue/rte-x2.yaml", "Glue/RTE.yaml")
    assert list(found) == ["glue-rte", "glue-rte-x2", "glue-rte-x2-x2", "Glue-RTE-x3"]


def test_tasks_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError) as found:
        tasks(tmp_path, "glue/rtee", "glue/rte", str(ROOT / "configs" / "glue" / "rte.yaml"), "glue/colaa")
    assert len(found.value.problems) == 3
    assert "glue/rte" in found.value.problems[0]
    assert "another one" in found.value.problems[1]


def test_values_that_go_together_are_told_apart_by_the_first(tmp_path: Path) -> None:
    rows = "[{method.rank: 2, method.alpha: 8}, {method.rank: 4, method.alpha: 16}]"
    methods = {
        "lora": f"{{method.name: lora, sweep: {rows}}}",
        "dora": "{method.name: dora, method.rank: [2, 4]}",
        "other": f"{{method.name: lora, sweep: {rows}, method.dropout: [0.0, 0.1]}}",
    }
    found = designed(tmp_path, methods, "match: none\n")
    assert pairs(found) == [
        ("dora rank=2", "lora rank=2"),
        ("dora rank=4", "lora rank=4"),
        *((f"other rank={rank} dropout={rate}", f"lora rank={rank}") for rank in (2, 4) for rate in ("0.0", "0.1")),
    ]
    alphas = {variant.name: variant.keys["method.alpha"] for variant in found.variants if variant.entry == "lora"}
    assert alphas == {"lora rank=2": 8, "lora rank=4": 16}


@pytest.mark.parametrize(
    ("sweep", "says"),
    [
        ("3", "must be a list of mappings"),
        ("[]", "must be a list of mappings"),
        ("[{}]", "must be a list of mappings"),
        ("[{method.rank: 2}, {method.alpha: 2}]", "must have the same keys in each mapping"),
        ("[{method.rank: 2, method.dropout: 0.5}]", "has method.dropout, which the entry has, too"),
        ("[{method.rank: 2, method.name: dora}]", "has method.name, which is one in an entry"),
        ("[{model.name: a}]", "has model.name, which is the same for all"),
        ("[{method.rank: 2, train.seed: 3}]", "has train.seed, which is decided by the experiment"),
        ("[{method.rank: 2, federated: {clients: 2}}]", "has federated, which is a section"),
        ("[{method.ranks_from: runs/a}]", "has method.ranks_from, which names one run for all seeds"),
        ("[{method.rank: 2, method.ranks_from: runs/a}]", "has method.ranks_from, which names one run for all seeds"),
        ("[{method.rank: 2, ranks_from: {method: lora}}]", "has ranks_from, which is a key of the entry"),
        ("[{sweep: [{method.rank: 2}]}]", "has sweep, which is a key of the entry"),
        ("[{method.rank: [2, 4]}]", "has method.rank, which takes one value in each mapping, got the list [2, 4]"),
        ("[{method.rank: 2, method.alpha: [4]}]", "has method.alpha, which takes one value in each mapping"),
        (
            "[{method.rank: 2, method.alpha: 4}, {method.rank: 4, method.alpha: [8]}]",
            "has method.alpha, which takes one value in each mapping, got the list [8]",
        ),
        ("[{method.targets: [ffn]}]", "has method.targets first, by which variants are told apart"),
        ("[{method.rank: 2}, {method.rank: 2}]", "has method.rank 2 twice; give each once"),
        (
            "[{method.rank: 2, method.alpha: 4}, {method.rank: 2, method.alpha: 8}]",
            "has method.rank 2 twice; put the key that differs first",
        ),
        ("[{train.learning_rate: 0.1}]", "has train.learning_rate, which is tuned; leave it out here"),
        ("[{method.rank: 2, train.learning_rate: 0.1}]", "has train.learning_rate, which is tuned; leave it out here"),
        ("[{method.rank: 3}]", "has method.rank 3 where lora, the baseline, is not run with that (2, 4)"),
        ("[{method.rank: null}]", "has method.rank null where lora, the baseline, is not run with that (2, 4)"),
        (
            "[{method.alpha: 8, method.rank: 2}, {method.alpha: 16, method.rank: 4}]",
            "has method.rank after another key, and lora, the baseline, sweeps it, too; put method.rank first: ",
        ),
    ],
)
def test_values_that_cannot_go_together(tmp_path: Path, sweep: str, says: str) -> None:
    methods = {
        "lora": "{method.name: lora, method.rank: [2, 4]}",
        "other": f"{{method.name: lora, method.dropout: 0.1, sweep: {sweep}}}",
    }
    tune = "tune: {train.learning_rate: {from: 1.0e-4, to: 1.0e-2, points: 3}}\n"
    with pytest.raises(ExperimentError) as caught:
        designed(tmp_path, methods, f"match: none\n{tune}")
    (found,) = caught.value.problems
    assert f": methods.other.sweep: {says}" in found


def test_values_that_go_together_may_be_lists_and_a_section_taken_away(tmp_path: Path) -> None:
    """Where an entry may say the same beside them."""
    rows = ", ".join(
        f"{{method.rank: {rank}, method.targets: [{target}], federated: null}}"
        for rank, target in ((2, "ffn"), (4, "q"))
    )
    found = designed(tmp_path, {"lora": LORA % "", "other": f"{{method.name: lora, sweep: [{rows}]}}"})
    keys = {variant.name: variant.keys for variant in found.variants if variant.entry == "other"}
    assert {name: (row["method.targets"], row["federated"]) for name, row in keys.items()} == {
        "other rank=2": (["ffn"], None), "other rank=4": (["q"], None),
    }  # fmt: skip


def test_ranks_beside_those_of_another_entry(tmp_path: Path) -> None:
    sweep = "sweep: [{method.alpha: 4, method.ranks: {q: 1}}]"
    methods = {"lora": LORA % "", "dora": DORA % "", "other": LORA % f", ranks_from: {{method: dora}}, {sweep}"}
    with pytest.raises(ExperimentError) as caught:
        designed(tmp_path, methods)
    (found,) = caught.value.problems
    assert ": methods.other.ranks_from: " in found
    assert "method.ranks" in found


ALPHA_FIRST = "sweep: [{method.alpha: 8, method.rank: 2}, {method.alpha: 16, method.rank: 4}]"
DROPOUT_FIRST = "sweep: [{method.dropout: 0.0, method.rank: 2}, {method.dropout: 0.1, method.rank: 4}]"


@pytest.mark.parametrize(
    ("base", "other", "places"),
    [
        ("method.rank: [2, 4]", ALPHA_FIRST, ["other"]),
        (ALPHA_FIRST, "method.rank: [2, 4]", ["lora"]),
        (ALPHA_FIRST, DROPOUT_FIRST, ["lora", "other"]),
        (ALPHA_FIRST, ALPHA_FIRST, []),
        (ALPHA_FIRST, "method.alpha: [8, 16]", []),
        (ALPHA_FIRST, "method.dropout: [0.0, 0.1]", []),
    ],
)
def test_what_is_swept_in_two_entries_pairs_them_or_is_refused(
    tmp_path: Path, base: str, other: str, places: list[str]
) -> None:
    """Else ranks of 2 would be compared with those of 4, and nothing would say so."""
    methods = {"lora": LORA % f", {base}", "other": LORA % f", {other}"}
    if not places:
        shared = "method.alpha" in other
        found = pairs(designed(tmp_path, methods, "match: none\n"))
        assert len(found) == (2 if shared else 4)
        assert not shared or all(one.split()[1] == two.split()[1] for one, two in found)
        return
    with pytest.raises(ExperimentError) as caught:
        designed(tmp_path, methods, "match: none\n")
    said = [
        re.search(r"methods\.(\w+)\.sweep: has method\.rank after another key", one) for one in caught.value.problems
    ]
    assert [one and one.group(1) for one in said] == places


@pytest.mark.parametrize("sweep", ["method.rank: [2, 4]", "sweep: [{method.rank: 2}, {method.rank: 4}]", ALPHA_FIRST])
def test_a_baseline_of_another_ones_size_sweeps_no_sizes_of_its_own(tmp_path: Path, sweep: str) -> None:
    methods = {"lora": LORA % f", {sweep}", "dora": DORA % ""}
    with pytest.raises(ExperimentError) as caught:
        designed(tmp_path, methods)
    (found,) = caught.value.problems
    key = "sweep: has method.rank, which" if sweep.startswith("sweep") else "method.rank:"
    assert f": methods.lora.{key} sweeps sizes, but beside dora " in found
    assert pairs(designed(tmp_path, methods, "match: none\n"))
