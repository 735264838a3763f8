"""The architectures that can be exported, as tables: configuration names, tensor names, layouts.

A language model of another family that is a pre-norm decoder with grouped-query attention and a SiLU-gated
MLP becomes readable with one more row in ``LANGUAGE_ARCHITECTURES``. Names are those of the published
checkpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from internvl_rt.bundle.tensors import FLASH_BLOCKS

Names = Mapping[str, tuple[str, ...]]
"""A module of the bundle to the modules of the checkpoint whose rows it is made of, in order."""


@dataclass(frozen=True)
class LanguageArchitecture:
    """How one family of language models is configured and how its tensors are called.

    Names of tensors are relative to the language model's prefix, names in ``layer_names`` to its layer.
    """

    name: str
    classes: tuple[str, ...]
    """``architectures`` of the authors' ``llm_config``."""
    model_types: tuple[str, ...]
    """``model_type`` of ``llm_config`` or of the native ``text_config``."""
    defaults: Mapping[str, Any]
    """What the configuration class assumes for keys that are missing."""
    false_keys: tuple[str, ...]
    """Keys that would add tensors or masks which are not supported, were they true."""
    layer_names: Names
    qkv_layout: Literal["separate", "per_kv_head"]
    """``per_kv_head``: one tensor, in which each kv head's queries, key and value follow each other."""
    qkv_bias: bool
    qk_norm: bool
    experts: bool = False
    """The MLP is a mixture of experts. ``{}`` in their modules' names stands for an expert's number."""
    always_windowed: bool = False
    """``sliding_window`` needs no other key to limit attention. One that no sequence reaches is no limit."""
    embed_tokens: str = "model.embed_tokens"
    norm: str = "model.norm"
    lm_head: str = "lm_head"
    layers: str = "model.layers"


_LLAMA_LAYER: Names = MappingProxyType(
    {
        "attention_norm": ("input_layernorm",),
        "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "q_norm": ("self_attn.q_norm",),
        "k_norm": ("self_attn.k_norm",),
        "o_proj": ("self_attn.o_proj",),
        "mlp_norm": ("post_attention_layernorm",),
        "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
        "down": ("mlp.down_proj",),
    }
)

_SIZES = {
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "rms_norm_eps": 1e-6,
}
"""Defaults that all these classes share. Libraries leave out of a file what equals a default."""

_QWEN_SIZES = {
    **_SIZES,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "vocab_size": 151936,
    "max_position_embeddings": 32768,
}
_LLAMA_SIZES = {**_SIZES, "intermediate_size": 11008, "max_position_embeddings": 2048}

