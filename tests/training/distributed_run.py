"""One process of a distributed run; started by test_distributed through torch's launcher.

Arguments: recipe, output folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dora_cli import load_recipe, train

if __name__ == "__main__":
    train(load_recipe(Path(sys.argv[1])), Path(sys.argv[2]))
