"""``dora export``."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dora_cli.printable import say

if TYPE_CHECKING:
    from dora_cli.export.saved import Export

EPILOG = "Example:  dora export -c runs/demo-sst2 --format peft -o adapter"


class Format(str, Enum):
    """The names in `dora_cli.export.saved.FORMATS`."""

    peft = "peft"
    merged = "merged"


class Dtype(str, Enum):
    """The names in `dora_cli.export.plain.DTYPES`."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Layout(str, Enum):
    """The names in `dora_cli.export.factors.LAYOUTS`."""

    patterns = "patterns"
    constant_alpha = "constant-alpha"
    uniform = "uniform"


class Padding(str, Enum):
    """The names in `dora_cli.export.factors.PADDINGS`."""

    none = "none"
    power_of_two = "power-of-two"
    common = "common"


LayoutOption = Annotated[
    Layout,
    typer.Option(
        "--layout",
        help="peft: how ranks and scales are told. patterns: each projection with its own (PEFT, vLLM). "
        "constant-alpha: own ranks, one alpha (llama.cpp, TensorRT-LLM). uniform: one rank for all (SGLang, others).",
        show_default=True,
    ),
]


PadOption = Annotated[
    Padding,
    typer.Option(
        "--pad",
        help="peft: add zero components for servers that want few distinct ranks. common is --layout uniform.",
        show_default=True,
    ),
]


CompressOption = Annotated[
    int | None,
    typer.Option(
        "--compress",
        metavar="R",
        help="peft: bring every projection down to rank R, by the best approximation of its update; how far that is "
        "from it is said.",
        show_default=False,
    ),
]


def export(
    checkpoint: Annotated[
        Path,
        typer.Option(
            "--checkpoint",
            "-c",
            metavar="DIR",
            help="Run folder (its selected adapter), one checkpoint of it, or what save_adapter wrote.",
            show_default=False,
        ),
    ],
    format_: Annotated[
        Format,
        typer.Option(
            "--format",
            help="peft: plain LoRA as PEFT loads it. merged: a plain transformers model.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder to write.", show_default=False)],
    dtype: Annotated[
        Dtype | None,
        typer.Option(
            "--dtype",
            help="Of the exported weights. Default: float32 for peft, the base model's own for merged.",
            show_default=False,
        ),
    ] = None,
    layout: LayoutOption = Layout.patterns,
    pad: PadOption = Padding.none,
    max_rank: Annotated[
        int | None,
        typer.Option(
            "--max-rank",
            metavar="N",
            help="peft: refuse an adapter in which a projection needs a higher rank.",
            show_default=False,
        ),
    ] = None,
    compress: CompressOption = None,
    allow_unfrozen: Annotated[
        bool,
        typer.Option("--allow-unfrozen", help="Export a checkpoint from before the freeze, with all its components."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier export in the output folder.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change where the base model is, e.g. model.name=DIR. May be repeated.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Export a finished run: an adapter that PEFT loads, or a merged model."""
    from dora_cli.export.saved import export_saved
    from dora_cli.machine.processes import is_main
    from dora_cli.reports.progress import make_listener

    done = export_saved(
        checkpoint,
        output,
        format=format_.value,
        dtype=dtype.value if dtype else None,
        layout=layout.value,
        padding=pad.value,
        max_rank=max_rank,
        compress=compress,
        allow_unfrozen=allow_unfrozen,
        overwrite=overwrite,
        overrides=set_ or [],
        listener=make_listener(),
    )
    if is_main():
        _say(done)


def _say(done: Export) -> None:
    """What was exported, and what it costs."""
    from dora_cli.export.compression import describe_compression
    from dora_cli.export.saved import describe
    from dora_cli.reports.units import size
    from dora_cli.wording import plural

    where = f"{done.live_projections:,} of {plural(done.projections, 'projection')}"
    parameters = plural(done.exact.parameters, "parameter")
    if done.exact.parameters and not done.exact.components:  # a method without ranks
        adapters = f"{parameters} {f'in {where}' if done.projections else 'of the base'}"
    else:
        adapters = f"{plural(done.exact.components, 'component')} in {where}, {parameters}"
    if done.layout is not None:
        adapters += f", largest rank {done.largest_rank}"
    head = f", and {plural(done.head_parameters, 'parameter')} of the head" if done.head_parameters else ""
    say(f"{done.format}, {done.dtype}: {adapters}{head}")
    if done.compression is not None:
        say(describe_compression(done.compression))
    if done.layout == "uniform":
        say(f"layout uniform: every one at rank {done.largest_rank}, alpha {done.largest_rank}")
    elif done.layout == "constant-alpha":
        say(f"layout constant-alpha: each at its own rank, alpha {done.largest_rank} for all")
    if more := done.padded.components - done.exact.components:
        cost = plural(done.padded.parameters - done.exact.parameters, "parameter")
        say(f"padding: {plural(more, 'zero component')} more, {cost}, {size(done.padding_bytes)}")
    say(describe(done.agreement, done.dtype))
    say(f"{size(sum(done.files.values()))} written to {done.output}; README.md there has the lines that load it")
