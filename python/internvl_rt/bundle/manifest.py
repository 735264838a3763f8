"""``manifest.json``: the facts of a model, the precision of its parts, and its files.

The dataclasses below are the one description of a model in this package: the exporter fills them
from a checkpoint's ``config.json``, and engines, prompts and the image path read them. Which values are
possible, alone and with each other, the core says, which reads and checks every manifest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from internvl_rt import _core
from internvl_rt._core import MANIFEST_FILE as MANIFEST_FILE
from internvl_rt._core import TOKENIZER_FILE as TOKENIZER_FILE
from internvl_rt._core import WEIGHTS_FILE as WEIGHTS_FILE
from internvl_rt.bundle.graph_sets import DEFAULT_GRAPH_SET, GraphSet, complete_sets
from internvl_rt.errors import BundleError
from internvl_rt.files.errors import advice, reason, shortened

GRAPH_FILES = VIT_GRAPH, PROJECTOR_GRAPH, LLM_GRAPH = DEFAULT_GRAPH_SET.files

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Precision = Literal["fp32", "fp16", "bf16", "int8", "int4"]
NormType = Literal["layer_norm", "rms_norm"]


@dataclass(frozen=True)
class Vision:
    """The vision tower (InternViT)."""

    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    image_size: int
    patch_size: int
    norm: NormType
    norm_eps: float
    qkv_bias: bool
    qk_norm: bool

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.hidden_size // self.heads

    @property
    def grid(self) -> int:
        """Patches along one side of a tile."""
        return self.image_size // self.patch_size

    @property
    def patches(self) -> int:
        """Patches of a tile, without the class token."""
        return self.grid * self.grid


@dataclass(frozen=True)
class Projector:
    """Pixel shuffle and the two-layer projector (mlp1)."""

    downsample: int
    """Patches along one side of the block that becomes one image token: 2."""
    pixel_shuffle: Literal["v1", "v2"]
    norm_eps: float = 1e-5


@dataclass(frozen=True)
class Flash:
    """The visual resolution router of InternVL3.5-Flash: tiles that can do with fewer tokens get fewer."""

    downsample: int
    """As the projector's, of compressed tiles: 4."""
    heads: int
    """Of the router's attention."""
    relative_threshold: float
    """The quantile of a picture's scores above which tiles are compressed."""
    absolute_threshold: float
    """The least score of a compressed tile."""


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding, rotate-half over the whole head dimension.

    Dimension pair j turns by position * theta^(-2j/d) / factor_j. The factors are ``long_factor`` where there
    are such and the sequence is longer than ``original_max_position_embeddings``, and else ``short_factor``.
    """

    theta: float
    scaling: Literal["none", "dynamic", "linear", "llama3", "longrope"] = "none"
    """Engines ask for ``dynamic`` alone; the other kinds are spelled out in the factors."""
    factor: float = 1.0
    """Of ``dynamic``: by how much longer sequences than the trained ones stretch the base."""
    max_position_embeddings: int = 32768
    """The trained length, beyond which ``dynamic`` scaling changes the base."""
    short_factor: tuple[float, ...] = ()
    """[head_dim / 2]; empty for ones."""
    long_factor: tuple[float, ...] = ()
    original_max_position_embeddings: int | None = None
    attention_factor: float = 1.0
    """Multiplies cosines and sines: queries and keys grow by it."""

    def same_frequencies(self, length: int, other: int) -> bool:
        """Whether sequences of these two lengths have the same frequencies."""
        original = self.original_max_position_embeddings
        if original is not None and self.long_factor and (length > original) != (other > original):
            return False
        trained = self.max_position_embeddings
        return self.scaling != "dynamic" or max(length, trained) == max(other, trained)


@dataclass(frozen=True)
class Experts:
    """A mixture of experts: a router chooses, for every token, some of many MLPs.

    Their shares are the softmax of the router's logits over all experts, the largest ``chosen`` of it.
    """

    count: int
    chosen: int
    normalise: bool
    """The chosen shares are divided by their sum."""


@dataclass(frozen=True)
class LanguageModel:
    """The language model: pre-norm decoder with grouped-query attention and a SiLU-gated MLP."""

    architecture: str
    """``qwen2``, ``internlm2``, ...: where it came from. Engines go by the facts below instead."""
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    """Of the MLP, or of every expert."""
    vocab_size: int
    norm_eps: float
    qkv_bias: bool
    qk_norm: bool
    tied_embeddings: bool
    rope: Rope
    experts: Experts | None = None
    """In place of one MLP, in every layer."""

    @property
    def qkv_rows(self) -> int:
        """Rows of the fused projection: all queries, then all keys, then all values."""
        return (self.heads + 2 * self.kv_heads) * self.head_dim


@dataclass(frozen=True)
class Tiling:
    """How a picture becomes tiles."""

    tile_size: int
    min_tiles: int
    max_tiles: int
    thumbnail: bool
    dynamic: bool
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD


@dataclass(frozen=True)
class Prompt:
    """How a conversation becomes token ids."""

    template: str
    system_message: str | None
    """Replaces the template's own system message when not None."""
    image_context_id: int
    bos_id: int | None
    """Prepended once to every prompt (InternLM2), or None."""
    stop_ids: tuple[int, ...]
    """Ids that end an answer: the template's stop token first."""
    prefix_ids: tuple[int, ...] = ()
    """Stand in front of the first token of every prompt, behind ``bos_id``: the space that a SentencePiece
    tokenizer keeps there."""
    task_ids: tuple[int, ...] = ()
    """Special tokens that are tokens in questions and answers too, beside the grounding tokens: those that a
    fine-tuning added for its task. Every other special token stays text there."""
    clean_up_spaces: bool = False
    """An answer loses the spaces before punctuation, as the checkpoint's tokenizer is set to decode it."""


