"""From a bundle's tensors to a checkpoint's: which tensors, which of their rows, in which order."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from internvl_rt.bundle.manifest import LanguageModel, Manifest
from internvl_rt.bundle.tensors import (
    EMBED_TOKENS,
    FLASH_QUERY,
    LLM_NORM,
    LM_HEAD,
    POSITION_EMBEDDING,
    TensorSpec,
    tensor_specs,
)
from internvl_rt.errors import CheckpointError
from internvl_rt.export.architectures import (
    FLASH_NAMES,
    FLASH_UNUSED,
    FORMATS,
    IGNORED_SUFFIXES,
    CheckpointFormat,
    LanguageArchitecture,
)
from internvl_rt.export.checkpoint import Checkpoint, CheckpointTensor
from internvl_rt.export.checkpoint.awq import AwqTensor
from internvl_rt.export.checkpoint.tensor import RowIndex
from internvl_rt.export.config import ModelConfig
from internvl_rt.export.quantise import to_float32


@dataclass(frozen=True)
class Piece:
    """A tensor of the checkpoint that is a part of a tensor of the bundle."""

    name: str
    shape: tuple[int, ...]
    """As it must be in the checkpoint."""
    order: npt.NDArray[np.intp] | None = None
    """The rows in the order wanted, if that is not the order of the file."""


Recipe = tuple[Piece, ...]
"""The pieces whose rows, one after the other, are the tensor."""


def find_format(checkpoint: Checkpoint, config: ModelConfig) -> CheckpointFormat:
    """How the checkpoint's tensors are called.

    Raises:
        CheckpointError: if they are called neither as its configuration says.
    """
    candidates = [f for f in FORMATS if f.name == config.format]
    for candidate in candidates:
        if candidate.probe in checkpoint.tensors:
            return candidate
    found = ", ".join(repr(name) for name in list(checkpoint.tensors)[:3])
    raise CheckpointError(
        f"{checkpoint.folder}: config.json says {config.format}, whose vision tower begins with the tensor "
        f"{' or '.join(f.probe for f in candidates)}; it is not there (found {found}, ...). "
        "Download the whole checkpoint folder."
    )


def has_lm_head(checkpoint: Checkpoint, config: ModelConfig, names: CheckpointFormat) -> bool:
    """Whether the output matrix is a tensor of its own; without it, the embedding table serves as one."""
    return _language_name(names, f"{config.architecture.lm_head}.weight") in checkpoint.tensors


def make_recipes(
    checkpoint: Checkpoint, config: ModelConfig, names: CheckpointFormat, manifest: Manifest
) -> dict[str, Recipe]:
    """The recipe of every tensor of the bundle, held against the checkpoint.

    Raises:
        CheckpointError: if a tensor is missing or has another shape than the configuration implies, or the
            checkpoint has a tensor that the model does not: then it is another model.
    """
    recipes = {spec.name: make_recipe(spec, config, names, manifest) for spec in tensor_specs(manifest)}
    used = set()
    for recipe in recipes.values():
        for piece in recipe:
            _check(checkpoint, piece)
            used.add(piece.name)
    for name, tensor in checkpoint.tensors.items():
        unused = manifest.flash is not None and name.startswith(FLASH_UNUSED)
        if name not in used and not unused and not name.endswith(IGNORED_SUFFIXES):
            raise CheckpointError(
                f"{tensor.file}: tensor {name!r} of shape {list(tensor.shape)} is none of this model's "
                f"({config.architecture.name} of {manifest.llm.layers} layers, vision tower of "
                f"{manifest.vision.layers}). The checkpoint is of another architecture or its config.json of "
                "another model."
            )
    return recipes


def _check(checkpoint: Checkpoint, piece: Piece) -> CheckpointTensor | AwqTensor:
    tensor = checkpoint.tensors.get(piece.name)
    if tensor is None:
        raise CheckpointError(
            f"{checkpoint.folder}: tensor {piece.name!r} of shape {list(piece.shape)} is missing. "
            "Download the whole checkpoint folder."
        )
    if tensor.shape != piece.shape:
        raise CheckpointError(
            f"{tensor.file}: tensor {piece.name!r} has the shape {list(tensor.shape)}; config.json implies "
            f"{list(piece.shape)}. Check that both are of the same model."
        )
    return tensor


def make_recipe(spec: TensorSpec, config: ModelConfig, names: CheckpointFormat, manifest: Manifest) -> Recipe:
    """The recipe of one tensor, by the names of its format and architecture."""
    part, _, rest = spec.name.partition(".")
    if part == "vit":
        return _vision_recipe(spec, rest, config, names)
    if part == "projector":
        module, _, parameter = rest.rpartition(".")
        (name,) = names.projector_names[module]
        return (Piece(f"{names.projector}{name}.{parameter}", spec.shape),)
    if part == "flash":
        shape = (1, *spec.shape) if spec.name == FLASH_QUERY else spec.shape
        return (Piece(FLASH_NAMES[rest], shape),)
    return _language_recipe(spec, config.architecture, names, manifest.llm)


def _vision_recipe(spec: TensorSpec, rest: str, config: ModelConfig, names: CheckpointFormat) -> Recipe:
    if rest in names.embeddings:
        shape = spec.shape
        if spec.name == POSITION_EMBEDDING:
            stored = 1 + (config.stored_image_size // config.vision.patch_size) ** 2
            shape = (1, stored, spec.shape[1])
        elif spec.kind == "vector" and rest == "class_embedding":
            shape = (1, 1, *spec.shape)
        return (Piece(names.vision + names.embeddings[rest], shape),)
    _, layer, module_and_parameter = rest.split(".", 2)
    prefix = f"{names.vision}{names.vision_layers}.{layer}."
    if module_and_parameter in ("ls1", "ls2"):
        (name,) = names.vision_layer_names[module_and_parameter]
        return (Piece(prefix + name, spec.shape),)
    module, _, parameter = module_and_parameter.rpartition(".")
    modules = names.vision_layer_names[module]
    shape = (spec.shape[0] // len(modules), *spec.shape[1:])
    return tuple(Piece(f"{prefix}{name}.{parameter}", shape) for name in modules)


def _language_recipe(
    spec: TensorSpec, architecture: LanguageArchitecture, names: CheckpointFormat, llm: LanguageModel
) -> Recipe:
    outer = {
        EMBED_TOKENS: architecture.embed_tokens,
        LLM_NORM: architecture.norm,
        LM_HEAD: architecture.lm_head,
    }
    if spec.name in outer:
        name = outer[spec.name]
        if spec.name == LM_HEAD and llm.tied_embeddings:
            name = architecture.embed_tokens
        return (Piece(_language_name(names, f"{name}.weight"), spec.shape),)
    _, _, layer, rest = spec.name.split(".", 3)
    module, _, parameter = rest.rpartition(".")
    modules = architecture.layer_names[module]
    if module.startswith("experts."):
        assert llm.experts is not None
        modules = tuple(name.format(e) for e in range(llm.experts.count) for name in modules)
        shapes = [(spec.shape[0] // len(modules), *spec.shape[1:])] * len(modules)
    else:
        shapes = _split_rows(spec, module, llm) if len(modules) > 1 else [spec.shape]
    order = None
    if module == "qkv" and architecture.qkv_layout == "per_kv_head":
        order = per_kv_head_order(llm.heads, llm.kv_heads, llm.head_dim)
    prefix = f"{architecture.layers}.{layer}."
    return tuple(
        Piece(_language_name(names, f"{prefix}{name}.{parameter}"), shape, order)
        for name, shape in zip(modules, shapes, strict=True)
    )


def _split_rows(spec: TensorSpec, module: str, llm: LanguageModel) -> list[tuple[int, ...]]:
    """The shapes of the tensors that a fused one is made of."""
    if module == "qkv":
        rows = [llm.heads * llm.head_dim, llm.kv_heads * llm.head_dim, llm.kv_heads * llm.head_dim]
    else:
        rows = [llm.intermediate_size] * 2
    return [(n, *spec.shape[1:]) for n in rows]


def per_kv_head_order(heads: int, kv_heads: int, head_dim: int) -> npt.NDArray[np.intp]:
    """Rows of InternLM2's ``wqkv`` in the order [all queries | all keys | all values].

    There, each kv head's group of rows is its queries, its key and its value: with m = heads / kv_heads, the
    rows of kv head g begin at g (m + 2) head_dim.
    """
    rows = np.arange((heads + 2 * kv_heads) * head_dim).reshape(kv_heads, heads // kv_heads + 2, head_dim)
    return np.concatenate([rows[:, :-2].ravel(), rows[:, -2].ravel(), rows[:, -1].ravel()])


def _language_name(names: CheckpointFormat, name: str) -> str:
    for begin, written in names.rewrites.items():
        if name.startswith(begin):
            return names.language + written + name.removeprefix(begin)
    return names.language + name


def row_ranges(
    checkpoint: Checkpoint, recipe: Recipe, columns: int, max_bytes: int
) -> Iterator[tuple[CheckpointTensor | AwqTensor, RowIndex]]:
    """Which rows of which tensors follow each other in a tensor of the bundle.

    Args:
        checkpoint: where the tensors are.
        recipe: of the tensor.
        columns: elements of a row.
        max_bytes: of float32 in one range, about.
    """
    step = max(1, max_bytes // (4 * max(1, columns)))
    for piece in recipe:
        tensor = checkpoint.tensors[piece.name]
        for first in range(0, piece.shape[0], step):
            last = min(first + step, piece.shape[0])
            yield tensor, slice(first, last) if piece.order is None else piece.order[first:last]


def read_whole(checkpoint: Checkpoint, recipe: Recipe) -> npt.NDArray[np.float32]:
    """A small tensor at once, its pieces one after the other, which may differ in type.

    Raises:
        CheckpointError: if a value is not finite.
    """
    return np.concatenate([_read_piece(checkpoint.tensors[piece.name]) for piece in recipe])


def _read_piece(tensor: CheckpointTensor | AwqTensor) -> npt.NDArray[np.float32]:
    rows = tensor.rows()
    with naming_file_of(tensor):
        return to_float32(rows, tensor.name)


@contextlib.contextmanager
def naming_file_of(tensor: CheckpointTensor | AwqTensor) -> Iterator[None]:
    """Puts the file of a tensor in front of what is wrong with its values."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{tensor.file}: {error}") from None
