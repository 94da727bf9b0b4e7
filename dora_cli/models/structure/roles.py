"""What a projection computes in its block, told by the names that model classes give it."""

from __future__ import annotations

from dora_cli.methods.base import Role, Shape

_ATTENTION: tuple[tuple[Role, frozenset[str]], ...] = (
    ("query", frozenset({"q", "query", "q_proj", "q_lin", "query_proj", "wq", "to_q", "q_head"})),
    ("key", frozenset({"k", "key", "k_proj", "k_lin", "key_proj", "wk", "to_k", "k_head"})),
    ("value", frozenset({"v", "value", "v_proj", "v_lin", "value_proj", "wv", "to_v", "v_head"})),
    ("fused", frozenset({"qkv", "query_key_value", "qkv_proj", "c_attn", "wqkv", "in_proj", "att_proj"})),
    (
        "output",
        frozenset(
            {"o", "o_proj", "out_proj", "out_lin", "c_proj", "wo", "to_out", "dense", "out", "output", "post_proj"}
        ),
    ),
)
_FFN: tuple[tuple[Role, frozenset[str]], ...] = (
    ("gate", frozenset({"gate_proj", "wi_0", "w1_gate", "gate"})),
    ("fused", frozenset({"gate_up_proj"})),
    ("up", frozenset({"up_proj", "fc1", "fc_in", "wi", "wi_1", "c_fc", "lin1", "dense_h_to_4h", "ffn", "linear1"})),
    (
        "down",
        frozenset({"down_proj", "fc2", "fc_out", "c_proj", "lin2", "wo", "dense_4h_to_h", "ffn_output"}),
    ),
)


_ASIDE = ("bottleneck", "adapter_modules")
"""Parts of a block beside attention and FFN that have linear maps of their own: MobileBERT's, X-MOD's."""


def role_of(path: str, group: str, shape: Shape) -> Role:
    """The role of a projection.

    Args:
        path: its path within the block.
        group: ``"attention"`` or ``"ffn"``.
        shape: ``(d_out, d_in)``; tells up from down where names do not.

    Returns:
        ``"other"`` where neither names nor shape tell.
    """
    *within, name = path.lower().split(".")
    if any(segment in _ASIDE for segment in within):
        return "other"
    for role, names in _ATTENTION if group == "attention" else _FFN:
        if name in names:
            return role
    d_out, d_in = shape
    if group == "attention" or d_out == d_in:
        return "other"
    return "up" if d_out > d_in else "down"
