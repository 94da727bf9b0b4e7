"""A program that makes runs through two workers: ``python -m tests.compare.workers.driver RECIPE FOLDER...``.

Its exit code is that of the first run that failed, or of the signal that stopped it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from dora_cli.compare.jobs import Job
from dora_cli.compare.workers.local import LocalPool
from dora_cli.compare.workers.stopping import closing
from dora_cli.errors import StoppedError
from dora_cli.recipe import load_recipe


def main() -> int:
    recipe = load_recipe(Path(sys.argv[1]))
    left = [Job(Path(folder).name, Path(folder), recipe) for folder in sys.argv[2:]]
    under_way = 0
    try:
        with closing(LocalPool("cpu", 2), "start it again") as pool:
            while left or under_way:
                while left and pool.free:
                    pool.submit(left.pop(0))
                    under_way += 1
                for _, ended in pool.wait():
                    under_way -= 1
                    if ended.exit_code:
                        print(ended.message, file=sys.stderr)
                        return ended.exit_code
    except StoppedError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
