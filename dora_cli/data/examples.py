"""The examples of one split, as text."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Examples:
    """Texts and labels of one split, in the order of their source.

    Attributes:
        texts: one list for single sentences, two lists of equal length for pairs.
        labels: class ids, or floats for a regression; None where the source has no labels, as in official test files.
    """

    texts: tuple[list[str], ...]
    labels: list[int] | list[float] | None

    def __post_init__(self) -> None:
        assert len(self.texts) in (1, 2), "one or two texts per example"
        assert len({len(column) for column in self.texts} | ({len(self.labels)} if self.labels is not None else set())) == 1

    def __len__(self) -> int:
        return len(self.texts[0])

    def fingerprint(self) -> str:
        """SHA-256 of the contents, as 64 hexadecimal digits. Equal for equal texts and labels in equal order, wherever they came from."""
        digest = hashlib.sha256()
        kind = "none" if self.labels is None else "float" if any(isinstance(label, float) for label in self.labels) else "int"
        digest.update(f"examples 1;{len(self.texts)};{len(self)};{kind};".encode())
        for column in self.texts:
            encoded = [text.encode("utf-8", "surrogatepass") for text in column]
            # Lengths first, so that no two different lists give the same bytes.
            digest.update(np.array([len(text) for text in encoded], dtype="<i8").tobytes())
            digest.update(b"".join(encoded))
        if self.labels is not None:
            digest.update(np.array(self.labels, dtype="<f8").tobytes())
        return digest.hexdigest()

    def sample(self, count: int, seed: int) -> Examples:
        """A random subset of `count` examples in their original order, or all of them if there are not more.

        The choice depends on the number of examples, `count` and `seed` only.
        """
        assert count > 0
        if count >= len(self):
            return self
        kept = np.sort(np.random.default_rng(seed).permutation(len(self))[:count]).tolist()
        labels = None if self.labels is None else [self.labels[i] for i in kept]
        return Examples(tuple([column[i] for i in kept] for column in self.texts), labels)
