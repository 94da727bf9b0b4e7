"""The two Java programs of the MS-COCO evaluation, which the package `pycocoevalcap` carries: Stanford's PTBTokenizer
and METEOR 1.5.

They are called here rather than through that package: its wrappers write next to its own code and take the text's
encoding from the locale.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from dora_cli.wording import plural

_TOKENIZER = Path("tokenizer", "stanford-corenlp-3.4.1.jar")
_METEOR = Path("meteor", "meteor-1.5.jar")
_GIGABYTES = 2
"""Memory that METEOR's program may take.

What it needs grows with a text's length, and faster where words are repeated.
"""
_THROWN = re.compile(r'^Exception in thread "[^"]*" (.*\S)', re.MULTILINE)
_LAST_WORDS = 10.0
"""Seconds in which a program that has failed may say why."""

_VERSION_SECONDS = 20.0
"""Seconds in which ``java -version`` must answer."""

_UTF8 = ("-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8")


class JavaError(RuntimeError):
    """Java or the package is absent, or a program failed; the message says what to do.

    A reason to go without, never to stop.
    """


class _NoAnswerError(Exception):
    """A program closed its end, or answered with something else than numbers.

    Attributes:
        position: of the output it was asked about; None at the end, when it was asked about all of them.
    """

    def __init__(self, position: int | None) -> None:
        super().__init__(position)
        self.position = position


def _command(jar: Path) -> tuple[str, Path]:
    """The path of ``java`` and that of the package's `jar`."""
    java = shutil.which("java")
    package = importlib.util.find_spec("pycocoevalcap")
    places = [Path(place) for place in (package.submodule_search_locations or ())] if package else []
    if java is None or not places:
        wanted = {"the package pycocoevalcap (pip install pycocoevalcap)": not places, "Java (on PATH)": java is None}
        raise JavaError(f"install {' and '.join(name for name, absent in wanted.items() if absent)}")
    found = next((place / jar for place in places if (place / jar).is_file()), None)
    if found is None:
        raise JavaError(
            f"pycocoevalcap in {places[0]} has no {jar}: install it again (pip install --force-reinstall "
            "'pycocoevalcap>=1.2')"
        )
    return java, found.resolve()


def find_java() -> str:
    """The path of ``java``, where METEOR's program is there too. Raises JavaError."""
    return _command(_METEOR)[0]


def look_for_java() -> dict[str, Any]:
    """``path, version, problem``; `problem` says what to install, None if METEOR can be computed."""
    try:
        path = find_java()
    except JavaError as error:
        return {"path": None, "version": None, "problem": str(error)}
    try:
        done = subprocess.run(
            [path, "-version"], capture_output=True, encoding="utf-8", errors="replace", timeout=_VERSION_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"path": path, "version": None, "problem": f"{path} cannot be run ({error})"}
    said = (done.stderr or done.stdout).strip().splitlines()
    if done.returncode:
        return {
            "path": path,
            "version": None,
            "problem": f"{path} fails ({said[-1] if said else 'it said nothing'}); install Java again",
        }
    return {"path": path, "version": said[0] if said else None, "problem": None}


def ptb_lines(texts: Sequence[str]) -> list[str]:
    """PTBTokenizer's line for each text: lower-cased tokens with spaces between them, punctuation included.

    Args:
        texts: without line breaks. As in the original evaluation all go through one process, and the tokenizer looks
            beyond the end of a line in one case: "a." at the end is one token or two depending on the word that begins
            the next text.

    Raises:
        JavaError: see there.
    """
    java, jar = _command(_TOKENIZER)
    command = [java, *_UTF8, "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    try:
        lines = "".join(f"{text}\n" for text in texts)
        done = subprocess.run(command, input=lines, capture_output=True, encoding="utf-8", errors="replace")
    except OSError as error:
        raise JavaError(f"{java} cannot be run ({error})") from None
    answers = done.stdout.split("\n")[:-1]
    if done.returncode or len(answers) != len(texts):
        raise JavaError(f"Stanford's PTBTokenizer failed with {java}: {_reason(done.stderr)}")
    return answers


def meteor_score(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """METEOR 1.5 (English, its own normalisation on) over the whole set, from 0 to 1.

    Args:
        outputs: tokenised texts, spaces between tokens.
        references: for each output, likewise.

    Raises:
        JavaError: see there.
    """
    java, jar = _command(_METEOR)
    command = [java, *_UTF8, f"-Xmx{_GIGABYTES}G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as said:
        try:
            # The program finds its paraphrases beside the jar.
            process = subprocess.Popen(
                command,
                cwd=jar.parent,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:
            raise JavaError(f"{java} cannot be run ({error})") from None
        ask, answer = process.stdin, process.stdout
        assert ask is not None
        assert answer is not None
        with process:
            try:
                return _converse(ask, answer, outputs, references)
            except _NoAnswerError as error:
                with suppress(OSError):
                    ask.close()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(timeout=_LAST_WORDS)
                said.seek(0)
                words = said.read()
                # Before the first answer a program without an exception has not begun, which is no output's fault.
                begun = error.position or _THROWN.search(words)
                place = (
                    (f" on {_output(error.position, outputs, references)}")
                    if begun and error.position is not None
                    else ""
                )
                raise JavaError(f"METEOR failed with {java}{place}: {_reason(words)}") from None
            finally:
                process.kill()
                with suppress(OSError):
                    ask.close()


def _converse(ask: IO[str], answer: IO[str], outputs: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Its protocol: a SCORE line is answered by the counts of one output, an EVAL line of all counts by a score each
    and one for all.
    """
    counts: list[str] = []
    for position, (output, wanted) in enumerate(zip(outputs, references, strict=True)):
        with _answers(position):
            ask.write(" ||| ".join(["SCORE", *map(_without_bars, wanted), _without_bars(output)]) + "\n")
            ask.flush()
            counts.append(_line(answer))
    with _answers(None):
        ask.write(" ||| ".join(["EVAL", *counts]) + "\n")
        ask.flush()
        scores = [float(_line(answer)) for _ in range(len(outputs) + 1)]
    return scores[-1]


@contextmanager
def _answers(position: int | None) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError):
        raise _NoAnswerError(position) from None


def _line(answer: IO[str]) -> str:
    line = answer.readline()
    if not line:
        raise ValueError("it has ended")
    return line.strip()


def _without_bars(text: str) -> str:
    """Three bars separate texts in the protocol."""
    return " ".join(text.replace("|||", "").split())


def _output(position: int, outputs: Sequence[str], references: Sequence[Sequence[str]]) -> str:
    """Which output it was, and how long the texts are that the program compared."""
    longest = max(len(text.split()) for text in references[position])
    words = f"{plural(len(outputs[position].split()), 'word')}, its longest reference {longest:,}"
    return f"output {position + 1:,} of {len(outputs):,} ({words})"


def _reason(text: str) -> str:
    """Why a program ended, from what it said: Java's exception, not the stack below it."""
    thrown = _THROWN.search(text)
    if thrown is not None and "OutOfMemoryError" in thrown[1]:
        return f"{_GIGABYTES} GB of memory are not enough ({thrown[1]}); shorten the text"
    if thrown is not None:
        return thrown[1]
    lines = [line.strip() for line in text.splitlines() if line.strip() and not re.match(r"\s+at ", line)]
    return lines[-1] if lines else "it said nothing"
