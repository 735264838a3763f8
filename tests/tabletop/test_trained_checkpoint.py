"""The shipped checkpoint: format, tokenizer, and that transformers' own classes answer with it."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from internvl_rt.tabletop.held_out import checkpoint_folder, held_out_questions, is_right, is_tiled
from internvl_rt.tabletop.questions import Question
from internvl_rt.tabletop.scenes import CHARACTERS

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
    "<quad>",
    "</quad>",
    "<ref>",
    "</ref>",
    "<box>",
    "</box>",
)
FOLDER = checkpoint_folder()
CONFIG: dict[str, Any] = json.loads((FOLDER / "config.json").read_text("utf-8"))
VISION, LLM = CONFIG["vision_config"], CONFIG["llm_config"]


def expected_shapes() -> dict[str, list[int]]:
    """Every tensor of a checkpoint in the authors' format, from its config alone."""
    c, f, p = VISION["hidden_size"], VISION["intermediate_size"], VISION["patch_size"]
    patches = (CONFIG["force_image_size"] // p) ** 2
    h, m, v, d = LLM["hidden_size"], LLM["intermediate_size"], LLM["vocab_size"], LLM["head_dim"]
    q, kv = LLM["num_attention_heads"] * d, LLM["num_key_value_heads"] * d
    shapes = {
        "vision_model.embeddings.class_embedding": [1, 1, c],
        "vision_model.embeddings.position_embedding": [1, 1 + patches, c],
        "vision_model.embeddings.patch_embedding.weight": [c, 3, p, p],
        "vision_model.embeddings.patch_embedding.bias": [c],
        "mlp1.0.weight": [4 * c],
        "mlp1.0.bias": [4 * c],
        "mlp1.1.weight": [h, 4 * c],
        "mlp1.1.bias": [h],
        "mlp1.3.weight": [h, h],
        "mlp1.3.bias": [h],
        "language_model.model.embed_tokens.weight": [v, h],
        "language_model.model.norm.weight": [h],
        "language_model.lm_head.weight": [v, h],
    }
    vision_layer = {
        "norm1.weight": [c],
        "norm1.bias": [c],
        "norm2.weight": [c],
        "norm2.bias": [c],
        "attn.qkv.weight": [3 * c, c],
        "attn.qkv.bias": [3 * c],
        "attn.proj.weight": [c, c],
        "attn.proj.bias": [c],
        "ls1": [c],
        "ls2": [c],
        "mlp.fc1.weight": [f, c],
        "mlp.fc1.bias": [f],
        "mlp.fc2.weight": [c, f],
        "mlp.fc2.bias": [c],
    }
    language_layer = {
        "input_layernorm.weight": [h],
        "post_attention_layernorm.weight": [h],
        "self_attn.q_proj.weight": [q, h],
        "self_attn.q_proj.bias": [q],
        "self_attn.k_proj.weight": [kv, h],
        "self_attn.k_proj.bias": [kv],
        "self_attn.v_proj.weight": [kv, h],
        "self_attn.v_proj.bias": [kv],
        "self_attn.o_proj.weight": [h, q],
        "mlp.gate_proj.weight": [m, h],
        "mlp.up_proj.weight": [m, h],
        "mlp.down_proj.weight": [h, m],
    }
    for i in range(VISION["num_hidden_layers"]):
        shapes |= {f"vision_model.encoder.layers.{i}.{n}": s for n, s in vision_layer.items()}
    for i in range(LLM["num_hidden_layers"]):
        shapes |= {f"language_model.model.layers.{i}.{n}": s for n, s in language_layer.items()}
    return shapes


def test_tensors_have_the_authors_names_and_shapes_in_bf16() -> None:
    raw = (FOLDER / "model.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    header.pop("__metadata__", None)
    assert {name: tensor["shape"] for name, tensor in header.items()} == expected_shapes()
    assert {tensor["dtype"] for tensor in header.values()} == {"BF16"}


def test_everything_together_is_at_most_12_mb() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 12_000_000


def test_config_is_what_runtimes_rely_on() -> None:
    assert CONFIG["model_type"] == "internvl_chat"
    assert CONFIG["architectures"] == ["InternVLChatModel"]
    assert (CONFIG["template"], CONFIG["ps_version"], CONFIG["select_layer"]) == (
        "internvl2_5",
        "v2",
        -1,
    )
    assert CONFIG["downsample_ratio"] == 0.5
    assert CONFIG["use_thumbnail"] is CONFIG["dynamic_image_size"] is True
    assert LLM["architectures"] == ["Qwen2ForCausalLM"]
    # Four-bit weights come in blocks of 32 along the input.
    for size in (
        VISION["hidden_size"],
        VISION["intermediate_size"],
        LLM["hidden_size"],
        LLM["intermediate_size"],
    ):
        assert size % 32 == 0


def test_tokenizer_files_agree_and_keep_label_characters_apart() -> None:
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    fast = tokenizers.Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    slow = transformers.AutoTokenizer.from_pretrained(FOLDER)
    first = fast.token_to_id(SPECIAL[0])
    assert [fast.token_to_id(token) for token in SPECIAL] == list(range(first, first + len(SPECIAL)))
    assert fast.get_vocab_size() <= LLM["vocab_size"]
    for question in held_out_questions()[::5]:
        for text in (question.text, question.answer + "<|im_end|>"):
            ids = fast.encode(text).ids
            assert fast.decode(ids, skip_special_tokens=False) == text
            assert slow(text).input_ids == ids
    for a in CHARACTERS:
        for b in CHARACTERS:
            assert len(fast.encode(a + b).ids) == 2


def native_name(name: str) -> str:
    """The name of a tensor in transformers' own InternVL classes."""
    rules = (
        (r"^vision_model\.encoder\.layers\.", "model.vision_tower.encoder.layer."),
        (r"^vision_model\.embeddings\.class_embedding", "model.vision_tower.embeddings.cls_token"),
        (
            r"^vision_model\.embeddings\.position_embedding",
            "model.vision_tower.embeddings.position_embeddings",
        ),
        (
            r"^vision_model\.embeddings\.patch_embedding",
            "model.vision_tower.embeddings.patch_embeddings.projection",
        ),
        (r"\.norm1\.", ".layernorm_before."),
        (r"\.norm2\.", ".layernorm_after."),
        (r"\.attn\.proj\.", ".attention.projection_layer."),
        (r"\.ls1$", ".lambda_1"),
        (r"\.ls2$", ".lambda_2"),
        (r"^mlp1\.0\.", "model.multi_modal_projector.layer_norm."),
        (r"^mlp1\.1\.", "model.multi_modal_projector.linear_1."),
        (r"^mlp1\.3\.", "model.multi_modal_projector.linear_2."),
        (r"^language_model\.model\.", "model.language_model."),
        (r"^language_model\.lm_head\.", "lm_head."),
    )
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


@pytest.fixture(scope="module")
def native() -> Any:
    """The checkpoint in InternVLForConditionalGeneration, float32."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    safetensors = pytest.importorskip("safetensors.torch")
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    text = {k: v for k, v in LLM.items() if k not in ("architectures", "model_type", "torch_dtype")}
    config = transformers.InternVLConfig(
        vision_config=transformers.InternVLVisionConfig(
            hidden_size=VISION["hidden_size"],
            intermediate_size=VISION["intermediate_size"],
            num_hidden_layers=VISION["num_hidden_layers"],
            num_attention_heads=VISION["num_attention_heads"],
            attention_bias=VISION["qkv_bias"],
            image_size=[CONFIG["force_image_size"]] * 2,
            patch_size=[VISION["patch_size"]] * 2,
        ),
        text_config=transformers.Qwen2Config(**text),
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        downsample_ratio=CONFIG["downsample_ratio"],
        tie_word_embeddings=False,
    )
    model = transformers.InternVLForConditionalGeneration(config).eval()
    weights = {}
    for name, value in safetensors.load_file(FOLDER / "model.safetensors").items():
        value = value.float()
        if ".attn.qkv." in name:
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                split = name.replace(".attn.qkv.", f".attention.{part}_proj.")
                weights[native_name(split)] = rows
        else:
            weights[native_name(name)] = value
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not missing
    assert not unexpected
    del torch
    return model, tokenizer


def one_tile(image: Image.Image) -> np.ndarray[Any, np.dtype[np.float32]]:
    side = CONFIG["force_image_size"]
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC), np.float32) / 255
    mean = np.array((0.485, 0.456, 0.406), np.float32)
    std = np.array((0.229, 0.224, 0.225), np.float32)
    return ((pixels - mean) / std).transpose(2, 0, 1)


def native_answer(native: Any, question: Question) -> str:
    import torch

    model, tokenizer = native
    text = question.text
    if question.scenes and "<image>" not in text:
        text = "<image>\n" + text
    tokens = (CONFIG["force_image_size"] // VISION["patch_size"]) ** 2 // 4
    text = text.replace("<image>", f"<img>{'<IMG_CONTEXT>' * tokens}</img>")
    prompt = (
        f"<|im_start|>system\n{CONFIG['system_message']}<|im_end|>\n"
        f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    )
    ids = torch.tensor([tokenizer(prompt).input_ids])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if question.scenes:
        inputs["pixel_values"] = torch.tensor(np.stack([one_tile(i) for i in question.images()]))
    out = model.generate(
        **inputs,
        max_new_tokens=48,
        do_sample=False,
        eos_token_id=tokenizer.convert_tokens_to_ids("<|im_end|>"),
        pad_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
    )
    answer: str = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=False)
    return answer.removesuffix("<|im_end|>")


@pytest.mark.parametrize(
    "kind", ["objects", "count", "label", "box", "two_pictures", "direction", "text_only"]
)
def test_transformers_answers_held_out_questions(native: Any, kind: str) -> None:
    questions = [q for q in held_out_questions() if q.kind == kind and not is_tiled(q)][:10]
    answers = [native_answer(native, question) for question in questions]
    right = [is_right(q, a) for q, a in zip(questions, answers, strict=True)]
    assert sum(right) >= (7 if kind == "count" else 9), list(
        zip([q.answer for q in questions], answers, strict=True)
    )
