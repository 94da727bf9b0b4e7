from __future__ import annotations

import dataclasses
import errno
import io
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dora_cli.reports.live.screen import Screen
from dora_cli.reports.progress import QuietListener, RunListener, make_listener
from dora_cli.training.listener import EvalLog, Listener, RunStart
from tests.reports.examples import bert, llama, metrics, parts, ranks, rounds
from tests.reports.live.runs import run_start, step_log

ROOT = Path(__file__).parents[2]


def drive(
    listener: Listener,
    *,
    finish: bool = True,
    start: RunStart | None = None,
    ranks_record: dict[str, Any] | None = None,
) -> None:
    """A whole run of 100 steps with 5 events, the third evaluation the best."""
    listener.start(start or run_start())
    for step in range(1, 101):
        if step in (15, 25, 35, 45, 50):
            listener.event(step, "pruning", 864 - 5 * step, step == 50, {})
        listener.tick(step, "pruning" if step <= 50 else "final", 864 - 5 * min(step, 50))
        if step % 20 == 0:
            listener.logged(step_log(step, 864 - 5 * min(step, 50)))
        if step % 25 == 0:
            listener.evaluating("validation", 1, 2)
            listener.evaluated(
                EvalLog(
                    step // 25, step, "final", 0.5, {"f1": 0.8, "accuracy": 0.7 + step / 1000}, "accuracy", step == 75
                )
            )
    if finish:
        listener.finish(metrics(), ranks_record or ranks(bert(2)), Path("runs/x"))
    listener.close()


def consoles(width: int = 80) -> tuple[Console, io.StringIO, Console, io.StringIO]:
    progress, results = io.StringIO(), io.StringIO()
    return (
        Console(file=progress, width=width, highlight=False),
        progress,
        Console(file=results, width=width, highlight=False),
        results,
    )


@pytest.mark.parametrize(
    ("device", "threads", "end"), [("cpu", 1, "fp32, 1 thread"), ("cpu", 4, "fp32, 4 threads"), ("GPU", 4, "fp32")]
)
def test_the_first_line_says_how_many_threads_compute(device: str, threads: int, end: str):
    console, progress, results, _ = consoles()
    make_listener(console, results=results).start(dataclasses.replace(run_start(), device=device, threads=threads))
    assert progress.getvalue().splitlines()[0].endswith(f"on {device}, {end}")


def test_how_much_is_padding_is_said_where_it_is_known() -> None:
    console, progress, results, _ = consoles()
    make_listener(console, results=results).start(dataclasses.replace(run_start(), real_tokens=0.756))
    line = progress.getvalue().splitlines()[1]
    assert line == "100 steps: 4 epochs of 25, global batch 16, 76% of the computed tokens real"


def test_a_federated_training_has_rounds_and_clients() -> None:
    console, progress, results, _ = consoles()
    make_listener(console, results=results).start(dataclasses.replace(run_start(), clients=3))
    line = progress.getvalue().splitlines()[1]
    assert line == "100 steps of a client: 4 rounds of 25, 3 clients, batch 16 of each"


def test_plain_lines_tell_the_run_in_few_lines():
    console, progress, results, out = consoles()
    drive(make_listener(console, results=results))
    lines = progress.getvalue().splitlines()
    assert lines[:4] == [
        "glue/mrpc, roberta-base, dora, seed 1, on cpu, fp32",
        "100 steps: 4 epochs of 25, global batch 16",
        "36 projections, 432 -> 288 components, ranks frozen after step 50",
        "1,992,194 trainable parameters, 1,538 of them in the head",
    ]
    assert [line for line in lines if "components live" in line] == [
        "step 15: first pruning event, 789 components live",
        "step 50: ranks frozen, 614 components live",
    ]
    steps = [line for line in lines if re.match(r"step \d+/", line)]
    assert len(steps) == 5
    assert re.fullmatch(
        r"step 20/100 epoch 1/4 pruning budget 764 loss 0\.6912 regulariser 0\.0125 grad_norm 0\.914 lr 0\.0012 38\.2 "
        r"steps/s eta [\d.]+s "
        r"memory 2\.1 GiB",
        steps[0],
    )
    evaluations = [line for line in lines if line.startswith("epoch")]
    assert evaluations[2] == "epoch 3/4 step 75 final train loss 0.5000 accuracy 0.7750 f1 0.8000 (best)"
    assert [line.endswith("(best)") for line in evaluations] == [False, False, True, False]
    assert len(lines) == 4 + 2 + 5 + 4
    assert "\x1b" not in progress.getvalue() + out.getvalue()


