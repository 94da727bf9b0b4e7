from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from dora_cli.errors import CheckpointError
from dora_cli.reports.grid import Cell, sections
from dora_cli.reports.ranks import grid_rows, mean_ranks, ranks_table, render
from dora_cli.reports.records import ranks_record
from tests.reports.examples import BART_ENCODER, BERT, DEBERTA, FakeAllocation, FakeProjection, bart, bert, exact, llama, ranks, stack


def shown(record: dict[str, Any], width: int = 80, **options: Any) -> str:
    file = io.StringIO()
    render(record, Console(file=file, width=width, **{"highlight": False, **options}))
    return file.getvalue()


def cells(text: str, first: str) -> list[list[str]]:
    """The rows of the grid whose header ends with the words of `first`, as words."""
    lines = text.splitlines()
    start = next(index for index, line in enumerate(lines) if line.split() == first.split())
    end = next(index for index in range(start, len(lines)) if lines[index].strip().startswith("sum"))
    return [line.split() for line in lines[start + 2 : end + 1] if not set(line) <= set("\u2500- ")]


def known(change: dict[int, int]) -> dict[str, Any]:
    """Two blocks of BERT, rank 2 everywhere but where `change` says so (by position), start rank 4."""
    projections = bert(2)
    allocations = [FakeAllocation(p.name, shape, 4, change.get(i, 2)) for i, (p, shape) in enumerate(projections)]
    return exact(projections, allocations, rank=2, start_rank=4)


def test_every_rank_and_every_sum():
    text = shown(known({0: 4, 3: 0, 6: 1, 11: 3}), 120)
    assert cells(text, "block query key value attention.output.dense intermediate.dense output.dense sum") == [
        ["0", "4", "2", "2", "0", "2", "2", "12"],
        ["1", "1", "2", "2", "2", "2", "3", "12"],
        ["sum", "5", "4", "4", "2", "4", "5", "24"],
    ]


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
    assert "Live: 28 components of a budget of 24 (rank 2 x 12 projections)\n" in text
    assert "stopped before its ranks were frozen" in text
    assert "stopped" not in shown(known({}))


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
    for block in {projection.block for projection, _ in projections}:
        assert re.search(rf"^ *{block}  ", plain, re.MULTILINE)
    # every cell is there: the ranks in the grids add up to the total
    rows = [line.split() for line in plain.splitlines() if re.match(r"^ *\d+  ", line)]
    with_sums = "sum" in next(line for line in plain.splitlines() if line.startswith("block")).split()
    if with_sums:
        assert sum(int(row[-1]) for row in rows) == record["live_components"]
        assert all(sum(map(int, row[1:-1])) == int(row[-1]) for row in rows)


def test_llama_fits_80_columns_in_one_piece():
    lines = shown(ranks(llama(30)), 80).splitlines()
    assert lines[1].split() == ["block", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "sum"]


def test_headings_are_stacked_where_they_do_not_fit_and_continued_where_even_that_does_not():
    at_80 = shown(ranks(bert(6)), 80)
    assert cells(at_80, "block query key value .dense .dense .dense sum")[0][0] == "0"
    at_40 = shown(ranks(bert(6)), 40).splitlines()
    assert sum(line.startswith("block") for line in at_40) == 2
    assert [line.split()[-1] for line in at_40 if line.startswith("block")] == [".dense", "sum"]
    underscores = shown(ranks(stack("x", DEBERTA[:4], 1)), 38)
    assert "_proj" in underscores.splitlines()[3].split()


def test_encoder_decoder_and_cross_attention_are_apart():
    record = ranks(bart(2))
    text = shown(record)
    titles = [line for line in text.splitlines() if re.match(r"(En|De)coder", line)]
    assert titles == ["Encoder", "Decoder, self attention and FFN", "Decoder, cross attention"]
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
    assert grid_rows(record) == 4


def test_a_projection_that_only_some_blocks_have_is_a_dash():
    projections = stack("x", BART_ENCODER, 2)
    projections = [pair for pair in projections if not (pair[0].block == 1 and pair[0].projection == "fc2")]
    allocations = [FakeAllocation(p.name, shape, 3, 2) for p, shape in projections]
    text = shown(exact(projections, allocations, rank=2, start_rank=3))
    assert cells(text, "block k_proj v_proj q_proj out_proj fc1 fc2 sum") == [
        ["0", "2", "2", "2", "2", "2", "2", "12"],
        ["1", "2", "2", "2", "2", "2", "-", "10"],
        ["sum", "4", "4", "4", "4", "4", "2", "22"],
    ]


def test_a_method_without_adapted_projections():
    record = ranks_record([], [], unit="component", start_rank=None, target_rank=None, live_components=0, history=[])
    assert "No projection was adapted" in shown(record)


def test_all_ranks_zero():
    projections = bert(1)
    record = exact(projections, [FakeAllocation(p.name, shape, 4, 0) for p, shape in projections], rank=1, start_rank=4)
    text = shown(record, 120)
    assert cells(text, "block query key value attention.output.dense intermediate.dense output.dense sum")[0] == ["0"] + ["0"] * 7
    assert "Live: 0 components of a budget of 6" in text


@pytest.mark.parametrize(("rank", "level"), [(0, 0), (1, 1), (2, 1), (3, 2), (11, 6), (12, 6)])
def test_colour_levels_are_sixths_of_the_start_rank(rank: int, level: int):
    cell = Cell("x.0.a", "encoder", 0, "self", "a", "attention", (4, 4), 12, rank)
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
    row = next(line for line in text.splitlines() if re.match(r"^ *0  ", line))
    assert len(set(re.findall(r"48;5;\d+", row))) == 3


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
    assert cells(text, "block query key value attention.output.dense intermediate.dense output.dense sum")[0] == [
        "0", "3.0", "1.0", "2.0", "2.0", "2.0", "2.0", "12.0",
    ]  # fmt: skip
    assert "Live: 24.0 components of a budget of 24" in text


def test_mean_of_one_run_has_no_deviation():
    assert mean_ranks({"seed-1": known({})})["layers"][0]["sd"] is None


def test_runs_of_different_recipes_have_no_mean():
    with pytest.raises(CheckpointError, match="seed-1 and seed-2 are not runs of one recipe"):
        mean_ranks({"seed-1": ranks(bert(2)), "seed-2": ranks(bert(3))})


def test_sections_keep_model_order_within():
    found = sections(Cell(p.name, p.stack, p.block, p.attention, p.projection, p.group, shape, 3, 2) for p, shape in bart(1)[::-1])
    assert [title for title, _ in found] == ["Encoder", "Decoder, self attention and FFN", "Decoder, cross attention"]
    assert [cell.projection for cell in found[2][1]] == [f"encoder_attn.{name}_proj" for name in ("out", "q", "v", "k")]


def test_a_block_of_plain_numbers_only():
    projections = [(FakeProjection("x.0.0", "encoder", 0, None, "0", "ffn"), (8, 8))]
    record = exact(projections, [FakeAllocation("x.0.0", (8, 8), 3, 2)], rank=2, start_rank=3)
    assert cells(shown(record), "block 0 sum") == [["0", "2", "2"], ["sum", "2", "2"]]
