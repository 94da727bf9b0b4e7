from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from dora_cli.errors import CheckpointError
from dora_cli.reports.grid import Cell, RankGrid, sections
from dora_cli.reports.ranks.table import checked_cells, grid_lines, keeps_ranks, mean_ranks, ranks_table, render
from dora_cli.runs.records.ranks import ranks_record
from tests.reports.examples import (
    BART_ENCODER,
    BERT,
    DEBERTA,
    FakeAllocation,
    FakeProjection,
    bart,
    bert,
    exact,
    llama,
    ranks,
    stack,
)


def shown(record: dict[str, Any], width: int = 80, **options: Any) -> str:
    file = io.StringIO()
    render(record, Console(file=file, width=width, **{"highlight": False, **options}))
    return file.getvalue()


def cells(text: str, first: str = "block") -> list[list[str]]:
    """The rows of the first grid, of a record that is shown wide: its header begins with the words of `first`."""
    lines = text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.split()[: len(first.split())] == first.split())
    end = next(index for index in range(start, len(lines)) if lines[index].startswith("sum"))
    return [line.split() for line in lines[start : end + 1] if "\u2500" not in line]


def known(change: dict[int, int]) -> dict[str, Any]:
    """Two blocks of BERT, rank 2 everywhere but where `change` says so (by position), start rank 4."""
    projections = bert(2)
    allocations = [FakeAllocation(p.name, shape, 4, change.get(i, 2)) for i, (p, shape) in enumerate(projections)]
    return exact(projections, allocations, rank=2, start_rank=4)


def test_every_rank_and_every_sum():
    text = shown(known({0: 4, 3: 0, 6: 1, 11: 3}), 120)
    assert cells(text) == [
        ["block", "0", "1", "sum"],
        ["query", "4", "1", "5"],
        ["key", "2", "2", "4"],
        ["value", "2", "2", "4"],
        ["attention.output.dense", "0", "2", "2"],
        ["intermediate.dense", "2", "2", "4"],
        ["output.dense", "2", "3", "5"],
        ["sum", "12", "12", "24"],
    ]
    rules = [line.strip("\u2500 ") for line in text.splitlines()[:11] if line.startswith("\u2500")]
    assert rules == ["attention", "FFN", ""], "what is attention and what FFN is said"


def test_shares_of_attention_and_ffn_by_hand():
    # attention: 4+2+2+0 + 1+2+2+2 = 15 of 24 components, 1536 parameters each; FFN: 9, 3840 each
    text = shown(known({0: 4, 3: 0, 6: 1, 11: 3}))
    assert re.search(r"attention +8 +1\.88 +15 +62\.5% +23,040\n", text)
    assert re.search(r"FFN +4 +2\.25 +9 +37\.5% +34,560\n", text)
    assert re.search(r"all +12 +2\.00 +24 +100\.0% +57,600\n", text)
    assert "Live: 24 components of a budget of 24 (rank 2 x 12 projections)\n" in text
    assert "Start: 48 components (rank 4 x 12 projections)\n" in text


def test_a_run_stopped_before_the_freeze_says_so():
    text = shown(known({0: 4, 1: 4}))
    assert "Live: 28 components " in text
    assert "stopped before its ranks were frozen" in text
    assert "stopped" not in shown(known({}))


def test_a_budget_in_parameters_is_compared_with_parameters():
    record = ranks(bert(1), rank=8)
    stored = sum(layer["rank"] * sum(layer["shape"]) for layer in record["layers"])
    most = 8 * (4 * 1536 + 2 * 3840)
    table = shown({**record, "counts": "parameters"})
    live = record["live_components"]
    assert f"Live: {live} components, {stored:,} of a budget of {most:,} parameters" in table
    record["layers"][0]["rank"] += 1  # more than the budget would be, if it counted components
    record["live_components"] += 1
    assert "stopped" not in shown({**record, "counts": "parameters"})


def test_ranks_that_stay_as_they_are():
    record = ranks(bert(2), rank=4, start_rank=4)
    text = shown(record)
    assert "\n48 components (rank 4 x 12 projections), from the start to the end\n" in text
    assert "budget" not in text
    layers = [
        {**layer, "rank": index % 4, "start_rank": index % 4, "scores": None}
        for index, layer in enumerate(record["layers"])
    ]
    mixed = {**record, "layers": layers, "start_rank": None, "target_rank": None, "live_components": 18}
    assert "\n18 components, " in shown(mixed)
    assert keeps_ranks(mixed)
    assert not keeps_ranks(known({}))
    assert not keeps_ranks(known({0: 4, 1: 4})), "a run that was stopped before its freeze"


