from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dora_cli.errors import CheckpointError
from dora_cli.reports.curves import (
    Scores,
    all_scores,
    budget_curve,
    losses,
    metric_curve,
    metric_names,
    phases,
    rank_maps,
    read_log,
    scores,
)
from dora_cli.reports.ranks.table import mean_ranks
from dora_cli.runs.log import LogFile
from dora_cli.runs.records.ranks import ranks_record
from tests.reports.examples import BART_ENCODER, FakeAllocation, bart, bert, exact, metrics, ranks, stack

NOTHING = ranks_record([], [], unit="component", start_rank=None, target_rank=None, live_components=0, history=[])


def line(step: int, phase: str = "final", *, live: int = 12, loss: float | None = 0.5, **more: Any) -> dict[str, Any]:
    return {"type": "train", "step": step, "epoch": 1, "phase": phase, "budget": 12, "live": live, "loss": loss, **more}


def pruned() -> dict[str, Any]:
    """12 projections from rank 2 to rank 1, warm-up up to step 3, events after the steps 4, 5 and 6, by hand."""
    projections = bert(2)
    history = [
        {"step": 4, "phase": "pruning", "budget": 23, "live": 23},
        {"step": 5, "phase": "pruning", "budget": 21, "live": 21},
        {"step": 6, "phase": "pruning", "budget": 12, "live": 12},
    ]
    return ranks_record(
        [projection for projection, _ in projections],
        [FakeAllocation(projection.name, shape, 2, 1, (0.25, 0.75)) for projection, shape in projections],
        unit="component",
        start_rank=2,
        target_rank=1,
        live_components=12,
        history=history,
        phases=[("warm-up", 1, 3), ("pruning", 4, 6), ("final", 7, 10)],
    )


def older(record: dict[str, Any]) -> dict[str, Any]:
    """`record` as runs wrote it before: without phases, and with an event at the warm-up's end that prunes nothing."""
    history = [{"step": 3, "phase": "warm-up", "budget": 24, "live": 24}, *record["history"]]
    return {key: value for key, value in record.items() if key != "phases"} | {"history": history}


def emerged() -> dict[str, Any]:
    """12 projections of rank 2 without a budget; one gate came back between the second count and the third."""
    history = [
        {"step": step, "phase": "training", "budget": live, "live": live} for step, live in ((2, 24), (4, 15), (6, 16))
    ]
    projections = bert(2)
    return ranks_record(
        [projection for projection, _ in projections],
        [FakeAllocation(p.name, shape, 2, 1 + (i < 4), (0.5, 0.1)) for i, (p, shape) in enumerate(projections)],
        unit="component",
        start_rank=2,
        target_rank=None,
        live_components=16,
        history=history,
        phases=[("training", 1, 6)],
    )


# Maps -----------------------------------------------------------------------------------------------------------------


