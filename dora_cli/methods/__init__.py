"""How weights adapt. `base` is the contract; `low_rank` is what methods of two factors share; each other module or
package is one method behind the contract.

An installed package brings a method by an entry point of the group ``dora_cli.methods``, named like the method.
"""

from dora_cli.libraries import brought
from dora_cli.methods.base import Method
from dora_cli.methods.dora import Dora, triton_obstacle
from dora_cli.methods.head import HeadOnly
from dora_cli.methods.lora import Lora
from dora_cli.methods.sora import Sora

GROUP = "dora_cli.methods"
"""The entry points of other packages' methods."""

METHODS: dict[str, type[Method]] = {method.name: method for method in (Dora, Lora, Sora, HeadOnly)}
"""Methods by the name a recipe gives them."""

METHODS.update(brought(GROUP, METHODS, lambda method: method.name if issubclass(method, Method) else None))

__all__ = ["METHODS", "Dora", "HeadOnly", "Lora", "Method", "Sora", "triton_obstacle"]
