"""Libraries that others would load and this program does without."""

from __future__ import annotations

import sys

LEFT_OUT = ("torchvision", "scipy", "sklearn")
"""Transformers loads them with every model where they are installed. A torchvision built for another PyTorch, a frequent mishap, fails by
that; scipy and scikit-learn, for object detection and assisted generation, take a second, and a metric that needs them brings them back."""


def leave_out() -> None:
    """Makes the libraries of `LEFT_OUT` absent for this process; for programs only: in a user's own process they are the user's.

    Transformers looks for each once: where it is loaded already, nothing is changed.
    """
    if "transformers" not in sys.modules:
        for name in LEFT_OUT:
            sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # by the import system's rules: not to be found


def bring_back(*names: str) -> None:
    """Undoes `leave_out` for these, or for all: for what needs them, and for code that is not ours and may need them."""
    for name in names or LEFT_OUT:
        if name in sys.modules and sys.modules[name] is None:
            del sys.modules[name]
