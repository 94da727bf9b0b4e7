"""Which examples belong together because they share a text, and how such examples are parted."""

from dora_cli.data.ties.groups import Groups, tie_texts
from dora_cli.data.ties.parting import Parting, part_groups

__all__ = ["Groups", "Parting", "part_groups", "tie_texts"]
