"""The model card: what the export is, how it came about, and the lines that load it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dora_cli.data import PairLayout
from dora_cli.export import markdown
from dora_cli.export.compression import Compression, describe_compression
from dora_cli.export.factors import Factors
from dora_cli.files import at_home
from dora_cli.methods.base import Site
from dora_cli.models.source import BUILTIN_PREFIX
from dora_cli.printable import escape
from dora_cli.python_text import call, literal
from dora_cli.recipe import Recipe, dump_recipe
from dora_cli.recipe.federated import note_on_clients
from dora_cli.recipe.fields import Section
from dora_cli.recipe.methods import about, method_name
from dora_cli.tasks import Task, Use
from dora_cli.wording import plural

TASK_TYPES = {
    "AutoModelForSequenceClassification": ("SEQ_CLS", "AutoPeftModelForSequenceClassification"),
    "AutoModelForCausalLM": ("CAUSAL_LM", "AutoPeftModelForCausalLM"),
    "AutoModelForSeq2SeqLM": ("SEQ_2_SEQ_LM", "AutoPeftModelForSeq2SeqLM"),
}
"""PEFT's task type, and its class that loads base and adapter at once, by the transformers class of the model."""

_VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's ``max_lora_rank`` may be; its default is 16."""

_DIVIDERS = "llama.cpp and TensorRT-LLM (by their source as it was last read)"

_LAYOUTS = {
    "patterns": f"""\
The layout is `patterns`: each projection's rank stands in `rank_pattern` and its alpha in `alpha_pattern`. The two are
equal, so the scale is 1 everywhere, and `lora_alpha` equals `r`. PEFT and vLLM from 0.32.0 on read the patterns; vLLM
up to 0.31.0 drops them and comes to the same scale. {_DIVIDERS} divide
the one `lora_alpha` by a projection's own rank, which would be wrong here: export with `--layout constant-alpha` or
`uniform` for them. SGLang 0.5.23 wants one rank for all: `--layout uniform`.""",
    "constant-alpha": f"""\
The layout is `constant-alpha`: one `lora_alpha` for all projections, each projection's rank in `rank_pattern`, and
factors made for the scale `lora_alpha / rank` that follows. It suits readers that divide by a projection's own rank:
PEFT, vLLM from 0.32.0 on, {_DIVIDERS}. vLLM up to 0.31.0 drops the ranks in silence
and would scale wrongly, and SGLang 0.5.23 wants one rank for all: export with `--layout uniform` for them.""",
    "uniform": f"""\
The layout is `uniform`: one rank for every adapted projection, `lora_alpha` equal to it, no patterns, so the scale is 1
for every reader: PEFT, any version of vLLM, SGLang 0.5.23, {_DIVIDERS}.""",
}


@dataclass(frozen=True)
class Written:
    """What an export writes.

    Attributes:
        format: ``"peft"`` or ``"merged"``.
        layout: of an adapter, one of `dora_cli.export.factors.LAYOUTS`; None for a merged model.
        factors: of the adapters, zero components included.
        dtype: of the weights.
        probe: how far the export is from the model that was trained, in words.
        compression: what an approximation of bounded rank has left out; None where none was asked for.
    """

    format: str
    layout: str | None
    factors: Factors
    dtype: str
    probe: str = ""
    compression: Compression | None = None

    @property
    def approximation(self) -> str:
        """What was approximated, in words; empty where nothing was."""
        if self.compression is None or not self.compression.cut:
            return ""
        return f" {describe_compression(self.compression, markdown.code)}"


@dataclass(frozen=True)
class Card:
    """What a model card tells.

    Attributes:
        recipe: the run's, resolved, as this export reads it: on the CPU, with the base model where it is now.
        trained: the run's, as it trained.
        base: what loads the base model: a hub id or a folder.
        revision: commit of a hub model.
        auto_class: the transformers class that loads the model.
        pad_with_end: whether the tokenizer has no padding token of its own, and takes its end token.
        pad_token: id of the padding token, where the model must be told; None elsewhere.
        layout: of a generator.
        generation: settings of a generator's decoding.
        weights: what metrics are of, such as ``"epoch 3, step 120"``.
        metrics: as the run recorded them; empty if it recorded none.
        written: what the export writes.
    """

    recipe: Recipe
    trained: Recipe
    task: Task
    base: str
    revision: str | None
    auto_class: str
    pad_with_end: bool
    pad_token: int | None
    layout: PairLayout | None
    generation: Mapping[str, Any]
    weights: str
    metrics: Mapping[str, float | None]
    projections: Sequence[Site]
    written: Written

    @property
    def ranks(self) -> dict[str, int]:
        """Rank of every projection as it is exported, by name; empty for a method without ranks."""
        factors = self.written.factors
        if not factors and about(method_name(self.trained.method) or "").ranks in (None, "none"):
            return {}
        return {site.name: factors[site.name].rank if site.name in factors else 0 for site in self.projections}


