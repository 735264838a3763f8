"""``config.json`` of a checkpoint to the facts of a manifest, in both formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import log, pi, sqrt
from pathlib import Path
from typing import Any, Literal

from internvl_rt._core import MAX_HEAD_DIM, MAX_ROPE_FACTOR, MAX_ROPE_THETA
from internvl_rt.bundle.manifest import (
    Experts,
    Flash,
    LanguageModel,
    Projector,
    Rope,
    Tiling,
    Vision,
)
from internvl_rt.errors import CheckpointError
from internvl_rt.export.architectures import FLASH_HEADS, LANGUAGE_ARCHITECTURES, LanguageArchitecture
from internvl_rt.export.checkpoint import Checkpoint
from internvl_rt.export.checkpoint.checkpoint import CONFIG_FILE, read_json
from internvl_rt.export.fields import Fields
from internvl_rt.export.modelling_class import check_modelling_class
from internvl_rt.prompts.control_tokens import TEMPLATES

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
    flash: Flash | None
    llm: LanguageModel
    tiling: Tiling
    template: str
    system_message: str | None


@dataclass(frozen=True)
class _Format:
    """How the ``config.json`` of one format says what a manifest says: keys, and what a missing one means."""

    name: Literal["internvl_chat", "internvl"]
    language: str
    """The key of the language model's object."""
    vision: Mapping[str, tuple[str, Any]]
    """A field of :class:`Vision` to its key in ``vision_config`` and the class default."""
    image_size: int
    """The class default."""
    fixed: Mapping[str, Mapping[str, Any]]
    """Of an object ("" is the document) the keys that may have one value only, the class default too."""


_FIXED_VISION = {"hidden_act": "gelu", "num_channels": 3}

_FORMATS = (
    _Format(
        name="internvl_chat",
        language="llm_config",
        vision={
            "hidden_size": ("hidden_size", 3200),
            "layers": ("num_hidden_layers", 48),
            "heads": ("num_attention_heads", 25),
            "intermediate_size": ("intermediate_size", 12800),
            "patch_size": ("patch_size", 14),
            "norm": ("norm_type", "rms_norm"),
            "norm_eps": ("layer_norm_eps", 1e-6),
            "qkv_bias": ("qkv_bias", False),
            "qk_norm": ("qk_normalization", True),
        },
        image_size=224,
        fixed={
            "": {"select_layer": -1, "pad2square": False},
            "vision_config": {"model_type": "intern_vit_6b", **_FIXED_VISION},
        },
    ),
    _Format(
        name="internvl",
        language="text_config",
        vision={
            "hidden_size": ("hidden_size", 1024),
            "layers": ("num_hidden_layers", 24),
            "heads": ("num_attention_heads", 16),
            "intermediate_size": ("intermediate_size", 4096),
            "patch_size": ("patch_size", 14),
            "norm": ("norm_type", "layer_norm"),
            "norm_eps": ("layer_norm_eps", 1e-6),
            "qkv_bias": ("attention_bias", False),
            "qk_norm": ("use_qk_norm", False),
        },
        image_size=448,
        fixed={
            "": {
                "vision_feature_layer": -1,
                "vision_feature_select_strategy": "default",
                "projector_hidden_act": "gelu",
            },
            "vision_config": {
                "use_mean_pooling": True,
                "use_absolute_position_embeddings": True,
                **_FIXED_VISION,
            },
        },
    ),
)


