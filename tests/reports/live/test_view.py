"""The view as text: these pictures were looked at. Colours are in `test_rank_map`."""

from __future__ import annotations

import itertools
import re
import time
from dataclasses import replace

import pytest

from dora_cli.reports.live.marks import ASCII, UNICODE, Glyphs, length
from dora_cli.reports.live.state import RunState
from dora_cli.reports.live.view import LiveView
from dora_cli.training.listener import EvalLog
from tests.reports.examples import bart, bert, llama, stack
from tests.reports.live.runs import GPT2, run_start, state_at, step_log, text


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def shown(state: RunState, width: int, height: int, glyphs: Glyphs = UNICODE, *, colours: bool = False) -> str:
    return (
        "\n".join(line.rstrip() for line in text(LiveView(state, glyphs, colours=colours).lines(width, height))) + "\n"
    )


def test_eighty_columns_in_the_middle_of_pruning() -> None:
    assert (
        shown(state_at(40), 79, 21)
        == """\
── glue/mrpc  roberta-base  dora, seed 1  cpu, fp32 ───────────────────────────
run     ━━━━━━━━┿━━━━━━━━━━━━──────┼─────────────────────────  40/100  30s left
epoch   ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━─────────────────────  2/4  step 15/25
phase   pruning, next event in 5 steps, freeze in 10
live    ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━┼─────────────────  288, budget 288
loss    0.0200  █▆▄▃▂▂▁▁  -0.0200 in 25 steps
metric  accuracy 0.7250, best 0.7250 in epoch 1
speed   38.2 steps/s, peak memory 2.1 GiB, 611 samples/s, 20s so far
ranks   after the event at step 35, start rank 12
block                    0  1  2  3  4  5
query                    4  7  7 10  7 10
key                      6  5  6  9  8 10
value                    3  7 10  7  9 11
attention.output.dense   8  5 10  7 11 11
intermediate.dense       6  5  7 10  8 11
output.dense             2 10 11  9 10 11
"""
    )


def test_a_federated_training_has_rounds() -> None:
    state = state_at(40)
    state.run = replace(state.run, clients=3)
    assert re.search(r"^round .* 2/4  step 15/25$", shown(state, 79, 21), re.MULTILINE)


def test_an_encoder_decoder_at_120_columns_after_the_freeze() -> None:
    assert (
        shown(state_at(60, bart(6)), 119, 21)
        == """\
── glue/mrpc  roberta-base  dora, seed 1  cpu, fp32 ───────────────────────────────────────────────────────────────────
run     ━━━━━━━━━━━━┿━━━━━━━━━━━━━━━━━━━━━━━━━┿━━━━━━──────────────────────────────  60/100  20s left
epoch   ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━─────────────────────────────────────────────  3/4  step 10/25
phase   final, ranks frozen since step 50
live    ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━┼────────────────────────  768, budget 768  from 1,152 to 768
loss    0.0143  █▆▄▄▃▂▂▂▂▁▁▁  -0.0079 in 25 steps
metric  accuracy 0.7500  ▁█  +0.0250, best 0.7500 in epoch 2
speed   38.2 steps/s, peak memory 2.1 GiB, 611 samples/s, 30s so far
ranks   frozen, start rank 12
Encoder                       Decoder                       Cross-attention
block      0  1  2  3  4  5   block      0  1  2  3  4  5   block      0  1  2  3  4  5
k_proj     8  8 10  5 11 10   k_proj     4 12  8  6 10 11   k_proj     3  8  8  8 11  8
v_proj     2  2  9  6 11 11   v_proj     2  6  4 10  7 11   v_proj     7  8  5  8  7 11
q_proj     4  9  9  9  9 11   q_proj     3  9  6 10 12 12   q_proj     4 10  8 10 11 12
out_proj   6  6  5 11 10 12   out_proj   6  4  9 11 12  9   out_proj   6  9  3 10 10  6
fc1        6  5  5 11 10 12   fc1        9 11 10  7 10  4
fc2        1  7  8  8  7 10   fc2        2  9  8  8 11 10
"""
    )


