"""How weights adapt. `base` is the contract; each other module or package is one method behind it."""

from dora_cli.methods.base import Method
from dora_cli.methods.dora import Dora, triton_obstacle
from dora_cli.methods.head import HeadOnly

METHODS: dict[str, type[Method]] = {Dora.name: Dora, HeadOnly.name: HeadOnly}
"""Methods by the name a recipe gives them."""

__all__ = ["METHODS", "Dora", "HeadOnly", "Method", "triton_obstacle"]
