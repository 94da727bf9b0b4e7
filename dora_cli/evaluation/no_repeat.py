"""No n-gram twice in an output, whatever its prompt says."""

from __future__ import annotations

import torch


def forbid_repeats(scores: torch.Tensor, tokens: torch.Tensor, written: torch.Tensor | int, size: int) -> torch.Tensor:
    """Scores with every token at minus infinity that would complete an n-gram for the second time.

    The same work on the device whatever is written, without waiting for it.

    Args:
        scores: ``(rows, vocabulary)``, of the next token.
        tokens: int64 ``(rows, room)``, what was generated, without its prompt; what stands behind is of no account.
        written: how many of them there are, the same in all rows; on the device of `tokens`.
        size: `n`, at least 1.
    """
    vocabulary, device = scores.shape[1], scores.device
    if tokens.shape[1] < size:
        return scores
    ngrams = tokens.unfold(1, size, 1)  # (rows, windows, n)
    last = (written - size + 1 + torch.arange(size - 1, device=device)).clamp(min=0)
    begun = (ngrams[:, :, :-1] == tokens.index_select(1, last)[:, None]).all(dim=-1)
    begun &= torch.arange(ngrams.shape[1], device=device) + size <= written
    # Windows that do not match mark a column beyond the vocabulary: one token may end windows of both kinds.
    marked = ngrams[:, :, -1].masked_fill(~begun, vocabulary)
    forbidden = torch.zeros(scores.shape[0], vocabulary + 1, dtype=torch.bool, device=device).scatter_(1, marked, True)
    return scores.masked_fill(forbidden[:, :vocabulary], -torch.inf)


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
        return forbid_repeats(scores, generated, generated.shape[1], self.size)
