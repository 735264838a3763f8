"""InternVL in NumPy: slow, plain, float64, and written from the published description alone.

It takes the authors' tensor names and ``config.json`` and shares no code with the package, so that a mistake
in one of them shows. Nothing here is clever.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import erf, log, prod, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_erf = np.vectorize(erf, otypes=[np.float64])


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps) * weight + bias


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    return weight * x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)


def gelu(x: Array) -> Array:
    return 0.5 * x * (1 + _fast_erf(x / sqrt(2)))


def _fast_erf(x: Array) -> Array:
    """erf of a large array by linear interpolation between exact values, to 1e-9."""
    if x.size < 1 << 16:
        return np.asarray(_erf(x))
    knots = np.linspace(-6, 6, 240001)
    return np.interp(x, knots, _erf(knots))


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attention(q: Array, k: Array, v: Array, causal: bool) -> Array:
    """[heads, n, d] over [kv_heads, m, d]; the last query is at the place of the last key."""
    group = q.shape[0] // k.shape[0]
    n, m = q.shape[1], k.shape[1]
    out = np.empty_like(q)
    for head in range(q.shape[0]):
        scores = q[head] @ k[head // group].T / sqrt(q.shape[2])
        if causal:
            scores[np.arange(m)[None, :] > np.arange(m - n, m)[:, None]] = -np.inf
        out[head] = softmax(scores) @ v[head // group]
    return out


def heads_of(x: Array, heads: int) -> Array:
    """[n, heads * d] to [heads, n, d]."""
    return x.reshape(len(x), heads, -1).transpose(1, 0, 2)


def merge(x: Array) -> Array:
    """[heads, n, d] to [n, heads * d]."""
    return x.transpose(1, 0, 2).reshape(x.shape[1], -1)


def rotate(x: Array, positions: Array, frequencies: Array) -> Array:
    """Rotate-half RoPE of [heads, n, d]: dimensions j and j + d/2 turn by position * frequency_j."""
    d = x.shape[-1]
    angle = positions[:, None] * frequencies
    a, b = x[..., : d // 2], x[..., d // 2 :]
    return np.concatenate(
        [a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], axis=-1
    )


POOLING_TENSORS = ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")


def pooled(query: Array, keys: Array, tensors: Mapping[str, Array], heads: int) -> Array:
    """torch's MultiheadAttention of [1, C] over [n, C]."""
    weights, biases = (np.split(tensors[f"in_proj_{kind}"], 3) for kind in ("weight", "bias"))
    q, k, v = (
        heads_of(x @ w.T + b, heads) for x, w, b in zip((query, keys, keys), weights, biases, strict=True)
    )
    out = merge(attention(q, k, v, causal=False))
    return out @ tensors["out_proj.weight"].T + tensors["out_proj.bias"]


def pixel_shuffle(x: Array, k: int, version: str) -> Array:
    """[tiles, side, side, C] to [tiles, (side / k)^2, k^2 C]: each token joins a k x k block, row by row."""
    tiles, side, _, channels = x.shape
    blocks = side // k
    out = np.empty((tiles, blocks, blocks, k * k * channels))
    for row in range(blocks):
        for column in range(blocks):
            block = x[:, k * row : k * row + k, k * column : k * column + k].reshape(tiles, -1)
            place = (row, column) if version == "v2" else (column, row)
            out[:, place[0], place[1]] = block
    return out.reshape(tiles, blocks * blocks, -1)


