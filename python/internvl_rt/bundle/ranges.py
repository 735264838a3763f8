"""The ranges of a manifest's values: what makes every later size computation small, exact and safe."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from internvl_rt.errors import BundleError

if TYPE_CHECKING:
    from internvl_rt.bundle.manifest import Manifest

MAX_WIDTH = 1 << 17
"""Hidden and intermediate sizes. The largest InternVL has 29568."""
MAX_LAYERS = 512
MAX_HEADS = 1024
MAX_HEAD_DIM = 1024
MAX_VOCABULARY = 1 << 22
MAX_IMAGE_SIZE = 4096
MAX_POSITIONS = 1 << 26
MAX_ROPE_THETA = 1e15
MAX_ROPE_FACTOR = 1e6
MAX_TILES = 1024
MAX_EXPERTS = 4096
MAX_STOP_IDS = 64
MAX_PREFIX_IDS = 64
MAX_FILE_BYTES = 1 << 42
MAX_TEXT = 1 << 16
LEAST_INPUT_SCALE, MOST_INPUT_SCALE = 2.0**-14, 65504 / 128
"""Graphs hold it as fp16: its least normal number, and what 128 steps of do not overflow."""

SOURCE_FORMATS = ("internvl_chat", "internvl", "synthetic")


class _Checker:
    """Raises for the first value that is out of range, naming the field."""

    def __init__(self, where: str) -> None:
        self.where = where

    def require(self, holds: bool, field: str, found: object, expected: str) -> None:
        if not holds:
            raise BundleError(
                f"{self.where}: {field} is {str(found)[:100]!r}; it must be {expected}. "
                "Export the bundle again."
            )

    def within(self, field: str, value: float, low: float, high: float) -> None:
        # NaN is in no range, and integers beyond every float compare too.
        self.require(low <= value <= high, field, value, f"from {low} to {high}")


def check_ranges(manifest: Manifest, where: str) -> None:
    """Checks that every value of a manifest is possible, alone and with the others.

    Args:
        manifest: of the right types.
        where: what the error's message begins with, such as the file's path.

    Raises:
        BundleError: naming the field, what it is and what it must be.
    """
    check = _Checker(where)
    check.require(
        manifest.source_format in SOURCE_FORMATS,
        "source_format",
        manifest.source_format,
        "one of " + ", ".join(SOURCE_FORMATS),
    )
    for field, text in (("name", manifest.name), ("generator", manifest.generator)):
        check.require(len(text) <= MAX_TEXT and _is_unicode(text), field, ascii(text), "text")
    _check_vision(manifest, check)
    _check_flash(manifest, check)
    _check_language_model(manifest, check)
    _check_tiling(manifest, check)
    _check_prompt(manifest, check)
    _check_precision(manifest, check)
    _check_files(manifest, check)


def _check_vision(manifest: Manifest, check: _Checker) -> None:
    vision, downsample = manifest.vision, manifest.projector.downsample
    check.within("vision.hidden_size", vision.hidden_size, 1, MAX_WIDTH)
    check.within("vision.layers", vision.layers, 1, MAX_LAYERS)
    check.within("vision.heads", vision.heads, 1, MAX_HEADS)
    check.within("vision.intermediate_size", vision.intermediate_size, 1, MAX_WIDTH)
    check.within("vision.image_size", vision.image_size, 1, MAX_IMAGE_SIZE)
    check.within("vision.patch_size", vision.patch_size, 1, vision.image_size)
    check.within("vision.norm_eps", vision.norm_eps, 0, 1)
    check.within("projector.norm_eps", manifest.projector.norm_eps, 0, 1)
    check.require(
        vision.hidden_size % vision.heads == 0,
        "vision.hidden_size",
        vision.hidden_size,
        f"a multiple of vision.heads ({vision.heads})",
    )
    check.require(
        vision.image_size % vision.patch_size == 0,
        "vision.image_size",
        vision.image_size,
        f"a multiple of vision.patch_size ({vision.patch_size})",
    )
    check.within("projector.downsample", downsample, 1, 16)
    check.require(
        vision.grid % downsample == 0,
        "projector.downsample",
        downsample,
        f"a divisor of the {vision.grid} patches along a tile",
    )


def _check_flash(manifest: Manifest, check: _Checker) -> None:
    flash, vision = manifest.flash, manifest.vision
    if flash is None:
        return
    check.within("flash.downsample", flash.downsample, 1, 16)
    check.require(
        vision.grid % flash.downsample == 0,
        "flash.downsample",
        flash.downsample,
        f"a divisor of the {vision.grid} patches along a tile",
    )
    check.require(
        flash.downsample >= manifest.projector.downsample,
        "flash.downsample",
        flash.downsample,
        f"at least projector.downsample ({manifest.projector.downsample})",
    )
    check.within("flash.heads", flash.heads, 1, MAX_HEADS)
    check.require(
        vision.hidden_size % flash.heads == 0,
        "flash.heads",
        flash.heads,
        f"a divisor of vision.hidden_size ({vision.hidden_size})",
    )
    check.within("flash.relative_threshold", flash.relative_threshold, 0, 1)
    check.within("flash.absolute_threshold", flash.absolute_threshold, 0, 1)


def _check_language_model(manifest: Manifest, check: _Checker) -> None:
    llm = manifest.llm
    check.require(
        0 < len(llm.architecture) <= 100 and llm.architecture.isascii(),
        "llm.architecture",
        ascii(llm.architecture),
        "a short ASCII name",
    )
    check.within("llm.hidden_size", llm.hidden_size, 1, MAX_WIDTH)
    check.within("llm.layers", llm.layers, 1, MAX_LAYERS)
    check.within("llm.heads", llm.heads, 1, MAX_HEADS)
    check.within("llm.kv_heads", llm.kv_heads, 1, llm.heads)
    check.within("llm.head_dim", llm.head_dim, 2, MAX_HEAD_DIM)
    check.within("llm.intermediate_size", llm.intermediate_size, 1, MAX_WIDTH)
    check.within("llm.vocab_size", llm.vocab_size, 1, MAX_VOCABULARY)
    check.within("llm.norm_eps", llm.norm_eps, 0, 1)
    check.require(
        llm.heads % llm.kv_heads == 0, "llm.heads", llm.heads, f"a multiple of llm.kv_heads ({llm.kv_heads})"
    )
    check.require(llm.head_dim % 2 == 0, "llm.head_dim", llm.head_dim, "even")
    if llm.experts is not None:
        check.within("llm.experts.count", llm.experts.count, 1, MAX_EXPERTS)
        check.within("llm.experts.chosen", llm.experts.chosen, 1, llm.experts.count)
    _check_rope(manifest, check)


def _check_rope(manifest: Manifest, check: _Checker) -> None:
    rope, head_dim = manifest.llm.rope, manifest.llm.head_dim
    check.within("llm.rope.theta", rope.theta, 1, MAX_ROPE_THETA)
    check.within("llm.rope.factor", rope.factor, 1, MAX_ROPE_FACTOR)
    check.within("llm.rope.max_position_embeddings", rope.max_position_embeddings, 1, MAX_POSITIONS)
    check.within("llm.rope.attention_factor", rope.attention_factor, 1e-3, 1e3)
    check.require(
        rope.scaling != "dynamic" or head_dim > 2,
        "llm.head_dim",
        head_dim,
        "larger than 2 for dynamic rope scaling",
    )
    for field, factors in (("short_factor", rope.short_factor), ("long_factor", rope.long_factor)):
        check.require(
            len(factors) in (0, head_dim // 2),
            f"llm.rope.{field}",
            f"{len(factors)} numbers",
            f"{head_dim // 2}, half of llm.head_dim, or none",
        )
        for i, factor in enumerate(factors):
            check.within(f"llm.rope.{field}[{i}]", factor, 1e-6, 1e6)
    original = rope.original_max_position_embeddings
    check.require(
        (original is not None) == bool(rope.long_factor),
        "llm.rope.original_max_position_embeddings",
        original,
        "there if llm.rope.long_factor is, and only then",
    )
    if original is not None:
        check.within("llm.rope.original_max_position_embeddings", original, 1, MAX_POSITIONS)


def _check_tiling(manifest: Manifest, check: _Checker) -> None:
    tiling = manifest.tiling
    check.require(
        tiling.tile_size == manifest.vision.image_size,
        "tiling.tile_size",
        tiling.tile_size,
        f"vision.image_size ({manifest.vision.image_size})",
    )
    check.within("tiling.min_tiles", tiling.min_tiles, 1, MAX_TILES)
    check.within("tiling.max_tiles", tiling.max_tiles, tiling.min_tiles, MAX_TILES)
    for channel in range(3):
        check.within(f"tiling.mean[{channel}]", tiling.mean[channel], -1e3, 1e3)
        check.within(f"tiling.std[{channel}]", tiling.std[channel], 1e-6, 1e3)


def _check_prompt(manifest: Manifest, check: _Checker) -> None:
    prompt, vocabulary = manifest.prompt, manifest.llm.vocab_size
    check.require(
        0 < len(prompt.template) <= 100 and prompt.template.isascii(),
        "prompt.template",
        ascii(prompt.template),
        "the name of a template",
    )
    if prompt.system_message is not None:
        check.require(
            len(prompt.system_message) <= MAX_TEXT and _is_unicode(prompt.system_message),
            "prompt.system_message",
            ascii(prompt.system_message),
            f"at most {MAX_TEXT} characters of text",
        )
    check.require(
        0 < len(prompt.stop_ids) <= MAX_STOP_IDS,
        "prompt.stop_ids",
        prompt.stop_ids,
        f"1 to {MAX_STOP_IDS} token ids",
    )
    check.require(
        len(prompt.prefix_ids) <= MAX_PREFIX_IDS,
        "prompt.prefix_ids",
        prompt.prefix_ids,
        f"at most {MAX_PREFIX_IDS} token ids",
    )
    ids = [("prompt.image_context_id", prompt.image_context_id)]
    ids += [("prompt.bos_id", prompt.bos_id)] if prompt.bos_id is not None else []
    for name in ("stop_ids", "prefix_ids", "task_ids"):
        ids += [(f"prompt.{name}[{i}]", token) for i, token in enumerate(getattr(prompt, name))]
    for field, token in ids:
        check.require(
            0 <= token < vocabulary, field, token, f"an id of the vocabulary, 0 to {vocabulary - 1}"
        )


def _check_precision(manifest: Manifest, check: _Checker) -> None:
    precision, llm, vision = manifest.precision, manifest.llm, manifest.vision
    check.require(
        precision.embedding not in ("int8", "int4"),
        "precision.embedding",
        precision.embedding,
        "fp32, fp16 or bf16",
    )
    for name, stored in precision.exceptions.items():
        # int4 has demands on a matrix's size that are not checked here.
        check.require(
            stored != "int4", f"precision.exceptions[{name[:100]!r}]", stored, "fp32, fp16, bf16 or int8"
        )
    for name, scale in precision.input_scales.items():
        check.within(f"precision.input_scales[{name[:100]!r}]", scale, LEAST_INPUT_SCALE, MOST_INPUT_SCALE)
    # int4 shares a scale between 32 elements along K, so K must be a multiple of 32 in every matrix.
    inner = {
        "vit": (vision.hidden_size, vision.intermediate_size),
        "projector": (vision.hidden_size * manifest.projector.downsample**2, llm.hidden_size),
        "llm": (llm.hidden_size, llm.heads * llm.head_dim, llm.intermediate_size),
    }
    for part, sizes in inner.items():
        if getattr(precision, part) == "int4":
            for size in sizes:
                check.require(
                    size % 32 == 0,
                    f"precision.{part}",
                    "int4",
                    f"another one, because a matrix has {size} columns, not a multiple of 32",
                )


def _check_files(manifest: Manifest, check: _Checker) -> None:
    for name, entry in manifest.files.items():
        field = f"files[{name[:100]!r}]"
        check.within(f"{field}.bytes", entry.bytes, 0, MAX_FILE_BYTES)
        check.require(
            re.fullmatch("[0-9a-f]{64}", entry.sha256) is not None,
            f"{field}.sha256",
            ascii(entry.sha256),
            "64 hexadecimal digits",
        )


def _is_unicode(text: str) -> bool:
    """False for lone surrogates, which JSON can spell and no file or terminal can take."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
