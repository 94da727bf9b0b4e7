"""Whether a model's training step can be captured in CUDA graphs: known before it is tried.

A capture that fails leaves the process's CUDA random state unusable, so the run could not go on. What is not known of a
model is therefore tried in a process of its own (`dora_cli.training.capture.probe`), and the answer is kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dora_cli.atomic import write_json
from dora_cli.errors import DeviceError, OutputError
from dora_cli.files import RECORD, parse_json, read_bytes
from dora_cli.machine.environment import installed_version
from dora_cli.version import __version__

TIME_LIMIT = 120
"""Seconds that a trial may take; most of them go into loading libraries."""
FUSED_TIME_LIMIT = 600
"""The same with blocks that are compiled first; what the compiler keeps of it serves the run."""

KNOWN_GOOD = frozenset(
    {"albert", "bart", "bert", "distilbert", "electra", "gpt2", "llama", "mistral", "opt", "qwen2", "roberta", "t5"}
)
"""Model types whose steps are captured as they are, with the heads that `obstacle` does not name, under `_KNOWN_WITH`
and with the methods of `_KNOWN_METHODS`.
"""

_KNOWN_METHODS = frozenset({"dora", "lora", "adalora", "sora", "melora", "cola", "nora", "cora", "xgblora", "head"})
"""Methods for which the table of models holds. It was tried with DoRA; the others with factors run the same kernels
(those of `methods/low_rank`) within the same passes, under the same optimiser, and the head alone runs less. What
another method comes to only a trial can tell.
"""

KNOWN_BAD = {
    "deberta-v2": "DeBERTa makes tensors on the CPU within every forward pass",
    "gpt_neo": "GPT-Neo copies tensors from the CPU within every forward pass",
    "mpnet": "MPNet makes its position bias on the CPU within every forward pass",
}
"""Model types whose steps are not, and why."""

# the oldest versions of which the first table was seen to hold
_KNOWN_WITH = {"torch": (2, 11), "transformers": (5, 17)}
_COMMAND = (sys.executable, "-m", "dora_cli.training.capture.probe")
# the trial is a run of one process
_LAUNCHER = re.compile(r"(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)|(MASTER|ACCELERATE|TORCHELASTIC)_.*|DORA_REPORT")
_NO_MATTER = frozenset(
    {"_name_or_path", "architectures", "auto_map", "dtype", "id2label", "label2id", "problem_type",
    "task_specific_params", "torch_dtype",
     "transformers_version", "use_cache"}
)  # fmt: skip
"""Keys of a config that say nothing of what is computed."""
_NO_MATTER_OF_A_METHOD = frozenset(
    {"rank", "start_rank", "ranks", "links", "ranks_from", "ranks_shuffle", "layers", "targets"}
)
"""Keys of a method's section that a trial sets itself: how much is adapted changes no kernel's kind."""


@dataclass(frozen=True)
class Answer:
    """Whether a step can be captured; if not, why, as a clause."""

    captured: bool
    reason: str | None = None


@dataclass(frozen=True)
class Question:
    """What a trial is told, and what an answer holds for: nothing else of a model matters.

    Attributes:
        fused: whether the model's blocks are compiled.
        packed: whether the texts of a batch stand in one row.
    """

    model_type: str
    model_class: str
    attention: str
    precision: str
    config: dict[str, Any]
    method: dict[str, Any]
    fused: bool = False
    packed: bool = False

    @classmethod
    def of(
        cls,
        model: nn.Module,
        precision: str,
        method: Mapping[str, Any],
        *,
        fused: bool = False,
        packed: bool = False,
    ) -> Question:
        """`method` is the recipe's section, as plain values."""
        config: Any = model.config
        plain = json.loads(config.to_json_string(use_diff=False))
        plain = {key: value for key, value in plain.items() if key not in _NO_MATTER}
        return cls(
            str(config.model_type),
            type(model).__name__,
            str(config._attn_implementation),
            precision,
            plain,
            {key: value for key, value in method.items() if key not in _NO_MATTER_OF_A_METHOD},
            fused,
            packed,
        )

    @property
    def key(self) -> str:
        versions = [f"{name}-{installed_version(name)}" for name in _KNOWN_WITH]
        return "/".join(
            (
                *(self.model_class, self.attention, self.precision, *versions, f"dora-{__version__}"),
                *(_digest(self.config), str(self.method["name"]), _digest(self.method)),
                *(["fused"] if self.fused else []),
                *(["packed"] if self.packed else []),
            )
        )


