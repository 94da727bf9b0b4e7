"""Exporting a run, or an adapter that `save_adapter` wrote, from its folder: what ``dora export`` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from dora_cli.assembly.evaluator import decoding
from dora_cli.assembly.origin import RECORD
from dora_cli.assembly.restore import Restored, recorded_metrics, restore
from dora_cli.atomic import write_text
from dora_cli.errors import ExportError
from dora_cli.export import peft
from dora_cli.export.card import TASK_TYPES, Card, Written, merged_card, peft_card
from dora_cli.export.compression import Compression, compress
from dora_cli.export.factors import LAYOUTS, PADDINGS, Size, balance, check_rank, largest_rank, lay_out, pad
from dora_cli.export.folder import check_export_folder, export_folder, sizes, write_record
from dora_cli.export.merged import generation_of, load_merged, merge, save_merged
from dora_cli.export.plain import DTYPES, check_finite, make_plain
from dora_cli.export.probe import (
    Agreement,
    compare,
    installed_peft,
    load_with_peft,
    logits_of,
    probe_batch,
    with_factors,
)
from dora_cli.export.subject import Subject, place_of, saved_subject
from dora_cli.json_text import to_json
from dora_cli.machine.devices import autocast
from dora_cli.machine.threads import own_threads
from dora_cli.models.family import is_decoder_only
from dora_cli.recipe import check_listed
from dora_cli.recipe.methods import about
from dora_cli.tasks import Task
from dora_cli.training.listener import Listener, SilentListener
from dora_cli.version import __version__
from dora_cli.wording import plural

FORMATS = ("peft", "merged")
_HERE = ("train.device=cpu", "train.precision=auto")
"""Exports are made on the CPU, in the precision of the base: nothing is rounded that need not be."""
_SOUND = 1e-3
"""In fp32 throughout, logits further apart than this (relative to the largest) are no rounding."""


@dataclass(frozen=True)
class Export:
    """What was exported.

    Attributes:
        projections: how many the run adapts.
        live_projections: how many of them have a component left.
        layout: how an adapter tells ranks and scales; None for a merged model.
        largest_rank: the highest rank of a projection as it is written.
        exact: components and parameters of the adapters.
        padded: the same with zero components; equal to `exact` without padding.
        head_parameters: of the trained head.
        compression: what an approximation of bounded rank has left out; None where none was asked for.
        files: bytes of every file, by name; the export's own record aside.
        agreement: with the run's own model, on the probe batch.
    """

    output: Path
    format: str
    dtype: str
    projections: int
    live_projections: int
    layout: str | None
    largest_rank: int
    exact: Size
    padded: Size
    head_parameters: int
    compression: Compression | None
    files: Mapping[str, int]
    agreement: Agreement

    @property
    def padding_bytes(self) -> int:
        """What padding costs."""
        return (self.padded.parameters - self.exact.parameters) * DTYPES[self.dtype].itemsize


@own_threads()
def export_saved(
    checkpoint: str | Path,
    output: str | Path,
    *,
    format: str = "peft",
    dtype: str | None = None,
    layout: str = "patterns",
    padding: str = "none",
    max_rank: int | None = None,
    compress: int | None = None,
    allow_unfrozen: bool = False,
    overwrite: bool = False,
    overrides: Sequence[str] = (),
    listener: Listener | None = None,
) -> Export:
    """Exports the weights of a run.

    Args:
        checkpoint: run folder (its selected adapter), or one checkpoint of it; or what `dora_cli.save_adapter` wrote.
        output: the folder to write.
        format: ``"peft"``, plain LoRA as PEFT reads it, or ``"merged"``, a plain transformers model.
        dtype: of the exported weights; None is fp32 for an adapter and the base's own for a merged model.
        layout: of an adapter. ``"patterns"``: each projection with its rank and alpha; ``"constant-alpha"``: with its
            rank, one alpha for all; ``"uniform"``: one rank and one alpha for all, reached by zero components.
        padding: ``"power-of-two"`` adds zero components to an adapter until few distinct ranks are left; ``"common"``
            is the layout ``"uniform"`` by another name; ``"none"`` adds none.
        max_rank: the highest rank an adapter may need; None allows any.
        compress: the rank that no projection of an adapter may have more of: the update of one that has is replaced by
            its best approximation; None keeps all as they are.
        allow_unfrozen: whether weights from before the freeze may be exported, with all components they have.
        overwrite: whether an earlier export in `output` may be replaced.
        overrides: ``key=value`` changes, as for `evaluate_saved`.

    Raises:
        DoraError: what a user can fix.
    """
    listener = listener or SilentListener()
    output = Path(output)
    check_listed(overrides)
    _check_choice("--format", format, FORMATS)
    _check_choice("--dtype", dtype, (None, *DTYPES))
    layout = _layout(format, layout, padding, max_rank, compress)
    check_export_folder(output, overwrite=overwrite)
    try:
        if (Path(checkpoint) / RECORD).is_file():
            subject = saved_subject(Path(checkpoint), overrides)
        else:
            subject = _run_subject(restore(checkpoint, [*_HERE, *overrides], lambda recipe, task: (), listener.note))
    finally:
        listener.close()
    if not subject.method.frozen and not allow_unfrozen:
        grown = about(subject.method.name).ranks == "grown"
        what = "only what was learned so far" if grown else "every start component"
        raise ExportError(
            f"{subject.place} is of step {subject.state['step']:,}, before the ranks were frozen: {what} would be "
            f"exported, {'less' if grown else 'more'} than the budget; name a later checkpoint, or pass "
            f"--allow-unfrozen if you want {'just that' if grown else 'them all'}"
        )
    if format == "peft":
        return _peft(subject, output, dtype or "float32", layout, padding, max_rank, compress, overwrite=overwrite)
    return _merged(subject, output, dtype or subject.dtype, overwrite=overwrite)


def _run_subject(restored: Restored) -> Subject:
    """The weights of a run, on its base model."""
    adapted, recipe = restored.adapted, restored.recipe

    def card(written: Written) -> str:
        return (peft_card if written.format == "peft" else merged_card)(_card(restored, written))

    return Subject(
        model=adapted.model,
        tokenizer=adapted.tokenizer,
        method=adapted.method,
        projections=adapted.projections,
        head=adapted.head,
        place=str(restored.run.weights),
        state=restored.weights.state,
        base=place_of(recipe.model.name),
        revision=adapted.commit,
        dtype=recipe.model.dtype,
        auto_class=_auto_class(restored),
        task=restored.task.name,
        dropout=float(getattr(recipe.method, "dropout", 0.0)),
        trust_remote_code=recipe.model.trust_remote_code,
        batch=probe_batch(adapted.model, adapted.tokenizer, () if adapted.layout is None else adapted.layout.start),
        autocast=partial(autocast, restored.ground.accelerator),
        generation=_generation(restored),
        card=card,
    )


def _layout(format: str, layout: str, padding: str, max_rank: int | None, compress: int | None) -> str:
    """The layout to write. Raises ExportError where options do not go together."""
    _check_choice("--layout", layout, LAYOUTS)
    _check_choice("--pad", padding, PADDINGS)
    for option, rank in (("--max-rank", max_rank), ("--compress", compress)):
        if rank is not None and rank < 1:
            raise ExportError(f"{option} {rank}: must be at least 1, a projection that is adapted has a rank")
    if format == "merged":
        given = [
            *([f"--layout {layout}"] if layout != "patterns" else []),
            *([f"--pad {padding}"] if padding != "none" else []),
            *([f"--max-rank {max_rank}"] if max_rank is not None else []),
            *([f"--compress {compress}"] if compress is not None else []),
        ]
        if given:
            raise ExportError(f"{given[0]} is for --format peft: a merged model has no ranks; leave it out")
    if padding == "common" and layout == "constant-alpha":
        raise ExportError(
            "--pad common gives all projections one rank, --layout constant-alpha keeps theirs; leave one of them out"
        )
    return "uniform" if padding == "common" else layout


def _check_choice(option: str, value: str | None, choices: Sequence[str | None]) -> None:
    if value not in choices:
        raise ExportError(f"{option} {value}: choose one of {', '.join(choice for choice in choices if choice)}")


def _peft(
    subject: Subject,
    output: Path,
    dtype: str,
    layout: str,
    padding: str,
    max_rank: int | None,
    rank: int | None,
    *,
    overwrite: bool,
) -> Export:
    if (plain := subject.method.to_lora()) is None:
        raise peft.no_lora(subject.method)
    if not subject.projections:
        raise ExportError(
            f"method.name {subject.method.name} adapts no projection, and PEFT loads no adapter without one; export "
            "this run with --format merged"
        )
    kept, compression = (plain, None) if rank is None else compress(plain, rank)
    exact = {name: balance(one) for name, one in kept.items()}
    factors, batch = lay_out(pad(exact, padding), layout), subject.batch
    check_rank(exact, factors, max_rank)
    reference, approximated = logits_of(subject.model, batch, subject.autocast()), None
    model = make_plain(subject.model, subject.projections)
    if compression is not None and compression.cut:
        # what was trained can be told by factors at all, and so can what is left of it
        with with_factors(model, {name: (one.A, one.B) for name, one in plain.items()}):
            _check_sound(compare(reference, logits_of(model, batch, subject.autocast()), batch), dtype, subject.dtype)
        with with_factors(model, {name: (one.A, one.B) for name, one in kept.items()}):
            approximated = logits_of(model, batch, subject.autocast())
    saved = peft.head_modules(model, subject.head)
    config = peft.adapter_config(
        model,
        factors,
        saved,
        task_type=TASK_TYPES[subject.auto_class][0],
        base=subject.base,
        revision=subject.revision,
        dropout=subject.dropout,
        layout=layout,
    )
    check_finite(model.state_dict(), "the run")
    tensors = peft.adapter_tensors(model, factors, saved, DTYPES[dtype])
    check_finite(tensors, dtype)
    with torch.no_grad():
        rounded = peft.head_in(tensors)
        for name, parameter in subject.head.items():
            parameter.copy_(rounded[name])

    def agree(exported: nn.Module, by: str | None = None) -> Agreement:
        logits = logits_of(exported, batch, subject.autocast())
        found = compare(reference, logits, batch, by=by, approximated=approximated)
        _check_sound(found, dtype, subject.dtype)
        return found

    with with_factors(model, peft.factors_in(tensors, config)):
        agreement = agree(model)
    with export_folder(output, overwrite=overwrite) as folder:
        save_file(tensors, folder / peft.WEIGHTS, {"format": "pt"})
        write_text(folder / peft.CONFIG, to_json(config))
        if asked := installed_peft():
            agreement = agree(load_with_peft(model, folder), asked)
        what = Written("peft", layout, factors, dtype, compression=compression)
        return _finish(subject, folder, output, what, Size.of(exact), agreement)


def _merged(subject: Subject, output: Path, dtype: str, *, overwrite: bool) -> Export:
    plain, batch = subject.method.to_lora(), subject.batch
    factors = plain or {}
    exact = Size(Size.of(factors).components, subject.method.size().stored)  # what it was, not what LoRA would take
    reference = logits_of(subject.model, batch, subject.autocast())
    changed = [site for site in subject.projections if plain is None or site.name in plain]
    model = merge(subject.model, subject.method, changed, dtype)
    with export_folder(output, overwrite=overwrite) as folder:
        save_merged(model, subject.tokenizer, folder, generation=subject.generation)
        model.to("meta")  # the one that was written takes its place in memory
        written = load_merged(folder, subject.auto_class, dtype, trust_remote_code=subject.trust_remote_code)
        agreement = compare(reference, logits_of(written, batch), batch)
        _check_sound(agreement, dtype, subject.dtype)
        return _finish(subject, folder, output, Written("merged", None, factors, dtype), exact, agreement)


def _finish(
    subject: Subject, folder: Path, output: Path, written: Written, exact: Size, agreement: Agreement
) -> Export:
    """Writes the card and the record."""
    dtype, factors = written.dtype, written.factors
    whole = not factors and exact.parameters > 0  # a method without ranks, whose update went into the weights
    padded = exact if written.format == "merged" else Size.of(factors)
    write_text(folder / "README.md", subject.card(replace(written, probe=describe(agreement, dtype))))
    head = sum(parameter.numel() for parameter in subject.head.values())
    record = {
        "dora": __version__,
        "format": written.format,
        "dtype": dtype,
        "layout": written.layout,
        "task": subject.task,
        "method": subject.method.name,
        "step": subject.state["step"],
        "frozen": subject.method.frozen,
        "components": padded.components,
        "live_components": exact.components,
        "adapter_parameters": padded.parameters,
        "live_parameters": exact.parameters,
        "head_parameters": head,
        "compression": None if written.compression is None else _compression(written.compression),
        "probe": asdict(agreement),
    }
    write_record(folder, record)
    return Export(
        output=output,
        format=written.format,
        dtype=dtype,
        projections=len(subject.projections),
        live_projections=len(subject.projections) if whole else len(factors),
        layout=written.layout,
        largest_rank=largest_rank(written.factors),
        exact=exact,
        padded=padded,
        head_parameters=head,
        compression=written.compression,
        files=sizes(folder),
        agreement=agreement,
    )


def _compression(found: Compression) -> dict[str, object]:
    """The record's form: what there was before stands beside it."""
    plain = asdict(found)
    before = plain.pop("before")
    return {**plain, **before}


