"""Which projections are found, by exact name and shape; the expected lists are written out from the published
architectures.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import transformers as tf
from torch import nn

from dora_cli.errors import ProjectionError
from dora_cli.models import find_projections, left_out
from tests.models.conftest import SMALL

H, F = 16, 32  # hidden and FFN width of the small models
Expected = Sequence[tuple[str, tuple[int, int]]]
BERT: Expected = [
    ("attention.self.query", (H, H)),
    ("attention.self.key", (H, H)),
    ("attention.self.value", (H, H)),
    ("attention.output.dense", (H, H)),
    ("intermediate.dense", (F, H)),
    ("output.dense", (H, F)),
]
# architecture -> config, path of the list of blocks, projections of every block
ENCODERS: dict[str, tuple[Any, str, Expected]] = {
    "roberta": (tf.RobertaConfig(**SMALL), "roberta.encoder.layer", BERT),
    "bert": (tf.BertConfig(**SMALL), "bert.encoder.layer", BERT),
    "electra": (tf.ElectraConfig(embedding_size=8, **SMALL), "electra.encoder.layer", BERT),
    "deberta-v2": (
        # with relative attention, whose own position projections are linear maps of the block too
        tf.DebertaV2Config(relative_attention=True, pos_att_type=["c2p", "p2c"], share_att_key=False, **SMALL),
        "deberta.encoder.layer",
        [
            ("attention.self.query_proj", (H, H)),
            ("attention.self.key_proj", (H, H)),
            ("attention.self.value_proj", (H, H)),
            ("attention.self.pos_key_proj", (H, H)),
            ("attention.self.pos_query_proj", (H, H)),
            *BERT[3:],
        ],
    ),
    "mpnet": (
        tf.MPNetConfig(**SMALL),
        "mpnet.encoder.layer",
        [*((f"attention.attn.{x}", (H, H)) for x in "qkvo"), *BERT[4:]],
    ),
    "distilbert": (
        tf.DistilBertConfig(dim=H, hidden_dim=F, n_layers=2, n_heads=4, vocab_size=50),
        "distilbert.transformer.layer",
        [*((f"attention.{x}_lin", (H, H)) for x in ("q", "k", "v", "out")), ("ffn.lin1", (F, H)), ("ffn.lin2", (H, F))],
    ),
    "gpt2": (
        tf.GPT2Config(n_embd=H, n_inner=F, n_layer=2, n_head=4, vocab_size=50, bos_token_id=2, eos_token_id=3),
        "transformer.h",
        # Conv1D keeps (d_in, d_out); the fused projection of query, key and value is one linear map
        [("attn.c_attn", (3 * H, H)), ("attn.c_proj", (H, H)), ("mlp.c_fc", (F, H)), ("mlp.c_proj", (H, F))],
    ),
    "llama": (
        tf.LlamaConfig(num_key_value_heads=2, **SMALL),
        "model.layers",
        [
            ("self_attn.q_proj", (H, H)),
            ("self_attn.k_proj", (H // 2, H)),  # 2 key-value heads for 4 query heads
            ("self_attn.v_proj", (H // 2, H)),
            ("self_attn.o_proj", (H, H)),
            ("mlp.gate_proj", (F, H)),
            ("mlp.up_proj", (F, H)),
            ("mlp.down_proj", (H, F)),
        ],
    ),
}


def on_meta(config: Any) -> nn.Module:
    with torch.device("meta"):
        return tf.AutoModelForSequenceClassification.from_config(config)


@pytest.mark.parametrize("name", ENCODERS)
def test_one_stack(name: str) -> None:
    config, blocks, expected = ENCODERS[name]
    projections = find_projections(on_meta(config), ["attention", "ffn"])
    stack = "decoder" if name in ("gpt2", "llama") else "encoder"
    assert [(p.name, p.projection, p.shape, p.block) for p in projections] == [
        (f"{blocks}.{block}.{path}", path, shape, block) for block in range(2) for path, shape in expected
    ]
    for p in projections:
        attention = "att" in p.projection
        assert (p.stack, p.group, p.attention) == (
            stack,
            "attention" if attention else "ffn",
            "self" if attention else None,
        )


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_decoder_s_language_model_has_the_projections_of_its_classifier(name: str) -> None:
    """And not its untied LM head, which lies outside the blocks."""
    config, blocks, expected = ENCODERS[name]
    with torch.device("meta"):
        model = tf.AutoModelForCausalLM.from_config(config)
    assert isinstance(model.lm_head, nn.Linear)
    projections = find_projections(model)
    assert [(p.name, p.shape) for p in projections] == [
        (f"{blocks}.{b}.{path}", shape) for b in range(2) for path, shape in expected
    ]
    assert {p.stack for p in projections} == {"decoder"}


def test_bart_generates_with_the_projections_it_classifies_with() -> None:
    config = tf.BartConfig(
        d_model=H, encoder_layers=2, decoder_layers=2, encoder_ffn_dim=F, decoder_ffn_dim=F,
        encoder_attention_heads=2, decoder_attention_heads=2, vocab_size=50,
    )  # fmt: skip
    attention = [("k_proj", (H, H)), ("v_proj", (H, H)), ("q_proj", (H, H)), ("out_proj", (H, H))]
    ffn = [("fc1", (F, H)), ("fc2", (H, F))]
    own, cross = ([(f"{kind}.{path}", shape) for path, shape in attention] for kind in ("self_attn", "encoder_attn"))
    with torch.device("meta"):
        model = tf.AutoModelForSeq2SeqLM.from_config(config)
    assert [(p.name, p.shape, p.stack, p.attention) for p in find_projections(model)] == [
        (f"model.{stack}.layers.{block}.{path}", shape, stack, kind)
        for stack, kinds in (
            ("encoder", [("self", own), (None, ffn)]),
            ("decoder", [("self", own), ("cross", cross), (None, ffn)]),
        )
        for block in range(2)
        for kind, paths in kinds
        for path, shape in paths
    ]


def test_modules_are_the_model_s_own() -> None:
    model = tf.GPT2ForSequenceClassification(ENCODERS["gpt2"][0])
    for p in find_projections(model):
        assert model.get_submodule(p.name) is p.module
        x = torch.ones(3, p.shape[1])
        assert p.module(x).shape == (3, p.shape[0])


def test_roberta_base_has_the_published_number_of_projections() -> None:
    projections = find_projections(on_meta(tf.RobertaConfig()))
    assert len(projections) == 12 * 6 == 72
    assert sum(sum(p.shape) for p in projections) == 12 * (4 * 1536 + 2 * 3840) == 165_888


def test_bart_base_has_the_published_number_of_projections() -> None:
    heads = {"encoder_attention_heads": 12, "decoder_attention_heads": 12}
    config = tf.BartConfig(
        d_model=768, encoder_layers=6, decoder_layers=6, encoder_ffn_dim=3072, decoder_ffn_dim=3072, **heads
    )
    projections = find_projections(on_meta(config))
    assert len(projections) == 6 * 6 + 6 * 10 == 96
    assert sum(sum(p.shape) for p in projections) == 6 * (12 * 1536 + 4 * 3840) == 202_752
    assert Counter((p.stack, p.attention) for p in projections) == {
        ("encoder", "self"): 24,
        ("encoder", None): 12,
        ("decoder", "self"): 24,
        ("decoder", "cross"): 24,
        ("decoder", None): 12,
    }
    assert all(p.projection.startswith("encoder_attn.") == (p.attention == "cross") for p in projections)
    assert {p.block for p in projections if p.stack == "decoder"} == set(range(6))


@pytest.mark.parametrize(("gated", "inputs"), [("relu", ["wi"]), ("gated-gelu", ["wi_0", "wi_1"])])
def test_t5(gated: str, inputs: list[str]) -> None:
    config = tf.T5Config(d_model=H, d_kv=4, d_ff=F, num_layers=2, num_heads=4, vocab_size=50, feed_forward_proj=gated)

    def attention(layer: int, kind: str) -> list[str]:
        return [f"layer.{layer}.{kind}.{x}" for x in "qkvo"]

    def ffn(layer: int) -> list[str]:
        return [f"layer.{layer}.DenseReluDense.{x}" for x in [*inputs, "wo"]]

    encoder = attention(0, "SelfAttention") + ffn(1)
    decoder = attention(0, "SelfAttention") + attention(1, "EncDecAttention") + ffn(2)
    for model, prefix in ((on_meta(config), "transformer."), (tf.T5ForConditionalGeneration(config), "")):
        projections = find_projections(model)
        assert [p.name for p in projections] == [
            f"{prefix}{stack}.block.{block}.{path}"
            for stack, paths in (("encoder", encoder), ("decoder", decoder))
            for block in range(2)
            for path in paths
        ]
        assert all(p.stack == p.name.removeprefix(prefix).split(".")[0] for p in projections)
        assert [p.attention for p in projections[-len(decoder) :]] == ["self"] * 4 + ["cross"] * 4 + [None] * len(
            ffn(2)
        )
    assert projections[-1].shape == (H, F)


@pytest.mark.parametrize(("groups", "inner"), [(1, 1), (2, 1), (2, 3)])
def test_albert_adapts_shared_layers_once(groups: int, inner: int) -> None:
    config = tf.AlbertConfig(num_hidden_groups=groups, inner_group_num=inner, **{**SMALL, "num_hidden_layers": 12})
    paths = ["attention.query", "attention.key", "attention.value", "attention.dense", "ffn", "ffn_output"]
    projections = find_projections(on_meta(config))
    assert [(p.name, p.block) for p in projections] == [
        (f"albert.encoder.albert_layer_groups.{group}.albert_layers.{layer}.{path}", group * inner + layer)
        for group in range(groups)
        for layer in range(inner)
        for path in sorted(paths, key=[p.projection for p in projections].index)
    ]
    assert {p.projection: p.group for p in projections} == {
        path: "attention" if "att" in path else "ffn" for path in paths
    }


def test_a_list_of_heads_does_not_make_blocks_of_mobilebert() -> None:
    """Its block keeps a list of equal FFNs, which holds only some of the block's linear maps."""
    with torch.device("meta"):
        model = tf.MobileBertForSequenceClassification(tf.MobileBertConfig(num_hidden_layers=3, vocab_size=50))
    projections = find_projections(model)
    assert {p.block for p in projections} == {0, 1, 2}
    assert {"ffn.0.intermediate.dense", "ffn.2.output.dense", "attention.self.query"} <= {
        p.projection for p in projections
    }