def test_before_the_first_step_without_unicode() -> None:
    assert (
        shown(state_at(0), 79, 13, ASCII)
        == """\
-- glue/mrpc  roberta-base  dora, seed 1  cpu, fp32 ---------------------------
run     ---------|------------------|-------------------------  0/100
epoch   ------------------------------------------------------  1/4  step 0/25
phase   starting, first event in 15 steps, freeze in 50
live    ####################################|#################  432, budget 432
ranks   before the first event, start rank 12
block                    0  1  2  3  4  5
query                   12 12 12 12 12 12
key                     12 12 12 12 12 12
value                   12 12 12 12 12 12
attention.output.dense  12 12 12 12 12 12
intermediate.dense      12 12 12 12 12 12
output.dense            12 12 12 12 12 12
"""
    )


def test_few_lines_keep_what_matters_most() -> None:
    labels = [
        [line.split()[0] for line in text(LiveView(state_at(60), UNICODE).lines(79, height))]
        for height in (1, 3, 4, 5, 7)
    ]
    assert labels == [
        ["run"],
        ["run", "loss", "metric"],
        ["run", "phase", "loss", "metric"],
        ["run", "phase", "live", "loss", "metric"],
        ["run", "epoch", "phase", "live", "loss", "metric", "speed"],
    ]


def test_the_map_is_folded_until_it_fits() -> None:
    gpt2 = stack("transformer.h", GPT2, 24, decoder=True)
    whole = shown(state_at(60, gpt2), 119, 21).splitlines()[9:]
    assert [line.split()[0] for line in whole] == ["block", "c_attn", "attn.c_proj", "c_fc", "mlp.c_proj"]
    bars = shown(state_at(60, gpt2), 59, 21).splitlines()[9:]
    assert bars[0].split() == ["block", "0", "5", "10", "15", "20"]
    assert set("".join(bars[1:])) & set(UNICODE.levels)
    groups = shown(state_at(60, gpt2), 119, 12).splitlines()[9:]
    assert [line.split()[0] for line in groups] == ["block", "attention", "FFN"]
    folded = shown(state_at(60, llama(100)), 79, 12).splitlines()[9:]
    assert folded[0].startswith("5 blocks    0  5 10 15 20")
    assert "\nranks" not in shown(state_at(60, gpt2), 119, 11)


def test_means_are_means() -> None:
    gpt2 = stack("transformer.h", GPT2, 6, decoder=True)
    state = state_at(60, gpt2)
    state.ranks = {projection.name: 12 if projection.group == "ffn" else 2 * projection.block for projection, _ in gpt2}
    assert shown(state, 119, 12).splitlines()[-2:] == ["attention   0  2  4  6  8 10", "FFN        12 12 12 12 12 12"]
    narrow = shown(state, 22, 12, ASCII).splitlines()[-3:]
    assert narrow == ["2 blocks    0  2  4", "attention   1  5  9", "FFN        12 12 12"]


def test_stacks_share_one_small_map_where_there_is_no_room_for_theirs() -> None:
    labels = [line[:18].rstrip() for line in shown(state_at(60, bart(12)), 79, 15).splitlines()[9:]]
    assert [label.rstrip(" 0123456789") for label in labels] == [
        "block", "Encoder attention", "Encoder FFN", "Decoder attention", "Decoder FFN", "Cross-attention",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("projections", "step"),
    [
        *((projections, 40) for projections in (bert(6), llama(30), bart(12))),
        *((bert(12), step) for step in (0, 40, 100)),
    ],
    ids=lambda value: str(len(value) if isinstance(value, list) else value),
)
def test_no_line_is_too_long_and_no_picture_too_high(projections: list, step: int) -> None:
    state = state_at(step, projections)
    sizes = [(80, 24), (120, 24), (200, 50), (40, 12), (30, 8), (20, 3), (1, 1)]
    for (width, height), glyphs, colours in itertools.product(sizes, (UNICODE, ASCII), (True, False)):
        lines = LiveView(state, glyphs, colours=colours).lines(width, height)
        assert 1 <= len(lines) <= height, (width, height, glyphs, colours)
        assert max(map(length, lines)) <= width, (width, height, glyphs, colours)
        if glyphs is ASCII:
            assert "".join(text(lines)).isascii()


