"""What stands between a projection and the end of its residual branch: the model's dropout, and in post-norm blocks the
norm of the residual sum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from dora_cli.methods.norms import is_norm

_BART = {
    "self_attn.out_proj": "self_attn_layer_norm",
    "encoder_attn.out_proj": "encoder_attn_layer_norm",
    "fc2": "final_layer_norm",
}
_FLAT: Mapping[str, Mapping[str, str]] = {
    "albert": {"attention.dense": "attention.LayerNorm", "ffn_output": "full_layer_layer_norm"},
    "bart": _BART,
    "blenderbot-small": _BART,
    "distilbert": {"attention.out_lin": "sa_layer_norm", "ffn.lin2": "output_layer_norm"},
    "fsmt": _BART,
    "funnel": {"attention.post_proj": "attention.layer_norm", "ffn.linear_2": "ffn.layer_norm"},
    "led": {**_BART, "self_attn.output": "self_attn_layer_norm"},
    "marian": _BART,
    "mpnet": {"attention.attn.o": "attention.LayerNorm"},
    "mvp": _BART,
    "nomic_bert": {"self_attn.o_proj": "post_attention_layernorm", "mlp.down_proj": "post_mlp_layernorm"},
    "openai-gpt": {"attn.c_proj": "ln_1", "mlp.c_proj": "ln_2"},
    "opt": {"self_attn.out_proj": "self_attn_layer_norm", "fc2": "final_layer_norm"},
    "plbart": _BART,
    "prophetnet": {
        "self_attn.out_proj": "self_attn_layer_norm",
        "cross_attn.out_proj": "cross_attn_layer_norm",
        "feed_forward.output": "feed_forward_layer_norm",
    },
    "xlnet": {"ff.layer_2": "ff.layer_norm"},
}
"""By type of model, the norm of the residual sum after a projection, as paths within the block; for post-norm models
whose blocks keep norms apart from projections. Those that keep them together (BERT and what descends from it) are known
by that.
"""


def after_projection(config: Any, block: nn.Module, block_name: str, path: str) -> tuple[str, str]:
    """What the output of a projection of attention or FFN goes through at the end of its residual branch.

    Args:
        config: of the model; None if it has none.
        block: the block.
        block_name: full path of the block.
        path: path of the projection within the block.

    Returns:
        Full paths of the model's dropout and of the norm of the residual sum, each empty where there is none, or none
        that can be told.
    """
    model_type = str(getattr(config, "model_type", ""))
    if model_type == "opt" and getattr(config, "do_layer_norm_before", True):
        return "", ""
    if norm := _FLAT.get(model_type, {}).get(path):
        return "", f"{block_name}.{norm}" if _holds_norm(block, norm) else ""
    parent, _, own = path.rpartition(".")
    return _beside(block.get_submodule(parent), f"{block_name}.{parent}", own) if parent else ("", "")


def _holds_norm(block: nn.Module, path: str) -> bool:
    try:
        return is_norm(block.get_submodule(path))
    except AttributeError:
        return False


def _beside(parent: nn.Module, name: str, projection: str) -> tuple[str, str]:
    """Dropout and norm of a module that is a projection and these, as BERT's output modules are."""
    others = {path: child for path, child in parent.named_children() if path != projection}
    norms = [path for path, child in others.items() if is_norm(child)]
    dropouts = [path for path, child in others.items() if "dropout" in type(child).__name__.lower()]
    if len(norms) != 1 or len(dropouts) > 1 or len(others) != len(norms) + len(dropouts):
        return "", ""
    return (f"{name}.{dropouts[0]}" if dropouts else ""), f"{name}.{norms[0]}"