def read_config(checkpoint: Checkpoint) -> ModelConfig:
    """Reads the configuration of a checkpoint of either format.

    Raises:
        CheckpointError: if the model is none that this release supports; the message names what was found and
            lists what is supported. Or if a value is missing, malformed, or changes the computation in a way
            that is not supported.
    """
    config = Fields(checkpoint.config, str(checkpoint.folder / CONFIG_FILE))
    model_type, classes = config.values.get("model_type"), config.values.get("architectures")
    found = next((f for f in _FORMATS if f.name == model_type), None)
    if found is None:
        raise CheckpointError(
            f"{config.where}: is a model of the type {repr(model_type)[:200]} (architectures "
            f"{repr(classes)[:200]}). This release exports internvl_chat (the authors' format) and internvl "
            "(the transformers format). " + _supported()
        )
    check_modelling_class(config, found.name, checkpoint.folder)
    vision_config, language_config = config.inner("vision_config"), config.inner(found.language)
    for key, values in found.fixed.items():
        for name, value in values.items():
            fields = config.inner(key) if key else config
            fields.require(name, fields.like(name, value), value)
    stored = vision_config.side("image_size", found.image_size)
    image_size = config.integer("force_image_size", stored) if found.name == "internvl_chat" else stored
    vision_config.require("norm_type", vision_config.like(*found.vision["norm"]), "layer_norm", "rms_norm")
    vision = Vision(
        image_size=image_size,
        **{field: vision_config.like(key, default) for field, (key, default) in found.vision.items()},
    )
    architecture = _architecture(language_config)
    if found.name == "internvl":
        tokens = (image_size // max(1, vision.patch_size) // _downsample(config)) ** 2
        config.require("image_seq_length", config.integer("image_seq_length", tokens), tokens)
    template = config.text("template") if found.name == "internvl_chat" else NATIVE_TEMPLATE
    config.require("template", template, *TEMPLATES)
    message = config.values.get("system_message")
    return ModelConfig(
        format=found.name,
        architecture=architecture,
        vision=vision,
        stored_image_size=stored,
        projector=Projector(_downsample(config), _pixel_shuffle(config, found)),
        flash=_flash(config, found),
        llm=_language_model(language_config, architecture),
        tiling=_tiling(config, found, checkpoint.folder, image_size),
        template=template,
        system_message=None if message is None else config.text("system_message"),
    )


def _flash(config: Fields, found: _Format) -> Flash | None:
    """The resolution router of InternVL3.5-Flash, which transformers' own classes do not have."""
    if not config.values.get("flash_mode"):
        return None
    if found.name != "internvl_chat":
        raise config.wrong("flash_mode", config.values["flash_mode"], "it in the authors' format only")
    return Flash(
        downsample=_downsample(config) ** 2,
        heads=FLASH_HEADS,
        relative_threshold=config.number("flash_relative_threshold"),
        absolute_threshold=config.number("flash_absolute_threshold"),
    )


def _pixel_shuffle(config: Fields, found: _Format) -> Literal["v1", "v2"]:
    version = config.text("ps_version", "v1") if found.name == "internvl_chat" else "v2"
    config.require("ps_version", version, "v1", "v2")
    return "v1" if version == "v1" else "v2"


def _tiling(config: Fields, found: _Format, folder: Path, image_size: int) -> Tiling:
    """Authors' checkpoints say it in their configuration, native ones in a file of the image processor."""
    if found.name == "internvl_chat":
        return Tiling(
            tile_size=image_size,
            min_tiles=config.integer("min_dynamic_patch", 1),
            max_tiles=config.integer("max_dynamic_patch", 6),
            thumbnail=config.boolean("use_thumbnail", False),
            dynamic=config.boolean("dynamic_image_size", False),
        )
    return _native_tiling(folder, image_size)


_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def _native_tiling(folder: Path, image_size: int) -> Tiling:
    """What the native image processor (GOT-OCR2's) does; without a file, what the models are trained with.

    A key that a file lacks has the class's default: CLIP's mean and deviation, unlike any published InternVL.
    """
    processor = _image_processor(folder)
    if processor is None:
        return Tiling(image_size, min_tiles=1, max_tiles=12, thumbnail=True, dynamic=True)
    for key, fixed in _FIXED_PROCESSOR.items():
        processor.require(key, processor.like(key, fixed), fixed)
    _check_tile_size(processor, image_size)
    return Tiling(
        tile_size=image_size,
        min_tiles=processor.integer("min_patches", 1),
        max_tiles=processor.integer("max_patches", 12),
        thumbnail=True,
        dynamic=True,
        mean=processor.triple("image_mean", _CLIP_MEAN),
        std=processor.triple("image_std", _CLIP_STD),
    )


_FIXED_PROCESSOR = {"do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "resample": 3}
"""Keys that may have one value only, the class's default too; 3 is bicubic."""


def _check_tile_size(processor: Fields, image_size: int) -> None:
    """The model takes tiles of one size; a file that says another one is of another model."""
    if not isinstance(processor.values.get("size"), dict):
        return
    size = processor.inner("size")
    for side in ("height", "width"):
        size.require(side, size.integer(side, image_size), image_size)


def _image_processor(folder: Path) -> Fields | None:
    """The settings of the native image processor, or None where no file has them.

    Those inside of ``processor_config.json`` go before the older file, which libraries leave beside it.
    """
    path = folder / PROCESSOR_FILE
    if path.is_file():
        outer = Fields(read_json(path), str(path))
        if outer.values.get("image_processor") is not None:
            return outer.inner("image_processor")
    path = folder / IMAGE_PROCESSOR_FILE
    return Fields(read_json(path), str(path)) if path.is_file() else None


def _downsample(config: Fields) -> int:
    ratio = config.number("downsample_ratio", 0.5)
    if not 1e-3 < ratio <= 1 or (1 / ratio) != round(1 / ratio):
        raise config.wrong("downsample_ratio", ratio, "1 divided by a whole number, such as 0.5")
    return round(1 / ratio)


_OUT_OF_SCOPE = dict.fromkeys(
    ("GptOssForCausalLM", "gpt_oss"),
    " (gpt-oss: attention sinks, sliding windows and yarn are out of scope for now)",
)
"""Language models of the family that are known and refused, and why."""


def _architecture(llm_config: Fields) -> LanguageArchitecture:
    """By the class's name, as the authors' code chooses; by ``model_type`` where there is none."""
    model_type = llm_config.text("model_type", "")
    named = next(iter(llm_config.texts("architectures")), None)
    for architecture in LANGUAGE_ARCHITECTURES:
        if named in architecture.classes or (named is None and model_type in architecture.model_types):
            return architecture
    reason = _OUT_OF_SCOPE.get(named or model_type, "")
    raise CheckpointError(
        f"{llm_config.where}: the language model is {(named or repr(model_type))[:200]}, which cannot be "
        f"exported{reason}. {_supported()}"
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
    width = "moe_intermediate_size" if architecture.experts else "intermediate_size"
    head_dim = config.integer("head_dim", defaults.get("head_dim", hidden // max(1, heads)))
    config.within("head_dim", head_dim, 2, MAX_HEAD_DIM)
    window = config.values.get("sliding_window")
    if architecture.always_windowed and window is not None:
        positions = config.integer("max_position_embeddings", defaults["max_position_embeddings"])
        if config.integer("sliding_window") < positions:
            raise config.wrong("sliding_window", window, f"none below max_position_embeddings ({positions})")
    return LanguageModel(
        architecture=architecture.name,
        hidden_size=hidden,
        layers=config.integer("num_hidden_layers", defaults["num_hidden_layers"]),
        heads=heads,
        kv_heads=config.integer("num_key_value_heads", kv_heads),
        head_dim=head_dim,
        intermediate_size=config.integer(width, defaults[width]),
        vocab_size=config.integer("vocab_size", defaults["vocab_size"]),
        norm_eps=config.number("rms_norm_eps", defaults["rms_norm_eps"]),
        qkv_bias=architecture.qkv_bias,
        qk_norm=architecture.qk_norm,
        tied_embeddings=False,
        rope=_rope(config, defaults, head_dim),
        experts=_experts(config, defaults) if architecture.experts else None,
    )


def _experts(config: Fields, defaults: Mapping[str, Any]) -> Experts:
    """The mixture of experts of every layer; layers without one are refused."""
    config.require("decoder_sparse_step", config.integer("decoder_sparse_step", 1), 1)
    config.require("mlp_only_layers", config.values.get("mlp_only_layers") or [], [])
    # transformers 5 writes num_local_experts.
    count = config.integer("num_local_experts", defaults["num_experts"])
    return Experts(
        count=config.integer("num_experts", count),
        chosen=config.integer("num_experts_per_tok", defaults["num_experts_per_tok"]),
        normalise=config.boolean("norm_topk_prob", defaults["norm_topk_prob"]),
    )


def _rope(config: Fields, defaults: Mapping[str, Any], head_dim: int) -> Rope:
    """``rope_theta`` and ``rope_scaling``, or both in ``rope_parameters`` (transformers 5).

    ``dynamic``: NTK scaling as InternLM2's authors have it. ``longrope``, which was called ``su``: Phi-3's
    two sets of factors. ``llama3`` and ``linear`` divide the frequencies by factors that never change.
    """
    key = "rope_parameters" if config.values.get("rope_parameters") is not None else "rope_scaling"
    theta = config.number("rope_theta", 10000.0)
    positions = config.integer("max_position_embeddings", defaults["max_position_embeddings"])
    plain = Rope(theta, "none", 1.0, positions)
    if config.values.get(key) is None:
        return plain
    scaling = config.inner(key)
    plain = replace(plain, theta=scaling.number("rope_theta", theta))
    scaling.within("rope_theta", plain.theta, 1, MAX_ROPE_THETA)
    kind = scaling.text("rope_type", scaling.text("type", "default"))
    scaling.require("rope_type", kind, "default", "dynamic", "linear", "llama3", "longrope", "su")
    scaling.require("partial_rotary_factor", scaling.number("partial_rotary_factor", 1.0), 1.0)
    if kind == "default":
        return plain
    if kind not in ("longrope", "su"):
        scaling.within("factor", scaling.number("factor"), 1, MAX_ROPE_FACTOR)
    if kind == "dynamic":
        return replace(plain, scaling="dynamic", factor=scaling.number("factor"))
    if kind == "linear":
        factor = scaling.number("factor")
        return replace(plain, scaling="linear", factor=factor, short_factor=(factor,) * (head_dim // 2))
    if kind == "llama3":
        factors = _llama3_factors(scaling, plain.theta, head_dim)
        return replace(plain, scaling="llama3", factor=scaling.number("factor"), short_factor=factors)
    # Phi-3 has the key outside, with a default; it goes before the one inside.
    original = config.integer(
        "original_max_position_embeddings",
        defaults.get("original_max_position_embeddings")
        or scaling.integer("original_max_position_embeddings", positions),
    )
    if original < 2:
        raise config.wrong("original_max_position_embeddings", original, "more than one position")
    factor = scaling.number("factor", positions / original)
    grown = sqrt(1 + log(factor) / log(original)) if factor > 1 else 1.0
    return replace(
        plain,
        scaling="longrope",
        factor=max(factor, 1.0),
        short_factor=scaling.numbers("short_factor", head_dim // 2),
        long_factor=scaling.numbers("long_factor", head_dim // 2),
        original_max_position_embeddings=original,
        attention_factor=scaling.number("attention_factor", grown),
    )


def _llama3_factors(scaling: Fields, theta: float, head_dim: int) -> tuple[float, ...]:
    """What Llama 3.1 divides its frequencies by: long waves by ``factor``, short ones by 1.

    In between, frequencies are interpolated by how often a wave turns within the original length.
    """
    factor = scaling.number("factor")
    low, high = scaling.number("low_freq_factor"), scaling.number("high_freq_factor")
    original = scaling.integer("original_max_position_embeddings")
    if not 0 < low < high:
        raise scaling.wrong("high_freq_factor", high, f"more than low_freq_factor ({low}), which is above 0")
    factors = []
    for pair in range(head_dim // 2):
        turns = original * theta ** (-2 * pair / head_dim) / (2 * pi)
        kept = min(max((turns - low) / (high - low), 0.0), 1.0)
        factors.append(1 / (kept + (1 - kept) / factor))
    return tuple(factors)