def test_numbers_touch_only_where_colours_part_them() -> None:
    state = state_at(60, llama(30))
    assert "1212" in shown(state, 79, 21, colours=True)
    assert "1212" not in shown(state, 79, 21)


def test_an_evaluation_shows_how_far_it_is() -> None:
    state = state_at(50)
    state.evaluating = ("validation", 3, 12)
    assert "\neval    ━━━━━━━━━━━━" in shown(state, 79, 21)
    assert "2/4  validation 3/12\n" in shown(state, 79, 21)
    state.tick(51, "final", 288)
    assert "validation" not in shown(state, 79, 21)


def test_a_method_without_ranks() -> None:
    run = run_start(method="head", projections=[], schedule={"start_components": 0, "final_components": 0},
    phases=(("training", 1, 100),),
                    events=(), layers=())  # fmt: skip
    state = RunState(run)
    state.tick(1, "training", 0)
    view = shown(state, 79, 21)
    assert "phase   training\n" in view
    assert "live" not in view
    assert "ranks" not in view


def test_a_method_whose_ranks_emerge() -> None:
    run = run_start(
        method="sora",
        schedule={"start_components": 432, "final_components": None, "freeze_step": 0},
        phases=(("stage 1", 1, 60), ("stage 2", 61, 100)),
        events=(30, 60, 100),
    )
    state = RunState(run)
    state.tick(1, "stage 1", 432)
    view = shown(state, 79, 21)
    assert "phase   stage 1, ranks counted in 29 steps\n" in view
    assert "432 components\n" in view
    left = {layer["name"]: 3 for layer in run.layers}
    state.selected(100, 108, left)
    state.tick(100, "stage 2", 108)
    view = shown(state, 79, 21)
    assert "phase   stage 2\n" in view
    assert "108 components\n" in view
    assert "ranks   after the event at step 100, start rank 12\n" in view
    assert not any(word in view for word in ("frozen", "freeze", "budget"))


def test_a_method_whose_ranks_stay() -> None:
    run = run_start(method="lora", rank=4, start_rank=4, phases=(("training", 1, 100),), events=())
    state = RunState(run)
    state.tick(1, "training", 144)
    view = shown(state, 79, 21)
    assert "phase   training\n" in view
    assert "live    144 components\n" in view
    assert "ranks   fixed\n" in view
    assert "frozen" not in view


def test_a_resumed_run_starts_from_the_ranks_it_has() -> None:
    run = run_start()
    state = RunState(run_start(resumed_step=60, layers=[{**layer, "rank": 3} for layer in run.layers]))
    view = shown(state, 79, 21)
    assert "60/100\n" in view
    assert "108, budget 108\n" in view
    assert "ranks   frozen, start rank 12\n" in view
    assert "query                    3  3  3  3  3  3\n" in view


def test_time_left_is_of_this_process(clock: list[float]) -> None:
    state = RunState(run_start(resumed_step=60))
    for step in range(61, 71):
        clock[0] += 0.5
        state.tick(step, "final", 288)
    assert state.time_left == pytest.approx(30 * 0.5)


def test_what_is_no_number_leaves_a_gap() -> None:
    state = state_at(40)
    state.logged(step_log(45, 288, loss=float("nan")))
    state.evaluated(EvalLog(2, 50, "final", 0.5, {"accuracy": None}, "accuracy", False))
    view = shown(state, 79, 21)
    assert "loss    -  █▆▄▃▂▂▁▁\n" in view
    assert "metric  accuracy -, best 0.7250 in epoch 1\n" in view


def test_the_map_changes_at_events_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is most of the work of a picture."""
    from dora_cli.reports.live import view as module

    made = []
    real = module.rank_lines
    monkeypatch.setattr(
        module, "rank_lines", lambda *arguments, **options: made.append(1) or real(*arguments, **options)
    )
    state = state_at(30)
    view = LiveView(state, UNICODE)
    for step in range(31, 35):
        state.tick(step, "pruning", 288)
        view.lines(79, 21)
    assert len(made) == 1
    state.selected(35, 287, {**state.ranks, next(iter(state.ranks)): 1})
    assert "query                     1    7" in "\n".join(text(view.lines(79, 21)))
    view.lines(119, 21)
    assert len(made) == 3
