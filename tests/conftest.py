"""Set up before anything is imported: no network, no progress bars of other libraries, one thread layout, and compiled
modules that are kept.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
from pathlib import Path

os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # many processes follow; the first that imports compiles for all
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # matrices this small only lose by sharing them between cores
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `dora` does: where threads are, both cores are taken already
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import pytest

from dora_cli import hub
from tests.training.conftest import make_recipe, tiny_model

__all__ = ["make_recipe", "tiny_model"]

LONGEST = (
    "test_commands.py",
    "test_kill.py",
    "test_ray.py",
    "test_every_method.py",
    "test_dora_options.py",
    "test_trouble.py",
    "test_new_packages.py",
    "test_cold_start.py",
    "test_fused.py",
    "test_run.py",
    "test_resume.py",
    "test_agreement.py",
    "test_plots.py",
    "test_going_on.py",
    "test_generation.py",
    "test_local.py",
    "test_cuts.py",
    "test_averaging.py",
    "test_demo.py",
    "test_capture.py",
    "test_distributed.py",
    "test_score_truth.py",
    "test_method.py",
    "test_signals.py",
    "test_browser.py",
    "test_process.py",
    "test_trainer_callback.py",
    "test_tasks_and_models.py",
    "test_rounds.py",
    "test_configs.py",
    "test_equal.py",
    "test_escapes.py",
    "test_untrusted.py",
    "test_decoding.py",
    "test_literal_reference.py",
    "test_packed.py",
    "test_search.py",
    "test_together.py",
    "test_bench_padding.py",
    "test_bench_step.py",
    "test_launch.py",
    "test_in_place.py",
    "test_failures.py",
    "test_nonfinite.py",
    "test_bench_real.py",
)
"""Files that take half of the time; they come first, or one core would end with them alone."""


@pytest.fixture(autouse=True)
def _a_hub_that_was_never_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that did not answer is left alone for a minute: not from one test to the next."""
    monkeypatch.setattr(hub, "_memory", hub._Memory())


SLOW = frozenset((
    "compare/test_run.py", "compare/test_conductor.py",
    "commands/test_bad_input.py", "commands/test_catalogues.py", "commands/test_configs.py",
    "commands/test_escapes.py", "commands/test_eval.py", "commands/test_export.py", "commands/test_federated.py",
    "commands/test_help.py",
    "commands/test_init.py", "test_libraries.py", "commands/test_predict.py", "commands/test_process.py",
    "commands/test_processes.py", "machine/test_launch.py",
    "commands/test_ranks.py", "commands/test_report.py", "commands/test_score.py", "commands/test_train.py",
    "metrics/e2e/test_score.py", "test_cold_start.py", "metrics/test_hugging_face.py", "evaluation/test_decoding.py",
    "evaluation/search/test_search.py",
    "metrics/test_glue.py", "export/test_agreement.py", "export/test_layouts.py", "export/test_merged.py",
    "export/test_peft.py", "export/test_subject.py",
    "methods/low_rank/same_input/test_together.py",
    "methods/low_rank/allocation/test_budget.py", "methods/dora/test_method.py", "commands/test_completion.py",
    "reports/test_progress.py",
    "assembly/test_notes.py", "models/structure/test_projections.py", "methods/dora/test_compaction.py",
    "methods/dora/test_literal_reference.py", "methods/lora/test_oracle.py", "training/test_lora.py",
    "methods/adalora/test_literal_reference.py", "methods/sora/test_literal_reference.py",
    "methods/bottleneck/test_literal_reference.py", "methods/test_base_tensors.py", "training/test_in_place.py",
    "training/test_every_method.py", "training/test_dora_options.py", "scripts/test_score_truth.py",
    "compare/workers/test_equal.py", "compare/workers/test_local.py", "compare/workers/test_ray.py",
    "training/test_averaging.py", "training/test_cuts.py", "training/test_fused.py",
    "training/test_packed.py",
    "methods/dora/test_planted_teacher.py", "test_new_packages.py", "models/test_loading.py",
    "models/test_tiny_generators.py",
    "reports/html/test_browser.py", "reports/html/test_page.py", "reports/live/test_view.py",
    "reports/plots/test_plots.py",
    "scripts/test_bench_padding.py",
    "scripts/test_bench_real.py", "scripts/test_bench_step.py", "scripts/test_bench_train.py", "scripts/test_fuzz.py",
    "test_demo.py", "test_hub.py", "doctor/test_hub.py", "library/test_adapter.py",
    "docs/test_commands.py", "docs/test_python.py", "doctor/test_imports.py", "doctor/test_packages.py",
    "machine/test_capture.py", "training/federated/test_failures.py",
    "training/federated/test_going_on.py", "training/federated/test_rounds.py", "training/test_distributed.py",
    "training/test_generation.py",
    "training/test_held_out.py", "training/test_kill.py", "training/test_nonfinite.py",
    "library/test_own_loop.py", "assembly/test_rehearsal.py",
    "runs/test_resume.py", "training/test_run.py", "library/test_save_adapter.py", "machine/test_seeds.py",
    "machine/test_signals.py", "training/test_tasks_and_models.py", "machine/test_threads.py",
    "training/test_trackers.py", "library/test_trainer_callback.py", "training/test_trouble.py",
    "training/test_untrusted.py", "runs/test_stored.py", "data/test_tokens.py", "models/test_end_token.py",
    "test_imports.py", "test_architecture.py", "test_printable.py", "test_style.py", "test_wording.py",
    "tasks/test_own.py", "recipe/writing/test_annotate.py", "data/sources/test_files.py", "recipe/test_document.py",
))  # fmt: skip
"""Files that train whole runs, start processes, open browsers or read all of the source: all but a tenth of the suite's
time.

``-m "not slow"`` leaves them out.
"""


MEMORY, ENOUGH = Path("/dev/shm"), 4 << 30
"""Where temporary folders and files go if so many bytes are free there: on a disk, runs wait at every checkpoint."""


def pytest_configure(config: pytest.Config) -> None:
    sys.dont_write_bytecode = False  # it was read from the environment at the start
    if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ENOUGH:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
        os.environ.setdefault("TMPDIR", str(MEMORY))  # every evaluation makes a folder for an instant
    # of pytest-xdist, whose own order is by the number of tests in a file
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A quick look does not even import what it leaves out: half of its time would go there."""
    if config.option.markexpr == "not slow" and _name(collection_path) in SLOW:
        return True
    return None


@functools.cache
def _name(path: Path) -> str:
    here = Path(__file__).parent
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONGEST)}
    for item in items:
        if _name(item.path) in SLOW:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if on_gpu and not _has_gpu():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def _has_gpu() -> bool:
    import torch  # here: the process that hands tests out to others has no use for it

    return torch.cuda.is_available()
