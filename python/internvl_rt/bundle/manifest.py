"""``manifest.json``: the facts of a model, the precision of its parts, and its files.

The dataclasses below are the one description of a model in this package: the exporter fills them
from a checkpoint's ``config.json``, and engines, prompts and the image path read them.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from internvl_rt.bundle.graph_sets import DEFAULT_GRAPH_SET, GraphSet, complete_sets
from internvl_rt.bundle.ranges import check_ranges
from internvl_rt.bundle.safetensors import HeaderError, parse_json
from internvl_rt.errors import BundleError
from internvl_rt.file_errors import advice, reason, shortened

FORMAT = "internvl_rt bundle"
FORMAT_VERSION = 1

MAX_MANIFEST_BYTES = 4 << 20
"""Enough for a whole vocabulary of `task_ids`."""

MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "weights.safetensors"
GRAPH_FILES = VIT_GRAPH, PROJECTOR_GRAPH, LLM_GRAPH = DEFAULT_GRAPH_SET.files
TOKENIZER_FILE = "tokenizer.json"

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

    @property
    def longest_context(self) -> int:
        """Tokens of the longest sequence that the model is made for."""
        if self.scaling == "dynamic":
            return int(self.max_position_embeddings * self.factor)
        return self.max_position_embeddings

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

    @property
    def graph_sets(self) -> tuple[GraphSet, ...]:
        """The dialects and types in which the bundle has all three graphs."""
        return complete_sets(self.files)

    def to_json(self) -> str:
        """The text of ``manifest.json``."""
        document = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            **dataclasses.asdict(self),
        }
        return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def read_manifest(folder: Path) -> Manifest:
    """Reads and checks ``manifest.json`` of a bundle.

    Raises:
        BundleError: if the folder or file is missing, is not JSON, is of another format or version,
            or a field is missing, unknown or of the wrong type. The message names the field.
    """
    path = folder / MANIFEST_FILE
    try:
        if not path.is_file():
            raise BundleError(
                f"{folder}: is not a bundle: it has no {MANIFEST_FILE}. "
                "Make one with `internvl-rt export CHECKPOINT OUT`."
            )
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise BundleError(
                f"{path}: is larger than {MAX_MANIFEST_BYTES} bytes, which no manifest is. Export it again."
            )
        document = parse_json(path.read_bytes())
    except OSError as error:
        raise unreadable(path, error) from error
    except HeaderError as error:
        raise BundleError(f"{path}: {error}. Export the bundle again.") from error
    if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
        raise BundleError(f"{path}: is not the manifest of an internvl_rt bundle. Export it again.")
    version = document.pop("format_version", None)
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{path}: format version {str(version)[:50]!r}; this release reads version {FORMAT_VERSION}. "
            "Export the bundle again with this release."
        )
    manifest = _build(Manifest, document, str(path))
    check_ranges(manifest, str(path))
    return manifest


def unreadable(path: Path, error: OSError) -> BundleError:
    """The error for a file or folder of a bundle that the operating system does not give."""
    told = advice(error, "Copy the bundle from where it is whole, or export it again.")
    return BundleError(f"{shortened(path)}: cannot be read ({reason(error)}). {told}")


T = TypeVar("T")


def _build(kind: type[T], value: Any, where: str) -> T:
    """Makes a dataclass from parsed JSON; field types are checked, not coerced."""
    if not isinstance(value, dict):
        raise BundleError(
            f"{where}: expected an object, found {str(value)[:200]!r}. Export the bundle again."
        )
    hints = get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(value) - set(fields))
    if unknown:
        raise BundleError(f"{where}: unknown field {unknown[0][:200]!r}. Export the bundle again.")
    arguments = {}
    for name, spec in fields.items():
        if name in value:
            arguments[name] = _convert(hints[name], value[name], f"{where}: {name}")
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise BundleError(f"{where}: the field {name!r} is missing. Export the bundle again.")
    return kind(**arguments)


def _convert(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where)  # type: ignore[arg-type]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value in arguments:
            return value
    elif origin is tuple and isinstance(value, list):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) == len(value):
            return tuple(_convert(k, v, where) for k, v in zip(kinds, value, strict=True))
    elif origin is dict and isinstance(value, dict):
        return {str(k): _convert(arguments[1], v, f"{where}[{k[:200]!r}]") for k, v in value.items()}
    elif type(None) in arguments:
        return None if value is None else _convert(arguments[0], value, where)
    elif hint is float and type(value) in (int, float):
        try:
            return float(value)
        except OverflowError:
            pass
    elif hint in (int, str, bool) and type(value) is hint:
        return value
    raise BundleError(f"{where}: {str(value)[:200]!r} is not a valid value. Export the bundle again.")
