"""InternVL3.5-Flash: the resolution router, tiles in fewer tokens, and answers about both kinds of tiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import internvl_rt as ivl
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.bundle.graph_sets import GRAPH_SETS
from internvl_rt.engines.onnxruntime import OnnxVision
from internvl_rt.errors import CheckpointError
from internvl_rt.export import export
from parity.checkpoints import QWEN3, TOWER_300M, authors_checkpoint
from parity.compare import ENGINES, assert_greedy_agrees, cosine, opened, relative_error
from reference.internvl import POOLING_TENSORS, Reference, pooled

SIDE = 112
TOKENS, FEW = 16, 4
THRESHOLDS = {"flash_relative_threshold": 0.4, "flash_absolute_threshold": 0.05}
QUESTION = "What is this?"


def checkpoint(folder: Path, **changes: object) -> Reference:
    flash = {"flash_mode": True, "force_image_size": SIDE, "max_dynamic_patch": 4, **THRESHOLDS}
    return authors_checkpoint(folder, TOWER_300M | {"image_size": SIDE}, QWEN3, **(flash | changes))


def test_the_reference_attends_as_torch_does() -> None:
    module = torch.nn.MultiheadAttention(96, 16, batch_first=True).double()
    tensors = {name: tensor.detach().numpy() for name, tensor in module.state_dict().items()}
    assert set(tensors) == set(POOLING_TENSORS)
    rng = np.random.default_rng(0)
    query, keys = rng.standard_normal((1, 96)), rng.standard_normal((20, 96))
    with torch.no_grad():
        wanted = module(*(torch.tensor(x)[None] for x in (query, keys, keys)))[0][0].numpy()
    np.testing.assert_allclose(pooled(query, keys, tensors, 16), wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_scores_and_compressed_tiles(tmp_path: Path, engine: str) -> None:
    reference = checkpoint(tmp_path / "in")
    folder = export(tmp_path / "in", tmp_path / "out", weights="fp32", vision="fp32", progress=False)
    pixels = np.random.default_rng(3).standard_normal((5, 3, SIDE, SIDE), dtype=np.float32)
    scores, compressed = reference.flash(pixels)
    assert scores.std() > 0.01
    with opened(engine, folder) as model:
        found = model.encode_tiles(pixels)
        assert relative_error(found.features, reference.features(pixels)) < 1e-4
        assert found.scores is not None
        assert found.compressed is not None
        assert np.abs(found.scores - scores).max() < 1e-4
        assert found.compressed.shape == (5, FEW, 128)
        assert relative_error(found.compressed, compressed) < 1e-4


@pytest.mark.parametrize("engine", ENGINES)
def test_answers(tmp_path: Path, engine: str) -> None:
    """Two pictures, of five tiles and of one: each is a batch of its own."""
    reference = checkpoint(tmp_path / "in")
    folder = export(tmp_path / "in", tmp_path / "out", weights="fp32", vision="fp32", progress=False)
    rng = np.random.default_rng(4)
    pictures = [
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)) for size in ((260, 250, 3), (90, 90, 3))
    ]
    features, kept = [], []
    for picture in pictures:
        pixels = ivl.tile_image(picture, max_tiles=4, tile_size=SIDE).pixel_values()
        scores, compressed = reference.flash(pixels)
        chosen = (scores > np.quantile(scores, 0.4)) & (scores >= 0.05)
        for tile, full in enumerate(reference.features(pixels)):
            features.append(compressed[tile] if chosen[tile] else full)
            kept += [i < FEW or not chosen[tile] for i in range(TOKENS)]
    assert 0 < sum(kept) < len(kept) == 6 * TOKENS

    with ivl.load(folder, engine=engine, cache_tokens=1024) as model:
        ids = model.render(QUESTION, pictures, max_tiles=4).input_ids
        places = ids == model.manifest.prompt.image_context_id
        stays = ~places
        stays[places] = kept
        wanted = reference.embed(ids[stays], np.concatenate(features), model.manifest.prompt.image_context_id)
        answer = model.chat(QUESTION, pictures, max_tiles=4, max_new_tokens=8)
        tokens, margins = reference.greedy(wanted, len(answer.token_ids))
        assert_greedy_agrees(list(answer.token_ids), tokens, margins)
        assert (answer.usage.tiles, answer.usage.image_tokens) == (6, sum(kept))

        encoded = [model.encode(picture, max_tiles=4) for picture in pictures]
        assert sum(picture.tokens for picture in encoded) == sum(kept)
        assert encoded[1].tile_tokens == (TOKENS,)
        again = model.chat(QUESTION, encoded, max_new_tokens=8)
        assert again.token_ids == answer.token_ids
        generated = model.generate(ids[stays], encoded, max_new_tokens=8)
        assert generated.token_ids == answer.token_ids


@pytest.mark.parametrize("vision", ["fp32", "int8"])
def test_every_dialect(tmp_path: Path, vision: str) -> None:
    reference = checkpoint(tmp_path / "in")
    sets = [graphs for graphs in GRAPH_SETS.values() if graphs.compute != "bf16"]
    folder = tmp_path / "out"
    export(
        tmp_path / "in",
        folder,
        weights="bf16",
        vision=vision,
        dialect=[made.name for made in sets],
        progress=False,
    )
    bundle = open_bundle(folder)
    pixels = np.random.default_rng(3).standard_normal((3, 3, SIDE, SIDE), dtype=np.float32)
    scores, compressed = reference.flash(pixels)
    exact = vision == "fp32"
    for graphs in sets:
        found = OnnxVision(bundle, 1, graphs=graphs).encode_tiles(pixels)
        assert found.scores is not None
        assert found.compressed is not None
        bound = 1e-4 if exact and graphs.compute == "fp32" else 0.02
        assert np.abs(found.scores - scores).max() < (bound if exact else 0.1), graphs.name
        assert cosine(found.compressed, compressed) > (1 - bound**2 if exact else 0.99), graphs.name


def test_router_of_another_shape(tmp_path: Path) -> None:
    checkpoint(tmp_path / "in", flash_absolute_threshold=None)
    with pytest.raises(CheckpointError, match="flash_absolute_threshold is missing"):
        export(tmp_path / "in", tmp_path / "out")
    checkpoint(tmp_path / "off", flash_mode=False)
    export(tmp_path / "off", tmp_path / "out", progress=False)
