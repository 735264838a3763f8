"""Checkpoints of transformers' own InternVL classes, exported and run, against those classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from transformers import InternVLForConditionalGeneration

from internvl_rt.export import export
from parity.checkpoints import IMAGE_CONTEXT_ID, VOCABULARY, transformers_checkpoint
from parity.compare import ENGINES, assert_greedy_agrees, cosine, greedy, opened, relative_error

TOWER_300M: dict[str, Any] = {"attention_bias": True, "norm_type": "layer_norm", "use_qk_norm": False}
TOWER_6B: dict[str, Any] = {"attention_bias": False, "norm_type": "rms_norm", "use_qk_norm": True}
SMALL_TOWER: dict[str, Any] = {
    "hidden_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 160,
    "image_size": [56, 56],
    "patch_size": [14, 14],
}
SMALL_TEXT: dict[str, Any] = {
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 224,
}
TRUE_TOWER: dict[str, Any] = TOWER_300M | {
    "hidden_size": 1024,
    "num_hidden_layers": 2,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "image_size": [448, 448],
    "patch_size": [14, 14],
}
TRUE_TEXT: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 896,
    "num_hidden_layers": 2,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "intermediate_size": 4864,
}
"""Qwen2.5-0.5B but for its vocabulary, which is shortened for time."""


def expected_features(model: InternVLForConditionalGeneration, pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    with torch.no_grad():
        output = model.model.get_image_features(
            torch.from_numpy(pixels), vision_feature_layer=-1, vision_feature_select_strategy="default"
        )
    return np.asarray(getattr(output, "pooler_output", output))


def expected_continuation(
    model: InternVLForConditionalGeneration, ids: npt.NDArray[Any], pixels: npt.NDArray[Any], steps: int
) -> tuple[npt.NDArray[Any], list[int], list[float]]:
    """Logits of every position of the prompt, greedy tokens, and by how much each led."""
    sequence, tokens, margins = torch.from_numpy(ids)[None], [], []
    prompt_logits = None
    with torch.no_grad():
        for _ in range(steps):
            logits = model(input_ids=sequence, pixel_values=torch.from_numpy(pixels), use_cache=False).logits[
                0
            ]
            prompt_logits = logits if prompt_logits is None else prompt_logits
            best = logits[-1].topk(2)
            tokens.append(int(best.indices[0]))
            margins.append(float(best.values[0] - best.values[1]))
            sequence = torch.cat([sequence, best.indices[:1][None]], dim=1)
    return np.asarray(prompt_logits), tokens, margins


def prompt_ids(image_tokens: int) -> npt.NDArray[np.int64]:
    ids = np.random.default_rng(5).integers(0, VOCABULARY - 40, image_tokens + 25)
    ids[9 : 9 + image_tokens] = IMAGE_CONTEXT_ID
    return ids


@pytest.mark.parametrize("text", ["qwen2", "llama", "qwen3"])
@pytest.mark.parametrize("tower", [TOWER_300M, TOWER_6B], ids=["300m", "6b"])
def test_features_logits_and_tokens(tmp_path: Path, tower: dict[str, Any], text: str) -> None:
    theirs = transformers_checkpoint(tmp_path / "in", SMALL_TOWER | tower, SMALL_TEXT | {"model_type": text})
    folder = export(tmp_path / "in", tmp_path / "out", weights="fp32", vision="fp32", progress=False)
    pixels = np.random.default_rng(6).standard_normal((2, 3, 56, 56), dtype=np.float32)
    ids = prompt_ids(8)
    features = expected_features(theirs, pixels)
    logits, tokens, margins = expected_continuation(theirs, ids, pixels, 10)
    for engine in ENGINES:
        with opened(engine, folder) as model:
            found = model.encode_tiles(pixels).features
            assert relative_error(found, features) < 1e-4, engine
            embeddings = model.embed(ids, found.reshape(8, -1))
            prefilled = model.prefill(model.new_sequence(), embeddings, all_logits=True)
            assert relative_error(prefilled, logits) < 1e-4, engine
            assert_greedy_agrees(greedy(model, embeddings, 10), tokens, margins)


@pytest.mark.true_widths
def test_true_widths(tmp_path: Path) -> None:
    """Two layers of InternViT-300M and of Qwen2.5-0.5B, one tile of 448, at every precision of the tower."""
    theirs = transformers_checkpoint(tmp_path / "in", TRUE_TOWER, TRUE_TEXT)
    pixels = np.random.default_rng(7).standard_normal((1, 3, 448, 448), dtype=np.float32)
    ids = prompt_ids(256)
    features = expected_features(theirs, pixels)
    logits, tokens, margins = expected_continuation(theirs, ids, pixels, 3)
    for vision, least in (("fp32", 0.9999999), ("bf16", 0.9999), ("int8", 0.999)):
        folder = export(tmp_path / "in", tmp_path / vision, weights="fp32", vision=vision, progress=False)
        for engine in ENGINES:
            with opened(engine, folder) as model:
                found = model.encode_tiles(pixels).features
                assert cosine(found, features) >= least, (engine, vision)
                if vision != "fp32":
                    continue
                assert relative_error(found, features) < 1e-4, engine
                embeddings = model.embed(ids, found[0])
                prefilled = model.prefill(model.new_sequence(), embeddings, all_logits=True)
                assert relative_error(prefilled, logits) < 1e-4, engine
                assert_greedy_agrees(greedy(model, embeddings, 3), tokens, margins)