def _digest(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def check_capture(setting: str, device: torch.device) -> None:
    """Refuses ``train.cuda_graph: on`` without CUDA, before anything is loaded. Raises DeviceError."""
    if setting == "on" and device.type != "cuda":
        raise DeviceError(
            "train.cuda_graph is on, but this run is on the CPU, which has no CUDA graphs; set train.cuda_graph: auto "
            "or off, or run it on a machine with a CUDA device"
        )


def choose_capture(
    setting: str,
    model: nn.Module,
    device: torch.device,
    precision: str,
    method: Mapping[str, Any],
    *,
    trial: bool = True,
) -> Answer | None:
    """What ``train.cuda_graph`` comes to for `model`; a reason is given only where ``auto`` would have wished
    otherwise.

    Args:
        setting: ``auto``, ``on`` or ``off``.
        model: on the CPU, so that a trial has room on the device; without `trial` it may be on the meta device.
        device: where it will train.
        precision: the arithmetic of the run.
        method: the recipe's section, as plain values.
        trial: whether what is not known is tried, which takes seconds; otherwise the answer is None there.

    Raises:
        DeviceError: ``on``, and the step cannot be captured.
    """
    check_capture(setting, device)
    if setting == "off" or device.type != "cuda":
        return Answer(False)
    answer = known_answer(model, precision, method)
    if answer is None and trial:
        answer = _try(Question.of(model, precision, method), device)
    if setting == "on" and answer is not None and not answer.captured:
        raise DeviceError(f"train.cuda_graph is on, but {answer.reason}; set train.cuda_graph: auto or off")
    return answer


def try_steps(
    model: nn.Module, device: torch.device, precision: str, method: Mapping[str, Any], *, fused: bool, packed: bool
) -> Answer:
    """Whether steps that can be captured as they are can be with compiled blocks, on texts in one row, or with both;
    tried once, and kept.

    Args:
        model, device, precision, method: see `choose_capture`.
        fused, packed: see `Question`.
    """
    question = Question.of(model, precision, method, fused=fused, packed=packed)
    return _remembered().get(question.key) or _try(question, device)


def known_answer(model: nn.Module, precision: str, method: Mapping[str, Any]) -> Answer | None:
    """What is known without a trial; None if nothing is."""
    if type(model).__module__.split(".")[0] != "transformers":
        return Answer(False, f"{type(model).__name__} is code that came with the model, which is not tried")
    question = Question.of(model, precision, method)
    if reason := obstacle(question):
        return Answer(False, reason)
    if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
        return Answer(False, "gradient checkpointing is on, which restores random states on the host")
    usual = question.attention in ("eager", "sdpa") and not reads_positions_on_host(question.config)
    plain = question.method.get("gradients", "plain") == "plain"  # else the update is another, maybe its optimiser too
    seen = question.model_type in KNOWN_GOOD and question.method["name"] in _KNOWN_METHODS and plain
    if seen and usual and all(at_least(*version) for version in _KNOWN_WITH.items()):
        return Answer(True)
    return _remembered().get(question.key)


def obstacle(question: Question) -> str | None:
    """Why the step of such a model cannot be captured, as far as its config tells; None if it does not."""
    if reason := KNOWN_BAD.get(question.model_type):
        return reason
    if question.config.get("is_encoder_decoder") and question.model_class.endswith("ForSequenceClassification"):
        return f"{question.model_class} picks end tokens by a mask, and the host waits for their number"
    for key, value in _walk(question.config):
        if key.endswith(("layerdrop", "layer_drop")) and value:  # a graph would leave out the same blocks for good
            return f"the host draws which blocks are left out ({key}: {value})"
    return None


def _walk(config: Any) -> Iterator[tuple[str, Any]]:
    """All keys with plain values, those of nested configs included."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _walk(value)
        elif isinstance(value, str | int | float):
            yield key, value


def reads_positions_on_host(config: Mapping[str, Any]) -> bool:
    """Whether rotary embeddings of a model of this config are scaled by the longest position there is."""
    return any(key in ("rope_type", "type") and value in ("dynamic", "longrope") for key, value in _walk(config))


def at_least(package: str, least: tuple[int, int]) -> bool:
    """Whether the installed version of `package` is `least` or newer."""
    found = re.match(r"(\d+)\.(\d+)", installed_version(package) or "")
    return found is not None and (int(found[1]), int(found[2])) >= least


def _try(question: Question, device: torch.device) -> Answer:
    """Asks a process of its own, and keeps the answer if it would be the same at another time."""
    environment = {name: value for name, value in os.environ.items() if not _LAUNCHER.fullmatch(name)} | {
        "HF_HUB_OFFLINE": "1"
    }
    limit = FUSED_TIME_LIMIT if question.fused else TIME_LIMIT
    more = [*(["compiled blocks"] if question.fused else []), *(["texts in one row"] if question.packed else [])]
    with_what = " and ".join([question.method["name"], *more])
    trial = f"a trial of {question.model_class} with {with_what} in a process of its own"
    try:
        done = subprocess.run(
            _COMMAND,
            input=json.dumps({**asdict(question), "device": str(device)}),
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=limit,
            env=environment,
            cwd=Path(__file__).parents[2],  # python -m looks there first: not among the user's files
            start_new_session=True,  # Ctrl-C is for this process, which then ends the trial
        )
    except subprocess.TimeoutExpired:
        return Answer(False, f"{trial} took longer than {limit} s")
    except OSError as error:
        return Answer(False, f"{trial} did not start ({error.strerror or error})")
    answer = _parsed(_last_line(done.stdout))
    if answer is None or done.returncode not in (0, 1):
        code = done.returncode
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        detail = _last_line(done.stderr)
        return Answer(False, f"{trial} {how}" + (f" ({detail[:200]})" if detail else ""))
    if not answer.captured:
        answer = Answer(False, f"{trial} failed ({answer.reason})")
    if done.returncode == 0:
        _remember(question.key, answer)
    return answer


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _parsed(text: str) -> Answer | None:
    with suppress(ValueError, RecursionError):
        return _answer(json.loads(text))
    return None


def _answer(value: Any) -> Answer | None:
    """An answer from JSON; None from anything else."""
    match value:
        case {"captured": True}:
            return Answer(True)
        case {"captured": False, "reason": str(reason)}:
            return Answer(False, reason)
    return None


def cache_file() -> Path | None:
    """Where answers are kept; None where there is no place for it."""
    folder = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:  # by its specification a relative path counts for nothing
        return (folder if folder.is_absolute() else Path.home() / ".cache") / "dora" / "capture.json"
    except RuntimeError:  # a user without a home
        return None


def _remembered() -> dict[str, Answer]:
    """The answers kept; what cannot be read is tried again."""
    path = cache_file()
    try:
        kept = parse_json(read_bytes(path, RECORD)) if path is not None else None
    except (OSError, ValueError):
        return {}
    found = {key: _answer(value) for key, value in kept.items()} if isinstance(kept, dict) else {}
    return {key: answer for key, answer in found.items() if answer is not None}


def _remember(key: str, answer: Answer) -> None:
    path = cache_file()
    if path is not None:
        with suppress(OutputError):
            write_json(path, {name: asdict(kept) for name, kept in (_remembered() | {key: answer}).items()})
