"""Libraries that others would load and this program does without."""

from __future__ import annotations

import sys


def leave_out_torchvision() -> None:
    """Makes torchvision absent for this process, unless it is loaded already.

    Transformers loads it with every model where it is installed, and one built for another PyTorch, a frequent mishap, fails by that. Here
    are only texts. Programs only: in a user's own process it is the user's.
    """
    sys.modules.setdefault("torchvision", None)  # type: ignore[arg-type]  # by the import system's rules: not to be found