def test_a_federated_run_says_every_round_and_ends_with_its_clients() -> None:
    console, progress, results, out = consoles()
    listener = make_listener(console, results=results)
    listener.start(run_start())
    for one in rounds(4):
        listener.round_ended(one)
    listener.finish(metrics(rounds=rounds(4), clients=parts()), ranks(bert(2)), Path("runs/x"))
    said = [line for line in progress.getvalue().splitlines() if line.startswith("round")]
    assert [line.split(" loss")[0] for line in said] == [f"round {n}/4 step {25 * n}" for n in (1, 2, 3, 4)]
    words = " ".join(out.getvalue().split())
    assert "4 400 60 % 40 % 0.2650 4 0 0" in words
    assert "rounds 4 with 4 clients, lora-fair, " in words


def test_other_runs_say_nothing_of_rounds() -> None:
    console, _, results, out = consoles()
    drive(make_listener(console, results=results))
    assert "Clients" not in out.getvalue()
    assert "rounds" not in out.getvalue()


def test_a_quiet_run_says_no_round() -> None:
    console, progress, results, out = consoles()
    make_listener(console, results=results, quiet=True).round_ended(rounds(1)[0])
    assert progress.getvalue() + out.getvalue() == ""


def test_a_resumed_run_does_not_begin_to_prune_again():
    console, progress, results, _ = consoles()
    events = (15, 25, 35, 45, 50)
    for resumed, said in ((14, True), (15, False), (30, False)):
        listener = make_listener(console, results=results)
        listener.start(dataclasses.replace(run_start(), events=events, resumed_step=resumed))
        progress.truncate(0)
        listener.event(35, "pruning", 600, False, {})
        assert (" event, " in progress.getvalue()) == said


def test_progress_that_nobody_can_read_any_more_is_dropped(monkeypatch: pytest.MonkeyPatch):
    class Pipe(io.StringIO):
        closed_by_reader = False

        def write(self, text: str) -> int:
            if self.closed_by_reader:
                raise BrokenPipeError
            return super().write(text)

    monkeypatch.setattr(sys, "stderr", pipe := Pipe())
    _, _, results, out = consoles()
    listener = make_listener(results=results)
    listener.note("first")
    pipe.closed_by_reader = True
    listener.note("second")
    drive(listener)
    assert pipe.getvalue() == "note: first\n"
    assert "Summary" in out.getvalue()


def test_results_go_to_the_other_console():
    console, progress, results, out = consoles()
    drive(make_listener(console, results=results))
    assert "Summary" in out.getvalue()
    assert "dora eval --checkpoint runs/x" in out.getvalue()
    assert "block" in out.getvalue()
    assert "Summary" not in progress.getvalue()
    assert not re.search(r"^step ", out.getvalue(), re.MULTILINE)


def test_a_long_rank_table_is_left_to_dora_ranks():
    console, _, results, out = consoles()
    drive(make_listener(console, results=results), ranks_record=ranks(llama(30)))
    assert "block" not in out.getvalue()
    assert "Live: 1,680 components" in out.getvalue()
    assert "dora ranks runs/x" in out.getvalue()


def test_a_method_without_ranks():
    console, progress, results, out = consoles()
    nothing = {
        **ranks(bert(1)),
        "layers": [],
        "live_components": 0,
        "start_rank": None,
        "target_rank": None,
        "history": [],
    }
    listener = make_listener(console, results=results)
    listener.start(run_start([], method="head", schedule={"start_components": 0, "final_components": 0}))
    listener.tick(20, "training", 0)
    listener.logged(step_log(20, 0, phase="training", regulariser=None, live_components=0))
    listener.finish(metrics(method="head"), nothing, Path("x"))
    listener.close()
    assert "step 20/100 epoch 1/4 training loss 0.6912 grad_norm" in progress.getvalue()
    assert "components" not in progress.getvalue()
    assert "Ranks" not in out.getvalue()