def test_a_colour_is_a_share_of_the_highest_start_rank():
    """Where each projection has a rank of its own from the start, the highest is the darkest."""
    record = ranks(bert(1), rank=4, start_rank=4)
    layers = [{**layer, "rank": rank, "start_rank": rank, "scores": None}
              for layer, rank in zip(record["layers"], (0, 1, 2, 3, 4, 4), strict=True)]  # fmt: skip
    cells = checked_cells({**record, "layers": layers, "start_rank": None, "target_rank": None, "live_components": 14})
    assert [cell.share for cell in cells] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert [cell.level(4) for cell in cells] == [0, 1, 2, 3, 4, 4]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("color", [None, "256"])
@pytest.mark.parametrize(
    "projections",
    [bert(6), bert(12), llama(30), bart(6), stack("x", DEBERTA, 3), stack("x", BERT, 48)],
    ids=["bert", "roberta", "llama", "bart", "deberta", "48"],
)
def test_nothing_is_wider_than_the_console_and_nothing_is_cut(projections: Any, width: int, color: str | None):
    record = ranks(projections)
    text = shown(record, width, force_terminal=color is not None, color_system=color)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert max(len(line) for line in plain.splitlines()) <= width
    assert "\u2026" not in plain
    assert ("\x1b" in text) == (color is not None)
    found = [line.split()[1:] for line in plain.splitlines() if line.startswith("block ")]
    last = max(projection.block for projection, _ in projections)
    blocks = [int(number) for numbers in found for number in numbers if number != "sum"]
    stacks = sections(checked_cells(record))
    assert blocks == list(range(last + 1)) * len(stacks), "every block stands over its column once"
    # every cell is there: the sums of the projections add up to the total
    lines = plain.splitlines()
    totals = [line.split()[-1] for line in lines if line.startswith("sum ")]
    whole = [total for total, head in zip(totals, found, strict=True) if head[-1] == "sum"]
    assert sum(int(total.replace(",", "")) for total in whole) == record["live_components"]
    for _, members in sections(checked_cells(record)):
        console = Console(width=width, color_system=None)
        assert RankGrid(members).height(width) == len(console.render_lines(RankGrid(members), pad=False))


def test_twelve_blocks_fit_80_columns_in_one_piece():
    """The shape of RoBERTa-base: every cell at a glance in a terminal of the least width."""
    lines = shown(ranks(bert(12)), 80).splitlines()
    assert lines[0].split() == ["block", *map(str, range(12)), "sum"]


def test_blocks_are_continued_where_they_do_not_fit():
    lines = shown(ranks(llama(30)), 80).splitlines()
    heads = [line.split() for line in lines if line.startswith("block")]
    assert heads == [["block", *map(str, range(15))], ["block", *map(str, range(15, 30)), "sum"]]
    rows = [line.split()[1:] for line in lines if line.startswith("q_proj")]
    assert sum(map(int, [*rows[0], *rows[1][:-1]])) == int(rows[1][-1])


def test_headings_are_stacked_where_that_saves_a_grid():
    at_80, at_30 = shown(ranks(bert(6)), 80).splitlines(), shown(ranks(bert(6)), 30).splitlines()
    assert at_80[5].split()[0] == "attention.output.dense"
    assert {"attention", ".output", ".dense"} <= {line.split()[0] for line in at_30 if line.strip()}
    assert sum(line.startswith("block") for line in at_30) == 2


def test_encoder_decoder_and_cross_attention_are_apart():
    record = ranks(bart(2))
    text = shown(record)
    titles = [line for line in text.splitlines() if re.match(r"(En|De)coder", line)]
    assert [title.partition(" and ")[0] for title in titles] == [
        "Encoder", "Decoder, self attention", "Decoder, cross attention",
    ]  # fmt: skip
    total = dict.fromkeys(("encoder self", "decoder self", "decoder cross"), 0)
    for layer in record["layers"]:
        if layer["group"] == "attention":
            total[f"{layer['stack']} {layer['attention']}"] += layer["rank"]
    for label, rank in total.items():
        assert re.search(rf"{label} attention +8 +[\d.]+ +{rank} ", text)


def test_a_single_stack_needs_no_title_and_a_decoder_without_cross_attention_is_one_table():
    assert "Encoder" not in shown(ranks(bert(2)))
    assert "Decoder" not in shown(ranks(llama(2)))


def test_two_lists_of_blocks_with_equal_numbers_get_a_table_each():
    record = ranks(stack("model.low", BART_ENCODER, 2) + stack("model.high", BART_ENCODER, 2))
    text = shown(record)
    assert "Encoder: model.low\n" in text
    assert "Encoder: model.high\n" in text
    assert grid_lines(record, 80) == 2 * (1 + 2 + 6 + 2)  # heads, two rules, six projections, a rule and the sums


def test_a_projection_that_only_some_blocks_have_is_a_dash():
    projections = stack("x", BART_ENCODER, 2)
    projections = [pair for pair in projections if not (pair[0].block == 1 and pair[0].projection == "fc2")]
    allocations = [FakeAllocation(p.name, shape, 3, 2) for p, shape in projections]
    text = shown(exact(projections, allocations, rank=2, start_rank=3))
    assert cells(text)[-3:] == [["fc1", "2", "2", "4"], ["fc2", "2", "-", "2"], ["sum", "12", "10", "22"]]


