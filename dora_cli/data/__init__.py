"""Where examples come from, how they are encoded, and in which order they are seen."""

from dora_cli.data.batches import Group, plan_epoch, steps_per_epoch
from dora_cli.data.encoding import EncodedSplit, encode
from dora_cli.data.examples import Examples
from dora_cli.data.load import load_examples

__all__ = ["EncodedSplit", "Examples", "Group", "encode", "load_examples", "plan_epoch", "steps_per_epoch"]