def test_a_method_whose_ranks_stay():
    console, progress, results, _ = consoles()
    listener = make_listener(console, results=results)
    listener.start(run_start(method="lora", schedule={"start_components": 144, "final_components": 144}))
    listener.logged(step_log(20, 144, phase="training", regulariser=None))
    listener.close()
    assert "36 projections, 144 components\n" in progress.getvalue()
    assert "step 20/100 epoch 1/4 training loss 0.6912 grad_norm" in progress.getvalue()


def test_a_method_whose_ranks_emerge():
    console, progress, results, _ = consoles()
    listener = make_listener(console, results=results)
    listener.start(run_start(method="sora", schedule={"start_components": 144, "final_components": None}))
    listener.logged(step_log(20, 101, phase="stage 2"))
    listener.close()
    assert "36 projections, 144 components\n" in progress.getvalue()
    assert "step 20/100 epoch 1/4 stage 2 live 101 loss 0.6912" in progress.getvalue()
    assert "budget" not in progress.getvalue()


def test_a_method_that_learns_link_after_link():
    console, progress, results, _ = consoles()
    listener = make_listener(console, results=results)
    schedule = {"start_components": 24, "final_components": 72, "freeze_step": 60, "links": 3}
    listener.start(run_start(method="xgblora", schedule=schedule))
    for step, live in ((20, 48), (40, 72)):
        listener.event(step, "boosting", live, False, {})
    listener.event(60, "boosting", 72, True, {})
    listener.close()
    lines = progress.getvalue().splitlines()
    assert "36 projections, 24 -> 72 components, ranks frozen after step 60" in lines
    assert [line for line in lines if "live" in line] == [
        "step 20: first link tied, the next begins, 48 components live",
        "step 60: ranks frozen, 72 components live",
    ]


def test_brief_ends_with_one_line():
    console, progress, results, out = consoles()
    drive(make_listener(console, results=results, brief=True))
    assert out.getvalue() == ""
    assert progress.getvalue().splitlines()[-1] == "seed 1: accuracy 0.7978, last 0.7942, in runs/x"


def test_notes_before_the_start_and_long_ones_stay_one_line():
    console, progress, _, _ = consoles()
    listener = make_listener(console)
    listener.note("x" * 200)
    listener.close()
    assert progress.getvalue() == "note: " + "x" * 200 + "\n"


def test_markup_in_names_is_text():
    console, progress, _, _ = consoles()
    listener = make_listener(console)
    listener.start(run_start(model="models/[red]x"))
    listener.close()
    assert "models/[red]x" in progress.getvalue()


