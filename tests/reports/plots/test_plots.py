"""Pictures are checked by what is in them: the texts of the SVG, colours, and that files are the same
bytes every time.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from dora_cli.atomic import write_json
from dora_cli.errors import CheckpointError, OutputError
from dora_cli.reports import palette
from dora_cli.reports.curves import BudgetCurve, Scores, Series, budget_curve, rank_maps
from dora_cli.reports.plots import canvas
from dora_cli.reports.plots.budget import budget_figure
from dora_cli.reports.plots.draw import draw_budget, draw_map, draw_scores, draw_training
from dora_cli.reports.plots.maps import difference_figure, rank_figure
from dora_cli.reports.plots.scores import scores_figure
from dora_cli.reports.plots.training import running_mean, training_figure
from dora_cli.reports.ranks.difference import differences
from dora_cli.reports.ranks.table import mean_ranks
from dora_cli.reports.ranks.views import View, draw
from dora_cli.reports.runs import find_curves, find_ranks
from dora_cli.runs.log import LogFile
from dora_cli.runs.records.ranks import ranks_record
from dora_cli.runs.run_folder import RunRecords
from tests.processes import CONTEXT, end_of
from tests.reports.examples import BART_ENCODER, FakeAllocation, bart, bert, exact, llama, metrics, ranks, stack

pytest.importorskip("matplotlib")

NOTHING = ranks_record([], [], unit="component", start_rank=None, target_rank=None, live_components=0, history=[])


def texts(drawn: Any, tmp_path: Path) -> list[str]:
    """What is written in a figure, in the order of the SVG."""
    path = tmp_path / "figure.svg"
    canvas.save(drawn, path)
    return written(path)


def written(path: Path) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text(encoding="utf-8"))


def make_run(
    folder: Path, record: dict[str, Any], *, finished: bool = True, log: list[dict[str, Any]] | None = None
) -> Path:
    run = RunRecords(folder)
    write_json(run.ranks, record)
    if finished:
        write_json(run.metrics, metrics())
    if log is not None:
        with LogFile(run.log) as file:
            for entry in log:
                file.write(entry)
    return folder


def train(step: int, loss: float | None = 0.5) -> dict[str, Any]:
    return {"type": "train", "step": step, "phase": "final", "budget": 96, "live": 96, "loss": loss}


# Maps -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("projections", [bert(6), bart(6), stack("x", BART_ENCODER, 48)], ids=["6", "bart", "48"])
def test_every_rank_stands_in_its_cell(projections: Any, tmp_path: Path):
    record = ranks(projections)
    maps = rank_maps(record)
    drawn = rank_figure(maps, "Ranks")
    panels = [axes for axes in drawn.axes if axes.get_ylim()[0] > axes.get_ylim()[1]]
    assert len(panels) == len(maps)
    for found, axes in zip(maps, panels, strict=True):
        numbers = {text.get_position(): text.get_text() for text in axes.texts}
        for row, values in enumerate(found.cells):
            for column, value in enumerate(values):
                assert numbers[column, row] == str(value)
        assert [label.get_text() for label in axes.get_yticklabels()] == list(found.headings)
        assert [label.get_text() for label in axes.get_xticklabels()] == [str(block) for block in found.blocks]
    shown = texts(drawn, tmp_path)
    assert shown.count("Ranks") == 1
    assert ("Decoder, cross attention" in shown) == (len(maps) > 1)


def test_cells_are_coloured_by_rank_and_no_number_leaves_its_cell():
    drawn = rank_figure(rank_maps(ranks(llama(30), rank=64, start_rank=96)), "Ranks")
    axes = drawn.axes[0]
    drawn.draw_without_rendering()
    from matplotlib.colors import to_hex
    from matplotlib.patches import Rectangle

    cells = {patch.get_xy(): patch for patch in axes.patches if isinstance(patch, Rectangle)}
    for text in axes.texts:
        column, row = text.get_position()
        patch = cells.get((column - 0.5, row - 0.5))
        if patch is None:
            continue
        assert to_hex(patch.get_facecolor()) == palette.shade(int(text.get_text()) / 96)
        inside, outside = text.get_window_extent(), patch.get_window_extent()
        assert outside.x0 < inside.x0
        assert inside.x1 < outside.x1
        assert outside.y0 < inside.y0
        assert inside.y1 < outside.y1


@pytest.mark.parametrize(
    ("start", "known"), [(3, "0 1 2 3"), (8, "0 1 2 3 4 5 6 7 8"), (9, "0 2 4 7 9"), (12, "0 3 6 9 12")]
)
def test_the_legend_names_every_rank_while_they_are_few(start: int, known: str):
    (legend,) = rank_figure(rank_maps(ranks(bert(1), rank=1, start_rank=start)), "Ranks").legends
    assert " ".join(text.get_text() for text in legend.get_texts()) == known


def test_means_absent_projections_and_different_start_ranks(tmp_path: Path):
    projections = [
        pair for pair in stack("x", BART_ENCODER, 2) if not (pair[0].block == 1 and pair[0].projection == "fc2")
    ]
    record = exact(
        projections,
        [FakeAllocation(p.name, shape, 3 + p.block, 2 + p.block) for p, shape in projections],
        rank=2,
        start_rank=3,
    )
    shown = texts(rank_figure(rank_maps(record), "Ranks"), tmp_path)
    assert "\u2013" in shown
    assert shown.count("2.5") == 5  # the means of five rows with 2 and 3
    assert any(label.startswith("rank, ") and label.endswith(" 4") for label in shown)
    mean = mean_ranks({"seed-1": ranks(bert(1), seed=1), "seed-2": ranks(bert(1), seed=2)})
    assert all(
        f"{layer['rank']:.1f}" in texts(rank_figure(rank_maps(mean), "Ranks"), tmp_path) for layer in mean["layers"]
    )


def test_a_difference_has_signs(tmp_path: Path):
    one, two = ranks(bert(2), seed=1), ranks(bert(2), seed=2)
    difference = differences(one, two, ("a", "b"))
    axes = difference_figure(rank_maps(difference), "a minus b").axes[0]
    numbers = {text.get_position(): text.get_text() for text in axes.texts}
    (found,) = rank_maps(difference)
    for row, values in enumerate(found.cells):
        for column, value in enumerate(values):
            assert numbers[column, row] == (f"{value:+}" if value else "0")
    same = differences(one, one, ("a", "a"))
    assert "0" in texts(difference_figure(rank_maps(same), "a minus a"), tmp_path)


# Curves ---------------------------------------------------------------------------------------------------------------


def test_the_budget_is_stairs_with_events_and_phases(tmp_path: Path):
    record = ranks(bert(12))
    curve = budget_curve(record, {"epochs": [{"step": 900, "phase": "final"}]})
    assert curve is not None
    drawn = budget_figure(curve, "Budget")
    budget, live = drawn.axes[0].get_lines()[-2:]
    for line, values in ((budget, curve.budget), (live, curve.live)):
        assert line.get_drawstyle() == "steps-post"
        assert tuple(line.get_xdata()) == curve.steps
        assert tuple(line.get_ydata()) == values
    shown = texts(drawn, tmp_path)
    for words in (
        "warm-up",
        "pruning",
        "final",
        "freeze after step 390: 576 live",
        "2 events",
        "optimiser step",
        "components",
    ):
        assert words in shown


def test_loss_and_metric_with_the_selected_epoch(tmp_path: Path):
    phases = (("warm-up", 1, 20), ("pruning", 21, 50), ("final", 51, 100))
    loss = Series("training loss", tuple(range(1, 101)), tuple([0.7] * 50 + [None] + [0.3] * 49))
    metric = Series("accuracy", (50, 100), (0.61, 0.625))
    shown = texts(training_figure(loss, metric, phases, "Training", selected=100), tmp_path)
    for words in (
        "training loss",
        "evaluation: accuracy",
        "selected: 0.6250",
        "as logged",
        "running mean",
        *(phase for phase, _, _ in phases),
    ):
        assert words in shown
    assert shown.count("pruning") == 1
    assert len(training_figure(loss, Series("accuracy", (), ()), phases, "Training").axes) == 1


@pytest.mark.parametrize("most", [27, 105, 108, 144, 336, 1_080, 42_000])
def test_ticks_of_whole_numbers_are_round(most: int):
    """1, 2, 2.5 or 5 times a power of ten apart, never 15 or 40."""
    components = (most, most * 2 // 3, most * 2 // 3)
    curve = BudgetCurve((0, 30, 900), components, components, (30,), 30, ())
    axes = budget_figure(curve, "Budget").axes[0]
    for ticks in (axes.get_xticks(), axes.get_yticks()):
        step = ticks[1] - ticks[0]
        assert step == int(step)
        assert step / 10 ** math.floor(math.log10(step)) in (1, 2, 2.5, 5)


@pytest.mark.parametrize(("values", "negative"), [((0.9, 0.002), False), ((0.9, 0.7), False), ((0.5, -0.4), True)])
def test_an_axis_goes_below_zero_only_where_values_do(values: tuple[float, ...], negative: bool):
    axes = training_figure(Series("training loss", (1, 2), values), Series("x", (), ()), (), "Training").axes[0]
    assert (axes.get_ylim()[0] < 0) == negative


def test_a_running_mean_is_centred_and_leaves_gaps_out():
    assert running_mean([1, 2, 6, None, 5], 1) == [1, 3, 4, 5.5, 5]
    assert running_mean([None], 0)[0] != running_mean([None], 0)[0]  # nan


def test_the_distribution_of_scores(tmp_path: Path):
    found = Scores(live=(0.31, 0.42, 0.55, 0.9), pruned=(0.05, 0.11, 0.3))
    drawn = scores_figure(found, "Scores")
    shown = texts(drawn, tmp_path)
    for words in ("pruned (3)", "live (4)", "lowest live: 0.31", "score"):
        assert words in shown
    from matplotlib.patches import Rectangle

    heights = sum(patch.get_height() for patch in drawn.axes[0].patches if isinstance(patch, Rectangle))
    assert heights == 7
    assert texts(scores_figure(Scores((0.5, 0.5), ()), "Scores"), tmp_path)


# Files ----------------------------------------------------------------------------------------------------------------


def draw_all(folder: Path, target: Path, names: Iterable[str]) -> None:
    for name in names:
        draw(View(folder), name.split(".")[0], target / name)


def test_the_same_picture_is_the_same_bytes_also_in_another_process(tmp_path: Path):
    folder = make_run(tmp_path / "run", ranks(bert(2)), log=[train(500), train(9672)])
    names = ("map.svg", "budget.svg", "training.svg", "scores.svg", "map.png", "map.pdf")
    process = CONTEXT.Process(target=draw_all, args=(folder, tmp_path / "one", names))  # strings are hashed otherwise
    process.start()
    assert end_of(process) == 0
    draw_all(folder, tmp_path / "two", names)
    one, two = (sorted((tmp_path / name).iterdir()) for name in ("one", "two"))
    assert [path.name for path in one] == [path.name for path in two]
    assert len(one) == len(names)
    for first, second in zip(one, two, strict=True):
        assert first.read_bytes() == second.read_bytes(), first.name
    assert (tmp_path / "one" / "map.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "one" / "map.pdf").read_bytes().startswith(b"%PDF")
    svg = (tmp_path / "one" / "map.svg").read_text()
    assert "<dc:date>" not in svg
    assert "query" in svg


def test_what_cannot_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, says in (("a.gif", "ends in .gif"), ("a", "has no ending")):
        with pytest.raises(OutputError, match=rf"{says}; .*\.png or \.svg or \.pdf"):
            canvas.check(tmp_path / name)
    with pytest.raises(OutputError, match=r"^--plot "):
        canvas.check(tmp_path)
    canvas.check(tmp_path / "a.SVG")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(OutputError, match=r"pip install 'dora-cli\[plots\]'"):
        canvas.check(tmp_path / "a.svg")


def test_the_users_settings_do_not_change_a_picture(tmp_path: Path):
    import matplotlib

    record = rank_maps(ranks(bert(1)))
    canvas.save(rank_figure(record, "Ranks"), tmp_path / "a.svg")
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.facecolor": "red"}):
        canvas.save(rank_figure(record, "Ranks"), tmp_path / "b.svg")
        assert matplotlib.rcParams["font.size"] == 30
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_titles_say_what_is_drawn(tmp_path: Path):
    path = tmp_path / "a.svg"
    draw_map(find_ranks(make_run(tmp_path / "run", ranks(bert(1)))), path)
    assert "Ranks: glue/mrpc, FacebookAI/roberta-base, dora, seed 1" in " ".join(written(path))
    write_json(tmp_path / "run" / "metrics.json", metrics(model=str(tmp_path / "models" / "my-model")))
    draw_map(find_ranks(tmp_path / "run"), path)
    assert "Ranks: glue/mrpc, my-model, dora, seed 1" in " ".join(written(path))
    draw_budget(find_curves(make_run(tmp_path / "unfinished", ranks(bert(1)), finished=False)), path)
    assert "Budget: unfinished" in " ".join(written(path))
    for seed in (1, 2):
        make_run(tmp_path / "seeds" / f"seed-{seed}", ranks(bert(1), seed=seed))
    draw_map(find_ranks(tmp_path / "seeds"), path)
    assert "Ranks: mean of seed-1, seed-2" in " ".join(written(path))


def test_runs_with_nothing_to_draw(tmp_path: Path):
    path = tmp_path / "a.svg"
    head = make_run(tmp_path / "head", NOTHING, finished=False)
    for drawing, found in ((draw_map, find_ranks), (draw_scores, find_ranks), (draw_budget, find_curves)):
        with pytest.raises(CheckpointError, match=r"the method of .*head adapts no projection, or gives none a rank"):
            drawing(found(head), path)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match="neither a loss nor a metric"):
        draw_training(find_curves(head), path)
    old = ranks(bert(1)) | {"history": []}
    for layer in old["layers"]:
        layer["scores"] = None
    with pytest.raises(CheckpointError, match="lists no event"):
        draw_budget(find_curves(make_run(tmp_path / "old", old)), path)
    with pytest.raises(CheckpointError, match="has no scores"):
        draw_scores(find_ranks(tmp_path / "old"), path)
    for seed in (1, 2):
        make_run(tmp_path / "seeds" / f"seed-{seed}", ranks(bert(1), seed=seed))
    with pytest.raises(CheckpointError, match=r"their scores have no mean\. Name one of the runs"):
        draw_scores(find_ranks(tmp_path / "seeds"), path)
    with pytest.raises(CheckpointError, match=r"holds several runs.*such as .*seed-1"):
        find_curves(tmp_path / "seeds")
    assert not path.exists()


def test_training_of_a_method_without_ranks_is_drawn(tmp_path: Path):
    log = [
        train(5) | {"phase": "training", "budget": 0, "live": 0},
        {"type": "eval", "step": 5, "epoch": 1, "phase": "training", "metrics": {"f1": 0.5}},
    ]
    path = tmp_path / "a.svg"
    draw_training(find_curves(make_run(tmp_path / "head", NOTHING, finished=False, log=log)), path)
    assert ">evaluation: f1<" in path.read_text()


def test_the_metric_that_the_recipe_names_is_drawn(tmp_path: Path):
    folder = make_run(tmp_path / "run", ranks(bert(1)))
    path = tmp_path / "a.svg"
    for recipe, shown in (
        ("eval: {metric: f1}", "f1"),
        ("eval: {metric: null}", "accuracy"),
        ("eval: [", "accuracy"),
        ("7", "accuracy"),
    ):
        (folder / "recipe.yaml").write_text(recipe)
        draw_training(find_curves(folder), path)
        assert f">evaluation: {shown}<" in path.read_text()


def test_names_are_neither_formulas_nor_control_characters(tmp_path: Path):
    record = rank_maps(ranks(bert(1)))
    canvas.save(rank_figure(record, r"$\frac{$ a$b$ \x1b[2J".replace(r"\x1b", "\x1b")), tmp_path / "a.svg")
    svg = (tmp_path / "a.svg").read_text(encoding="utf-8")
    ElementTree.fromstring(svg)
    assert r"$\frac{$ a$b$ \x1b[2J" in svg
