"""The benchmark of training steps: that it times what it says. Figures themselves are no test's business."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.commands.conftest import environment
from tests.processes import CONTEXT, begin, end_of

TINY = ("--hidden", "32", "--layers", "2", "--heads", "2", "--vocab", "60", "--batch", "2", "--length", "8",
"--start-rank", "3",
        "--rank", "2", "--rounds", "2", "--steps", "3", "--warmup", "1")  # fmt: skip
PROJECTIONS, ADAPTER_ROWS = 12, 2 * (4 * (32 + 32) + 2 * (32 + 128))  # of two blocks; numbers per unit of rank
HEAD = 32 * 32 + 32 + 2 * 32 + 2


def settings(**changes: Any) -> Any:
    from bench_methods import Settings
    from bench_models import Shapes

    shapes = Shapes(hidden=32, layers=2, heads=2, intermediate=128, vocab=60)
    values = {
        "device": torch.device("cpu"),
        "precision": "fp32",
        "batch": 2,
        "length": 8,
        "start_rank": 3,
        "rank": 2,
        "shapes": shapes,
    }
    return Settings(**{**values, **changes})


def record_of(folder: Path, *arguments: str) -> dict[str, Any]:
    from bench_step import main

    assert main([*TINY, *arguments, "--json", str(folder / "record.json")]) == 0
    found: dict[str, Any] = json.loads((folder / "record.json").read_text())
    return found


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT's, under newer transformers
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_projection_calls_no_more_operators_than_one_of_pefts(dropout: float) -> None:
    """Each is about a launch, of which a step that is not captured is made. What does not grow with the model is left
    out by taking the difference of two depths.
    """
    from bench_methods import METHODS
    from bench_models import LlamaShapes
    from bench_step import count_operators

    def operators(method: str, layers: int) -> int:
        shapes = LlamaShapes(hidden=32, layers=layers, heads=2, kv_heads=2, intermediate=48, vocab=60, positions=16)
        step = METHODS[method](settings(shapes=shapes, dropout=dropout))
        for _ in range(2):  # the first makes what later ones have
            step()
        return count_operators(step)

    of_block = {name: operators(name, 2) - operators(name, 1) for name in ("frozen", "lora", "peft-lora")}
    ours, theirs = ((of_block[name] - of_block["frozen"]) / 7 for name in ("lora", "peft-lora"))
    assert 5 < ours < theirs  # forward and backward have eight products, three of them the frozen map's and the inputs'


@pytest.mark.filterwarnings("ignore::FutureWarning")  # PEFT's, under newer transformers
def test_every_method_is_timed_in_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["frozen", "dora", "dora-compacted", "lora", "peft-lora", "peft-adalora", "published", "full"]
    record = record_of(tmp_path, "--device", "cpu", "--methods", ",".join(names), "--no-memory")
    methods = record["methods"]
    assert list(methods) == names
    assert record["device"].startswith("cpu")
    assert record["versions"]["torch"] == torch.__version__
    assert record["settings"]["shapes"]["intermediate"] == 128
    for name, result in methods.items():
        assert 0 < result["low_ms"] <= result["ms"] <= result["high_ms"]
        assert result["counted_steps"] == 2 * 3
        assert result["operators"] > methods["frozen"]["operators"] or name == "frozen"
        assert result["to_floor"] == result["ms"] / methods["frozen"]["ms"]
        assert result["faster_than_peft_lora"] == methods["peft-lora"]["ms"] / result["ms"]
        if name != "peft-adalora":  # its orthogonal loss is part of it
            assert result["loss"] == pytest.approx(0.69, abs=0.2)
    assert methods["peft-adalora"]["loss"] > 1
    trainable = {name: methods[name]["trainable"] for name in names}
    assert trainable["frozen"] == 0
    assert trainable["dora"] == trainable["published"] == 3 * (ADAPTER_ROWS + PROJECTIONS) + HEAD
    assert trainable["lora"] == 3 * ADAPTER_ROWS + HEAD
    assert trainable["peft-lora"] == 2 * ADAPTER_ROWS + HEAD
    assert trainable["peft-adalora"] == 3 * (ADAPTER_ROWS + PROJECTIONS) + HEAD
    assert HEAD < trainable["dora-compacted"] < trainable["dora"]
    assert trainable["full"] > 32 * (60 + 514) + HEAD
    assert {name for name in names if "own_ms" in methods[name]} == {"dora", "dora-compacted"}
    assert methods["dora"]["own_share"] == pytest.approx(methods["dora"]["own_ms"] / methods["dora"]["ms"])
    assert methods["dora"]["event_ms"] > 0
    assert "event_ms" not in methods["dora-compacted"]
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed[1:]] == ["method", *names]


def _measure(script: str, arguments: list[str], printed: Path) -> None:
    begin(environment())
    sys.path.insert(0, str(Path(script).parent))
    os.dup2(os.open(printed, os.O_WRONLY | os.O_CREAT), 1)
    from bench_step import main

    sys.exit(main(arguments))


def test_memory_is_measured_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here in one that has loaded everything, which takes seconds."""
    import bench_step

    def forked(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        python, script, *arguments = command
        assert python == sys.executable
        process = CONTEXT.Process(target=_measure, args=(script, arguments, tmp_path / "printed"))
        process.start()
        return subprocess.CompletedProcess(command, end_of(process), (tmp_path / "printed").read_text(), "")

    monkeypatch.setattr(bench_step.subprocess, "run", forked)
    record = record_of(tmp_path, "--device", "cpu", "--methods", "frozen")
    assert 100 < record["methods"]["frozen"]["peak_mb"] < 2000


def test_the_published_step_computes_what_ours_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the same factors, without dropout: factors, gates, head and averaged scores after some steps."""
    import bench_methods

    monkeypatch.setattr(bench_methods, "LEARNING_RATE", 1e-2)
    ours, published = (bench_methods.METHODS[name](settings(dropout=0.0)) for name in ("dora", "published"))
    for module in [*ours.model.modules(), *published.model.modules()]:
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    state = ours.method.state_dict()
    layers = {
        name: layer for name, layer in published.model.named_modules() if type(layer).__name__ == "PublishedProjection"
    }
    assert len(layers) == PROJECTIONS
    with torch.no_grad():
        for name, layer in layers.items():
            layer.A.copy_(state[f"{name}.A"])
            layer.B.copy_(state[f"{name}.B"])
    for _ in range(8):
        ours()
        published()
    state = ours.method.state_dict()
    assert ours.loss() > 0
    for row, (name, layer) in enumerate(layers.items()):
        assert layer.c.abs().max() > 5e-3
        for suffix in ("A", "B", "c"):
            torch.testing.assert_close(state[f"{name}.{suffix}"], getattr(layer, suffix).detach(), rtol=0, atol=2e-4)
        torch.testing.assert_close(state["scores"][row], layer.average, rtol=2e-3, atol=0)
    head = dict(published.model.classifier.named_parameters())
    for name, parameter in ours.model.classifier.named_parameters():
        torch.testing.assert_close(parameter, head[name], rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", ["frozen", "frozen-quick"])
def test_the_floor_trains_nothing_and_reaches_the_embeddings(name: str) -> None:
    from bench_methods import METHODS

    step = METHODS[name](settings())
    before = {name: tensor.clone() for name, tensor in step.model.state_dict().items()}
    step()
    assert step._gradient.abs().sum() > 0
    assert all(parameter.grad is None for parameter in step.model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in step.model.state_dict().items())


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_llama_is_timed_as_a_language_model(tmp_path: Path) -> None:
    """Every token has a label, so that the loss of random weights is about the logarithm of the vocabulary. Here
    nothing is pruned, and so no event timed.
    """
    names = ["frozen", "products", "dora", "lora", "peft-lora", "full"]
    family = ("--family", "llama", "--heads", "4", "--kv-heads", "2", "--intermediate", "48", "--start-rank", "2")
    record = record_of(tmp_path, "--device", "cpu", *family, "--methods", ",".join(names), "--no-memory")
    assert record["settings"]["shapes"]["kv_heads"] == 2
    methods = record["methods"]
    rows = 2 * ((32 + 32) * 2 + (32 + 16) * 2 + (32 + 48) * 3)  # of two blocks; keys and values are half as wide
    trainable = {name: methods[name]["trainable"] for name in names}
    assert trainable["frozen"] == trainable["products"] == 0
    assert trainable["dora"] == 2 * (rows + 2 * 7)
    assert trainable["lora"] == trainable["peft-lora"] == 2 * rows
    assert "own_ms" in methods["dora"]
    assert "event_ms" not in methods["dora"]
    for name in ("frozen", "dora", "lora", "peft-lora", "full"):
        assert methods[name]["loss"] == pytest.approx(math.log(60), abs=0.3)
        assert methods[name]["to_products"] == methods[name]["ms"] / methods["products"]["ms"]
    assert methods["products"]["to_products"] == 1


@pytest.mark.parametrize("family", ["roberta", "llama"])
def test_the_products_are_those_of_the_frozen_model(family: str) -> None:
    """Forward and to the input of every linear map, as autograd does them; the head reads one row of each sequence."""
    from bench_methods import METHODS
    from bench_models import LlamaShapes

    llama = LlamaShapes(hidden=32, layers=2, heads=4, kv_heads=2, intermediate=48, vocab=60, positions=16)
    changes = {"shapes": llama} if family == "llama" else {}
    step = METHODS["products"](settings(**changes))
    if family == "llama":
        block = [(32, 32), (16, 32), (16, 32), (32, 32), (48, 32), (48, 32), (32, 48)]
        maps = [(shape, 16) for shape in [*block, *block, (60, 32)]]
    else:
        block = [(32, 32), (32, 32), (32, 32), (32, 32), (128, 32), (32, 128)]
        maps = [*((shape, 16) for shape in [*block, *block]), ((32, 32), 2), ((2, 32), 2)]
    assert [(tuple(weight.shape), rows) for weight, rows in step._maps] == maps
    assert step.flops() == sum(4 * rows * d_out * d_in for (d_out, d_in), rows in maps)
    step()
    assert step.loss() == 0
    weight, rows = step._maps[0]  # the last to be written, on the way back
    torch.testing.assert_close(step._written[rows, 32], step._read[rows, 32] @ weight)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_each_method_is_in_the_phase_it_is_timed_in() -> None:
    from bench_methods import METHODS, PRUNE_INTERVAL

    adalora, dora, compacted = (METHODS[name](settings()) for name in ("peft-adalora", "dora", "dora-compacted"))
    for _ in range(PRUNE_INTERVAL):
        adalora()
        dora()
        compacted()
    pattern = adalora.model.peft_config["default"].rank_pattern
    assert 2 * PROJECTIONS < sum(sum(kept) for kept in pattern.values()) < 3 * PROJECTIONS
    assert not dora.method.frozen
    assert dora.method.schedule.phase(dora.count) == "warm-up"
    assert [p.rank for p in dora.method.allocation()] == [3] * PROJECTIONS
    assert compacted.method.frozen
    assert sum(p.rank for p in compacted.method.allocation()) == 2 * PROJECTIONS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--methods", "frozen,ora"), "names ora; there are frozen"),
        (("--methods", "dora-graph"), "dora-graph, which need --device cuda"),
        (("--methods", "lora-graph-fused"), "lora-graph-fused, which need --device cuda"),
        (("--heads", "5"), "hidden size 32 cannot be split into 5 heads"),
        (("--length", "513"), "512 positions"),
        (("--rank", "4"), "--start-rank 3 is below --rank 4"),
        (("--dropout", "1"), "--dropout is 1.0; it is at least 0 and below 1"),
        (("--rounds", "0"), "'0'"),
        (("--model", "here"), "--model brings its own sizes"),
        (("--size", "1.1b"), "--size is of a Llama"),
        (("--family", "llama", "--heads", "4"), "4 heads cannot share 3"),
        (("--family", "llama", "--width", "768"), "--width is of RoBERTa"),
        (("--json", "nowhere/at/all.json"), "nowhere/at"),
        (("--kernels",), "--kernels needs --device cuda"),
    ],
)
def test_bad_arguments(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    from bench_step import main

    with pytest.raises(SystemExit) as stop:
        main([*TINY, "--device", "cpu", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.gpu
def test_captured_methods_are_timed_beside_eager_ones(tmp_path: Path) -> None:
    names = ["frozen", "frozen-graph", "dora", "dora-graph", "dora-compacted-graph", "lora", "lora-graph"]
    methods = record_of(tmp_path, "--device", "cuda", "--methods", ",".join(names), "--warmup", "6")["methods"]
    for result in methods.values():
        assert result["ms"] > 0
        assert result["peak_mb"] <= result["reserved_mb"]
        assert result["loss"] == pytest.approx(0.69, abs=0.2)
    assert methods["frozen-graph"]["ms"] < methods["frozen"]["ms"]
    assert methods["dora-graph"]["ms"] < methods["dora"]["ms"]
    assert methods["lora-graph"]["ms"] < methods["lora"]["ms"]
    assert methods["dora-graph"]["own_ms"] < methods["dora"]["own_ms"]
    assert methods["dora"]["to_floor"] == methods["dora"]["ms"] / methods["frozen-graph"]["ms"]


@pytest.mark.gpu
def test_projections_one_by_one_are_timed_beside_those_together() -> None:
    """What a `-single` of a method leaves out, and nothing else: both compute the same loss."""
    from bench_methods import METHODS

    made = {}
    for name in ("dora-graph", "dora-graph-single"):
        torch.cuda.manual_seed(5)
        made[name] = METHODS[name](settings(device=torch.device("cuda"), dropout=0.0))
        for _ in range(4):
            made[name]()
    many, single = (step.method._adapters._passes._lean._together for step in made.values())
    assert sorted(len(together.members) for together in many) == [2, 2, 3, 3]
    assert not single
    assert made["dora-graph"].loss() == pytest.approx(made["dora-graph-single"].loss(), rel=1e-4)


@pytest.mark.gpu
def test_steps_of_one_stream_are_timed_beside_those_with_branches() -> None:
    """What a `-serial` of a method leaves out, and nothing else: both compute the same loss, to the bit."""
    from bench_methods import METHODS

    made = {}
    for name in ("dora-graph", "dora-graph-serial"):
        torch.cuda.manual_seed(5)
        made[name] = METHODS[name](settings(device=torch.device("cuda")))
        for _ in range(4):
            made[name]()
    passes = [step.method._adapters._passes for step in made.values()]
    assert [one._lean._branches._open is None for one in passes] == [False, True]
    assert made["dora-graph"].loss() == made["dora-graph-serial"].loss()


@pytest.mark.gpu
def test_compiled_blocks_are_timed_beside_the_others(tmp_path: Path) -> None:
    names = ["frozen-graph", "frozen-graph-fused", "dora-graph", "dora-graph-fused"]
    arguments = "--device", "cuda", "--methods", ",".join(names), "--warmup", "6", "--kernels"
    methods = record_of(tmp_path, *arguments)["methods"]
    for result in methods.values():
        assert result["ms"] > 0
        assert result["loss"] == pytest.approx(0.69, abs=0.2)
    kernels = {name: {kernel["name"]: kernel["count"] for kernel in methods[name]["kernels"]} for name in names}
    assert all(sum(kernels[f"{name}-fused"].values()) < sum(kernels[name].values()) for name in names[::2])
    assert kernels["dora-graph"]["_outer"] == 4 * 2 * 2  # of each reader of one input in two blocks, for both factors
    fused = methods["dora-graph-fused"]
    assert fused["to_floor"] == fused["ms"] / methods["frozen-graph"]["ms"]
