"""What a change of a key has an effect on: said once, at the key, by the alias around its type.

Whatever asks which keys may change (a resumed run, an evaluation, an export, a report over several seeds) asks
`dora_cli.recipe.changes`, which reads it from there.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, TypeVar

T = TypeVar("T")


class Effect(Enum):
    """What another value of a key would change. The numbers of a run follow from all keys but those of the last three
    kinds; a finished one may be evaluated with other values of all but `RUN`, `SEED`, `SPEED` and `RECORDS`.
    """

    RUN = "what is trained, or what of it is kept"
    SEED = "which of many equal runs it is"
    PLACE = "where base model and data lie, which fingerprints know again"
    SOURCE = "how base model and data are found and read"
    MACHINE = "how this machine computes, and what it is allowed to run"
    EVALUATION = "what an evaluation computes"
    BATCHING = "how much an evaluation holds in memory at once"
    SPEED = "how fast steps go"
    RECORDS = "what is written down, and when"


ForRun = Annotated[T, Effect.RUN]
ForSeed = Annotated[T, Effect.SEED]
ForPlace = Annotated[T, Effect.PLACE]
ForSource = Annotated[T, Effect.SOURCE]
ForMachine = Annotated[T, Effect.MACHINE]
ForEvaluation = Annotated[T, Effect.EVALUATION]
ForBatching = Annotated[T, Effect.BATCHING]
ForSpeed = Annotated[T, Effect.SPEED]
ForRecords = Annotated[T, Effect.RECORDS]
