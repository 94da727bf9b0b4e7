"""How texts are decoded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Decoding:
    """How texts are decoded; the defaults are those of LoRA's published E2E runs (reference section 2.2).

    Attributes:
        beams: width of the beam search; 1 is greedy.
        length_penalty: `p` in the score of a hypothesis, the sum of its log probabilities divided by ``(generated
            tokens) ** p``.
        max_new_tokens: an output has at most this many tokens, its end token included.
        no_repeat_ngram: no n-gram of this size comes twice in an output; 0 allows any.
        batch_size: sources at a time, in each process.
    """

    beams: int = 10
    length_penalty: float = 0.8
    max_new_tokens: int = 64
    no_repeat_ngram: int = 4
    batch_size: int = 16

    def __post_init__(self) -> None:
        assert min(self.beams, self.max_new_tokens, self.batch_size) >= 1, self
        assert self.no_repeat_ngram >= 0, self
