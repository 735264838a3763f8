"""Writes a trained model as a checkpoint in the authors' format, in bf16.

python training/export_checkpoint.py --run training/runs/first OUT
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from model import Sizes, TabletopModel
from preprocess import POOL, TILE
from tokenizer import SYSTEM_MESSAGE

PATCH_EMBEDDING = "vision_model.embeddings.patch_embedding.weight"


def checkpoint_tensors(model: TabletopModel) -> dict[str, Tensor]:
    """bf16 tensors under the authors' names; the dense heads stay behind."""
    tensors = {}
    for name, value in model.state_dict().items():
        if name.startswith("dense"):
            continue
        if name == PATCH_EMBEDDING:
            # Each trained pixel was the mean of POOL x POOL pixels of the tile.
            value = value.repeat_interleave(POOL, 2).repeat_interleave(POOL, 3) / POOL**2
        tensors[name] = value.to(torch.bfloat16).contiguous()
    return tensors


def checkpoint_config(sizes: Sizes, end_id: int, pad_id: int) -> dict[str, Any]:
    return {
        "architectures": ["InternVLChatModel"],
        "downsample_ratio": 0.5,
        "dynamic_image_size": True,
        "force_image_size": TILE,
        "llm_config": {
            "architectures": ["Qwen2ForCausalLM"],
            "attention_dropout": 0.0,
            "bos_token_id": pad_id,
            "eos_token_id": end_id,
            "head_dim": sizes.head_dim,
            "hidden_act": "silu",
            "hidden_size": sizes.hidden,
            "initializer_range": 0.02,
            "intermediate_size": sizes.intermediate,
            "max_position_embeddings": 4096,
            "max_window_layers": sizes.layers,
            "model_type": "qwen2",
            "num_attention_heads": sizes.heads,
            "num_hidden_layers": sizes.layers,
            "num_key_value_heads": sizes.kv_heads,
            "rms_norm_eps": 1e-6,
            "rope_scaling": None,
            "rope_theta": sizes.rope_theta,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "use_cache": True,
            "use_sliding_window": False,
            "vocab_size": sizes.vocab,
        },
        "max_dynamic_patch": 4,
        "min_dynamic_patch": 1,
        "model_type": "internvl_chat",
        "pad2square": False,
        "ps_version": "v2",
        "select_layer": -1,
        "system_message": SYSTEM_MESSAGE,
        "template": "internvl2_5",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_backbone_lora": 0,
        "use_llm_lora": 0,
        "use_thumbnail": True,
        "vision_config": {
            "architectures": ["InternVisionModel"],
            "attention_dropout": 0.0,
            "drop_path_rate": 0.0,
            "dropout": 0.0,
            "hidden_act": "gelu",
            "hidden_size": sizes.vision_hidden,
            "image_size": TILE,
            "initializer_factor": 1.0,
            "initializer_range": 0.02,
            "intermediate_size": sizes.vision_intermediate,
            "layer_norm_eps": 1e-6,
            "model_type": "intern_vit_6b",
            "norm_type": "layer_norm",
            "num_attention_heads": sizes.vision_heads,
            "num_channels": 3,
            "num_hidden_layers": sizes.vision_layers,
            "patch_size": 32,
            "qk_normalization": False,
            "qkv_bias": True,
            "torch_dtype": "bfloat16",
            "use_flash_attn": False,
        },
    }


def export_checkpoint(model: TabletopModel, tokenizer_folder: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for file in sorted(tokenizer_folder.iterdir()):
        shutil.copy(file, out / file.name)
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    end_id = tokenizer.token_to_id("<|im_end|>")
    pad_id = tokenizer.token_to_id("<|endoftext|>")
    config = checkpoint_config(model.sizes, end_id, pad_id)
    generation = {
        "do_sample": False,
        "eos_token_id": [end_id, pad_id],
        "pad_token_id": pad_id,
        "max_new_tokens": 128,
    }
    for name, value in (("config.json", config), ("generation_config.json", generation)):
        (out / name).write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", "utf-8")
    save_file(checkpoint_tensors(model), out / "model.safetensors", {"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--run", type=Path, default=Path("training/runs/first"))
    options = parser.parse_args()
    state = torch.load(options.run / "language.pt", map_location="cpu")
    sizes = Sizes(**state["sizes"]) if "sizes" in state else Sizes()
    model = TabletopModel(sizes)
    model.load_state_dict(state["model"], strict=False)
    export_checkpoint(model, options.run / "tokenizer", options.out)
    print(f"{options.out}: {json.dumps(dataclasses.asdict(sizes))}")


if __name__ == "__main__":
    main()
