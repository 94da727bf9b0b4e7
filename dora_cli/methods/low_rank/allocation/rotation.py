"""Placeholder until al1."""
from dataclasses import dataclass
@dataclass(frozen=True)
class Rotation:
    passes: tuple = ()
    def begin(self, adapters, beta):
        return None
ROTATIONS = {"none": Rotation()}
