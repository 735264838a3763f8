"""Checkpoints to which every part of a model matters, written in the authors' format and by transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import save_file
from transformers import InternVLConfig, InternVLForConditionalGeneration

from export.checkpoints import TINY_INTERNLM2, TINY_PHI3, TINY_QWEN2, write_tokenizer
from reference.internvl import Reference, random_tensors

IMAGE_CONTEXT_ID = 324
VOCABULARY = TINY_QWEN2.vocabulary

TOWER_300M: dict[str, Any] = {"norm_type": "layer_norm", "qkv_bias": True, "qk_normalization": False}
TOWER_6B: dict[str, Any] = {"norm_type": "rms_norm", "qkv_bias": False, "qk_normalization": True}

QWEN2: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "rope_scaling": None,
}
INTERNLM2: dict[str, Any] = {
    "architectures": ["InternLM2ForCausalLM"],
    "model_type": "internlm2",
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "rope_scaling": {"type": "dynamic", "factor": 2.0},
    "bias": False,
}
INTERNLM3 = INTERNLM2 | {"rope_theta": 5e7, "rope_scaling": {"type": "dynamic", "factor": 6.0}}
"""InternVL3-9B: InternLM3's numbers in InternLM2's layout."""
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "rms_norm_eps": 1e-5,
    "rope_theta": 5e6,
    "rope_scaling": None,
}
QWEN3 = QWEN2 | {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "head_dim": 24}
QWEN3_MOE = QWEN3 | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "num_experts": 12,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 64,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
LONGROPE: dict[str, Any] = {
    "short_factor": [1 + 0.05 * j for j in range(8)],
    "long_factor": [1.2 * 1.4**j for j in range(8)],
}
PHI3: dict[str, Any] = {
    "architectures": ["Phi3ForCausalLM"],
    "model_type": "phi3",
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e4,
    "rope_scaling": {"type": "su", **LONGROPE},
    "num_key_value_heads": 8,
    "original_max_position_embeddings": 40,
    "max_position_embeddings": 512,
    "sliding_window": 1024,
}
LANGUAGE_MODELS = {
    "qwen2": QWEN2,
    "internlm2": INTERNLM2,
    "internlm3": INTERNLM3,
    "llama": LLAMA,
    "qwen3": QWEN3,
    "qwen3_moe": QWEN3_MOE,
    "phi3": PHI3,
}
"""One of every kind that the family has, in the words of the authors' ``llm_config``."""

_PROMPTS = {
    "internlm2": ("internlm2-chat", TINY_INTERNLM2),
    "phi3": ("phi3-chat", TINY_PHI3),
    "llama": ("Hermes-2", TINY_QWEN2),
}
"""Template and tokenizer by ``model_type``; the others have Qwen's."""


def authors_checkpoint(
    folder: Path, tower: dict[str, Any], llm: dict[str, Any], seed: int = 0, **changes: Any
) -> Reference:
    """Writes a small checkpoint in the authors' format, and returns the reference model of it.

    Args:
        folder: to be made.
        tower: keys of ``vision_config``.
        llm: ``llm_config``; sizes that it lacks are small.
        seed: of the weights.
        changes: keys of the configuration.
    """
    template, tokenizer = _PROMPTS.get(llm["model_type"], ("internvl2_5", TINY_QWEN2))
    config = {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "template": template,
        "downsample_ratio": 0.5,
        "ps_version": "v2",
        "select_layer": -1,
        "force_image_size": 56,
        "dynamic_image_size": True,
        "use_thumbnail": True,
        "min_dynamic_patch": 1,
        "max_dynamic_patch": 12,
        "vision_config": {
            "architectures": ["InternVisionModel"],
            "model_type": "intern_vit_6b",
            "hidden_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "intermediate_size": 160,
            "image_size": 56,
            "patch_size": 14,
            "layer_norm_eps": 1e-6,
            "hidden_act": "gelu",
            **tower,
        },
        "llm_config": {
            "hidden_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "intermediate_size": 224,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 512,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            **llm,
        },
    }
    config |= changes
    tensors = random_tensors(config, seed)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    write_tokenizer(folder, tokenizer)
    return Reference(config, tensors)


def transformers_checkpoint(
    folder: Path, vision: dict[str, Any], text: dict[str, Any], seed: int = 0
) -> InternVLForConditionalGeneration:
    """Saves a model of transformers' own classes with random weights, and returns it."""
    side = vision["image_size"][0] // vision["patch_size"][0] // 2
    config = InternVLConfig(
        vision_config=vision,
        text_config=dict(text, vocab_size=VOCABULARY, tie_word_embeddings=False),
        image_seq_length=side * side,
        image_token_id=IMAGE_CONTEXT_ID,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    model = InternVLForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_draw(name, parameter, generator))
        # transformers counts image context tokens again in every step, so that one must not be generated.
        model.lm_head.weight[IMAGE_CONTEXT_ID] = 0
    model.save_pretrained(folder)
    write_tokenizer(folder, TINY_QWEN2)
    return model


def _draw(name: str, parameter: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """As :func:`reference.internvl.random_tensors`: nothing is near zero, one or uniform."""
    values = torch.randn(parameter.shape, generator=generator)
    if "norm" in name and name.endswith("weight"):
        return 1 + 0.3 * values
    if "lambda" in name:
        return 0.5 + 0.1 * values
    if name.endswith("bias"):
        return 0.3 * values
    if any(word in name for word in ("cls_token", "position_embeddings", "embed_tokens")):
        return values
    scale = 3.0 if "lm_head" in name else 1.3
    return values * scale / parameter[0].numel() ** 0.5