@dataclass(frozen=True)
class PartPrecision:
    """The precision of the weights of every part. Norms, biases and layer scales are always fp32."""

    vit: Precision
    projector: Precision
    llm: Precision
    embedding: Precision
    exceptions: dict[str, Precision] = field(default_factory=dict)
    """Matrices that are stored in another precision than their part, by name: the layers of a vision tower
    that a calibration kept out of int8."""
    input_scales: dict[str, float] = field(default_factory=dict)
    """Of int8 matrices, by name: what one step of the inputs is worth when they are int8 too, with one scale
    for all tokens and channels. A calibration measures it for graphs that compute in fp16 and bf16."""


@dataclass(frozen=True)
class FileEntry:
    """One file of the bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Everything a bundle says of itself."""

    name: str
    source_format: str
    """``internvl_chat`` (authors'), ``internvl`` (transformers-native) or ``synthetic``."""
    generator: str
    vision: Vision
    projector: Projector
    llm: LanguageModel
    tiling: Tiling
    prompt: Prompt
    precision: PartPrecision
    flash: Flash | None = None
    files: dict[str, FileEntry] = field(default_factory=dict)

    @property
    def tokens_per_tile(self) -> int:
        """Image tokens that one tile becomes."""
        return self.vision.patches // self.projector.downsample**2

    @property
    def tokens_per_compressed_tile(self) -> int:
        """Image tokens of a tile that the resolution router compressed."""
        assert self.flash is not None
        return self.vision.patches // self.flash.downsample**2

    @cached_property
    def fingerprint(self) -> str:
        """Tells bundles apart: a SHA-256 of all that the manifest says, the hashes of the files included."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def graph_sets(self) -> tuple[GraphSet, ...]:
        """The dialects and types in which the bundle has all three graphs."""
        return complete_sets(self.files)

    def to_json(self) -> str:
        """The text of ``manifest.json``."""
        return json.dumps(self._document(), indent=2, ensure_ascii=False) + "\n"

    def checked(self, where: str = "the manifest") -> _core.Manifest:
        """The manifest as the core takes it.

        Args:
            where: what an error's message begins with, such as the file's path.

        Raises:
            BundleError: if a value is not possible, alone or with the others. The message names the field,
                what it is and what it must be.
        """
        return _core.Manifest(json.dumps(self._document()), where)

    def _document(self) -> dict[str, Any]:
        return {
            "format": _core.MANIFEST_FORMAT,
            "format_version": _core.MANIFEST_VERSION,
            **dataclasses.asdict(self),
        }


def read_manifest(folder: Path) -> Manifest:
    """Reads and checks ``manifest.json`` of a bundle.

    Raises:
        BundleError: if the folder or file is missing, is not JSON, is of another format or version,
            or a field is missing, unknown, of the wrong type or out of range. The message names the field.
    """
    with unreadable_files():
        return manifest_from(_core.read_manifest(folder))


def manifest_from(text: str) -> Manifest:
    """The manifest of a text that the core has checked."""
    document = json.loads(text)
    for name in ("format", "format_version"):
        del document[name]
    made: Manifest = _filled(Manifest, document)
    return made


@contextlib.contextmanager
def unreadable_files() -> Iterator[None]:
    """Says what to do about a file or folder of a bundle that the operating system does not give the core.

    Raises:
        BundleError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        told = advice(error, "Copy the bundle from where it is whole, or export it again.")
        path = shortened(Path(error.filename))
        raise BundleError(f"{path}: cannot be read ({reason(error)}). {told}") from error


def _filled(hint: Any, value: Any) -> Any:
    """A value of parsed JSON, which is of the right type, as the type that it has in the dataclasses."""
    if dataclasses.is_dataclass(hint):
        hints = get_type_hints(hint)
        return hint(**{name: _filled(hints[name], inner) for name, inner in value.items()})  # type: ignore[operator]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is tuple:
        return tuple(_filled(arguments[0], inner) for inner in value)
    if origin is dict:
        return {name: _filled(arguments[1], inner) for name, inner in value.items()}
    if type(None) in arguments:
        return None if value is None else _filled(arguments[0], value)
    return float(value) if hint is float else value
