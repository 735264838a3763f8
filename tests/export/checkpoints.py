"""Synthetic checkpoints in every format that can be exported, with random weights.

Names and layouts are written down here from the reference page, independently of the exporter's tables.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from internvl_rt.export.family import family_model
from internvl_rt.export.tokenizers import synthetic_tokenizer

Array = npt.NDArray[np.float32]
Layout = Literal["authors", "native_first", "native_second"]
Files = Literal["safetensors", "safetensors_sharded", "bin", "bin_sharded"]

LAYOUTS: tuple[Layout, ...] = ("authors", "native_first", "native_second")


@dataclasses.dataclass(frozen=True)
class Model:
    """The sizes of a model, and what its parts have."""

    language: str
    """internlm2, qwen2, llama, qwen3 or phi3"""
    vision_hidden: int = 64
    vision_layers: int = 2
    vision_heads: int = 4
    vision_intermediate: int = 128
    image_size: int = 56
    vision_6b: bool = False
    """RMSNorm, q/k norm, no qkv bias"""
    hidden: int = 64
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 16
    intermediate: int = 96
    vocabulary: int = 331
    theta: float = 1e6
    dynamic_factor: float | None = None
    max_positions: int = 512
    eps: float = 1e-6
    template: str = "internvl2_5"
    tokenizer: str = "qwen2_5"


TINY_QWEN2 = Model("qwen2")
TINY_INTERNLM2 = Model(
    "internlm2", dynamic_factor=2.0, eps=1e-5, template="internlm2-chat", tokenizer="internlm2", kv_heads=2
)
TINY_LLAMA = Model("llama")
TINY_QWEN3 = Model("qwen3", head_dim=24)
TINY_PHI3 = Model(
    "phi3", kv_heads=4, eps=1e-5, theta=1e4, template="phi3-chat", tokenizer="phi3", max_positions=512
)
TINY_6B = Model("internlm2", vision_6b=True, vision_heads=2, tokenizer="internlm2", template="internlm2-chat")


def family_sized(name: str, layers: int = 2) -> Model:
    """A model of the family at its true widths, but with few layers."""
    model = family_model(name)
    vision, llm = model.vision, model.llm
    return Model(
        language=llm.architecture,
        vision_hidden=vision.hidden_size,
        vision_layers=layers,
        vision_heads=vision.heads,
        vision_intermediate=vision.intermediate_size,
        image_size=vision.image_size,
        vision_6b=vision.qk_norm,
        hidden=llm.hidden_size,
        layers=layers,
        heads=llm.heads,
        kv_heads=llm.kv_heads,
        head_dim=llm.head_dim,
        intermediate=llm.intermediate_size,
        vocabulary=llm.vocab_size,
        theta=llm.rope.theta,
        dynamic_factor=llm.rope.factor if llm.rope.scaling == "dynamic" else None,
        max_positions=llm.rope.max_position_embeddings,
        eps=llm.norm_eps,
        template=model.template,
        tokenizer=model.tokenizer,
    )


def random_weights(model: Model, seed: int = 0) -> dict[str, Array]:
    """Random weights by neutral names; queries, keys, values, gate and up are apart."""
    rng = np.random.default_rng(seed)
    weights: dict[str, Array] = {}

    def matrix(name: str, *shape: int, bias: bool = False) -> None:
        std = 1 / np.sqrt(np.prod(shape[1:]))
        weights[f"{name}.weight"] = rng.standard_normal(shape, np.float32) * np.float32(std)
        if bias:
            weights[f"{name}.bias"] = rng.standard_normal(shape[0], np.float32) * np.float32(0.1)

    def norm(name: str, size: int, bias: bool) -> None:
        weights[f"{name}.weight"] = 1 + rng.standard_normal(size, np.float32) * np.float32(0.1)
        if bias:
            weights[f"{name}.bias"] = rng.standard_normal(size, np.float32) * np.float32(0.1)

    def vector(name: str, *shape: int, mean: float = 0.0, std: float = 0.1) -> None:
        weights[name] = np.float32(mean) + rng.standard_normal(shape, np.float32) * np.float32(std)

    c, patches = model.vision_hidden, (model.image_size // 14) ** 2
    vector("vision.class", 1, 1, c)
    vector("vision.position", 1, 1 + patches, c)
    matrix("vision.patch", c, 3, 14, 14, bias=True)
    for i in range(model.vision_layers):
        layer = f"vision.{i}"
        norm(f"{layer}.norm1", c, not model.vision_6b)
        norm(f"{layer}.norm2", c, not model.vision_6b)
        for name in "qkv":
            matrix(f"{layer}.{name}", c, c, bias=not model.vision_6b)
        if model.vision_6b:
            norm(f"{layer}.q_norm", c, False)
            norm(f"{layer}.k_norm", c, False)
        matrix(f"{layer}.proj", c, c, bias=True)
        matrix(f"{layer}.fc1", model.vision_intermediate, c, bias=True)
        matrix(f"{layer}.fc2", c, model.vision_intermediate, bias=True)
        vector(f"{layer}.ls1", c, mean=0.2, std=0.02)
        vector(f"{layer}.ls2", c, mean=0.2, std=0.02)
    norm("projector.norm", 4 * c, True)
    matrix("projector.fc1", model.hidden, 4 * c, bias=True)
    matrix("projector.fc2", model.hidden, model.hidden, bias=True)
    h, d, qwen2 = model.hidden, model.head_dim, model.language == "qwen2"
    vector("llm.embed.weight", model.vocabulary, h, std=1.0)
    for i in range(model.layers):
        layer = f"llm.{i}"
        norm(f"{layer}.norm1", h, False)
        norm(f"{layer}.norm2", h, False)
        matrix(f"{layer}.q", model.heads * d, h, bias=qwen2)
        matrix(f"{layer}.k", model.kv_heads * d, h, bias=qwen2)
        matrix(f"{layer}.v", model.kv_heads * d, h, bias=qwen2)
        if model.language == "qwen3":
            norm(f"{layer}.q_norm", d, False)
            norm(f"{layer}.k_norm", d, False)
        matrix(f"{layer}.o", h, model.heads * d)
        matrix(f"{layer}.gate", model.intermediate, h)
        matrix(f"{layer}.up", model.intermediate, h)
        matrix(f"{layer}.down", h, model.intermediate)
    norm("llm.norm", h, False)
    matrix("llm.head", model.vocabulary, h)
    weights["llm.head.weight"] *= np.float32(3)
    return weights


def write_checkpoint(
    folder: Path,
    model: Model,
    *,
    layout: Layout = "authors",
    files: Files = "safetensors",
    dtype: str = "float32",
    seed: int = 0,
    tied: bool = False,
    config_changes: dict[str, Any] | None = None,
    shards: int = 3,
    change_weights: Callable[[dict[str, Array]], None] | None = None,
) -> dict[str, Array]:
    """Writes a checkpoint folder: configuration, weights and tokenizer.

    Args:
        folder: to be made.
        model: the sizes.
        layout: the authors' format, or one of the two generations of the native one.
        files: of the weights.
        dtype: torch's name of the type that the weights are stored in.
        seed: of the weights.
        tied: leave the output matrix out.
        config_changes: keys of config.json to replace, at the top level.
        shards: into which sharded weights are divided.
        change_weights: changes the random weights, by neutral names, before they are stored.

    Returns:
        The weights as they are stored, by neutral names.
    """
    folder.mkdir(parents=True)
    weights = random_weights(model, seed)
    if change_weights is not None:
        change_weights(weights)
    if tied:
        weights["llm.head.weight"] = weights["llm.embed.weight"]
    torch_dtype = getattr(torch, dtype)
    weights = {n: torch.from_numpy(w).to(torch_dtype).float().numpy() for n, w in weights.items()}
    tensors = (
        _authors_tensors(model, weights) if layout == "authors" else _native_tensors(model, weights, layout)
    )
    if tied:
        head = [n for n in tensors if n.endswith(("lm_head.weight", "language_model.output.weight"))]
        for name in head:
            del tensors[name]
    config = authors_config(model) if layout == "authors" else _native_config(model)
    config.update(config_changes or {})
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    save_weights(folder, {n: torch.from_numpy(w).to(torch_dtype) for n, w in tensors.items()}, files, shards)
    write_tokenizer(folder, model)
    return weights


def write_reciting_checkpoint(folder: Path, tokenizer: Tokenizer, words: Sequence[str]) -> None:
    """Writes a checkpoint that answers every question with the same tokens, each of which must be there once.

    The prompt ends with a line break, and every token is followed by the next one whatever was before it.
    """
    vocabulary = tokenizer.get_vocab_size()
    width = -(-vocabulary // 64) * 64
    model = dataclasses.replace(
        TINY_QWEN2, vocabulary=vocabulary, hidden=width, heads=4, kv_heads=2, head_dim=width // 4
    )
    (newline,) = tokenizer.encode("\n").ids
    assert set(words) <= set(tokenizer.get_vocab())
    chain = [newline, *map(tokenizer.token_to_id, (*words, "<|im_end|>"))]

    def recite(weights: dict[str, Array]) -> None:
        for name, value in weights.items():
            if name.startswith("llm."):
                value[...] = 1.0 if "norm" in name else 0.0
        weights["llm.embed.weight"][:] = np.eye(vocabulary, width)
        for now, following in itertools.pairwise(chain):
            weights["llm.head.weight"][following, now] = 1.0

    write_checkpoint(folder, model, change_weights=recite)
    tokenizer.save(str(folder / "tokenizer.json"))


def write_tokenizer(folder: Path, model: Model) -> None:
    synthetic_tokenizer(model.tokenizer, model.vocabulary).save(str(folder / "tokenizer.json"))
    kind = "LlamaTokenizerFast" if model.tokenizer in ("internlm2", "phi3") else "Qwen2Tokenizer"
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))


def save_weights(folder: Path, tensors: dict[str, torch.Tensor], files: Files, shards: int = 3) -> None:
    """Writes tensors as one file or several with an index, as the libraries do."""
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    stem, suffix = ("pytorch_model", "bin") if files.startswith("bin") else ("model", "safetensors")

    def save(part: dict[str, torch.Tensor], path: Path) -> None:
        if suffix == "bin":
            torch.save(part, path)
        else:
            save_file(part, path, metadata={"format": "pt"})

    if not files.endswith("sharded"):
        save(tensors, folder / f"{stem}.{suffix}")
        return
    names = list(tensors)
    weight_map = {}
    for i in range(shards):
        file_name = f"{stem}-{i + 1:05}-of-{shards:05}.{suffix}"
        part = {name: tensors[name] for name in names[i::shards]}
        save(part, folder / file_name)
        weight_map.update(dict.fromkeys(part, file_name))
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps(index))


def _authors_tensors(model: Model, weights: dict[str, Array]) -> dict[str, Array]:
    w, out = weights, {}
    out["vision_model.embeddings.class_embedding"] = w["vision.class"]
    out["vision_model.embeddings.position_embedding"] = w["vision.position"]
    for parameter in ("weight", "bias"):
        out[f"vision_model.embeddings.patch_embedding.{parameter}"] = w[f"vision.patch.{parameter}"]
    for i in range(model.vision_layers):
        to, of = f"vision_model.encoder.layers.{i}", f"vision.{i}"
        for parameter in ("weight", "bias"):
            if f"{of}.q.{parameter}" in w:
                qkv = [w[f"{of}.{name}.{parameter}"] for name in "qkv"]
                out[f"{to}.attn.qkv.{parameter}"] = np.concatenate(qkv)
        renamed = {"norm1": "norm1", "norm2": "norm2", "q_norm": "attn.q_norm", "k_norm": "attn.k_norm"}
        renamed |= {"proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
        _rename(w, of, out, to, renamed)
        out[f"{to}.ls1"], out[f"{to}.ls2"] = w[f"{of}.ls1"], w[f"{of}.ls2"]
    _rename(w, "projector", out, "mlp1", {"norm": "0", "fc1": "1", "fc2": "3"})
    if model.language == "internlm2":
        out |= {f"language_model.{n}": t for n, t in _internlm2_tensors(model, w).items()}
    else:
        out |= {f"language_model.{n}": t for n, t in _llama_tensors(model, w).items()}
    return out


def _internlm2_tensors(model: Model, w: dict[str, Array]) -> dict[str, Array]:
    out = {
        "model.tok_embeddings.weight": w["llm.embed.weight"],
        "model.norm.weight": w["llm.norm.weight"],
        "output.weight": w["llm.head.weight"],
    }
    d, per_group = model.head_dim, model.heads // model.kv_heads
    for i in range(model.layers):
        to, of = f"model.layers.{i}", f"llm.{i}"
        q, k, v = (w[f"{of}.{name}.weight"] for name in "qkv")
        rows = []
        for group in range(model.kv_heads):
            for j in range(per_group):
                head = group * per_group + j
                rows.append(q[head * d : (head + 1) * d])
            rows.append(k[group * d : (group + 1) * d])
            rows.append(v[group * d : (group + 1) * d])
        out[f"{to}.attention.wqkv.weight"] = np.concatenate(rows)
        renamed = {"norm1": "attention_norm", "norm2": "ffn_norm", "o": "attention.wo"}
        renamed |= {"gate": "feed_forward.w1", "up": "feed_forward.w3", "down": "feed_forward.w2"}
        _rename(w, of, out, to, renamed)
    return out


def _llama_tensors(model: Model, w: dict[str, Array]) -> dict[str, Array]:
    out = {
        "model.embed_tokens.weight": w["llm.embed.weight"],
        "model.norm.weight": w["llm.norm.weight"],
        "lm_head.weight": w["llm.head.weight"],
    }
    renamed = {"norm1": "input_layernorm", "norm2": "post_attention_layernorm", "o": "self_attn.o_proj"}
    renamed |= {name: f"self_attn.{name}_proj" for name in "qkv"}
    renamed |= {f"{name}_norm": f"self_attn.{name}_norm" for name in "qk"}
    renamed |= {name: f"mlp.{name}_proj" for name in ("gate", "up", "down")}
    for i in range(model.layers):
        _rename(w, f"llm.{i}", out, f"model.layers.{i}", renamed)
        if model.language == "phi3":
            for to, parts in (("self_attn.qkv_proj", "qkv"), ("mlp.gate_up_proj", ("gate", "up"))):
                for part in parts:
                    del out[f"model.layers.{i}.{renamed[part]}.weight"]
                fused = np.concatenate([w[f"llm.{i}.{part}.weight"] for part in parts])
                out[f"model.layers.{i}.{to}.weight"] = fused
    return out


def _native_tensors(model: Model, w: dict[str, Array], layout: Layout) -> dict[str, Array]:
    second = layout == "native_second"
    prefix = "model." if second else ""
    out: dict[str, Array] = {}
    tower = f"{prefix}vision_tower"
    out[f"{tower}.embeddings.cls_token"] = w["vision.class"]
    out[f"{tower}.embeddings.position_embeddings"] = w["vision.position"]
    for parameter in ("weight", "bias"):
        out[f"{tower}.embeddings.patch_embeddings.projection.{parameter}"] = w[f"vision.patch.{parameter}"]
    renamed = {"norm1": "layernorm_before", "norm2": "layernorm_after", "proj": "attention.projection_layer"}
    renamed |= {name: f"attention.{name}_proj" for name in "qkv"}
    renamed |= {f"{name}_norm": f"attention.{name}_norm" for name in "qk"}
    renamed |= {"fc1": "mlp.fc1", "fc2": "mlp.fc2"}
    for i in range(model.vision_layers):
        to, of = f"{tower}.encoder.layer.{i}", f"vision.{i}"
        _rename(w, of, out, to, renamed)
        out[f"{to}.lambda_1"], out[f"{to}.lambda_2"] = w[f"{of}.ls1"], w[f"{of}.ls2"]
    projector = {"norm": "layer_norm", "fc1": "linear_1", "fc2": "linear_2"}
    _rename(w, "projector", out, f"{prefix}multi_modal_projector", projector)
    for name, tensor in _llama_tensors(model, w).items():
        if not second:
            out[f"language_model.{name}"] = tensor
        elif name == "lm_head.weight":
            out[name] = tensor
        else:
            out[f"model.language_model.{name.removeprefix('model.')}"] = tensor
    return out


def _rename(
    weights: dict[str, Array], of: str, out: dict[str, Array], to: str, renamed: dict[str, str]
) -> None:
    for name, written in renamed.items():
        for parameter in ("weight", "bias"):
            if f"{of}.{name}.{parameter}" in weights:
                out[f"{to}.{written}.{parameter}"] = weights[f"{of}.{name}.{parameter}"]


def authors_config(model: Model) -> dict[str, Any]:
    classes = {
        "internlm2": "InternLM2ForCausalLM",
        "qwen2": "Qwen2ForCausalLM",
        "llama": "LlamaForCausalLM",
        "qwen3": "Qwen3ForCausalLM",
        "phi3": "Phi3ForCausalLM",
    }
    llm: dict[str, Any] = {
        "architectures": [classes[model.language]],
        "model_type": model.language,
        **_llm_sizes(model),
        "rope_theta": model.theta,
        "rope_scaling": None,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
    }
    if model.dynamic_factor is not None:
        llm["rope_scaling"] = {"type": "dynamic", "factor": model.dynamic_factor}
    if model.language == "internlm2":
        llm["bias"] = False
        del llm["head_dim"]
    vision: dict[str, Any] = {
        "architectures": ["InternVisionModel"],
        "model_type": "intern_vit_6b",
        "hidden_size": model.vision_hidden,
        "num_hidden_layers": model.vision_layers,
        "num_attention_heads": model.vision_heads,
        "intermediate_size": model.vision_intermediate,
        "image_size": model.image_size,
        "patch_size": 14,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "qkv_bias": not model.vision_6b,
        "qk_normalization": model.vision_6b,
    }
    if not model.vision_6b:  # the 6B tower's published configuration lacks the key
        vision["norm_type"] = "layer_norm"
    return {
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "llm_config": llm,
        "vision_config": vision,
        "template": model.template,
        "force_image_size": model.image_size,
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "use_thumbnail": True,
        "min_dynamic_patch": 1,
        "max_dynamic_patch": 12,
        "ps_version": "v2",
        "select_layer": -1,
        "pad2square": False,
        "system_message": None,
    }


def _native_config(model: Model) -> dict[str, Any]:
    text: dict[str, Any] = {
        "model_type": "llama" if model.language == "internlm2" else model.language,
        **_llm_sizes(model),
        "rope_theta": model.theta,
    }
    if model.dynamic_factor is not None:
        text["rope_scaling"] = {"rope_type": "dynamic", "factor": model.dynamic_factor}
    return {
        "architectures": ["InternVLForConditionalGeneration"],
        "model_type": "internvl",
        "text_config": text,
        "vision_config": {
            "model_type": "internvl_vision",
            "hidden_size": model.vision_hidden,
            "num_hidden_layers": model.vision_layers,
            "num_attention_heads": model.vision_heads,
            "intermediate_size": model.vision_intermediate,
            "image_size": [model.image_size, model.image_size],
            "patch_size": [14, 14],
            "layer_norm_eps": 1e-6,
            "attention_bias": not model.vision_6b,
            "use_qk_norm": model.vision_6b,
            "norm_type": "rms_norm" if model.vision_6b else "layer_norm",
        },
        "downsample_ratio": 0.5,
        "image_seq_length": (model.image_size // 28) ** 2,
        "image_token_id": model.vocabulary - 7,
    }


def _llm_sizes(model: Model) -> dict[str, Any]:
    return {
        "hidden_size": model.hidden,
        "num_hidden_layers": model.layers,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "intermediate_size": model.intermediate,
        "vocab_size": model.vocabulary,
        "max_position_embeddings": model.max_positions,
        "rms_norm_eps": model.eps,
        "hidden_act": "silu",
    }
