from __future__ import annotations

import io
import math
import re
from pathlib import Path

import pytest
from rich.console import Console

from dora_cli.reports.summary import next_commands, places, print_run, print_seeds
from dora_cli.runs.records.summary import seeds_summary
from tests.reports.examples import metrics


def console(width: int = 80) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, width=width, highlight=False), file


def test_the_summary_says_what_was_reached_and_where_it_is(tmp_path: Path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "metrics.json").write_text("{}")
    out, file = console(120)
    print_run(out, metrics(), tmp_path, primary="f1")
    text = " ".join(file.getvalue().split())
    for part in (
        "glue/mrpc",
        "FacebookAI/roberta-base",
        "dora, seed 1",
        "selected f1 0.8478, accuracy 0.7978 (epoch 62, best-after-freeze)",
        "last f1 0.8442, accuracy 0.7942 (epoch 62)",
        "864 -> 576 live",
        "adapter 1,312,512 parameters",
        "trainable 2,582,882 -> 1,904,690 parameters",
        "12m02s of training (17.3 steps/s, 277 samples/s)",
        "2.1 GiB",
        f"dora eval --checkpoint {tmp_path}",
    ):
        assert part in text
    assert places(tmp_path) == [("adapter", tmp_path / "adapter"), ("metrics", tmp_path / "metrics.json")]
    assert f"ranks {tmp_path / 'ranks.json'}" not in text


@pytest.mark.parametrize(("steps", "said"), [(12, "freeze, mean weights of 12 steps) last"), (0, "freeze) last")])
def test_selected_weights_that_are_a_mean_are_said_to_be_one(steps: int, said: str):
    out, file = console(120)
    print_run(out, metrics(averaged_steps=steps), Path("x"), primary="f1")
    assert said in " ".join(file.getvalue().split())


def test_components_that_stay_are_one_number():
    budget = {**metrics()["budget"], "start_components": 72, "final_components": 72, "live_components": 72}
    out, file = console()
    print_run(out, metrics(budget=budget, method="lora"), Path("x"))
    assert "components 72 adapter" in " ".join(file.getvalue().split())


def test_components_that_emerge_have_no_budget():
    budget = {**metrics()["budget"], "start_components": 72, "final_components": None, "live_components": 31}
    out, file = console()
    print_run(out, metrics(budget=budget, method="sora"), Path("x"))
    assert "components 72 -> 31 live adapter" in " ".join(file.getvalue().split())


def test_head_only_training_has_no_components():
    budget = {
        **metrics()["budget"],
        "start_components": 0,
        "final_components": 0,
        "live_components": 0,
        "adapter_parameters_final": 0,
    }
    budget["trainable_parameters_final"] = budget["trainable_parameters_start"]
    timing = {"train_seconds": 3.21, "samples_per_second": None, "steps_per_second": 0.5, "peak_memory_bytes": None}
    out, file = console()
    print_run(out, metrics(budget=budget, timing=timing, method="head"), Path("x"))
    text = " ".join(file.getvalue().split())
    assert "components" not in text
    assert "adapter" not in text
    assert "trainable 2,582,882 parameters" in text
    assert "3.2s of training (0.50 steps/s, - samples/s) peak" in text
    assert "peak memory -" in text


def test_time_is_that_of_training_and_of_all_that_was_measured_beside_it():
    timing = {**metrics()["timing"], "train_seconds": 61.0, "evaluation_seconds": 42.0, "saving_seconds": 3.0}
    for more, said in (({}, ""), ({"decoding_seconds": 5400.0}, "1h30m of writing outputs, ")):
        out, file = console(160)
        print_run(out, metrics(timing=timing | more), Path("x"))
        text = " ".join(file.getvalue().split())
        assert re.search(rf"1m01s of training \([^()]+\), 42s of evaluation, {said}3.0s of saving peak memory", text)


def test_long_paths_stay_whole_for_copying():
    folder = Path("/very") / ("long" * 40) / "with space"
    out, file = console(80)
    print_run(out, metrics(), folder)
    assert f"  dora ranks '{folder}'\n" in file.getvalue()
    assert next_commands(Path("runs/it's")) == [
        "dora ranks 'runs/it'\"'\"'s'",
        "dora eval --checkpoint 'runs/it'\"'\"'s'",
        "dora report 'runs/it'\"'\"'s' --output 'runs/it'\"'\"'s/report.html'",
    ]


def test_an_undefined_metric_is_a_dash():
    out, file = console(100)
    print_run(out, metrics(metrics={"pearson": math.nan}, last={"pearson": math.nan}), Path("x"))
    assert "pearson - (epoch 62" in file.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_the_tables_of_seeds(width: int, tmp_path: Path):
    (tmp_path / "summary.json").write_text("{}")
    out, file = console(width)
    print_seeds(
        out,
        seeds_summary([metrics(seed=seed, accuracy=0.7 + seed / 100) for seed in (1, 2, 3)]),
        tmp_path,
        primary="accuracy",
    )
    text = file.getvalue()
    # 0.71, 0.72, 0.73: mean 0.72, sd 0.01
    assert "accuracy       0.7200   0.0100       0.7942   0.0000" in text
    assert "3 seeds, best-after-freeze" in text
    assert f"dora ranks {tmp_path}\n" in text
    assert all(len(line) <= width for line in text.splitlines() if str(tmp_path) not in line)
    assert "\u2026" not in text