def test_two_lists_side_by_side() -> None:
    """XLM keeps attention and FFN in two lists; a block is what stands at one index of both."""
    with torch.device("meta"):
        model = tf.XLMForSequenceClassification(tf.XLMConfig(emb_dim=H, n_layers=2, n_heads=4, n_words=50))
    attention = find_projections(model, ["attention"])
    assert [p.name for p in attention] == [
        f"transformer.attentions.{i}.{x}_lin" for i in range(2) for x in ("q", "k", "v", "out")
    ]
    assert [p.block for p in find_projections(model, ["ffn"])] == [0, 0, 1, 1]


# --- home-made models: nothing of transformers, no known name ---------------------------------------------------------


class Look(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Sequential(nn.Linear(d, d // 2), nn.Linear(d // 2, d // 2)) for _ in range(2))
        self.mix = nn.Linear(d, d)


class Storey(nn.Module):
    def __init__(self, d: int, f: int) -> None:
        super().__init__()
        self.attending = Look(d)
        self.widen, self.narrow = nn.Linear(d, f), nn.Linear(f, d)
        self.smooth = nn.Conv1d(d, d, 3)


class House(nn.Module):
    def __init__(self, storeys: list[nn.Module] | None = None) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 8)
        self.entrance = nn.Linear(8, 8)
        self.storeys = nn.ModuleList(storeys or [Storey(8, 12) for _ in range(3)])
        self.roof = nn.Linear(8, 2)


def test_home_made_encoder() -> None:
    paths = [f"attending.heads.{i}.{j}" for i in range(2) for j in range(2)] + ["attending.mix", "widen", "narrow"]
    projections = find_projections(House())
    assert [p.name for p in projections] == [f"storeys.{block}.{path}" for block in range(3) for path in paths]
    assert {(p.stack, p.attention, p.group) for p in projections} == {
        ("encoder", "self", "attention"),
        ("encoder", None, "ffn"),
    }
    assert [p.shape for p in projections[4:7]] == [(8, 8), (12, 8), (8, 12)]


def test_a_block_or_linear_map_used_twice_appears_once() -> None:
    storey = Storey(8, 12)
    assert {p.block for p in find_projections(House([storey, storey, Storey(8, 12)]))} == {0, 1}
    shared = House()
    shared.storeys[1].widen = shared.storeys[0].widen  # type: ignore[union-attr, assignment]
    names = [p.name for p in find_projections(shared, ["widen"])]
    assert names == ["storeys.0.widen", "storeys.2.widen"]


def test_two_lists_of_one_stack_do_not_share_block_numbers() -> None:
    house = House()
    house.attic = nn.ModuleList([Storey(8, 12), Storey(8, 12)])
    assert [p.block for p in find_projections(house, ["widen"])] == [0, 1, 2, 3, 4]


def test_home_made_decoder_with_cross_attention() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.self_attn, self.cross_attn, self.out = nn.Linear(4, 4), nn.Linear(6, 4), nn.Linear(4, 4)

    house = House()
    house.text_decoder = nn.ModuleDict({"layers": nn.ModuleList([Reader(), Reader()])})
    found = [
        (p.projection, p.stack, p.block, p.attention)
        for p in find_projections(house)
        if p.name.startswith("text_decoder")
    ]
    assert found == [
        (path, "decoder", block, attention)
        for block in range(2)
        for path, attention in (("self_attn", "self"), ("cross_attn", "cross"), ("out", None))
    ]


# --- targets ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("targets", "paths"),
    [
        (
            ["attention"],
            ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"],
        ),
        (["ffn"], ["intermediate.dense", "output.dense"]),
        (["query", "value"], ["attention.self.query", "attention.self.value"]),  # last segment
        (["self.*"], ["attention.self.query", "attention.self.key", "attention.self.value"]),  # an end of the path
        (["output.dense"], ["attention.output.dense", "output.dense"]),
        (["attention.output.dense", "ffn"], ["attention.output.dense", "intermediate.dense", "output.dense"]),
        (["que[rs]y", "query"], ["attention.self.query"]),  # twice the same
    ],
)
def test_patterns(targets: list[str], paths: list[str]) -> None:
    projections = find_projections(on_meta(ENCODERS["bert"][0]), targets)
    assert [(p.block, p.projection) for p in projections] == [(block, path) for block in range(2) for path in paths]


def test_a_pattern_may_name_full_paths() -> None:
    model = on_meta(ENCODERS["bert"][0])
    assert {p.block for p in find_projections(model, ["bert.encoder.layer.1.*"])} == {1}
    assert [p.name for p in find_projections(model, ["layer.0.attention.self.key"])] == [
        "bert.encoder.layer.0.attention.self.key"
    ]


@pytest.mark.parametrize("pattern", ["quarry", "classifier", "bert.pooler.dense", "Attention", "layer.2.*"])
def test_a_pattern_without_match_lists_what_could_be(pattern: str) -> None:
    with pytest.raises(ProjectionError) as caught:
        find_projections(on_meta(ENCODERS["bert"][0]), ["ffn", pattern])
    message = str(caught.value)
    assert repr(pattern) in message
    assert "BertForSequenceClassification" in message
    for path, _ in BERT:
        assert f"{path} (x2)" in message
    assert "classifier (x" not in message
    assert "pooler" not in message.replace(pattern, "")


def test_no_targets() -> None:
    with pytest.raises(ProjectionError, match=r"method\.targets is empty"):
        find_projections(House(), [])


def test_no_blocks() -> None:
    with pytest.raises(ProjectionError, match=r"Sequential has no blocks.*ModuleList"):
        find_projections(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))


