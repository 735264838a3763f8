"""A bundle's tensors: names, shapes, how they are stored and where. The core has the table."""

from __future__ import annotations

from pathlib import Path

from internvl_rt import _core
from internvl_rt._core import CLASS_EMBEDDING as CLASS_EMBEDDING
from internvl_rt._core import EMBED_TOKENS as EMBED_TOKENS
from internvl_rt._core import FLASH_BLOCKS as FLASH_BLOCKS
from internvl_rt._core import FLASH_QUERY as FLASH_QUERY
from internvl_rt._core import INT4_BLOCK as INT4_BLOCK
from internvl_rt._core import LLM_NORM as LLM_NORM
from internvl_rt._core import LM_HEAD as LM_HEAD
from internvl_rt._core import PATCH_EMBEDDING as PATCH_EMBEDDING
from internvl_rt._core import PATCH_EMBEDDING_BIAS as PATCH_EMBEDDING_BIAS
from internvl_rt._core import POSITION_EMBEDDING as POSITION_EMBEDDING
from internvl_rt._core import SCALES_SUFFIX as SCALES_SUFFIX
from internvl_rt._core import StoredTensor as StoredTensor
from internvl_rt._core import TensorPlace as TensorPlace
from internvl_rt._core import TensorSpec as TensorSpec
from internvl_rt._core import llm_layer as llm_layer
from internvl_rt._core import vit_layer as vit_layer
from internvl_rt.bundle.manifest import Manifest, unreadable_files


def of_language_model(name: str) -> bool:
    """Whether a tensor is one of the language model's, its embedding table among them."""
    return name.startswith("llm.")


def tensor_specs(manifest: Manifest) -> list[TensorSpec]:
    """Every logical tensor of a model, in the order in which it is computed with.

    Raises:
        BundleError: if the manifest is not possible.
    """
    return manifest.checked().tensor_specs()


def read_places(folder: Path, manifest: Manifest) -> dict[str, TensorPlace]:
    """Where every stored tensor lies in ``weights.safetensors``, by name.

    The file's header is bounded, checked, and held against the model's facts: every tensor that the manifest
    asks for is there with the right type, shape and length, inside the file, and nothing else is.

    Raises:
        BundleError: naming the file and the tensor.
    """
    with unreadable_files():
        return places_by_name(_core.read_places(folder, manifest.checked()))


def places_by_name(places: list[TensorPlace]) -> dict[str, TensorPlace]:
    """As bundles have them."""
    return {place.tensor.name: place for place in places}
