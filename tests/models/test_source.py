"""Where a model's name leads, and what is said when it leads nowhere."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from dora_cli.errors import ModelError
from dora_cli.models import ModelUnreachableError, builtin_names, config_model, load_model
from dora_cli.models import source as source_module
from dora_cli.models.source import find_source


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def hub_answers(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    def model_info(self: object, name: str, *, revision: str | None = None, timeout: float | None = None) -> Any:
        assert timeout is not None
        assert timeout <= 10
        if isinstance(answer, BaseException):
            raise answer
        return answer

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)


def hub_error(kind: type[Exception]) -> Exception:
    """The hub's own errors want an HTTP response of whatever client its version uses; the class is all that counts
    here.
    """
    return kind.__new__(kind)


def test_local_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = find_source(str(folder))
    assert (found.kind, found.location, found.commit, found.name) == ("local", str(folder), None, str(folder))
    monkeypatch.setenv("HOME", str(folder.parent))
    assert find_source(f"~/{folder.name}").location == str(folder)


def test_builtin(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_module, "_BUILTIN", folder.parent)
    found = find_source(f"builtin:{folder.name}")
    assert (found.kind, found.location, found.commit) == ("builtin", str(folder), None)
    assert f"builtin:{folder.name}" in builtin_names()
    with pytest.raises(ModelError, match=rf"no built-in model 'builtin:nope'; there are: .*builtin:{folder.name}"):
        find_source("builtin:nope")
    with pytest.raises(ModelError, match="builtin:"):
        find_source(f"builtin:../{folder.parent.name}/{folder.name}")


@pytest.mark.parametrize(
    "name", ["./nothing", "/nothing/here", "~/no-such-folder-here", "a/b/c", "two words", "..", "org/"]
)
def test_no_such_folder(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"no such folder|has no config\.json") as caught:
        find_source(name)
    assert repr(name) in str(caught.value)
    assert not isinstance(caught.value, ModelUnreachableError)


def test_other_wrong_names(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.name is empty"):
        find_source(" ")
    with pytest.raises(ModelError, match="is a file; give the folder"):
        find_source(str(folder / "config.json"))
    with pytest.raises(ModelError, match=r"model\.revision: 'v1' is given but .* is a folder"):
        find_source(str(folder), "v1")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="PEFT"):
        find_source(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no config\.json \(it holds a PEFT adapter"):
        find_source(str(folder))


def test_hub_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    hub_answers(monkeypatch, SimpleNamespace(sha="abc123"))
    found = find_source("FacebookAI/roberta-base", "main")
    assert (found.kind, found.location, found.commit, found.cached_only) == (
        "hub",
        "FacebookAI/roberta-base",
        "abc123",
        False,
    )


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        (errors.RepositoryNotFoundError, "'no/such' is neither a folder here nor a model on the hub"),
        (errors.GatedRepoError, "'no/such' is gated; accept its terms"),
        (errors.RevisionNotFoundError, r"model\.revision: 'no/such' has no revision 'v9'"),
    ],
)
def test_hub_says_no(monkeypatch: pytest.MonkeyPatch, kind: type[Exception], match: str) -> None:
    hub_answers(monkeypatch, hub_error(kind))
    with pytest.raises(ModelError, match=match) as caught:
        find_source("no/such", "v9")
    assert not isinstance(caught.value, ModelUnreachableError)


@pytest.mark.parametrize(
    "error", [errors.OfflineModeIsEnabled("off"), ConnectionError("no route"), TimeoutError("slow")]
)
def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    hub_answers(monkeypatch, error)
    for ask in (
        find_source,
        lambda name: load_model(name, num_labels=2),
        lambda name: config_model(name, num_labels=2),
    ):
        with pytest.raises(ModelUnreachableError) as caught:
            ask("nobody/nothing")
        for part in (
            "'nobody/nothing'",
            "Set model.name to a local model folder",
            "hf download nobody/nothing",
            "HF_HUB_OFFLINE=1",
        ):
            assert part in str(caught.value)


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors", "vocab.txt"])
def test_a_file_that_never_ends_is_found_before_it_is_opened(name: str, folder: Path) -> None:
    """Transformers opens files by their names: it would wait for a pipe, and read a device into memory."""
    os.mkfifo(folder / name)
    with pytest.raises(ModelError, match=rf"{name} cannot be read: it is a pipe"):
        find_source(str(folder))
    (folder / name).unlink()
    (folder / name).symlink_to("/dev/zero")
    with pytest.raises(ModelError, match=rf"{name} .* device"):
        find_source(str(folder))


def test_a_tokenizer_of_3_gb_is_none(folder: Path) -> None:
    for name in ("tokenizer.json", "model.safetensors"):
        with (folder / name).open("wb") as file:  # takes no place on the disk
            file.truncate(3 << 30)
    with pytest.raises(ModelError, match=r"tokenizer\.json .* 3,221,225,472 bytes"):
        find_source(str(folder))
    (folder / "tokenizer.json").unlink()
    assert find_source(str(folder)).kind == "local"


@pytest.mark.parametrize("escaped", [False, True])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_keys_that_a_library_would_print_are_names(name: str, escaped: bool, folder: Path) -> None:
    def write(token: dict[str, object]) -> None:
        content = {"added_tokens": [token], "model": {"vocab": {"a": 1}}}
        (folder / name).write_text(json.dumps(content, ensure_ascii=escaped))

    write({"content": "\u202e"})
    assert find_source(str(folder)).kind == "local"
    for key in ("\u202econtent", "\x9b31m", "\x1b[2J", "\r", "\b", "a\nb"):
        write({key: 1})
        with pytest.raises(ModelError, match=rf"{name} has a key .* that is no name") as refused:
            find_source(str(folder))
        assert str(refused.value).isprintable()


def test_a_vocabulary_may_hold_any_text(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model": {"vocab": {"\\u2028": 1, "\u202e": 2}}, "added_tokens": []}')
    assert find_source(str(folder)).kind == "local"