@pytest.mark.parametrize("targets", [["attention"], ["attention", "ffn"], ["*.q_proj"]])
def test_blocks_of_several_classes_are_named(targets: list[str]) -> None:
    """Jamba's layers take turns; its experts alone could be found, and are refused where a target reaches them."""
    experts = {"expert_layer_period": 2, "expert_layer_offset": 1, "num_experts": 2}
    mamba = {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    }
    model = on_meta(tf.JambaConfig(num_key_value_heads=2, pad_token_id=0, **experts, **mamba, **SMALL))
    with pytest.raises(
        ProjectionError,
        match=r"JambaForSequenceClassification .* JambaAttentionDecoderLayer and "
        r"JambaMambaDecoderLayer",
    ):
        find_projections(model, targets)


# --- what is refused by name ------------------------------------------------------------------------------------------

MIXTURES = {
    "mixtral": tf.MixtralConfig(num_key_value_heads=2, num_local_experts=3, **SMALL),
    "qwen2_moe": tf.Qwen2MoeConfig(
        num_key_value_heads=2, num_experts=4, moe_intermediate_size=8, shared_expert_intermediate_size=8, **SMALL
    ),
}


@pytest.mark.parametrize("name", MIXTURES)
@pytest.mark.parametrize("targets", [["attention", "ffn"], ["*.gate"], ["*experts*"]])
def test_mixtures_of_experts_are_refused_by_name(name: str, targets: list[str]) -> None:
    with torch.device("meta"):
        model = tf.AutoModelForCausalLM.from_config(MIXTURES[name])
    with pytest.raises(ProjectionError, match="mixture of experts") as caught:
        find_projections(model, targets)
    mixtures = [path for path, module in model.named_modules() if type(module).__name__.endswith("SparseMoeBlock")]
    assert len(mixtures) == 2
    for part in (*mixtures, "targets: [attention]"):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", MIXTURES)
