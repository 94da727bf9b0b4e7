"""What wants runs made, and may end before they do: a process that is forked for it."""

from __future__ import annotations

from dora_cli.compare.jobs import Job
from dora_cli.compare.workers.local import LocalPool
from dora_cli.compare.workers.stopping import closing


def make_all(jobs: list[Job]) -> None:
    """Makes the runs by a worker of this process."""
    with closing(LocalPool("cpu", 1), "start it again") as pool:
        for job in jobs:
            pool.submit(job)
            pool.wait()
