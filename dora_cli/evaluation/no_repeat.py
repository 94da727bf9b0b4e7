"""No n-gram twice in an output, whatever its prompt says."""

from __future__ import annotations

import torch


def forbid_repeats(scores: torch.Tensor, tokens: torch.Tensor, written: torch.Tensor | int, size: int) -> torch.Tensor:
    """Puts every token at minus infinity that would complete an n-gram for the second time; returns `scores`.

    The same work on the device whatever is written, without waiting for it, and on no more than the scores of tokens
    that were generated.

    Args:
        scores: ``(rows, vocabulary)``, of the next token; changed in place.
        tokens: int64 ``(rows, room)``, what was generated, without its prompt; what stands behind is of no account.
        written: how many of them there are, the same in all rows; on the device of `tokens`.
        size: `n`, at least 1.
    """
    device = scores.device
    if tokens.shape[1] < size:
        return scores
    ngrams = tokens.unfold(1, size, 1)  # (rows, windows, n)
    last = (written - size + 1 + torch.arange(size - 1, device=device)).clamp(min=0)
    begun = (ngrams[:, :, :-1] == tokens.index_select(1, last)[:, None]).all(dim=-1)
    begun &= torch.arange(ngrams.shape[1], device=device) + size <= written
    # The least of what is there and of what its windows say: one token may end windows that match and others.
    said = torch.full(begun.shape, torch.inf, dtype=scores.dtype, device=device).masked_fill_(begun, -torch.inf)
    return scores.scatter_reduce_(1, ngrams[:, :, -1], said, "amin")


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
        return forbid_repeats(scores.clone(), generated, generated.shape[1], self.size)