def test_attention_of_a_mixture_can_be_adapted(name: str) -> None:
    with torch.device("meta"):
        model = tf.AutoModelForCausalLM.from_config(MIXTURES[name])
    assert [p.projection for p in find_projections(model, ["attention"])] == [f"self_attn.{x}_proj" for x in "qkvo"] * 2


def test_home_made_experts() -> None:
    class Stacked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.zeros(3, 8, 8))

    listed, stacked = House(), House()
    listed.storeys[1].experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))  # type: ignore[union-attr]
    stacked.storeys[2].many = Stacked()  # type: ignore[union-attr]
    with pytest.raises(ProjectionError, match=r"storeys\.1\.experts \(ModuleList\)"):
        find_projections(listed)
    with pytest.raises(ProjectionError, match=r"storeys\.2\.many\.w \(3-D weight \[3, 8, 8\]\)"):
        find_projections(stacked)
    assert len(find_projections(listed, ["attention"])) == 15


# --- state-space mixers -----------------------------------------------------------------------------------------------

_STATE: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 50}
_HEADS: dict[str, Any] = {
    "intermediate_size": 32,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 50,
    "hidden_size": 16,
}
STATE_SPACE: dict[str, tuple[Any, list[str]]] = {
    "mamba": (tf.MambaConfig(state_size=4, **_STATE), ["x_proj", "dt_proj", "out_proj"]),
    "falcon_mamba": (tf.FalconMambaConfig(state_size=4, **_STATE), ["x_proj", "dt_proj", "out_proj"]),
    "mamba2": (tf.Mamba2Config(state_size=4, num_heads=4, head_dim=8, n_groups=1, chunk_size=8, **_STATE),
    ["out_proj"]),
    "falcon_h1": (
        tf.FalconH1Config(
            num_hidden_layers=2, mamba_d_ssm=16, mamba_n_heads=4, mamba_d_head=4, mamba_d_state=4, mamba_n_groups=1,
            mamba_chunk_size=8,
            **_HEADS,
        ),
        ["out_proj"],
    ),
    "nemotron_h": (
        tf.NemotronHConfig(
            layers_block_type=["mamba", "attention"], head_dim=8, mamba_num_heads=4, mamba_head_dim=8, ssm_state_size=4,
            n_groups=1,
            chunk_size=8, **_HEADS,
        ),
        ["out_proj"],
    ),
}  # fmt: skip
"""Every model type on which PEFT refuses projections, and what fused kernels read past the module there."""


