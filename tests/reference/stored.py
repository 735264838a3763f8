"""Reads a bundle's weights back into the authors' names, undoing quantisation, for the NumPy reference.

The bundle is read from its files alone: ``manifest.json`` and the safetensors header.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from reference.internvl import Array, Reference


def reference_of_bundle(folder: Path) -> Reference:
    """The reference model with exactly the weights that a bundle stores."""
    manifest = json.loads((folder / "manifest.json").read_text())
    return Reference(_config(manifest), _authors_names(manifest, stored_weights(folder)))


def stored_weights(folder: Path) -> dict[str, Array]:
    """Every weight by its name in the bundle, as the number that it stands for."""
    data = (folder / "weights.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    raw = {
        name: _values(entry["dtype"], entry["shape"], data, 8 + length + entry["data_offsets"][0])
        for name, entry in header.items()
    }
    weights = {}
    for name, values in raw.items():
        if name.endswith(".scales"):
            continue
        scales = raw.get(f"{name}.scales")
        if scales is None:
            weights[name] = values
        elif scales.ndim == 1:
            weights[name] = values * scales[:, None]
        else:
            weights[name] = values * np.repeat(scales, 32, axis=1)
    return weights


def _values(dtype: str, shape: list[int], data: bytes, offset: int) -> Array:
    count = int(np.prod(shape))
    if dtype == "U8":  # int4: the low nibble first, two's complement
        packed = np.frombuffer(data, np.uint8, count, offset)
        nibbles = np.stack([packed & 15, packed >> 4], axis=-1).astype(np.int64)
        values: npt.NDArray[Any] = np.where(nibbles < 8, nibbles, nibbles - 16)
        shape = [*shape[:-1], 2 * shape[-1]]
    elif dtype == "BF16":
        values = (np.frombuffer(data, np.uint16, count, offset).astype(np.uint32) << 16).view(np.float32)
    else:
        kinds = {"F32": np.float32, "F16": np.float16, "I8": np.int8}
        values = np.frombuffer(data, kinds[dtype], count, offset)
    return values.astype(np.float64).reshape(shape)


def _config(manifest: dict[str, Any]) -> dict[str, Any]:
    vision, llm, rope = manifest["vision"], manifest["llm"], manifest["llm"]["rope"]
    experts = llm["experts"]
    scaling: dict[str, Any] | None = None
    if rope["scaling"] == "dynamic":
        scaling = {"type": "dynamic", "factor": rope["factor"]}
    elif rope["short_factor"]:
        scaling = {
            "type": "longrope",
            "short_factor": rope["short_factor"],
            "long_factor": rope["long_factor"] or rope["short_factor"],
            "attention_factor": rope["attention_factor"],
        }
    return {
        "downsample_ratio": 1 / manifest["projector"]["downsample"],
        "ps_version": manifest["projector"]["pixel_shuffle"],
        "vision_config": {
            "hidden_size": vision["hidden_size"],
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["heads"],
            "intermediate_size": vision["intermediate_size"],
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "norm_type": vision["norm"],
            "layer_norm_eps": vision["norm_eps"],
            "qkv_bias": vision["qkv_bias"],
            "qk_normalization": vision["qk_norm"],
        },
        "llm_config": {
            "architectures": ["Qwen2ForCausalLM" if experts is None else "Qwen3MoeForCausalLM"],
            "num_experts_per_tok": experts and experts["chosen"],
            "norm_topk_prob": experts and experts["normalise"],
            "hidden_size": llm["hidden_size"],
            "num_hidden_layers": llm["layers"],
            "num_attention_heads": llm["heads"],
            "num_key_value_heads": llm["kv_heads"],
            "head_dim": llm["head_dim"],
            "intermediate_size": llm["intermediate_size"],
            "vocab_size": llm["vocab_size"],
            "rms_norm_eps": llm["norm_eps"],
            "rope_theta": rope["theta"],
            "rope_scaling": scaling,
            "max_position_embeddings": rope["max_position_embeddings"],
            "original_max_position_embeddings": rope["original_max_position_embeddings"] or 4096,
        },
    }


def _authors_names(manifest: dict[str, Any], weights: dict[str, Array]) -> dict[str, Array]:
    """Bundle names to those of a checkpoint with a Qwen2 language model, fused matrices taken apart."""
    llm = manifest["llm"]
    queries, keys = llm["heads"] * llm["head_dim"], llm["kv_heads"] * llm["head_dim"]
    renamed: dict[str, Array] = {}
    for name, values in weights.items():
        match name.split("."):
            case ["vit", "layers", layer, part, *rest]:
                inner = {"qkv": "attn.", "proj": "attn.", "q_norm": "attn.", "k_norm": "attn."}
                place = {"fc1": "mlp.", "fc2": "mlp."} | inner
                tail = ".".join([place.get(part, "") + part, *rest])
                renamed[f"vision_model.encoder.layers.{layer}.{tail}"] = values
            case ["vit", "position_embedding"]:
                renamed["vision_model.embeddings.position_embedding"] = values[None]
            case ["vit", *rest]:
                renamed["vision_model.embeddings." + ".".join(rest)] = values
            case ["projector", part, end]:
                renamed[f"mlp1.{ {'norm': 0, 'fc1': 1, 'fc2': 3}[part] }.{end}"] = values
            case ["llm", "layers", layer, "router", end]:
                renamed[f"language_model.model.layers.{layer}.mlp.gate.{end}"] = values
            case ["llm", "layers", layer, "experts", part, end]:
                for expert, rows in enumerate(np.split(values, llm["experts"]["count"])):
                    prefix = f"language_model.model.layers.{layer}.mlp.experts.{expert}."
                    names = ("gate", "up") if part == "gate_up" else ("down",)
                    for which, matrix in zip(names, np.split(rows, len(names)), strict=True):
                        renamed[f"{prefix}{which}_proj.{end}"] = matrix
            case ["llm", "layers", layer, part, end]:
                prefix = f"language_model.model.layers.{layer}."
                if part == "qkv":
                    parts = np.split(values, [queries, queries + keys])
                    for letter, rows in zip("qkv", parts, strict=True):
                        renamed[f"{prefix}self_attn.{letter}_proj.{end}"] = rows
                elif part == "gate_up":
                    for which, rows in zip(("gate", "up"), np.split(values, 2), strict=True):
                        renamed[f"{prefix}mlp.{which}_proj.{end}"] = rows
                else:
                    names = {
                        "attention_norm": "input_layernorm",
                        "mlp_norm": "post_attention_layernorm",
                        "o_proj": "self_attn.o_proj",
                        "down": "mlp.down_proj",
                        "q_norm": "self_attn.q_norm",
                        "k_norm": "self_attn.k_norm",
                    }
                    renamed[f"{prefix}{names[part]}.{end}"] = values
            case ["llm", "lm_head", end]:
                renamed[f"language_model.lm_head.{end}"] = values
            case ["llm", part, end]:
                renamed[f"language_model.model.{part}.{end}"] = values
    return renamed
