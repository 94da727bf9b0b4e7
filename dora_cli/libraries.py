"""Libraries that others would load and this program does without."""

from __future__ import annotations

import sys


def leave_out_torchvision() -> None:
    """Makes torchvision absent for this process; for programs only: in a user's own process it is the user's.

    Transformers loads it with every model where it is installed, and one built for another PyTorch, a frequent mishap, fails by that. Here
    are only texts. Transformers looks for it once: where it is loaded already, nothing is changed.
    """
    if "transformers" not in sys.modules:
        sys.modules.setdefault("torchvision", None)  # type: ignore[arg-type]  # by the import system's rules: not to be found


def bring_torchvision_back() -> None:
    """Undoes `leave_out_torchvision`: code that comes with a model may need it."""
    if "torchvision" in sys.modules and sys.modules["torchvision"] is None:
        del sys.modules["torchvision"]
