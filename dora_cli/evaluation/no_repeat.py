"""No n-gram twice in an output, whatever its prompt says."""

from __future__ import annotations

import torch


class NoRepeatNgram:
    """Forbids every token that would complete an n-gram for the second time among the *generated* tokens.

    Transformers' own processor counts the prompt of a decoder too, and so would forbid to copy a long name out of it.
    Called as a logits processor of `generate`; it computes on the device and never waits for it.

    Args:
        size: `n`, at least 1.
        prompt_length: how many tokens at the start of every row were not generated (padding included).
    """

    def __init__(self, size: int, prompt_length: int) -> None:
        assert size >= 1, size
        assert prompt_length >= 0, prompt_length
        self.size = size
        self.prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores with the forbidden tokens at minus infinity.

        Args:
            input_ids: int64 ``(rows, prompt_length + generated)``.
            scores: ``(rows, vocabulary)``, of the next token.
        """
        generated = input_ids[:, self.prompt_length :]
        if generated.shape[1] < self.size:
            return scores
        vocabulary = scores.shape[1]
        ngrams = generated.unfold(1, self.size, 1)  # (rows, windows, n)
        tail = generated[:, generated.shape[1] - self.size + 1 :]
        begun = (ngrams[:, :, :-1] == tail[:, None]).all(dim=-1)
        # Windows that do not match mark a column beyond the vocabulary: one token may end windows of both kinds.
        marked = torch.where(begun, ngrams[:, :, -1], vocabulary)
        forbidden = torch.zeros(scores.shape[0], vocabulary + 1, dtype=torch.bool, device=scores.device).scatter_(
            1, marked, True
        )
        return scores.masked_fill(forbidden[:, :vocabulary], -torch.inf)
