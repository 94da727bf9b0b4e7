"""How weights adapt. `base` is the contract; `low_rank` is what methods of two factors share, `bottleneck` what those
share that insert adapters, `base_tensors` those that train the base itself; each other package is one method behind the
contract.

An installed package brings a method by an entry point of the group ``dora_cli.methods``, named like the method.
"""

from dora_cli.libraries import brought
from dora_cli.methods.adalora import Adalora
from dora_cli.methods.base import Method
from dora_cli.methods.bitfit import BitFit
from dora_cli.methods.cola import Cola
from dora_cli.methods.cora import Cora
from dora_cli.methods.dora import Dora, triton_obstacle
from dora_cli.methods.flat_lora import FlatLora
from dora_cli.methods.full import Full
from dora_cli.methods.head import HeadOnly
from dora_cli.methods.houlsby import Houlsby
from dora_cli.methods.lora import Lora
from dora_cli.methods.lora_pro import LoraPro
from dora_cli.methods.low_rank.arithmetic.kernels import takes_triton
from dora_cli.methods.melora import Melora
from dora_cli.methods.nora import Nora
from dora_cli.methods.pfeiffer import Pfeiffer
from dora_cli.methods.sora import Sora
from dora_cli.methods.xgblora import Xgblora

GROUP = "dora_cli.methods"
"""The entry points of other packages' methods."""

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        Dora,
        Lora,
        Adalora,
        Sora,
        Melora,
        Cola,
        Nora,
        Cora,
        Xgblora,
        LoraPro,
        FlatLora,
        Full,
        BitFit,
        Houlsby,
        Pfeiffer,
        HeadOnly,
    )
}
"""Methods by the name a recipe gives them."""

METHODS.update(brought(GROUP, METHODS, lambda method: method.name if issubclass(method, Method) else None))

__all__ = [
    "METHODS",
    "Adalora",
    "BitFit",
    "Cola",
    "Cora",
    "Dora",
    "FlatLora",
    "Full",
    "HeadOnly",
    "Houlsby",
    "Lora",
    "LoraPro",
    "Melora",
    "Method",
    "Nora",
    "Pfeiffer",
    "Sora",
    "Xgblora",
    "takes_triton",
    "triton_obstacle",
]