def peft_card(card: Card) -> str:
    """The card of an adapter in the PEFT format."""
    ranks = card.ranks.values()
    adapted = sum(rank > 0 for rank in ranks)
    left_out = "; those at rank 0 are left out" if adapted < len(ranks) else ""
    what = f"""{_training(card.trained)}

The adapter is plain LoRA: {plural(sum(ranks), "component")} in {adapted} of {plural(len(ranks), "projection")}, at most
{max(ranks)} in one{left_out}. What scales the update is inside the factors.{card.written.approximation}

{_layout(card.written)}"""
    kind = TASK_TYPES[card.auto_class][1]
    auto = [
        f"from peft import {kind}",
        "",
        *call(f"model = {kind}.from_pretrained", ['"."', *_arguments(card)]),
    ]
    return _page(
        card,
        library="peft",
        title=f"{card.task.name}: low-rank adapter for {markdown.text(_short(card.base))}",
        what=what,
        code=[
            ('Load it with PEFT, from this folder (or put the folder\'s path or hub id for `"."`):', _peft_lines(card)),
            ("Or let PEFT load the base model too:", auto),
            ("Then:", _use(card, adapter=True)),
        ],
    )


def merged_card(card: Card) -> str:
    """The card of a merged model."""
    what = _training(card.trained)
    if card.projections:
        what += "\n\nThe adapters are inside the weights: a plain transformers model, no other package is needed."
    code = [
        f"from transformers import {card.auto_class}, AutoTokenizer",
        "",
        'tokenizer = AutoTokenizer.from_pretrained(".")',
    ]
    code += call(
        f"model = {card.auto_class}.from_pretrained",
        ['"."', f"dtype={literal(card.written.dtype)}", *_code_of_strangers(card)],
    )
    code[-1] += ".eval()"
    return _page(
        card,
        library="transformers",
        title=f"{card.task.name}: {markdown.text(_short(card.base))}, fine-tuned",
        what=what,
        code=[
            ('Load it from this folder (or put the folder\'s path or hub id for `"."`):', code),
            ("Then:", _use(card, adapter=False)),
        ],
    )


def adapter_card(written: Written, method: Section, base: str, architecture: str, num_labels: int | None) -> str:
    """The card of an adapter that was trained in a loop of the user's own: how it is loaded, and no more, for more is
    not known.

    Args:
        written: what the export writes.
        method: its settings.
        base: hub id or folder of the base model.
        architecture: the base model's class.
        num_labels: of a classifier; None for a generator.
    """
    code = [f"from transformers import {architecture}", ""]
    if written.format == "merged":
        code += call(f"model = {architecture}.from_pretrained", ['"."', f"dtype={literal(written.dtype)}"])
    else:
        labels = [] if num_labels is None else [f"num_labels={num_labels}", "ignore_mismatched_sizes=True"]
        code = [
            "from peft import PeftModel",
            *code,
            *call(f"base = {architecture}.from_pretrained", [literal(base), *labels]),
        ]
        code.append('model = PeftModel.from_pretrained(base, ".")')
    code[-1] += ".eval()"
    title, use = f"# {markdown.text(_short(base))}, fine-tuned", markdown.block("python", code)
    what = [_method(method) + written.approximation, *([_layout(written)] if written.layout else [])]
    parts = [title, *what, "## Use", use, "## Agreement with the model that was trained", written.probe]
    return escape("\n\n".join(parts) + "\n")


def _training(recipe: Recipe) -> str:
    """How the method of a run works, and by whom it was trained where that is not one alone."""
    clients = [] if recipe.federated is None else [note_on_clients(recipe.federated)]
    return " ".join([_method(recipe.method), *clients])


def _method(section: Section) -> str:
    """How a method works, and which of its options were used."""
    known = about(method_name(section) or "")
    return " ".join([known.card, *known.notes(section)])


def _layout(written: Written) -> str:
    """Whom the layout suits, and what vLLM must be told. Patterns that say nothing are no layout of their own."""
    ranks = {one.rank for one in written.factors.values()}
    assert written.layout is not None
    facts = _LAYOUTS["uniform" if len(ranks) == 1 else written.layout]
    bound = next((bound for bound in _VLLM_RANKS if bound >= max(ranks)), None)
    return facts if bound is None else f"{facts} vLLM needs `max_lora_rank` of {bound} or more (its default is 16)."


def _page(card: Card, *, library: str, title: str, what: str, code: Sequence[tuple[str, Sequence[str]]]) -> str:
    parts = [
        f"---\n{yaml.safe_dump(_front(card, library), sort_keys=False, allow_unicode=True)}---",
        f"# {title}",
        what,
    ]
    parts.append("## Use")
    for words, lines in code:
        parts += [words, markdown.block("python", lines)]
    parts += _notes(card)
    parts += [
        "## Metrics",
        f"Of the weights of {card.weights}, as the run recorded them on its evaluation splits"
        + (", before they were approximated:" if card.written.approximation else ":"),
        _metrics(card.metrics),
    ]
    if card.ranks:
        parts += ["## Ranks", *_rank_tables(card)]
    parts += ["## Agreement with the run", card.written.probe]
    parts += ["## Recipe", markdown.block("yaml", dump_recipe(_without_places(card.trained)).strip().split("\n"))]
    return escape("\n\n".join(parts) + "\n")


