"""Checkpoints that transformers itself writes: names, shards, and keys left out of config.json."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import InternVLConfig, InternVLForConditionalGeneration

from export.checkpoints import TINY_QWEN2, write_tokenizer
from export.test_export import stored
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.export.checkpoint import Checkpoint
from internvl_rt.export.config import read_config
from internvl_rt.export.exporter import export

VISION = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": [56, 56],
    "patch_size": [14, 14],
}
TEXT = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "vocab_size": TINY_QWEN2.vocabulary,
    "tie_word_embeddings": False,
}


@pytest.mark.parametrize("tower", ["300m", "6b"])
@pytest.mark.parametrize("text", ["qwen2", "llama", "qwen3"])
def test_saved_by_transformers(tmp_path: Path, text: str, tower: str) -> None:
    vision = dict(VISION, attention_bias=tower == "300m")
    if tower == "6b":
        vision |= {"use_qk_norm": True, "norm_type": "rms_norm"}
    config = InternVLConfig(
        vision_config=vision,
        text_config=dict(TEXT, model_type=text),
        image_seq_length=4,
        image_token_id=324,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = InternVLForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "in", max_shard_size="100KB")
    write_tokenizer(tmp_path / "in", TINY_QWEN2)
    bundle = open_bundle(export(tmp_path / "in", tmp_path / "out", weights="fp32"))
    found = stored(bundle)
    state = {n: t.numpy() for n, t in model.state_dict().items()}
    layer = "model.language_model.layers.1."
    wanted = [state[f"{layer}self_attn.{name}_proj.weight"] for name in "qkv"]
    np.testing.assert_array_equal(found["llm.layers.1.qkv.weight"], np.concatenate(wanted))
    wanted = [state[f"{layer}mlp.{name}_proj.weight"] for name in ("gate", "up")]
    np.testing.assert_array_equal(found["llm.layers.1.gate_up.weight"], np.concatenate(wanted))
    np.testing.assert_array_equal(found["llm.lm_head.weight"], state["lm_head.weight"])
    np.testing.assert_array_equal(
        found["vit.layers.1.fc2.weight"], state["model.vision_tower.encoder.layer.1.mlp.fc2.weight"]
    )
    np.testing.assert_array_equal(
        found["projector.fc1.bias"], state["model.multi_modal_projector.linear_1.bias"]
    )
    # Every number of the checkpoint is in the bundle once.
    assert sum(a.size for a in found.values()) == sum(a.size for a in state.values())
    facts = bundle.manifest
    assert facts.llm.rope.theta == model.config.text_config.rope_parameters["rope_theta"]
    assert facts.llm.norm_eps == model.config.text_config.rms_norm_eps
    assert facts.llm.rope.max_position_embeddings == model.config.text_config.max_position_embeddings
    assert facts.vision.qk_norm == (tower == "6b")


def test_sizes_that_equal_a_default_are_left_out_of_the_file(tmp_path: Path) -> None:
    """transformers omits them; a 7B's hidden_size of 4096 is such a size."""
    config = InternVLConfig(
        text_config={"model_type": "llama", "vocab_size": 92553, "num_key_value_heads": 8}
    )
    config.save_pretrained(tmp_path)
    document = json.loads((tmp_path / "config.json").read_text())
    document["text_config"] = {"model_type": "llama", "vocab_size": 92553, "num_key_value_heads": 8}
    document["vision_config"] = {"model_type": "internvl_vision"}
    found = read_config(Checkpoint(tmp_path, document, {}))
    text = config.text_config
    assert (found.llm.hidden_size, found.llm.layers) == (text.hidden_size, text.num_hidden_layers)
    assert (found.llm.heads, found.llm.kv_heads, found.llm.head_dim) == (32, 8, text.head_dim)
    assert found.llm.intermediate_size == text.intermediate_size
    assert found.llm.norm_eps == text.rms_norm_eps
    assert found.vision.hidden_size == config.vision_config.hidden_size
    assert found.vision.layers == config.vision_config.num_hidden_layers
