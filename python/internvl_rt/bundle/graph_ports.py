"""The names of the graphs' inputs and outputs: what the exporter writes and the engines bind."""

from __future__ import annotations

# vit.onnx
PIXEL_VALUES = "pixel_values"
"""[tiles, 3, image_size, image_size]"""
HIDDEN = "hidden"
"""[tiles, 1 + patches, C], the class token first"""

# projector.onnx
SHUFFLED = "shuffled"
"""[tiles, tokens_per_tile, downsample^2 * C], after the pixel shuffle"""
FEATURES = "features"
"""[tiles, tokens_per_tile, H]"""

# flash.onnx, from HIDDEN
SCORES = "scores"
"""[tiles]: the probability that a tile can do with fewer tokens"""
COMPRESSED = "compressed"
"""[tiles, tokens_per_compressed_tile, H]"""

# llm.onnx, in every dialect
EMBEDDINGS = "embeddings"
"""[batch, n, H]"""
COS = "cos"
"""[batch, n, head_dim / 2]: the rotary angles' cosines, so that every rope variant is the host's business"""
SIN = "sin"
"""[batch, n, head_dim / 2]"""
ROWS = "rows"
"""int64 [rows]: positions whose logits are wanted, counted over [batch * n]"""
LOGITS = "logits"
"""[rows, vocab]"""

# llm.onnx in the dialects onnx24 and trt10
MASK = "mask"
"""bool [batch, 1, n, attended]: true where a position may look; the cache is read up to ``attended``, at most
its capacity"""
WRITE_INDICES = "write_indices"
"""int64 [batch]: the place in the cache of the first of the n positions"""

# llm.onnx in the dialect ort, where attention is causal
LAST_POSITIONS = "last_positions"
"""int32 [batch]: the place in the cache of the last of the n positions"""
TOTAL_LENGTH = "total_length"
"""int32, a scalar on the CPU: the longest sequence's length, the n new positions included"""


CAPACITY = "capacity"
"""The name of the caches' extent, where the graph leaves it open"""


def cache_ports(layer: int) -> tuple[tuple[str, str], tuple[str, str]]:
    """The cache of a layer: (keys in, keys out), (values in, values out).

    Each is [batch, kv_heads, capacity, head_dim]. An output may be bound to its input's memory: then the n
    new positions are written in place and nothing is copied.
    """
    keys, values = f"cache.{layer}.keys", f"cache.{layer}.values"
    return (keys, f"{keys}.updated"), (values, f"{values}.updated")