LANGUAGE_ARCHITECTURES = (
    LanguageArchitecture(
        name="internlm2",
        classes=("InternLM2ForCausalLM",),
        model_types=("internlm2",),
        defaults={**_LLAMA_SIZES, "vocab_size": 103168},
        false_keys=("bias",),
        layer_names={
            "attention_norm": ("attention_norm",),
            "qkv": ("attention.wqkv",),
            "o_proj": ("attention.wo",),
            "mlp_norm": ("ffn_norm",),
            "gate_up": ("feed_forward.w1", "feed_forward.w3"),
            "down": ("feed_forward.w2",),
        },
        qkv_layout="per_kv_head",
        qkv_bias=False,
        qk_norm=False,
        embed_tokens="model.tok_embeddings",
        lm_head="output",
    ),
    LanguageArchitecture(
        name="qwen2",
        classes=("Qwen2ForCausalLM",),
        model_types=("qwen2",),
        defaults=_QWEN_SIZES,
        false_keys=("use_sliding_window",),
        layer_names=_LLAMA_LAYER,
        qkv_layout="separate",
        qkv_bias=True,
        qk_norm=False,
    ),
    LanguageArchitecture(
        name="llama",
        classes=("LlamaForCausalLM",),
        model_types=("llama",),
        defaults={**_LLAMA_SIZES, "vocab_size": 32000},
        false_keys=("attention_bias", "mlp_bias"),
        layer_names=_LLAMA_LAYER,
        qkv_layout="separate",
        qkv_bias=False,
        qk_norm=False,
    ),
    LanguageArchitecture(
        name="qwen3",
        classes=("Qwen3ForCausalLM",),
        model_types=("qwen3",),
        defaults={**_QWEN_SIZES, "head_dim": 128},
        false_keys=("use_sliding_window", "attention_bias"),
        layer_names=_LLAMA_LAYER,
        qkv_layout="separate",
        qkv_bias=False,
        qk_norm=True,
    ),
    LanguageArchitecture(
        name="qwen3_moe",
        classes=("Qwen3MoeForCausalLM",),
        model_types=("qwen3_moe",),
        defaults={
            **_QWEN_SIZES,
            "hidden_size": 2048,
            "num_hidden_layers": 24,
            "num_key_value_heads": 4,
            "moe_intermediate_size": 768,
            "num_experts": 128,
            "num_experts_per_tok": 8,
            "norm_topk_prob": False,
        },
        false_keys=("use_sliding_window", "attention_bias"),
        layer_names={
            **_LLAMA_LAYER,
            "router": ("mlp.gate",),
            "experts.gate_up": ("mlp.experts.{}.gate_proj", "mlp.experts.{}.up_proj"),
            "experts.down": ("mlp.experts.{}.down_proj",),
        },
        qkv_layout="separate",
        qkv_bias=False,
        qk_norm=True,
        experts=True,
    ),
    LanguageArchitecture(
        name="phi3",
        classes=("Phi3ForCausalLM",),
        model_types=("phi3",),
        defaults={
            **_SIZES,
            "hidden_size": 3072,
            "intermediate_size": 8192,
            "vocab_size": 32064,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 4096,
            "original_max_position_embeddings": 4096,
        },
        false_keys=(),
        # Fused as the bundle has them: [q | k | v] and [gate | up].
        layer_names={**_LLAMA_LAYER, "qkv": ("self_attn.qkv_proj",), "gate_up": ("mlp.gate_up_proj",)},
        qkv_layout="separate",
        qkv_bias=False,
        qk_norm=False,
        always_windowed=True,
    ),
)


@dataclass(frozen=True)
class CheckpointFormat:
    """How a checkpoint calls its vision tower and projector, and what stands before every name."""

    name: Literal["internvl_chat", "internvl"]
    probe: str
    """A tensor that only this format has."""
    vision: str
    """Prefix of the vision tower's tensors, like the following ones of their parts."""
    projector: str
    language: str
    rewrites: Mapping[str, str] = field(default_factory=dict)
    """Beginnings of language model names that are written differently, after ``language`` was put before."""
    embeddings: Mapping[str, str] = field(default_factory=dict)
    vision_layers: str = ""
    vision_layer_names: Names = field(default_factory=dict)
    projector_names: Names = field(default_factory=dict)


_FLASH_PROJECTOR = ("norm", "fc1", "fc2", "fc3")

AUTHORS = CheckpointFormat(
    name="internvl_chat",
    probe="vision_model.embeddings.class_embedding",
    vision="vision_model.",
    projector="mlp1.",
    language="language_model.",
    embeddings={
        "class_embedding": "embeddings.class_embedding",
        "position_embedding": "embeddings.position_embedding",
        "patch_embedding.weight": "embeddings.patch_embedding.weight",
        "patch_embedding.bias": "embeddings.patch_embedding.bias",
    },
    vision_layers="encoder.layers",
    vision_layer_names={
        "norm1": ("norm1",),
        "qkv": ("attn.qkv",),
        "q_norm": ("attn.q_norm",),
        "k_norm": ("attn.k_norm",),
        "proj": ("attn.proj",),
        "ls1": ("ls1",),
        "norm2": ("norm2",),
        "fc1": ("mlp.fc1",),
        "fc2": ("mlp.fc2",),
        "ls2": ("ls2",),
    },
    projector_names={"norm": ("0",), "fc1": ("1",), "fc2": ("3",)},
)