def _check_sound(agreement: Agreement, dtype: str, base: str) -> None:
    if agreement.difference == float("inf"):
        raise ExportError(
            f"in {dtype} the exported model gives logits that are not finite; choose --dtype bfloat16 or float32"
        )
    if dtype == base == "float32" and agreement.rounding > _SOUND * max(1.0, agreement.largest):
        raise ExportError(
            "the exported model does not compute what the run's own does: logits differ by "
            f"{agreement.rounding:.2g} (largest {agreement.largest:.2g}), more than rounding explains. The model's "
            "class does something with its weights that an export cannot express; nothing was written"
        )


def _auto_class(restored: Restored) -> str:
    layout = restored.adapted.layout
    return restored.task.head.auto_class(encoder_decoder=layout is not None and layout.encoder_decoder)


def _generation(restored: Restored) -> Any | None:
    layout = restored.adapted.layout
    return None if layout is None else generation_of(layout, decoding(restored.recipe))


def _card(restored: Restored, written: Written) -> Card:
    adapted, recipe, task, state = restored.adapted, restored.recipe, restored.task, restored.weights.state
    generation = _generation(restored)
    tokenizer, config = adapted.tokenizer, adapted.model.config
    settings = {} if generation is None else generation.to_diff_dict()
    settings.pop("transformers_version", None)
    when = "before the ranks were frozen, " if not adapted.method.frozen else ""
    averaged = state.get("averaged_steps")
    mean = f" (the mean of those after each of the last {plural(averaged, 'step')} up to it)" if averaged else ""
    return Card(
        recipe=recipe,
        trained=restored.run.read_recipe(),
        task=task,
        base=place_of(recipe.model.name),
        revision=adapted.commit,
        auto_class=_auto_class(restored),
        pad_with_end=tokenizer.pad_token_id == tokenizer.eos_token_id,
        pad_token=tokenizer.pad_token_id if _reads_last_token(task, config) else None,
        layout=adapted.layout,
        generation=settings,
        weights=f"{when}epoch {state.get('epoch')}, step {state['step']:,}{mean}",
        metrics=recorded_metrics(restored),
        projections=adapted.projections,
        written=written,
    )


def _reads_last_token(task: Task, config: Any) -> bool:
    """Classifiers on a decoder take the last token that is no padding, so they must know which is."""
    return task.head.reads_last_token and is_decoder_only(config)


def describe(agreement: Agreement, dtype: str) -> str:
    """One sentence on how far the export is from the run's own model."""
    return (
        f"On {agreement.tokens} random tokens the largest difference to the run's own logits is "
        f"{agreement.difference:.2g} in {dtype} (the largest logit is "
        f"{agreement.largest:.3g}){f', as {agreement.by} computes it' if agreement.by else ''}"
        f"{_by_approximation(agreement)}."
    )


def _by_approximation(agreement: Agreement) -> str:
    """How much of it is no rounding."""
    if agreement.approximated is None:
        return ""
    return f"; to those of the approximated update it is {agreement.approximated:.2g}"
