"""Integer language models whose matrices have inputs with a few channels far above the others, as trained
models do: int8 weights never lose more than int4 weights, on the engines that round activations for them.

A channel is planted by a factor on what makes it and its inverse on the columns that read it: the same
function, whatever the factor.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file, save_file

import internvl_rt as ivl
from parity.checkpoints import QWEN2, TOWER_300M, authors_checkpoint

Tensors = dict[str, npt.NDArray[np.float32]]

HIDDEN, INNER, HEADS, KV_HEADS, HEAD_DIM, LAYERS = 256, 512, 4, 2, 64, 2
TOKENS = np.arange(5, 45)
NOISE = 0.02
"""Cosines that differ by less say nothing: those of int4 do so with the seed of the weights."""

SIZES = {
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "num_hidden_layers": LAYERS,
}
READERS = {
    "qkv": ("input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    "gate_up": ("post_attention_layernorm", ("mlp.gate_proj", "mlp.up_proj")),
}
PLACES = ("qkv", "o_proj", "gate_up", "down", "lm_head")


def plant(tensors: Tensors, place: str, channel: int, factor: float) -> None:
    """Makes one channel of the inputs of a kind of matrix larger, in every layer."""
    if place == "lm_head":
        tensors["language_model.model.norm.weight"][channel] *= factor
        tensors["language_model.lm_head.weight"][:, channel] /= factor
        return
    for layer in range(LAYERS):
        name = f"language_model.model.layers.{layer}."
        if place in READERS:
            norm, matrices = READERS[place]
            tensors[f"{name}{norm}.weight"][channel] *= factor
            for matrix in matrices:
                tensors[f"{name}{matrix}.weight"][:, channel] /= factor
        elif place == "down":
            tensors[name + "mlp.up_proj.weight"][channel] *= factor
            tensors[name + "mlp.down_proj.weight"][:, channel] /= factor
        else:
            # A channel of the values is one of every head that reads them.
            head, element = divmod(channel % (KV_HEADS * HEAD_DIM), HEAD_DIM)
            tensors[name + "self_attn.v_proj.weight"][head * HEAD_DIM + element] *= factor
            tensors[name + "self_attn.v_proj.bias"][head * HEAD_DIM + element] *= factor
            group = HEADS // KV_HEADS
            for query_head in range(head * group, (head + 1) * group):
                column = query_head * HEAD_DIM + element
                tensors[name + "self_attn.o_proj.weight"][:, column] /= factor


def logits(checkpoint: Path, weights: str, engine: str) -> npt.NDArray[np.float64]:
    out = checkpoint.with_name(weights)
    if not out.exists():
        ivl.export(checkpoint, out, weights=weights, dialect="ort", progress=False)
    with ivl.load(out, engine=engine, threads=1) as model:
        return model.logits(TOKENS).astype(np.float64).ravel()


def cosine(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("channels", [(7,), (7, 70, 190)], ids=["one", "three"])
@pytest.mark.parametrize("factor", [30.0, 100.0, 300.0])
@pytest.mark.parametrize("place", [*PLACES, "all"])
def test_int8_is_never_below_int4(
    tmp_path: Path, place: str, factor: float, channels: tuple[int, ...]
) -> None:
    checkpoint = tmp_path / "checkpoint"
    authors_checkpoint(checkpoint, TOWER_300M, {**QWEN2, **SIZES})
    file = checkpoint / "model.safetensors"
    tensors = load_file(file)
    for each in PLACES if place == "all" else (place,):
        for channel in channels:
            plant(tensors, each, channel, factor)
    save_file(tensors, file, metadata={"format": "pt"})

    wanted = logits(checkpoint, "fp32", "native")
    for engine in ("native", "onnxruntime"):
        int8, int4 = (cosine(logits(checkpoint, weights, engine), wanted) for weights in ("int8", "int4"))
        assert int8 >= int4 - NOISE, engine
