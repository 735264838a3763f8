"""Checkpoints in the authors' format, exported and run, against the NumPy reference on the same tensors.

The reference knows the authors' names and layouts from the published description (InternLM2's fused wqkv
among them), so the whole way from the file to the token is held against it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.export import export
from parity.checkpoints import INTERNLM2, QWEN2, TOWER_6B, TOWER_300M, VOCABULARY, authors_checkpoint
from parity.compare import ENGINES, assert_greedy_agrees, cosine, greedy, opened, relative_error


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("tower", "llm"),
    [(TOWER_300M, INTERNLM2), (TOWER_6B, INTERNLM2), (TOWER_300M, QWEN2)],
    ids=["300m-internlm2", "6b-internlm2", "300m-qwen2"],
)
def test_features_logits_and_tokens(
    tmp_path: Path, engine: str, tower: dict[str, Any], llm: dict[str, Any]
) -> None:
    reference = authors_checkpoint(tmp_path / "in", tower, llm)
    folder = export(tmp_path / "in", tmp_path / "out", weights="fp32", vision="fp32", progress=False)
    context = open_bundle(folder).manifest.prompt.image_context_id
    rng = np.random.default_rng(3)
    pixels = rng.standard_normal((2, 3, 56, 56), dtype=np.float32)
    with opened(engine, folder) as model:
        features = model.encode_tiles(pixels).features
        expected = reference.features(pixels)
        assert relative_error(features, expected) < 1e-4

        ids = rng.integers(0, VOCABULARY - 40, 30)
        ids[10:18] = context
        embeddings = model.embed(ids, features.reshape(8, -1))
        wanted = reference.embed(ids, expected, context)
        assert relative_error(embeddings, wanted) < 1e-4
        logits = model.prefill(model.new_sequence(), embeddings, all_logits=True)
        assert relative_error(logits, reference.logits(wanted)) < 1e-4
        assert_greedy_agrees(greedy(model, embeddings, 12), *reference.greedy(wanted, 12))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("tower", [TOWER_300M, TOWER_6B], ids=["300m", "6b"])
def test_vision_at_lower_precision(tmp_path: Path, engine: str, tower: dict[str, Any]) -> None:
    reference = authors_checkpoint(tmp_path / "in", tower, QWEN2)
    pixels = np.random.default_rng(4).standard_normal((2, 3, 56, 56), dtype=np.float32)
    expected = reference.features(pixels)
    for vision, least in (("bf16", 0.9999), ("int8", 0.999)):
        out = tmp_path / vision
        export(tmp_path / "in", out, weights="bf16", vision=vision, progress=False)
        with opened(engine, out) as model:
            assert cosine(model.encode_tiles(pixels).features, expected) >= least, vision