def test_a_method_without_adapted_projections():
    record = ranks_record([], [], unit="component", start_rank=None, target_rank=None, live_components=0, history=[])
    assert "This run has no ranks to show" in shown(record)


def test_all_ranks_zero():
    projections = bert(1)
    record = exact(projections, [FakeAllocation(p.name, shape, 4, 0) for p, shape in projections], rank=1, start_rank=4)
    text = shown(record, 120)
    assert [row[1:] for row in cells(text)[1:]] == [["0", "0"]] * 7
    assert "Live: 0 components " in text


@pytest.mark.parametrize(("rank", "level"), [(0, 0), (1, 1), (2, 1), (3, 2), (11, 6), (12, 6)])
def test_colour_levels_are_sixths_of_the_start_rank(rank: int, level: int):
    cell = Cell("x.0.a", "encoder", 0, "self", "a", "attention", (4, 4), 12, rank, 12)
    assert cell.level(6) == level


def test_the_legend_appears_with_colours_only():
    record = ranks(bert(1))
    assert "of start rank 12" in shown(record, force_terminal=True, color_system="256")
    assert "of start rank 12" not in shown(record)
    without = shown(record, force_terminal=True, color_system="256", no_color=True)
    assert "of start rank" not in without
    assert not re.search(r"\x1b\[[0-9;]*(3|4)8;", without)


def test_cells_of_different_rank_have_different_colours():
    text = shown(known({0: 4, 1: 1}), force_terminal=True, color_system="256")
    grid = [line for line in text.splitlines() if line.startswith(("query", "key"))]
    assert len(set(re.findall(r"48;5;\d+", "".join(grid)))) == 3


def test_an_ascii_terminal_gets_ascii():
    buffer = io.BytesIO()
    file = io.TextIOWrapper(buffer, encoding="ascii", write_through=True)
    render(ranks(bart(2)), Console(file=file, width=80))
    assert b"block" in buffer.getvalue()


def test_without_the_grid_the_sums_remain():
    file = io.StringIO()
    render(ranks(bert(2)), Console(file=file, width=80), grid=False)
    assert "block" not in file.getvalue()
    assert "Live: 96 components" in file.getvalue()


def test_a_damaged_record_is_refused():
    with pytest.raises(CheckpointError, match="damaged"):
        ranks_table({"layers": []})


def test_mean_ranks_by_hand():
    mean = mean_ranks({"seed-1": known({0: 4, 1: 0}), "seed-2": known({0: 3, 1: 1}), "seed-3": known({})})
    assert mean["runs"] == ["seed-1", "seed-2", "seed-3"]
    assert mean["live_components"] == 24
    assert mean["layers"][0]["ranks"] == [4, 3, 2]
    assert mean["layers"][0]["rank"] == 3.0
    assert mean["layers"][0]["sd"] == pytest.approx(1.0)
    assert "scores" not in mean["layers"][0]
    text = shown(mean, 120)
    assert [row[1] for row in cells(text)] == ["0", "3.0", "1.0", "2.0", "2.0", "2.0", "2.0", "12.0"]
    assert "Live: 24.0 components " in text


def test_parameters_that_rank_and_shape_do_not_tell_are_those_of_the_record():
    """A quarter of the numbers of six components in projections of 768 to 768; in the others what A and B hold."""
    places = bert(1)
    own = [6 * 1536 // 4 if shape == (768, 768) else None for _, shape in places]
    given = [FakeAllocation(p.name, shape, 6, 6, None, many) for (p, shape), many in zip(places, own, strict=True)]
    record = exact(places, given, rank=6, start_rank=6)
    mean = mean_ranks({"seed-1": record, "seed-2": record})
    for one in (record, mean):
        assert [cell.parameters for cell in checked_cells(one)] == [2304] * 4 + [6 * 3840] * 2
        assert f" {4 * 2304 + 2 * 6 * 3840:,}\n" in shown(one)


def test_mean_of_one_run_has_no_deviation():
    assert mean_ranks({"seed-1": known({})})["layers"][0]["sd"] is None


def test_runs_of_different_recipes_have_no_mean():
    with pytest.raises(CheckpointError, match=r"^seed-1 and seed-2 "):
        mean_ranks({"seed-1": ranks(bert(2)), "seed-2": ranks(bert(3))})


def test_a_block_of_plain_numbers_only():
    projections = [(FakeProjection("x.0.0", "encoder", 0, None, "0", "ffn"), (8, 8))]
    record = exact(projections, [FakeAllocation("x.0.0", (8, 8), 3, 2)], rank=2, start_rank=3)
    assert cells(shown(record)) == [["block", "0", "sum"], ["0", "2", "2"], ["sum", "2", "2"]]