def test_a_map_has_a_row_for_each_projection_and_a_column_for_each_block():
    projections = bert(2)
    record = exact(
        projections,
        [FakeAllocation(p.name, shape, 4, i % 5) for i, (p, shape) in enumerate(projections)],
        rank=2,
        start_rank=4,
    )
    (found,) = rank_maps(record)
    assert found.title == "Encoder"
    assert found.blocks == (0, 1)
    assert found.headings == ("query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense")
    assert found.projections[0] == "attention.self.query"
    assert found.groups == ("attention",) * 4 + ("ffn",) * 2
    assert found.cells == ((0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (0, 1))
    assert (found.full, found.full_name) == (4, "start rank")
    assert [found.share(row, 1) for row in range(6)] == [0.25, 0.5, 0.75, 1, 0, 0.25]
    member = found.members[4][0]
    assert member is not None
    assert member.name == "bert.encoder.layer.0.intermediate.dense"


def test_encoder_decoder_and_cross_attention_are_maps_of_their_own():
    record = ranks(bart(6))
    found = rank_maps(record)
    assert [one.title.split(",")[0] for one in found] == ["Encoder", "Decoder", "Decoder"]
    assert [len(one.projections) for one in found] == [6, 6, 4]
    assert sum(value or 0 for one in found for row in one.cells for value in row) == record["live_components"]


def test_a_projection_that_a_block_lacks_is_none():
    projections = [
        pair for pair in stack("x", BART_ENCODER, 2) if not (pair[0].block == 1 and pair[0].projection == "fc2")
    ]
    record = exact(projections, [FakeAllocation(p.name, shape, 3, 2) for p, shape in projections], rank=2, start_rank=3)
    (found,) = rank_maps(record)
    assert found.cells[-1] == (2, None)
    assert found.share(5, 1) is None


def test_maps_of_a_mean_and_of_a_run_that_goes_on():
    mean = mean_ranks({"seed-1": ranks(bert(1), seed=1), "seed-2": ranks(bert(1), seed=2)})
    (found,) = rank_maps(mean)
    assert found.cells == tuple((layer["rank"],) for layer in mean["layers"])
    assert rank_maps({"layers": ranks(bert(1))["layers"]})[0].blocks == (0,)


def test_a_method_without_projections_has_no_map_and_no_curve():
    assert rank_maps(NOTHING) == ()
    assert budget_curve(NOTHING) is None
    assert budget_curve(NOTHING, None, [line(5, "training", live=0, loss=1.0) | {"budget": 0}]) is None


# Phases and budget ----------------------------------------------------------------------------------------------------


def test_phases_are_what_the_run_wrote_down_or_end_at_the_last_record_of_each():
    whole = (("warm-up", 1, 3), ("pruning", 4, 6), ("final", 7, 10))
    log = [line(2, "warm-up"), line(4, "pruning"), line(8), line(10)]
    assert phases(pruned(), None, log) == phases(pruned()) == phases(older(pruned()), None, log) == whole
    assert phases(None, None, log) == (("warm-up", 1, 2), ("pruning", 3, 4), ("final", 5, 10))
    assert phases(None, {"epochs": [{"step": 7, "phase": "training"}]}) == (("training", 1, 7),)
    assert phases() == ()


def test_the_budget_of_a_finished_run():
    curve = budget_curve(pruned(), None, [line(10)])
    assert curve is not None
    assert curve.steps == (0, 4, 5, 6, 10)
    assert curve.budget == curve.live == (24, 23, 21, 12, 12)
    assert (curve.events, curve.freeze) == ((4, 5, 6), 6)
    assert curve.phases[-1] == ("final", 7, 10)
    assert budget_curve(older(pruned()), None, [line(10)]) == curve


def test_a_run_that_ends_at_its_freeze_is_frozen_and_one_stopped_before_is_not():
    at_freeze = budget_curve(older(pruned()))
    assert at_freeze is not None
    assert (at_freeze.steps[-1], at_freeze.freeze) == (6, 6)
    record = older(pruned())
    record["history"] = record["history"][:3]
    record["live_components"] = 21
    stopped = budget_curve(record)
    assert stopped is not None
    assert (stopped.events, stopped.freeze) == ((4, 5), None)


def test_the_budget_of_a_run_that_goes_on_is_that_of_its_log():
    curve = budget_curve(
        None, None, [line(2, "warm-up", live=24), {"type": "eval", "step": 3, "phase": "warm-up"}, line(4, "pruning")]
    )
    assert curve is not None
    assert (curve.steps, curve.live, curve.events, curve.freeze) == ((2, 4), (24, 12), (), None)


# Loss, metrics, scores ------------------------------------------------------------------------------------------------


def test_losses_keep_their_gaps():
    found = losses(
        [line(5, loss=0.7), {"type": "eval", "step": 6, "phase": "final", "metrics": {}}, line(10, loss=None)]
    )
    assert (found.steps, found.values, found.known) == ((5, 10), (0.7, None), True)
    assert not losses([line(5, loss=None)]).known


def test_metrics_come_from_the_record_or_the_log():
    record = metrics()
    assert metric_names(record) == ("accuracy", "f1")
    assert metric_curve(record).name == "accuracy"
    assert metric_curve(record).steps == (9672,)
    log = [line(1), {"type": "eval", "step": 4, "phase": "final", "metrics": {"pearson": None}}]
    assert metric_curve(log).values == (None,)
    assert metric_curve(log, "spearmanr").values == (None,)
    assert metric_curve([]).steps == ()


def test_the_live_components_of_a_projection_are_its_best():
    found = scores({"rank": 2, "scores": [0.1, 0.5, 0.3, 0.2]})
    assert found is not None
    assert (found.live, found.pruned) == ((0.5, 0.3), (0.2, 0.1))
    assert scores({"rank": 2, "scores": None}) is None
    every = all_scores(pruned())
    assert every is not None
    assert (set(every.live), set(every.pruned), len(every.live)) == ({0.75}, {0.25}, 12)
    assert all_scores(mean_ranks({"seed-1": pruned()})) is None
    assert all_scores(NOTHING) is None


# The log --------------------------------------------------------------------------------------------------------------


def test_live_components_that_the_record_names_need_not_be_the_best() -> None:
    layer = {"scores": [0.1, 0.9, None, 0.5, 0.2], "rank": 2, "live": [0, 3]}
    assert scores(layer) == Scores(live=(0.5, 0.1), pruned=(0.9, 0.2))


def test_a_budget_in_parameters_is_no_line_beside_live_components() -> None:
    record = {**ranks(bert(1)), "counts": "parameters"}
    record["history"][0]["budget"] += 3
    curve = budget_curve(record, {"epochs": [{"step": 780}]})
    assert curve is not None
    assert curve.budget == curve.live
    assert not curve.planned
    assert curve.freeze == 390


def test_a_log_cut_off_within_a_line_is_read_up_to_there(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    with LogFile(path) as log:
        log.write(line(5))
        log.write(line(10, loss=None))
    with open(path, "a") as file:
        file.write('{"type": "train", "step": 1')
    assert [entry["step"] for entry in read_log(path)] == [5, 10]


@pytest.mark.parametrize(
    "damage",
    ["[]", "7", ('{"step": "5", "phase": '
                '"final"}'), '{"type": "train", "step": 5, "phase": "final", "budget": null, "live": 2, "loss": 1}',
     '{"type": "train", "step": 5, "phase": "final", "budget": 1, "live": 2, "loss": "x"}',
     '{"type": "eval", "step": 5, "phase": "final", "metrics": {"accuracy": []}}'],
)  # fmt: skip
def test_lines_that_are_no_records_are_passed_over(tmp_path: Path, damage: str):
    path = tmp_path / "log.jsonl"
    path.write_text(damage + "\n")
    assert read_log(path) == []


def test_no_log(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"no log\.jsonl"):
        read_log(tmp_path / "log.jsonl")


def test_without_a_budget_every_count_is_an_event_and_nothing_freezes():
    curve = budget_curve(emerged())
    assert curve is not None
    assert (curve.planned, curve.freeze, curve.constant) == (False, None, False)
    assert (curve.steps, curve.events) == ((0, 2, 4, 6), (2, 4, 6))
    assert curve.live == curve.budget == (24, 24, 15, 16)
    assert budget_curve(pruned()).planned


def boosted() -> dict[str, Any]:
    """Two blocks, of which the first booster has the second, the next both; half of a mean rank short of the budget."""
    layout = bert(2)
    allocations = [
        FakeAllocation(p.name, shape, 0, 1 + p.block, links=(2,) if p.block == 0 else (1, 2)) for p, shape in layout
    ]
    return ranks_record(
        [projection for projection, _ in layout],
        allocations,
        unit="component",
        start_rank=0,
        target_rank=None,
        live_components=18,
        phases=[("boosting", 1, 80)],
        history=[
            {"step": 40, "phase": "boosting", "budget": 18, "live": 18},
            {"step": 80, "phase": "boosting", "budget": 18, "live": 18},
        ],
    )


def test_ranks_that_grow_begin_with_the_first_link_and_are_coloured_by_the_highest():
    record = boosted()
    curve = budget_curve(record)
    assert curve is not None
    assert (curve.steps, curve.live, curve.events) == ((0, 40, 80), (6, 18, 18), (40, 80))
    (found,) = rank_maps(record)
    assert (found.full, found.full_name) == (2, "highest rank")
    assert [found.share(0, block) for block in (0, 1)] == [0.5, 1.0]
    mean = mean_ranks({"1": record, "2": record})
    assert {layer["rank"] for layer in mean["layers"]} == {1.0, 2.0}
    assert all("links" not in layer for layer in mean["layers"]), "other seeds have other links"