def test_time_left_is_the_mean_step_times_the_steps_to_come(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    console, progress, _, _ = consoles(200)
    listener = make_listener(console, plain=True)
    listener.start(run_start())
    for step in range(1, 21):
        now[0] += 0.5
        listener.tick(step, "warm-up", 864)
    listener.logged(step_log(20, 864))
    assert "eta 40s" in progress.getvalue()  # 80 steps of 0.5 s
    resumed = make_listener(console, plain=True)
    resumed.start(run_start())
    now[0] += 1.0
    resumed.tick(81, "final", 576)
    resumed.logged(step_log(81, 576))
    assert "eta 19s" in progress.getvalue()  # 19 steps of 1 s, not of 1/81 s


def test_a_forced_colour_does_not_make_a_pipe_a_terminal(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = io.StringIO()
    listener = make_listener(Console(file=file))
    drive(listener, finish=False)
    assert "\x1b[?25l" not in file.getvalue()  # no cursor is hidden: lines, not a bar
    assert re.search(r"step 20/100", file.getvalue())


def test_under_ci_there_are_lines_even_on_a_terminal(monkeypatch: pytest.MonkeyPatch):
    file = io.StringIO()
    monkeypatch.setattr(file, "isatty", lambda: True)
    monkeypatch.delenv("CI", raising=False)
    for value, live in (("true", False), ("1", False), ("", True), ("false", True)):
        monkeypatch.setenv("CI", value)
        listener = make_listener(Console(file=file, force_terminal=True, force_interactive=True))
        assert isinstance(listener, RunListener)
        assert listener._live == live
    assert not make_listener(Console(file=file, force_terminal=True, force_interactive=True), plain=True)._live


def test_quiet_says_notes_alone():
    console, progress, results, out = consoles()
    listener = make_listener(console, results=results, quiet=True)
    assert isinstance(listener, QuietListener)
    drive(listener)
    listener.note("half as fast, for a reason")
    assert (progress.getvalue(), out.getvalue()) == ("note: half as fast, for a reason\n", "")


def test_a_tick_draws_nothing(monkeypatch: pytest.MonkeyPatch):
    """The screen's own thread draws, when it is time. What a tick costs is measured by scripts/bench_view.py."""
    monkeypatch.setattr(Screen, "_run", lambda screen: None)
    out = io.StringIO()
    listener = make_listener(Console(file=out, force_terminal=True), plain=False)
    listener.start(run_start())
    monkeypatch.setattr(Screen, "_put", None)
    before = out.getvalue()
    for step in range(1, 1001):
        listener.tick(step, "warm-up", 864)
    assert out.getvalue() == before
    monkeypatch.undo()
    listener.close()


SCRIPT = """
import sys
from tests.reports.test_progress import drive
from dora_cli.reports.progress import make_listener
listener = make_listener()
try:
    if sys.argv[1:] == ["fail"]:
        listener.start(__import__("tests.reports.live.runs", fromlist=["x"]).run_start())
        listener.tick(1, "warm-up", 864)
        raise SystemExit(7)
    __import__("warnings").warn("of a library")
    drive(listener)
finally:
    listener.close()
"""


def on_a_terminal(*arguments: str, **environment: str) -> tuple[str, int]:
    """Runs SCRIPT on a pseudo-terminal; returns what reached it and the exit status."""
    pty = pytest.importorskip("pty")
    main, other = pty.openpty()
    variables = {
        key: value
        for key, value in os.environ.items()
        if key not in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS", "CI")
    }
    variables.update({"TERM": "xterm-256color", "PYTHONPATH": str(ROOT), **environment})
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *arguments], stdin=other, stdout=other, stderr=other, env=variables, cwd=ROOT
    )
    os.close(other)
    output = b""
    while True:
        try:
            piece = os.read(main, 65536)
        except OSError as error:  # Linux says so when the other side is closed
            if error.errno != errno.EIO:
                raise
            break
        if not piece:
            break
        output += piece
    os.close(main)
    return output.decode(), process.wait()


def test_on_a_terminal_there_is_a_view_and_the_cursor_comes_back():
    output, status = on_a_terminal()
    assert status == 0
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h") == 1
    assert "38;5;" in output
    assert "48;5;" in output
    assert "epoch 3/4" in output
    assert "Summary" in output
    assert "\x1b[2mrun     " in output
    assert "step 20/100" not in output  # not a line


def test_the_cursor_comes_back_after_a_failure():
    output, status = on_a_terminal("fail")
    assert status == 7
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h") == 1


def test_no_color_is_honoured_on_a_terminal():
    output, _ = on_a_terminal(NO_COLOR="1")
    assert "Summary" in output
    codes = [int(code) for codes in re.findall(r"\x1b\[([\d;]*)m", output) for code in codes.split(";") if code]
    assert not [code for code in codes if 30 <= code <= 49 or 90 <= code <= 107]


def test_a_dumb_terminal_gets_lines():
    output, _ = on_a_terminal(TERM="dumb")
    assert "step 20/100" in output
    assert "\x1b" not in output


def test_in_a_pipe_there_is_not_one_escape():
    variables = {key: value for key, value in os.environ.items() if key not in ("FORCE_COLOR", "TTY_COMPATIBLE")}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**variables, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    assert "\x1b" not in result.stdout + result.stderr
    assert "step 20/100" in result.stderr
    assert "Summary" in result.stdout
    assert "step 20/100" not in result.stdout
