"""What becomes of missing or broken programs, without Java: stand-ins speak their protocols."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from dora_cli.metrics.e2e.java import JavaError, look_for_java, meteor_score, ptb_lines
from tests.metrics.e2e.java import needs_java

posix = pytest.mark.skipif(os.name != "posix", reason="the stand-in for java is a script")


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, java: str | None = None, jars: bool = True) -> None:
    """A ``pycocoevalcap`` with empty jars, and a ``java`` that runs the Python code `java`."""
    for place in ("tokenizer/stanford-corenlp-3.4.1.jar", "meteor/meteor-1.5.jar"):
        path = folder / "packages" / "pycocoevalcap" / place
        path.parent.mkdir(parents=True)
        if jars:
            path.touch()
    # A package that is really installed, or even imported, must not be found in its place.
    monkeypatch.delitem(sys.modules, "pycocoevalcap", raising=False)
    (folder / "packages" / "pycocoevalcap" / "__init__.py").touch()
    monkeypatch.syspath_prepend(folder / "packages")
    (folder / "bin").mkdir()
    if java is not None:
        (folder / "bin" / "java").write_text(f"#!{sys.executable}\n{java}")
        (folder / "bin" / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder / "bin"))


def without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def test_nothing_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    without(monkeypatch)
    with pytest.raises(
        JavaError,
        match=r"^install the package pycocoevalcap \(pip install pycocoevalcap\) and Java "
        r"\(on PATH\)$",
    ):
        ptb_lines(["a"])


def test_java_alone_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch)
    with pytest.raises(JavaError, match=r"^install Java \(on PATH\)$"):
        meteor_score(["a"], [["a"]])


@posix
def test_the_package_alone_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, java="")
    without(monkeypatch)
    with pytest.raises(JavaError, match=r"^install .* pycocoevalcap\)$"):
        meteor_score(["a"], [["a"]])


@posix
def test_the_package_lacks_its_jars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, java="", jars=False)
    with pytest.raises(JavaError, match=r"has no tokenizer.stanford-corenlp-3\.4\.1\.jar: install it again"):
        ptb_lines(["a"])


@posix
def test_java_says_why_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        tmp_path, monkeypatch, java="import sys; print('Error: no room for a heap\\n', file=sys.stderr); sys.exit(1)"
    )
    with pytest.raises(JavaError, match=r"PTBTokenizer failed with .*java: Error: no room for a heap$"):
        ptb_lines(["a"])
    with pytest.raises(JavaError, match=r"METEOR failed with .*java: Error: no room for a heap$"):
        meteor_score(["a"] * 100, [["a"]] * 100)


STACK = """
import sys
for number, line in enumerate(sys.stdin, start=1):
    if number == 3 or not line.startswith("SCORE"):
        trace = "\\n\\tat A.b(Unknown Source)\\n\\tat Main.main(Unknown Source)"
        print('Exception in thread "main" java.lang.{0}' + trace, file=sys.stderr)
        sys.exit(1)
    print("1", flush=True)
"""


@posix
@pytest.mark.parametrize(
    ("thrown", "reason"),
    [
        (
            "OutOfMemoryError: Java heap space",
            r"2 GB of memory are not enough \(java.lang.OutOfMemoryError: Java heap space\); shorten the text",
        ),
        ("IllegalStateException", "java.lang.IllegalStateException"),
    ],
)
def test_a_text_that_is_too_much_is_named_and_javas_exception_too(
    thrown: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, java=STACK.format(thrown))
    place = r"on output 3 of 4 \(5,000 words, its longest reference 2\)"
    with pytest.raises(JavaError, match=rf"^METEOR failed with \S*java {place}: {reason}$"):
        meteor_score(["a", "b", "word " * 5000, "d"], [["a"], ["b"], ["c", "c c"], ["d"]])
    with pytest.raises(JavaError, match=rf"^METEOR failed with \S*java: {reason}$"):  # no output of its own
        meteor_score(["a"], [["a"]])
    with pytest.raises(JavaError, match=rf"PTBTokenizer .*java: {reason}$"):
        ptb_lines(["a"])


@posix
def test_a_java_that_cannot_be_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, java="")
    (tmp_path / "bin" / "java").write_bytes(b"\x00not a program")
    for call in (lambda: ptb_lines(["a"]), lambda: meteor_score(["a"], [["a"]])):
        with pytest.raises(JavaError, match=r"java cannot be run"):
            call()


@posix
def test_a_tokenizer_that_loses_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, monkeypatch, java="print('a')")
    assert ptb_lines(["A"]) == ["a"]
    with pytest.raises(JavaError, match=r"PTBTokenizer failed with .*: it said nothing"):
        ptb_lines(["A", "B"])


@posix
@pytest.mark.parametrize(
    "code", ["print('nonsense')", "import sys; [print('x', flush=True) for line in sys.stdin]", ""]
)
def test_a_meteor_that_answers_nonsense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    install(tmp_path, monkeypatch, java=code)
    with pytest.raises(JavaError, match=r"METEOR .*: .* nothing$"):
        meteor_score(["a", "b"], [["a"], ["b"]])


SPEAKS = """
import sys
sys.stderr.write("warning\\n" * 20000)  # more than a pipe holds: nobody may wait for it to be read
for line in sys.stdin:
    kind, *parts = line.rstrip("\\n").split(" ||| ")
    if kind == "SCORE":
        print("1" if parts[-1] in parts[:-1] else "0", flush=True)
    else:
        print(*parts, sum(map(float, parts)) / len(parts), sep="\\n", flush=True)
"""


@posix
def test_the_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in's score of an output is 1 if it equals a reference: bars within texts must not part them, accents
    must arrive.
    """
    install(tmp_path, monkeypatch, java=SPEAKS)
    outputs = ["café x", "a", "a ||| b", ""]
    references = [["b", "café x"], ["b", "c"], ["a b"], ["x"]]
    assert meteor_score(outputs, references) == 2 / 4


@needs_java
def test_the_real_ones_whatever_the_locale(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LC_ALL", "LANG", "LANGUAGE"):
        monkeypatch.setenv(name, "C")
    assert ptb_lines(["Café Rouge isn't £20.", "", "Yes"]) == ["café rouge is n't # 20 .", "", "yes"]
    same = "the eagle is a cheap pub near café rouge"
    assert meteor_score([same], [["café", same]]) == pytest.approx(1.0, abs=1e-3)


def fake_java(folder: Path, text: str) -> None:
    (folder / "java").write_text(f"#!/bin/sh\n{text}\n")
    (folder / "java").chmod(0o755)


@posix
def test_what_is_found_of_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "pycocoevalcap" / "meteor"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "meteor-1.5.jar").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert look_for_java() == {"path": None, "version": None, "problem": "install Java (on PATH)"}
    fake_java(tmp_path, "echo 'openjdk version \"17\"' >&2; echo more >&2")
    assert look_for_java() == {"path": str(tmp_path / "java"), "version": 'openjdk version "17"', "problem": None}
    fake_java(tmp_path, "echo 'no libjvm' >&2; exit 1")
    assert look_for_java()["problem"] == f"{tmp_path / 'java'} fails (no libjvm); install Java again"