def _front(card: Card, library: str) -> dict[str, Any]:
    found: dict[str, Any] = {"library_name": library}
    if not Path(card.base).is_absolute():  # the hub knows no folders
        found["base_model"] = card.base
    found["pipeline_tag"] = card.task.pipeline_tag
    if card.recipe.data.source == "hub" and (hub := card.task.fields.hub) is not None:
        found["datasets"] = [hub.path]
    own = about(method_name(card.trained.method) or "").tags
    found["tags"] = list(dict.fromkeys([*(["lora"] if library == "peft" else []), *own, card.task.name]))
    return found


# How it is loaded -----------------------------------------------------------------------------------------------------


def _peft_lines(card: Card) -> list[str]:
    lines = ["from peft import PeftModel", f"from transformers import {card.auto_class}, AutoTokenizer", ""]
    place = [literal(card.base), *_revision(card)]
    lines += call("tokenizer = AutoTokenizer.from_pretrained", [*place, *_code_of_strangers(card)])
    lines += call(
        f"base = {card.auto_class}.from_pretrained", [literal(card.base), *_revision(card), *_arguments(card)]
    )
    return [*lines, 'model = PeftModel.from_pretrained(base, ".").eval()']


def _revision(card: Card) -> list[str]:
    return [f"revision={literal(card.revision)}"] if card.revision else []


def _code_of_strangers(card: Card) -> list[str]:
    return ["trust_remote_code=True"] if card.recipe.model.trust_remote_code else []


def _arguments(card: Card) -> list[str]:
    """What the base model must be told to be the one that was trained: its type, and the head's size and labels."""
    found = [f"dtype={literal(card.recipe.model.dtype)}"]
    if own := card.task.head.arguments():
        found += own
        if card.pad_token is not None:
            found.append(f"pad_token_id={card.pad_token}")
        found.append("ignore_mismatched_sizes=True")
    return found + _code_of_strangers(card)


def _use(card: Card, *, adapter: bool) -> list[str]:
    length = card.recipe.data.max_length
    return card.task.use(Use(length, card.pad_with_end, card.layout, card.generation, adapter))


def _notes(card: Card) -> list[str]:
    found = []
    if Path(card.base).is_absolute():
        built_in = card.recipe.model.name.startswith(BUILTIN_PREFIX)
        what = (
            f"{markdown.code(card.recipe.model.name)} of the package `dora_cli`"
            if built_in
            else "a folder on the machine that made the export"
        )
        found.append(f"The base model is {what}; put its present place into the lines above.")
    decode = card.recipe.decode
    if card.layout is not None and not card.layout.encoder_decoder and decode is not None and decode.no_repeat_ngram:
        found.append(
            f"In the run's own outputs no {decode.no_repeat_ngram}-gram stands twice. Transformers' "
            "`no_repeat_ngram_size` counts the prompt too, and would forbid to copy a name out of it, so it is not "
            "set here."
        )
    return found


# How it came about ----------------------------------------------------------------------------------------------------


def _metrics(metrics: Mapping[str, float | None]) -> str:
    if not metrics:
        return "The run recorded none for these weights."
    rows = [
        f"| {markdown.text(name)} | {'-' if value is None else f'{value:.4f}'} |" for name, value in metrics.items()
    ]
    return "\n".join(["| metric | value |", "|---|---|", *rows])


def _rank_tables(card: Card) -> list[str]:
    """A table for each stack: blocks by projections."""
    parts = []
    stacks = list(dict.fromkeys(projection.stack for projection in card.projections))
    for stack in stacks:
        members = [projection for projection in card.projections if projection.stack == stack]
        columns = list(dict.fromkeys(projection.projection for projection in members))
        cells = {(projection.block, projection.projection): card.ranks[projection.name] for projection in members}
        rows = [
            f"| {block} | " + " | ".join(str(cells.get((block, column), "")) for column in columns) + " |"
            for block in dict.fromkeys(projection.block for projection in members)
        ]
        head = f"| {stack} block | " + " | ".join(map(markdown.text, columns)) + " |"
        parts.append("\n".join([head, "|---" * (len(columns) + 1) + "|", *rows]))
    return parts


def _without_places(recipe: Recipe) -> Recipe:
    """Cards are published: of local folders only their names are told, also of those that are no longer where they
    were.
    """
    model, data = recipe.model, recipe.data
    place = at_home(model.name)
    if not model.name.startswith(BUILTIN_PREFIX) and (place.is_absolute() or place.is_dir()):
        model = model.model_copy(update={"name": Path(model.name).name})
    if data.path is not None:
        data = data.model_copy(update={"path": Path(data.path).name})
    return recipe.model_copy(update={"model": model, "data": data})


def _short(base: str) -> str:
    return Path(base).name if Path(base).is_absolute() else base