def peft_takes(model: nn.Module, targets: list[str]) -> bool:
    """PEFT's own answer."""
    from peft import LoraConfig, get_peft_model

    try:
        get_peft_model(copy.deepcopy(model), LoraConfig(r=1, target_modules=targets))  # type: ignore[arg-type]
    except ValueError as error:
        return "incompatible with Mamba" not in str(error)
    return True


def causal(name: str) -> nn.Module:
    torch.manual_seed(0)
    return tf.AutoModelForCausalLM.from_config(STATE_SPACE[name][0])


@pytest.mark.parametrize("name", STATE_SPACE)
def test_what_kernels_read_past_the_module_is_no_default_target(name: str) -> None:
    model, past = causal(name), STATE_SPACE[name][1]
    projections = find_projections(model, ["ffn"])
    assert {p.projection.rpartition(".")[2] for p in projections}.isdisjoint(past)
    assert any(p.projection.endswith(".in_proj") for p in projections)
    assert peft_takes(model, [p.name for p in projections])
    by_pattern = [p.name for p in find_projections(model, ["*.out_proj"])]
    assert by_pattern
    assert not peft_takes(model, by_pattern)
    note = left_out(model, ["attention", "ffn"])
    assert note is not None
    assert all(f"{path} (x" in note for path in past)
    assert left_out(model, ["*.out_proj"]) is None
    assert left_out(on_meta(ENCODERS["llama"][0]), ["attention", "ffn"]) is None


