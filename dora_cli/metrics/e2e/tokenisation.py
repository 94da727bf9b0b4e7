"""The two tokenisations of the E2E script: mteval-v13a for BLEU and NIST, Penn Treebank for METEOR,
ROUGE-L and CIDEr.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from dora_cli.metrics.e2e.java import JavaError, ptb_lines
from dora_cli.metrics.e2e.treebank import PUNCTUATION, treebank_tokens

_v13a = Tokenizer13a()


def mteval_tokens(text: str) -> list[str]:
    """Tokens as mteval-v13a makes them, lower-cased: the official scores ignore case.

    An empty text is one empty token, as there.
    """
    return [token.lower() for token in _v13a(text).split(" ")]


@dataclass(frozen=True)
class Tokenised:
    """Outputs and references in tokens.

    Attributes:
        outputs: tokens of each output.
        references: for each output, tokens of each reference.
        problem: why these are not the tokens of the tokenizer that the official script uses; None if they are.
    """

    outputs: list[list[str]]
    references: list[list[list[str]]]
    problem: str | None = None


def mteval(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> Tokenised:
    """For BLEU and NIST."""
    return _tokenise(outputs, references, lambda texts: list(map(mteval_tokens, texts)))


def treebank(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> Tokenised:
    """For METEOR, ROUGE-L and CIDEr: by Stanford's PTBTokenizer where Java and `pycocoevalcap` are, else in Python
    (`treebank_tokens`).

    The last result is kept: three metrics ask for the same one.
    """
    return _treebank(tuple(outputs), tuple(map(tuple, references)))


@lru_cache(maxsize=1)
def _treebank(outputs: tuple[str, ...], references: tuple[tuple[str, ...], ...]) -> Tokenised:
    try:
        return _tokenise(outputs, references, _stanford)
    except JavaError as error:
        tokens = _tokenise(outputs, references, lambda texts: list(map(treebank_tokens, texts)))
        return Tokenised(tokens.outputs, tokens.references, problem=str(error))


def _stanford(texts: Sequence[str]) -> list[list[str]]:
    # It takes any of Unicode's line breaks for the end of a text.
    lines = ptb_lines([" ".join(text.split()) for text in texts])
    return [[token for token in line.split(" ") if token and token not in PUNCTUATION] for line in lines]


def _tokenise(
    outputs: Sequence[str], references: Sequence[Sequence[str]], tokens_of: Callable[[Sequence[str]], list[list[str]]]
) -> Tokenised:
    # References and outputs apart, as in the original: what a tokenizer sees beyond a text's end is then the same.
    flat = iter(tokens_of([text for wanted in references for text in wanted]))
    return Tokenised(tokens_of(outputs), [list(islice(flat, len(wanted))) for wanted in references])
