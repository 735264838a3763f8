"""``config.json`` of a checkpoint to the facts of a manifest, in both formats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from internvl_rt.bundle.manifest import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    LanguageModel,
    NormType,
    Projector,
    Rope,
    Tiling,
    Vision,
)
from internvl_rt.errors import CheckpointError
from internvl_rt.export.architectures import LANGUAGE_ARCHITECTURES, LanguageArchitecture
from internvl_rt.export.checkpoint import Checkpoint
from internvl_rt.export.checkpoint.checkpoint import CONFIG_FILE, read_json
from internvl_rt.export.fields import Fields

NATIVE_TEMPLATE = "internvl-hf"
"""Native checkpoints have no template's name in their configuration; they all share this one."""

IMAGE_PROCESSOR_FILE = "preprocessor_config.json"
PROCESSOR_FILE = "processor_config.json"
"""Of newer transformers releases, with the image processor's settings inside."""


@dataclass(frozen=True)
class ModelConfig:
    """What ``config.json`` says. ``tied_embeddings`` of the language model is decided by the tensors."""

    format: Literal["internvl_chat", "internvl"]
    architecture: LanguageArchitecture
    vision: Vision
    stored_image_size: int
    """The image size that the checkpoint's position embedding was made for."""
    projector: Projector
    llm: LanguageModel
    tiling: Tiling
    template: str
    system_message: str | None


def read_config(checkpoint: Checkpoint) -> ModelConfig:
    """Reads the configuration of a checkpoint of either format.

    Raises:
        CheckpointError: if the model is none that this release supports; the message names what was found and
            lists what is supported. Or if a value is missing, malformed, or changes the computation in a way
            that is not supported.
    """
    config = Fields(checkpoint.config, str(checkpoint.folder / CONFIG_FILE))
    model_type, classes = config.values.get("model_type"), config.values.get("architectures")
    if config.values.get("quantization_config") is not None:
        raise CheckpointError(
            f"{config.where}: this checkpoint is quantised already. "
            "Export the original one; `weights` chooses the precision of the bundle."
        )
    if model_type == "internvl_chat":
        return _read_authors(config)
    if model_type == "internvl":
        return _read_native(config, checkpoint.folder)
    raise CheckpointError(
        f"{config.where}: is a model of the type {model_type!r} (architectures {classes!r}). This release "
        "exports internvl_chat (the authors' format) and internvl (the transformers format). " + _supported()
    )


def _read_authors(config: Fields) -> ModelConfig:
    vision_config, llm_config = config.inner("vision_config"), config.inner("llm_config")
    config.require("select_layer", config.integer("select_layer", -1), -1)
    config.require("pad2square", config.boolean("pad2square", False), False)
    vision_config.require("model_type", vision_config.text("model_type", "intern_vit_6b"), "intern_vit_6b")
    stored = vision_config.integer("image_size", 224)
    image_size = config.integer("force_image_size", stored)
    vision = Vision(
        hidden_size=vision_config.integer("hidden_size", 3200),
        layers=vision_config.integer("num_hidden_layers", 48),
        heads=vision_config.integer("num_attention_heads", 25),
        intermediate_size=vision_config.integer("intermediate_size", 12800),
        image_size=image_size,
        patch_size=vision_config.integer("patch_size", 14),
        norm=_norm_type(vision_config, "rms_norm"),
        norm_eps=vision_config.number("layer_norm_eps", 1e-6),
        qkv_bias=vision_config.boolean("qkv_bias", False),
        qk_norm=vision_config.boolean("qk_normalization", True),
    )
    _check_vision(vision_config)
    architecture = _architecture(llm_config)
    version = config.text("ps_version", "v1")
    config.require("ps_version", version, "v1", "v2")
    message = config.values.get("system_message")
    return ModelConfig(
        format="internvl_chat",
        architecture=architecture,
        vision=vision,
        stored_image_size=stored,
        projector=Projector(_downsample(config), "v1" if version == "v1" else "v2"),
        llm=_language_model(llm_config, architecture),
        tiling=Tiling(
            tile_size=image_size,
            min_tiles=config.integer("min_dynamic_patch", 1),
            max_tiles=config.integer("max_dynamic_patch", 6),
            thumbnail=config.boolean("use_thumbnail", False),
            dynamic=config.boolean("dynamic_image_size", False),
        ),
        template=config.text("template"),
        system_message=None if message is None else config.text("system_message"),
    )