@pytest.mark.parametrize("name", STATE_SPACE)
def test_a_projection_of_a_mixer_that_is_never_called_is_refused(name: str) -> None:
    """Which those are is seen in a forward pass."""
    model = causal(name)
    linear = {path for path, module in model.named_modules() if isinstance(module, nn.Linear) and path != "lm_head"}
    called: set[str] = set()
    for path in linear:
        model.get_submodule(path).register_forward_hook(lambda *_, path=path: called.add(path))
    model(input_ids=torch.arange(5)[None])
    for path in sorted(linear):
        if path in called:
            assert [p.name for p in find_projections(model, [path])] == [path]
        else:
            with pytest.raises(ProjectionError, match=rf"without calling the module.*{path}"):
                find_projections(model, [path])
    assert {path.rpartition(".")[2] for path in linear - called} == (
        {"dt_proj"} if name in ("mamba", "falcon_mamba") else set()
    )


def test_weights_that_torch_reads_past_the_module_are_refused() -> None:
    """An adapter put there would never be called: out_proj of torch's attention, and all of its encoder layer on the
    fast path.
    """

    class Modern(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.MultiheadAttention(8, 2)
            self.ff = nn.Linear(8, 8)

    model = House([Modern(), Modern()])
    with pytest.raises(ProjectionError, match=r"MultiheadAttention.*storeys\.0\.attn\.out_proj"):
        find_projections(model)
    assert [p.name for p in find_projections(model, ["ffn"])] == ["storeys.0.ff", "storeys.1.ff"]
    layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8), 2, enable_nested_tensor=False)
    with pytest.raises(ProjectionError, match=r"TransformerEncoderLayer.*layers\.0\.linear1"):
        find_projections(layers, ["ffn"])