FLASH_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "query": "pooling_before_gating.query_token",
        **{
            f"attention{i}.{module}.{parameter}": f"pooling_before_gating.attn{i}.{name}{parameter}"
            for i in (1, 2)
            for module, name in (("qkv", "in_proj_"), ("proj", "out_proj."))
            for parameter in ("weight", "bias")
        },
        **{
            f"{module}.{parameter}": f"{name}.{parameter}"
            for module, name in (
                *((f"norm{i}", f"pooling_before_gating.norm{i}") for i in (1, 2)),
                *(
                    (f"blocks.{block}.{part}", f"gating.block{block + 1}.{number}")
                    for block in range(FLASH_BLOCKS)
                    for part, number in (("fc1", 0), ("fc2", 3), ("norm", 5))
                ),
                ("gate_norm", "gating.gate.0"),
                ("gate", "gating.gate.1"),
                *(
                    (f"projector.{part}", f"mlp2.{i}")
                    for part, i in zip(_FLASH_PROJECTOR, (0, 1, 4, 7), strict=True)
                ),
            )
            for parameter in ("weight", "bias")
        },
    }
)
"""A tensor of the resolution router to its name in the authors' checkpoints."""

FLASH_UNUSED = tuple(f"pooling_before_gating.{part}{i}." for part in ("attn", "norm") for i in (3, 4))
"""Beginnings of tensors that these checkpoints have and nothing computes with."""

FLASH_HEADS = 16
"""Of the router's attention; no configuration says it."""

_NATIVE_EMBEDDINGS = {
    "class_embedding": "embeddings.cls_token",
    "position_embedding": "embeddings.position_embeddings",
    "patch_embedding.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embedding.bias": "embeddings.patch_embeddings.projection.bias",
}
_NATIVE_VISION_LAYER: Names = {
    "norm1": ("layernorm_before",),
    "qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "q_norm": ("attention.q_norm",),
    "k_norm": ("attention.k_norm",),
    "proj": ("attention.projection_layer",),
    "ls1": ("lambda_1",),
    "norm2": ("layernorm_after",),
    "fc1": ("mlp.fc1",),
    "fc2": ("mlp.fc2",),
    "ls2": ("lambda_2",),
}
_NATIVE_PROJECTOR: Names = {"norm": ("layer_norm",), "fc1": ("linear_1",), "fc2": ("linear_2",)}

NATIVE_FIRST = CheckpointFormat(
    name="internvl",
    probe="vision_tower.embeddings.cls_token",
    vision="vision_tower.",
    projector="multi_modal_projector.",
    language="language_model.",
    embeddings=_NATIVE_EMBEDDINGS,
    vision_layers="encoder.layer",
    vision_layer_names=_NATIVE_VISION_LAYER,
    projector_names=_NATIVE_PROJECTOR,
)
"""Written by transformers 4.52 and its contemporaries."""

NATIVE_SECOND = CheckpointFormat(
    name="internvl",
    probe="model.vision_tower.embeddings.cls_token",
    vision="model.vision_tower.",
    projector="model.multi_modal_projector.",
    language="",
    rewrites={"model.": "model.language_model."},
    embeddings=_NATIVE_EMBEDDINGS,
    vision_layers="encoder.layer",
    vision_layer_names=_NATIVE_VISION_LAYER,
    projector_names=_NATIVE_PROJECTOR,
)
"""Written by newer transformers releases."""

FORMATS = (AUTHORS, NATIVE_FIRST, NATIVE_SECOND)

IGNORED_SUFFIXES = ("rotary_emb.inv_freq", "embeddings.position_ids")
"""Buffers that old libraries saved; they are computed from the configuration."""