def _read_native(config: Fields, folder: Path) -> ModelConfig:
    vision_config, text_config = config.inner("vision_config"), config.inner("text_config")
    config.require("vision_feature_layer", config.integer("vision_feature_layer", -1), -1)
    strategy = config.text("vision_feature_select_strategy", "default")
    config.require("vision_feature_select_strategy", strategy, "default")
    config.require("projector_hidden_act", config.text("projector_hidden_act", "gelu"), "gelu")
    image_size = vision_config.side("image_size", 448)
    vision = Vision(
        hidden_size=vision_config.integer("hidden_size", 1024),
        layers=vision_config.integer("num_hidden_layers", 24),
        heads=vision_config.integer("num_attention_heads", 16),
        intermediate_size=vision_config.integer("intermediate_size", 4096),
        image_size=image_size,
        patch_size=vision_config.side("patch_size", 14),
        norm=_norm_type(vision_config, "layer_norm"),
        norm_eps=vision_config.number("layer_norm_eps", 1e-6),
        qkv_bias=vision_config.boolean("attention_bias", False),
        qk_norm=vision_config.boolean("use_qk_norm", False),
    )
    _check_vision(vision_config)
    for key in ("use_mean_pooling", "use_absolute_position_embeddings"):
        vision_config.require(key, vision_config.boolean(key, True), True)
    architecture = _architecture(text_config)
    tokens = (image_size // max(1, vision.patch_size) // _downsample(config)) ** 2
    config.require("image_seq_length", config.integer("image_seq_length", tokens), tokens)
    processor = _image_processor(folder)
    return ModelConfig(
        format="internvl",
        architecture=architecture,
        vision=vision,
        stored_image_size=image_size,
        projector=Projector(_downsample(config), "v2"),
        llm=_language_model(text_config, architecture),
        tiling=Tiling(
            tile_size=image_size,
            min_tiles=processor.integer("min_patches", 1),
            max_tiles=processor.integer("max_patches", 12),
            thumbnail=True,
            dynamic=True,
            mean=processor.triple("image_mean", IMAGENET_MEAN),
            std=processor.triple("image_std", IMAGENET_STD),
        ),
        template=NATIVE_TEMPLATE,
        system_message=None,
    )


def _image_processor(folder: Path) -> Fields:
    """The settings of the native image processor; without a file, it has the defaults."""
    path = folder / IMAGE_PROCESSOR_FILE
    if path.is_file():
        return Fields(read_json(path), str(path))
    path = folder / PROCESSOR_FILE
    if path.is_file():
        processor = Fields(read_json(path), str(path))
        if processor.values.get("image_processor") is not None:
            return processor.inner("image_processor")
    return Fields({}, str(path))


def _norm_type(vision_config: Fields, default: NormType) -> NormType:
    found = vision_config.text("norm_type", default)
    vision_config.require("norm_type", found, "layer_norm", "rms_norm")
    return "layer_norm" if found == "layer_norm" else "rms_norm"


def _check_vision(vision_config: Fields) -> None:
    vision_config.require("hidden_act", vision_config.text("hidden_act", "gelu"), "gelu")
    vision_config.require("num_channels", vision_config.integer("num_channels", 3), 3)


def _downsample(config: Fields) -> int:
    ratio = config.number("downsample_ratio", 0.5)
    if not 0 < ratio <= 1 or (1 / ratio) != round(1 / ratio):
        raise config.wrong("downsample_ratio", ratio, "1 divided by a whole number, such as 0.5")
    return round(1 / ratio)


def _architecture(llm_config: Fields) -> LanguageArchitecture:
    """By the class's name, as the authors' code chooses; by ``model_type`` where there is none."""
    classes = llm_config.values.get("architectures")
    model_type = llm_config.values.get("model_type")
    named = classes[0] if isinstance(classes, list) and classes else None
    for architecture in LANGUAGE_ARCHITECTURES:
        if named in architecture.classes or (named is None and model_type in architecture.model_types):
            return architecture
    raise CheckpointError(
        f"{llm_config.where}: the language model is {named or model_type!r}, which cannot be exported. "
        + _supported()
    )


def _supported() -> str:
    classes = ", ".join(name for a in LANGUAGE_ARCHITECTURES for name in a.classes)
    return f"Supported language models: {classes}."


def _language_model(config: Fields, architecture: LanguageArchitecture) -> LanguageModel:
    defaults = architecture.defaults
    config.require("hidden_act", config.text("hidden_act", "silu"), "silu")
    for key in architecture.false_keys:
        config.require(key, config.boolean(key, False), False)
    hidden = config.integer("hidden_size", defaults["hidden_size"])
    heads = config.integer("num_attention_heads", defaults["num_attention_heads"])
    # A null means one kv head for every head; a missing key means the class's default.
    written = "num_key_value_heads" in config.values
    kv_heads = heads if written else defaults.get("num_key_value_heads", heads)
    return LanguageModel(
        architecture=architecture.name,
        hidden_size=hidden,
        layers=config.integer("num_hidden_layers", defaults["num_hidden_layers"]),
        heads=heads,
        kv_heads=config.integer("num_key_value_heads", kv_heads),
        head_dim=config.integer("head_dim", defaults.get("head_dim", hidden // max(1, heads))),
        intermediate_size=config.integer("intermediate_size", defaults["intermediate_size"]),
        vocab_size=config.integer("vocab_size", defaults["vocab_size"]),
        norm_eps=config.number("rms_norm_eps", defaults["rms_norm_eps"]),
        qkv_bias=architecture.qkv_bias,
        qk_norm=architecture.qk_norm,
        tied_embeddings=False,
        rope=_rope(config, config.integer("max_position_embeddings", defaults["max_position_embeddings"])),
    )


def _rope(config: Fields, max_position_embeddings: int) -> Rope:
    """``rope_theta`` and ``rope_scaling``, or both in ``rope_parameters`` (transformers 5)."""
    key = "rope_parameters" if config.values.get("rope_parameters") is not None else "rope_scaling"
    theta = config.number("rope_theta", 10000.0)
    if config.values.get(key) is None:
        return Rope(theta, "none", 1.0, max_position_embeddings)
    scaling = config.inner(key)
    theta = scaling.number("rope_theta", theta)
    kind = scaling.text("rope_type", scaling.text("type", "default"))
    scaling.require("rope_type", kind, "default", "dynamic")
    scaling.require("partial_rotary_factor", scaling.number("partial_rotary_factor", 1.0), 1.0)
    if kind == "default":
        return Rope(theta, "none", 1.0, max_position_embeddings)
    return Rope(theta, "dynamic", scaling.number("factor"), max_position_embeddings)
