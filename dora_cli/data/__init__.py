"""Where examples come from, how they are encoded, and in which order they are seen."""

from dora_cli.data.batches import Group, plan_epoch, steps_per_epoch
from dora_cli.data.encoding import Encoded, EncodedSplit, encode
from dora_cli.data.examples import Examples
from dora_cli.data.layout import PairLayout, pair_layout
from dora_cli.data.pairs import EncodedPairs, EncodedSources, encode_pairs, encode_sources, pair_lengths
from dora_cli.data.references import ReferenceGroups, group_references
from dora_cli.data.sources.files import Input, forget_table, read_file, read_input
from dora_cli.data.sources.load import load_examples
from dora_cli.data.transfer import inputs_of, to_device

__all__ = [
    "Encoded",
    "EncodedPairs",
    "EncodedSources",
    "EncodedSplit",
    "Examples",
    "Group",
    "Input",
    "PairLayout",
    "ReferenceGroups",
    "encode",
    "encode_pairs",
    "encode_sources",
    "forget_table",
    "group_references",
    "inputs_of",
    "load_examples",
    "pair_layout",
    "pair_lengths",
    "plan_epoch",
    "read_file",
    "read_input",
    "steps_per_epoch",
    "to_device",
]
