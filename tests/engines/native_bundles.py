"""Tiny bundles of every architecture and precision that the native engine is tested with."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from bundle.tiny import tiny_manifest
from internvl_rt.bundle.bundle import Bundle, open_bundle
from internvl_rt.bundle.manifest import Manifest, Rope
from internvl_rt.export.synthetic import write_synthetic
from reference.stored import reference_of_bundle

torch.set_num_threads(1)  # the models are tiny: threads would only get into each other's way

# Sizes that are multiples of nothing but what the format asks for.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "qwen2": {"heads": 6, "kv_heads": 2, "head_dim": 16, "qkv_bias": True},
    "qwen2-tied": {"heads": 7, "kv_heads": 1, "head_dim": 64, "qkv_bias": True, "tied_embeddings": True},
    "qwen3": {"heads": 4, "kv_heads": 4, "head_dim": 40, "qkv_bias": False, "qk_norm": True},
    "llama": {"heads": 4, "kv_heads": 2, "head_dim": 32, "qkv_bias": False},
    "llama-128": {"heads": 2, "kv_heads": 1, "head_dim": 128, "qkv_bias": False},
}


def manifest_of(
    architecture: str, weights: str = "fp32", rope: Rope | None = None, layers: int = 2
) -> Manifest:
    manifest = tiny_manifest(weights)
    llm = dataclasses.replace(
        manifest.llm,
        architecture=architecture.split("-", maxsplit=1)[0],
        hidden_size=96,
        layers=layers,
        intermediate_size=160,
        norm_eps=1e-6,
        rope=rope or Rope(1e6, "none", 1.0, 4096),
        **ARCHITECTURES[architecture],
    )
    return dataclasses.replace(manifest, llm=llm)


def write_bundle(folder: Path, manifest: Manifest) -> Bundle:
    out = write_synthetic(manifest, folder / "bundle", tokenizer=None, graphs=False, progress=False)
    return open_bundle(out)


def transformers_model(bundle: Bundle) -> PreTrainedModel:
    """The model of transformers with the weights that a bundle stores."""
    llm = bundle.manifest.llm
    arguments: dict[str, Any] = {
        "hidden_size": llm.hidden_size,
        "num_hidden_layers": llm.layers,
        "num_attention_heads": llm.heads,
        "num_key_value_heads": llm.kv_heads,
        "head_dim": llm.head_dim,
        "intermediate_size": llm.intermediate_size,
        "vocab_size": llm.vocab_size,
        "rms_norm_eps": llm.norm_eps,
        "tie_word_embeddings": False,
        "max_position_embeddings": llm.rope.max_position_embeddings,
        "rope_parameters": {
            "rope_theta": llm.rope.theta,
            "rope_type": "dynamic" if llm.rope.scaling == "dynamic" else "default",
            "factor": llm.rope.factor,
        },
        "attn_implementation": "eager",
    }
    kinds: dict[str, tuple[Any, Any]] = {
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
        "llama": (LlamaConfig, LlamaForCausalLM),
    }
    config_kind, model_kind = kinds[llm.architecture]
    model = model_kind(config_kind(**arguments)).float().eval()
    prefix = "language_model."
    weights = {
        name.removeprefix(prefix): torch.tensor(values, dtype=torch.float32)
        for name, values in reference_of_bundle(bundle.folder).tensors.items()
        if name.startswith(prefix)
    }
    weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
    model.load_state_dict(weights)
    return model  # type: ignore[no-any-return]