class Reference:
    """One model. ``tensors`` have the authors' names; ``config`` is the authors' ``config.json``."""

    def __init__(self, config: Mapping[str, Any], tensors: Mapping[str, npt.NDArray[Any]]) -> None:
        self.config = config
        self.vision: Mapping[str, Any] = config["vision_config"]
        self.llm: Mapping[str, Any] = config["llm_config"]
        self.tensors = {name: np.asarray(tensor, np.float64) for name, tensor in tensors.items()}

    # The vision side.

    def hidden(self, pixel_values: npt.NDArray[Any]) -> Array:
        """[tiles, 3, S, S] to the tower's last layer [tiles, 1 + patches, C], tile by tile."""
        return np.stack([self._tower(tile) for tile in np.asarray(pixel_values, np.float64)])

    def features(self, pixel_values: npt.NDArray[Any]) -> Array:
        """[tiles, 3, S, S] to image features [tiles, tokens, H]."""
        hidden = self.hidden(pixel_values)[:, 1:]
        side = round(sqrt(hidden.shape[1]))
        x = hidden.reshape(len(hidden), side, side, -1)
        x = pixel_shuffle(x, round(1 / self.config["downsample_ratio"]), self.config["ps_version"])
        t = self.tensors
        x = layer_norm(x, t["mlp1.0.weight"], t["mlp1.0.bias"], 1e-5)
        x = gelu(x @ t["mlp1.1.weight"].T + t["mlp1.1.bias"])
        return x @ t["mlp1.3.weight"].T + t["mlp1.3.bias"]

    def flash(self, pixel_values: npt.NDArray[Any]) -> tuple[Array, Array]:
        """Scores [tiles] of the resolution router, and features of compressed tiles [tiles, tokens, H]."""
        patches = self.hidden(pixel_values)[:, 1:]
        scores = np.array([self._score(tile) for tile in patches])
        side = round(sqrt(patches.shape[1]))
        k = round(1 / self.config["downsample_ratio"]) ** 2
        x = pixel_shuffle(patches.reshape(len(patches), side, side, -1), k, "v2")
        t = self.tensors
        x = layer_norm(x, t["mlp2.0.weight"], t["mlp2.0.bias"], 1e-5)
        for layer in ("mlp2.1", "mlp2.4", "mlp2.7"):
            x = x @ t[f"{layer}.weight"].T + t[f"{layer}.bias"]
            x = x if layer == "mlp2.7" else gelu(x)
        return scores, x

    def _score(self, patches: Array) -> float:
        """How likely one tile [patches, C] can do with fewer tokens."""
        pooling = {
            name.removeprefix("pooling_before_gating."): tensor
            for name, tensor in self.tensors.items()
            if name.startswith("pooling_before_gating.")
        }
        gating = {n.removeprefix("gating."): x for n, x in self.tensors.items() if n.startswith("gating.")}
        x = pooling["query_token"]
        for layer in (1, 2, 2, 2):
            x = pooled(x, patches, {n: pooling[f"attn{layer}.{n}"] for n in POOLING_TENSORS}, heads=16)
            x = layer_norm(x, pooling[f"norm{layer}.weight"], pooling[f"norm{layer}.bias"], 1e-5)
        for block in ("block1", "block2", "block3", "block4"):
            u = gelu(x @ gating[f"{block}.0.weight"].T + gating[f"{block}.0.bias"])
            u = u @ gating[f"{block}.3.weight"].T + gating[f"{block}.3.bias"]
            x = x + layer_norm(u, gating[f"{block}.5.weight"], gating[f"{block}.5.bias"], 1e-5)
        x = layer_norm(x, gating["gate.0.weight"], gating["gate.0.bias"], 1e-5)
        return float(softmax(x @ gating["gate.1.weight"].T + gating["gate.1.bias"])[0, 0])

    def _tower(self, tile: Array) -> Array:
        v, prefix = self.vision, "vision_model.embeddings."
        p, side = v["patch_size"], v["image_size"] // v["patch_size"]
        patches = np.stack(
            [
                tile[:, p * row : p * row + p, p * column : p * column + p].reshape(-1)
                for row in range(side)
                for column in range(side)
            ]
        )
        kernel = self.tensors[prefix + "patch_embedding.weight"].reshape(v["hidden_size"], -1)
        x = patches @ kernel.T + self.tensors[prefix + "patch_embedding.bias"]
        token = self.tensors[prefix + "class_embedding"].reshape(1, -1)
        x = np.concatenate([token, x]) + self.tensors[prefix + "position_embedding"][0]
        for layer in range(v["num_hidden_layers"]):
            x = self._tower_layer(x, f"vision_model.encoder.layers.{layer}.")
        return x

    def _tower_layer(self, x: Array, prefix: str) -> Array:
        v = self.vision

        def get(name: str) -> Array:
            return self.tensors[prefix + name]

        def norm(name: str, x: Array) -> Array:
            if v["norm_type"] == "layer_norm":
                return layer_norm(x, get(f"{name}.weight"), get(f"{name}.bias"), v["layer_norm_eps"])
            return rms_norm(x, get(f"{name}.weight"), v["layer_norm_eps"])

        qkv = norm("norm1", x) @ get("attn.qkv.weight").T
        if v["qkv_bias"]:
            qkv = qkv + get("attn.qkv.bias")
        q, k, value = np.split(qkv, 3, axis=-1)
        if v["qk_normalization"]:
            q = rms_norm(q, get("attn.q_norm.weight"), v["layer_norm_eps"])
            k = rms_norm(k, get("attn.k_norm.weight"), v["layer_norm_eps"])
        heads = v["num_attention_heads"]
        out = merge(attention(heads_of(q, heads), heads_of(k, heads), heads_of(value, heads), causal=False))
        x = x + get("ls1") * (out @ get("attn.proj.weight").T + get("attn.proj.bias"))
        u = gelu(norm("norm2", x) @ get("mlp.fc1.weight").T + get("mlp.fc1.bias"))
        return x + get("ls2") * (u @ get("mlp.fc2.weight").T + get("mlp.fc2.bias"))

    # The language model: InternLM2, Qwen2, Qwen3, Qwen3-MoE, Llama, Phi-3.

    @property
    def is_internlm2(self) -> bool:
        return self.llm["architectures"][0] == "InternLM2ForCausalLM"

    @property
    def is_phi3(self) -> bool:
        return self.llm["architectures"][0] == "Phi3ForCausalLM"

    def embed(self, token_ids: npt.NDArray[Any], features: Array | None, image_context_id: int) -> Array:
        """Token embeddings [n, H] with the features in the places of the image context token."""
        name = "tok_embeddings" if self.is_internlm2 else "embed_tokens"
        x = self.tensors[f"language_model.model.{name}.weight"][token_ids].copy()
        if features is not None:
            x[np.asarray(token_ids) == image_context_id] = features.reshape(-1, x.shape[1])
        return x

    def logits(self, embeddings: npt.NDArray[Any]) -> Array:
        """Logits of every position of one sequence: [n, H] to [n, vocab]."""
        x = np.asarray(embeddings, np.float64)
        for layer in range(self.llm["num_hidden_layers"]):
            x = self._decoder_layer(x, f"language_model.model.layers.{layer}.")
        x = rms_norm(x, self.tensors["language_model.model.norm.weight"], self.llm["rms_norm_eps"])
        head = "output" if self.is_internlm2 else "lm_head"
        tied = "language_model.model.embed_tokens.weight"
        return x @ self.tensors.get(f"language_model.{head}.weight", self.tensors.get(tied)).T

    def greedy(self, embeddings: npt.NDArray[Any], steps: int) -> tuple[list[int], list[float]]:
        """The greedy continuation, and by how much each token led the second best."""
        x, tokens, margins = np.asarray(embeddings, np.float64), [], []
        for _ in range(steps):
            logits = self.logits(x)[-1]
            second, first = np.sort(logits)[-2:]
            tokens.append(int(logits.argmax()))
            margins.append(float(first - second))
            x = np.concatenate([x, self.embed(np.array(tokens[-1:]), None, -1)])
        return tokens, margins

    def _frequencies(self, length: int) -> tuple[Array, float]:
        """Rotary frequencies of a sequence of that length, and what cosines and sines are multiplied by."""
        theta, scaling = float(self.llm["rope_theta"]), self.llm.get("rope_scaling")
        trained, d = self.llm["max_position_embeddings"], self._head_dim
        kind = scaling["type"] if scaling else "none"
        if kind == "dynamic" and length > trained:
            factor = scaling["factor"]
            theta *= (factor * length / trained - (factor - 1)) ** (d / (d - 2))
        frequencies: Array = np.array([theta ** (-2 * j / d) for j in range(d // 2)])
        if kind in ("su", "longrope"):
            original = self.llm["original_max_position_embeddings"]
            factors = scaling["long_factor"] if length > original else scaling["short_factor"]
            usual = sqrt(1 + log(trained / original) / log(original)) if trained > original else 1.0
            return frequencies / np.array(factors), scaling.get("attention_factor", usual)
        return frequencies, 1.0

    @property
    def _head_dim(self) -> int:
        return int(self.llm.get("head_dim") or self.llm["hidden_size"] // self.llm["num_attention_heads"])

    def _decoder_layer(self, x: Array, prefix: str) -> Array:
        llm, eps = self.llm, self.llm["rms_norm_eps"]
        heads, kv_heads, d = llm["num_attention_heads"], llm["num_key_value_heads"], self._head_dim

        def get(name: str) -> Array:
            return self.tensors[prefix + name]

        def linear(name: str, x: Array) -> Array:
            bias = self.tensors.get(f"{prefix}{name}.bias")
            return x @ get(f"{name}.weight").T + (0 if bias is None else bias)

        if self.is_internlm2:
            u = rms_norm(x, get("attention_norm.weight"), eps)
            # Per kv head: its query heads, its key, its value.
            groups = linear("attention.wqkv", u).reshape(len(x), kv_heads, heads // kv_heads + 2, d)
            q = groups[:, :, :-2].reshape(len(x), heads, d).transpose(1, 0, 2)
            k = groups[:, :, -2].transpose(1, 0, 2)
            v = groups[:, :, -1].transpose(1, 0, 2)
        else:
            u = rms_norm(x, get("input_layernorm.weight"), eps)
            if self.is_phi3:
                split = [heads * d, (heads + kv_heads) * d]
                parts = np.split(linear("self_attn.qkv_proj", u), split, axis=-1)
            else:
                parts = [linear(f"self_attn.{letter}_proj", u) for letter in "qkv"]
            q, k, v = (heads_of(part, n) for part, n in zip(parts, (heads, kv_heads, kv_heads), strict=True))
            if prefix + "self_attn.q_norm.weight" in self.tensors:
                q = rms_norm(q, get("self_attn.q_norm.weight"), eps)
                k = rms_norm(k, get("self_attn.k_norm.weight"), eps)
        positions, (frequencies, growth) = np.arange(len(x), dtype=np.float64), self._frequencies(len(x))
        q, k = (growth * rotate(part, positions, frequencies) for part in (q, k))
        out = merge(attention(q, k, v, causal=True))
        if self.is_internlm2:
            x = x + linear("attention.wo", out)
            u = rms_norm(x, get("ffn_norm.weight"), eps)
            gate, up, down = "feed_forward.w1", "feed_forward.w3", "feed_forward.w2"
        else:
            x = x + linear("self_attn.o_proj", out)
            u = rms_norm(x, get("post_attention_layernorm.weight"), eps)
            if f"{prefix}mlp.gate.weight" in self.tensors:
                return x + self._experts(u, prefix)
            if self.is_phi3:
                one, other = np.split(linear("mlp.gate_up_proj", u), 2, axis=-1)
                return x + linear("mlp.down_proj", silu(one) * other)
            gate, up, down = "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"
        return x + linear(down, silu(linear(gate, u)) * linear(up, u))

    def _experts(self, u: Array, prefix: str) -> Array:
        """Every token through the experts that its router likes best, one token after another."""
        out = np.zeros_like(u)
        for row, token in enumerate(u):
            probabilities = softmax(self.tensors[f"{prefix}mlp.gate.weight"] @ token)
            best = np.argsort(-probabilities, kind="stable")[: self.llm["num_experts_per_tok"]]
            total = probabilities[best].sum() if self.llm["norm_topk_prob"] else 1.0
            for expert in best:
                gate, up, down = (
                    self.tensors[f"{prefix}mlp.experts.{expert}.{name}_proj.weight"]
                    for name in ("gate", "up", "down")
                )
                out[row] += probabilities[expert] / total * (down @ (silu(gate @ token) * (up @ token)))
        return out


def tensor_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint in the authors' format, by name."""
    vision, llm = config["vision_config"], config["llm_config"]
    c, f, h = vision["hidden_size"], vision["intermediate_size"], llm["hidden_size"]
    p, patches = vision["patch_size"], (vision["image_size"] // vision["patch_size"]) ** 2
    block = round(1 / config["downsample_ratio"]) ** 2
    bias = vision["norm_type"] == "layer_norm"

    embeddings = "vision_model.embeddings."
    shapes: dict[str, tuple[int, ...]] = {
        embeddings + "class_embedding": (1, 1, c),
        embeddings + "position_embedding": (1, 1 + patches, c),
        embeddings + "patch_embedding.weight": (c, 3, p, p),
        embeddings + "patch_embedding.bias": (c,),
    }
    for layer in range(vision["num_hidden_layers"]):
        prefix = f"vision_model.encoder.layers.{layer}."
        for norm in ("norm1", "norm2"):
            shapes[f"{prefix}{norm}.weight"] = (c,)
            if bias:
                shapes[f"{prefix}{norm}.bias"] = (c,)
        shapes[prefix + "attn.qkv.weight"] = (3 * c, c)
        if vision["qkv_bias"]:
            shapes[prefix + "attn.qkv.bias"] = (3 * c,)
        if vision["qk_normalization"]:
            shapes[prefix + "attn.q_norm.weight"] = shapes[prefix + "attn.k_norm.weight"] = (c,)
        for name, out, inner in (("attn.proj", c, c), ("mlp.fc1", f, c), ("mlp.fc2", c, f)):
            shapes[f"{prefix}{name}.weight"], shapes[f"{prefix}{name}.bias"] = (out, inner), (out,)
        shapes[prefix + "ls1"] = shapes[prefix + "ls2"] = (c,)

    shapes["mlp1.0.weight"] = shapes["mlp1.0.bias"] = (block * c,)
    for name, inner in (("mlp1.1", block * c), ("mlp1.3", h)):
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (h, inner), (h,)
    if config.get("flash_mode"):
        shapes |= _flash_shapes(c, h, block)
    return shapes | {f"language_model.{k}": v for k, v in _language_shapes(llm).items()}


def _flash_shapes(c: int, h: int, block: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"pooling_before_gating.query_token": (1, c)}

    def linear(name: str, out: int, inner: int) -> None:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = (out, inner), (out,)

    def norm(name: str, size: int) -> None:
        shapes[f"{name}.weight"] = shapes[f"{name}.bias"] = (size,)

    for i in range(1, 5):
        prefix = f"pooling_before_gating.attn{i}."
        shapes[prefix + "in_proj_weight"], shapes[prefix + "in_proj_bias"] = (3 * c, c), (3 * c,)
        linear(prefix + "out_proj", c, c)
        norm(f"pooling_before_gating.norm{i}", c)
        linear(f"gating.block{i}.0", 4 * c, c)
        linear(f"gating.block{i}.3", c, 4 * c)
        norm(f"gating.block{i}.5", c)
    norm("gating.gate.0", c)
    linear("gating.gate.1", 2, c)
    norm("mlp2.0", block**2 * c)
    linear("mlp2.1", 2 * h, block**2 * c)
    linear("mlp2.4", 2 * h, 2 * h)
    linear("mlp2.7", h, 2 * h)
    return shapes


def _language_shapes(llm: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    h, i, vocab = llm["hidden_size"], llm["intermediate_size"], llm["vocab_size"]
    heads, kv_heads = llm["num_attention_heads"], llm["num_key_value_heads"]
    d = llm.get("head_dim") or h // heads
    architecture = llm["architectures"][0]
    shapes: dict[str, tuple[int, ...]] = {}
    if architecture == "InternLM2ForCausalLM":
        shapes["model.tok_embeddings.weight"] = shapes["output.weight"] = (vocab, h)
        shapes["model.norm.weight"] = (h,)
        for layer in range(llm["num_hidden_layers"]):
            prefix = f"model.layers.{layer}."
            shapes[prefix + "attention.wqkv.weight"] = ((heads + 2 * kv_heads) * d, h)
            shapes[prefix + "attention.wo.weight"] = (h, heads * d)
            shapes[prefix + "feed_forward.w1.weight"] = shapes[prefix + "feed_forward.w3.weight"] = (i, h)
            shapes[prefix + "feed_forward.w2.weight"] = (h, i)
            shapes[prefix + "attention_norm.weight"] = shapes[prefix + "ffn_norm.weight"] = (h,)
        return shapes
    shapes["model.embed_tokens.weight"] = shapes["lm_head.weight"] = (vocab, h)
    shapes["model.norm.weight"] = (h,)
    for layer in range(llm["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        projections = (("q_proj", heads * d), ("k_proj", kv_heads * d), ("v_proj", kv_heads * d))
        if architecture == "Phi3ForCausalLM":
            projections = (("qkv_proj", (heads + 2 * kv_heads) * d),)
        for name, rows in projections:
            shapes[f"{prefix}self_attn.{name}.weight"] = (rows, h)
            if architecture == "Qwen2ForCausalLM":
                shapes[f"{prefix}self_attn.{name}.bias"] = (rows,)
        if architecture in ("Qwen3ForCausalLM", "Qwen3MoeForCausalLM"):
            shapes[prefix + "self_attn.q_norm.weight"] = shapes[prefix + "self_attn.k_norm.weight"] = (d,)
        shapes[prefix + "self_attn.o_proj.weight"] = (h, heads * d)
        mlps = [("mlp.", i)]
        if architecture == "Qwen3MoeForCausalLM":
            shapes[prefix + "mlp.gate.weight"] = (llm["num_experts"], h)
            mlps = [(f"mlp.experts.{e}.", llm["moe_intermediate_size"]) for e in range(llm["num_experts"])]
        for mlp, inner in mlps:
            if architecture == "Phi3ForCausalLM":
                shapes[f"{prefix}{mlp}gate_up_proj.weight"] = (2 * inner, h)
            else:
                shapes[f"{prefix}{mlp}gate_proj.weight"] = shapes[f"{prefix}{mlp}up_proj.weight"] = (inner, h)
            shapes[f"{prefix}{mlp}down_proj.weight"] = (h, inner)
        shapes[prefix + "input_layernorm.weight"] = shapes[prefix + "post_attention_layernorm.weight"] = (h,)
    return shapes


def random_tensors(config: Mapping[str, Any], seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """Weights under which every part of the model matters.

    Activations keep their scale, queries and keys are large enough that attention is far from uniform, layer
    scales are near one half, biases and norms are far from zero and one.
    """
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in tensor_shapes(config).items():
        values = rng.standard_normal(shape, dtype=np.float32)
        is_norm = "norm" in name or name.startswith(("mlp1.0.", "mlp2.0.", "gating.gate.0.")) or ".5." in name
        if is_norm and name.endswith(".weight") and len(shape) == 1:
            values = 1 + 0.3 * values
        elif name.endswith((".ls1", ".ls2")):
            values = 0.5 + 0.1 * values
        elif name.endswith("bias"):
            values = 0.3 * values
        elif "embedding" in name or "embed_tokens" in name:
            values = values if "patch" not in name else values / sqrt(prod(shape[1:]))
        else:
            scale = 3.0 if "lm_head" in name or "output" in name else 1.3
            values = values * np.float32(scale / sqrt(prod(shape[1:])))
        tensors[name] = values.astype(np.float32)
    return tensors
