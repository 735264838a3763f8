"""The C++ core of internvl_rt."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from typing import Literal, NoReturn, Protocol, overload

import numpy as np
import numpy.typing as npt

_Float32 = npt.NDArray[np.float32]
_Int64 = npt.NDArray[np.int64]
_Uint8 = npt.NDArray[np.uint8]
_Channels = tuple[float, float, float]

def instruction_set() -> str: ...
def available_instruction_sets() -> list[str]: ...

# Whether activations are rounded to bf16 where weights are: with the instruction set in use.
def multiplies_bfloat16() -> bool: ...

# Of AMX: refused where the processor has it and the system does not let this process use it.
def tile_unit() -> Literal["absent", "refused", "usable"]: ...

# Whether keys and values in bfloat16 are multiplied as they are stored: with the instruction set in use.
def attends_in_bfloat16() -> bool: ...

# What the machine and its control groups leave to this process: cores, bytes that can still be taken, and
# bytes in all, None where the system does not tell. `root` holds /proc and /sys.
def usable_cores(root: str = "/") -> int: ...
def usable_memory(root: str = "/") -> int | None: ...
def total_memory(root: str = "/") -> int | None: ...

class ThreadTeam:
    def __init__(self, threads: int = 0) -> None: ...
    @property
    def size(self) -> int: ...

# Bundles. What the system says of a file is an OSError, everything else a BundleError.

_Path = str | PathLike[str]
_Dialect = Literal["onnx24", "ort", "trt10"]
_Compute = Literal["fp32", "fp16", "bf16"]

# The range and the default of an option.
class IntegerOption:
    def __init__(self, *args: object, **kwargs: object) -> NoReturn: ...
    @property
    def least(self) -> int: ...
    @property
    def most(self) -> int: ...
    @property
    def default(self) -> int: ...

class NumberOption:
    def __init__(self, *args: object, **kwargs: object) -> NoReturn: ...
    def takes(self, value: float) -> bool: ...
    # In words, such as "above 0".
    @property
    def range(self) -> str: ...
    @property
    def default(self) -> float: ...

THREADS: IntegerOption
MAX_WAITING: IntegerOption
MAX_WAIT_S: NumberOption
ANSWERS: IntegerOption
PRIORITY: IntegerOption
MAX_NEW_TOKENS: IntegerOption
TOP_K: IntegerOption
TEMPERATURE: NumberOption
TOP_P: NumberOption
REPETITION_PENALTY: NumberOption

# Each raises PromptError for a text that is out of its range.
def check_stop(texts: Iterable[str]) -> None: ...
def check_choices(texts: Iterable[str]) -> None: ...

# Of errors; errors.py has advice for each.
ERROR_CODES: tuple[str, ...]

MANIFEST_FORMAT: str
MANIFEST_VERSION: int
MANIFEST_FILE: str
MAX_MANIFEST_BYTES: int
WEIGHTS_FILE: str
TOKENIZER_FILE: str
# All that a bundle may have beside its manifest.
BUNDLE_FILES: tuple[str, ...]

GRAPH_SETS: tuple[tuple[_Dialect, _Compute], ...]
GRAPH_FILES: tuple[str, ...]

def graph_set_name(dialect: _Dialect, compute: _Compute) -> str: ...
def graph_file(
    dialect: _Dialect, compute: _Compute, part: Literal["vit", "projector", "llm", "flash"]
) -> str: ...

# Limits of a manifest's values that the exporter tells of in its own words.
MAX_HEAD_DIM: int
MAX_ROPE_THETA: float
MAX_ROPE_FACTOR: float
LEAST_INPUT_SCALE: float
MOST_INPUT_SCALE: float

CLASS_EMBEDDING: str
POSITION_EMBEDDING: str
PATCH_EMBEDDING: str
PATCH_EMBEDDING_BIAS: str
FLASH_QUERY: str
EMBED_TOKENS: str
LLM_NORM: str
LM_HEAD: str
SCALES_SUFFIX: str
# Elements along K that share one int4 scale.
INT4_BLOCK: int
# Residual blocks of the resolution router.
FLASH_BLOCKS: int

# The name of a tensor of a layer, such as qkv.weight or gate_up.weight.
def vit_layer(layer: int, name: str) -> str: ...
def llm_layer(layer: int, name: str) -> str: ...

# One tensor as it stands in the weights file. `shape` is in elements, `header_shape` as the file says it: two
# int4 elements are a byte.
class StoredTensor:
    def __init__(self, *args: object, **kwargs: object) -> NoReturn: ...
    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> Literal["float32", "float16", "bfloat16", "int8", "int4"]: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def bytes(self) -> int: ...
    @property
    def header_dtype(self) -> str: ...
    @property
    def header_shape(self) -> tuple[int, ...]: ...

# One logical tensor of the model: a matrix is the weight of a linear layer, [out, in]; a table is the
# embedding table or the patch embedding; everything else is a vector, and fp32.
class TensorSpec:
    def __init__(
        self,
        name: str,
        shape: Sequence[int],
        kind: Literal["matrix", "table", "vector"],
        part: Literal["vit", "projector", "llm", "embedding"],
    ) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def kind(self) -> Literal["matrix", "table", "vector"]: ...
    @property
    def part(self) -> Literal["vit", "projector", "llm", "embedding"]: ...
    # As the manifest has it; fp32 where there was none.
    @property
    def precision(self) -> Literal["fp32", "fp16", "bf16", "int8", "int4"]: ...
    # Itself, and its scales if it is quantised.
    @property
    def stored(self) -> list[StoredTensor]: ...

# Where a stored tensor lies: byte offsets from the start of the file.
class TensorPlace:
    def __init__(self, *args: object, **kwargs: object) -> NoReturn: ...
    @property
    def tensor(self) -> StoredTensor: ...
    @property
    def begin(self) -> int: ...
    @property
    def end(self) -> int: ...

# Of the text of manifest.json; messages begin with `where`.
class Manifest:
    def __init__(self, json: str, where: str) -> None: ...
    def tensor_specs(self) -> list[TensorSpec]: ...

# The text of manifest.json, which was checked.
def read_manifest(folder: _Path) -> str: ...

# Where the tensors of a model lie in its weights, whose header was checked.
def read_places(folder: _Path, manifest: Manifest) -> list[TensorPlace]: ...

# Both, after all files of a bundle were checked; `verify`: the hash of the weights too.
def open_bundle(folder: _Path, *, verify: bool = False) -> tuple[str, list[TensorPlace]]: ...

# One tensor of any safetensors file; byte offsets from the start of the file.
class HeaderEntry:
    def __init__(self, *args: object, **kwargs: object) -> NoReturn: ...
    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def begin(self) -> int: ...
    @property
    def end(self) -> int: ...

# The message of a BundleError does not name the file here, and has no full stop.
def read_safetensors_header(path: _Path) -> list[HeaderEntry]: ...

class WeightFile:
    def __init__(self, path: _Path, places: Sequence[TensorPlace]) -> None: ...
    def __contains__(self, name: str, /) -> bool: ...

# Tiles. A grid is (columns, rows); `rgb` is uint8 [height, width, 3] whose rows are contiguous.

class TilingOptions:
    def __init__(
        self, *, tile_size: int, min_tiles: int, max_tiles: int, thumbnail: bool, dynamic: bool
    ) -> None: ...
    # For a picture that may have so many tiles.
    def with_at_most(self, max_tiles: int) -> TilingOptions: ...

# Tiles of a picture, its thumbnail included.
def count_tiles(width: int, height: int, tiling: TilingOptions, max_tiles: int) -> int: ...
def choose_grid(
    width: int, height: int, *, min_tiles: int, max_tiles: int, tile_size: int
) -> tuple[int, int]: ...
def tile_image(rgb: _Uint8, options: TilingOptions, team: ThreadTeam) -> tuple[_Uint8, tuple[int, int]]: ...

# [height, width, 3] of planes [bytes], or [rows, bytes] that are their own stride apart. Raises ImageError.
def frame_rgb(
    planes: Sequence[_Uint8],
    *,
    width: int,
    height: int,
    pixel_format: str,
    stride: int,
    matrix: str,
    full_range: bool,
) -> _Uint8: ...
def tile_pixel_values(
    rgb: _Uint8, options: TilingOptions, mean: _Channels, std: _Channels, team: ThreadTeam
) -> tuple[_Float32, tuple[int, int]]: ...

# [tiles, 1 + patches, channels] -> [tiles, patches / block**2, block**2 * channels]; drops the class token.
def pixel_shuffle(
    features: _Float32, *, block: int, version: Literal["v1", "v2"], team: ThreadTeam
) -> _Float32: ...

# The next token. `history` is prompt and generated ids; top_k=0 and top_p=1 are off.

def argmax(logits: _Float32, repetition_penalty: float, history: _Int64) -> int: ...
def token_probabilities(
    logits: _Float32,
    *,
    temperature: float,
    top_k: int,
    top_p: float,
    repetition_penalty: float,
    history: _Int64,
) -> npt.NDArray[np.float64]: ...

class Sampler:
    def __init__(self, seed: int) -> None: ...
    def sample(
        self,
        logits: _Float32,
        *,
        temperature: float,
        top_k: int,
        top_p: float,
        repetition_penalty: float,
        history: _Int64,
    ) -> int: ...
    def skip(self) -> None: ...
    def fork(self, index: int) -> Sampler: ...

DEFAULT_ACTIVATION_BYTES: int

# (tiles at once, bytes of their activations). `floats`: some matrices of layers, projector or router are fp32
# or fp16; `integers`: some are int8; `bfloat16_columns`: of the widest in bf16.
def vision_batch(
    manifest: Manifest,
    *,
    floats: bool,
    integers: bool,
    bfloat16_columns: int,
    activation_bytes: int = DEFAULT_ACTIVATION_BYTES,
) -> tuple[int, int]: ...

# Which tiles of a picture with these scores [tiles] become fewer tokens.
def compressible(scores: _Float32, *, relative_threshold: float, absolute_threshold: float) -> list[bool]: ...

class VisionEncoder:
    def __init__(
        self,
        manifest: Manifest,
        weights: WeightFile,
        team: ThreadTeam,
        *,
        activation_bytes: int = DEFAULT_ACTIVATION_BYTES,
    ) -> None: ...
    @property
    def batch_tiles(self) -> int: ...
    @property
    def batch_bytes(self) -> int: ...
    # [tiles, 3, size, size] -> [tiles, tokens_per_tile, hidden], ms of the tower and of the projector; then,
    # of a model with a resolution router, [tiles, tokens_per_compressed_tile, hidden] and scores [tiles]
    def encode(
        self, pixel_values: _Float32, progress: Callable[[int], None] | None = None
    ) -> tuple[_Float32, float, float, _Float32 | None, _Float32 | None]: ...

# Tokens of a block of the KV cache: a sequence has whole ones.
CACHE_BLOCK: int

class Decoder:
    def __init__(
        self,
        manifest: Manifest,
        weights: WeightFile,
        team: ThreadTeam,
        *,
        cache_tokens: int,
        cache_type: str = "float32",
        prefill_chunk: int = 256,
    ) -> None: ...
    @property
    def cache_tokens(self) -> int: ...
    @property
    def free_tokens(self) -> int: ...
    def new_sequence(self) -> int: ...
    def fork(self, sequence: int, tokens: int) -> int: ...
    def drop(self, sequence: int) -> None: ...
    def length(self, sequence: int) -> int: ...
    def prefill(
        self,
        sequence: int,
        embeddings: npt.NDArray[np.float32],
        all_logits: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> npt.NDArray[np.float32]: ...
    def decode(
        self, sequences: npt.ArrayLike, tokens: npt.ArrayLike, counts: Sequence[int] | None = None
    ) -> npt.NDArray[np.float32]: ...
    def embed(
        self, token_ids: npt.ArrayLike, features: npt.NDArray[np.float32] | None, image_token: int
    ) -> npt.NDArray[np.float32]: ...

class SequenceLease:
    @overload
    def __init__(self, decoder: Decoder) -> None: ...
    @overload
    def __init__(self, decoder: Decoder, origin: int, tokens: int) -> None: ...
    @property
    def id(self) -> int: ...

# How large the KV cache is. Bytes and tokens; None for what is not known or was not asked for.

_CacheType = Literal["float32", "float16", "bfloat16", "int8"]

CACHE_TOKENS: IntegerOption
MAX_CONTEXT: IntegerOption

# 812 B, 1.50 GiB.
def readable_size(count: float) -> str: ...
def kv_bytes_per_token(layers: int, kv_heads: int, head_dim: int, cache_type: _CacheType) -> int: ...
def default_cache_type(
    precision: Literal["fp32", "fp16", "bf16", "int8", "int4"], *, attends_in_bfloat16: bool
) -> _CacheType: ...
def default_cache_tokens(trained: int, *, per_token: int | None, weights: int, usable: int | None) -> int: ...

# Raises DeviceError unless the memory holds the cache.
def check_memory(cache_tokens: int, *, per_token: int, usable: int) -> None: ...

# (cache_tokens, context_tokens). Raises PromptError.
def cache_size(
    *,
    trained: int,
    dynamic_factor: float | None,
    cache_tokens: int | None,
    max_context: int | None,
    unasked: int,
) -> tuple[int, int]: ...

# Raises PromptError, DeviceError.
def tile_cache_bytes(manifest: Manifest, wanted: int | None, *, usable: int | None) -> int: ...
def check_frame_tolerance(tolerance: int, *, cache_bytes: int) -> None: ...

# Tokens. Texts may hold lone surrogates, which become U+FFFD.

IMAGE_MARK: str
IMG_START: str
IMG_END: str
IMG_CONTEXT: str
GROUNDING_TOKENS: tuple[str, ...]
BOS_TOKENS: tuple[str, ...]
END_OF_TEXT_TOKENS: tuple[str, ...]

# Whether a token steers a conversation whatever the checkpoint says of it.
def steers(token: str) -> bool: ...

# The characters that byte-level vocabularies write the 256 bytes as.
def byte_alphabet() -> str: ...

_Keep = Literal["none", "grounding", "task", "all"]

class _Control(Protocol):
    @property
    def token(self) -> str: ...
    @property
    def count(self) -> int: ...

# `json` is the content of a tokenizer.json; `task_ids` are special tokens that are tokens in text too.
# Raises BundleError for what is malformed or of an unknown kind.
class Tokenizer:
    def __init__(
        self, json: bytes | str, *, task_ids: Sequence[int] = (), clean_up_spaces: bool = False
    ) -> None: ...
    # Ids that the tokenizer knows, added tokens included.
    @property
    def vocab_size(self) -> int: ...
    # Characters of the longest token: a text is at least its length through this many tokens.
    @property
    def longest_token(self) -> int: ...
    # So many spaces at the very start of an answer are the tokenizer's, not the model's.
    @property
    def artificial_spaces(self) -> int: ...
    def token_id(self, token: str) -> int | None: ...
    # The id of a special token; raises BundleError if there is none.
    def control_id(self, token: str) -> int: ...
    def is_special(self, token_id: int) -> bool: ...
    # Neighbouring texts are encoded as one, text on the two sides of a special token apart.
    def encode_pieces(self, pieces: Iterable[str | _Control]) -> list[int]: ...
    # The words within which tokens are merged, and the added tokens between them.
    def words(self, text: str) -> list[str]: ...
    # The bytes that an id adds to decoded text; none for an id beyond the vocabulary. `strip_space` leaves
    # out a space in front that stands for the beginning of a text.
    def token_bytes(self, token_id: int, keep: _Keep, *, strip_space: bool = False) -> bytes: ...

# Ids to text while they are generated: whole characters only. The text ends before the one of the `stop`
# strings that is complete first. `verbatim`: spaces before punctuation stay whatever the settings are.
class Detokeniser:
    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        keep: _Keep = "none",
        stop: Iterable[str] = (),
        verbatim: bool = False,
    ) -> None: ...
    # Takes the next id and returns the text that is certain by now, often none.
    def push(self, token_id: int) -> str: ...
    # The rest of the text; a character that was never completed is U+FFFD.
    def finish(self) -> str: ...
    # The stop string that ended the text.
    @property
    def stopped(self) -> str | None: ...

# Conversations. What they are written with depends on the template of the bundle.

class ConversationTemplate:
    def __init__(self, *args: object, **kwargs: object) -> NoReturn: ...
    @property
    def name(self) -> str: ...
    # The token that ends an answer.
    @property
    def stop(self) -> str: ...
    # The tokens in its strings that are encoded as one id; every prompt begins with the first.
    @property
    def control_tokens(self) -> tuple[str, ...]: ...

# By the name that stands as `template` in a checkpoint's config.json.
TEMPLATES: Mapping[str, ConversationTemplate]

_Detail = Literal["low", "high", "auto"]

# Where one image stands in a message. `detail` is the resolution that its item asks for, as in the OpenAI
# API; None where it does not say.
class ImagePlace:
    def __init__(self, detail: _Detail | None = None) -> None: ...
    @property
    def detail(self) -> _Detail | None: ...

# One message: texts and image places in their order.
class Turn:
    def __init__(self, role: Literal["user", "assistant"], parts: Iterable[str | ImagePlace]) -> None: ...
    @property
    def role(self) -> Literal["user", "assistant"]: ...
    @property
    def parts(self) -> tuple[str | ImagePlace, ...]: ...

# The turns of a question that is a string, after (question, answer) pairs. Raises PromptError unless its
# marks and the images are equally many; a single question without marks has its images in front.
def read_question(question: str, history: Sequence[tuple[str, str]], images: int) -> list[Turn]: ...

# Reads messages one by one: begin_message(), then text_content(); or for each item begin_item(), then
# text_item() or image_item(). At last end(), then turns() and system. Raises PromptError for another order of
# roles and another type of item, which it shows as `shown`.
class MessageReader:
    def __init__(self) -> None: ...
    def begin_message(self, role: str, shown: str) -> None: ...
    def text_content(self, text: str) -> None: ...
    def begin_item(self, kind: str, shown: str) -> Literal["text", "image"]: ...
    def text_item(self, text: str) -> None: ...
    def image_item(self, place: ImagePlace) -> None: ...
    # Raises PromptError unless the last message is the user's.
    def end(self) -> None: ...
    # Raises PromptError unless places and images are equally many.
    def turns(self, images: int) -> list[Turn]: ...
    @property
    def system(self) -> str | None: ...

class _Prompt(Protocol):
    @property
    def template(self) -> str: ...
    @property
    def system_message(self) -> str | None: ...
    @property
    def image_context_id(self) -> int: ...
    @property
    def bos_id(self) -> int | None: ...
    @property
    def prefix_ids(self) -> Sequence[int]: ...

class _Conversation(Protocol):
    @property
    def turns(self) -> Sequence[Turn]: ...
    @property
    def system(self) -> str | None: ...

# A prompt with its image places expanded.
class RenderedPrompt:
    def __init__(self, *args: object, **kwargs: object) -> NoReturn: ...
    # Control and image context tokens written out; what a tokenizer puts in front of a text is not in it.
    @property
    def text(self) -> str: ...
    # [n]
    @property
    def input_ids(self) -> _Int64: ...

# Renders conversations for one bundle. May be used from several threads. Raises BundleError if the template
# is unknown, or the tokenizer lacks one of its tokens.
class PromptRenderer:
    def __init__(self, tokenizer: Tokenizer, prompt: _Prompt, tokens_per_tile: int) -> None: ...
    # `tiles`: of every image, in the order of the image places. Raises PromptError if there are more image
    # places than images, or fewer.
    def render(self, conversation: _Conversation, tiles: Sequence[int] = ()) -> RenderedPrompt: ...

# The most tiles of a picture that may be asked for.
MOST_TILES: int

# How many tiles the pictures of a question may have: the most of each, or a detail that they share. Raises
# ImageError if `max_tiles` is out of range, PromptError if both say something.
class TileBudget:
    def __init__(self, max_tiles: int | None, detail: _Detail) -> None: ...
    # `own`: the model's figure.
    def per_picture(self, own: int, pictures: int) -> int: ...

# The most tiles of every picture; the item of a message may ask for a detail of its own.
def most_tiles(
    budget: TileBudget, conversation: _Conversation, *, pictures: int, as_one: bool, own: int
) -> list[int]: ...

# A picture of (width, height) pixels; `max_tiles` is 0 where it is encoded already.
class PlannedPicture:
    def __init__(self, size: tuple[int, int], max_tiles: int, tiles: int) -> None: ...
    @property
    def max_tiles(self) -> int: ...
    # Its thumbnail included.
    @property
    def tiles(self) -> int: ...

class PromptPlanner:
    def __init__(
        self, tokenizer: Tokenizer, renderer: PromptRenderer, manifest: Manifest, context_tokens: int
    ) -> None: ...
    # The pictures, in fewer tiles where the longest of the conversations would not fit the context.
    def fit(
        self,
        pictures: Sequence[PlannedPicture],
        conversations: Iterable[_Conversation],
        *,
        as_one: bool,
        max_new_tokens: int,
    ) -> list[PlannedPicture]: ...
    # Raises PromptError too for a text that cannot fit, whatever its tokens are.
    def render(self, conversation: _Conversation, tiles: Sequence[int]) -> RenderedPrompt: ...
    # Raises PromptError unless a prompt leaves a token of the context for its answer. `tiles`: of every
    # picture in it; `frames`: they are a video's.
    def check_length(self, ids: _Int64, tiles: Sequence[int], *, frames: bool = False) -> None: ...

class SessionPrompt:
    def __init__(self, *args: object, **kwargs: object) -> NoReturn: ...
    @property
    def ids(self) -> _Int64: ...
    # Of all turns in it, in the order of their places.
    @property
    def pictures(self) -> list[Picture]: ...
    # Of every image place.
    @property
    def tiles(self) -> list[int]: ...
    # The turns of the session that are in it, by their numbers.
    @property
    def kept(self) -> list[int]: ...
    @property
    def dropped_turns(self) -> int: ...

class Session:
    """A conversation; see csrc/generation/session.h. For one thread at a time."""

    def __init__(self, planner: PromptPlanner, *, context_tokens: int, system: str | None) -> None: ...
    # `tiles`: of every image place of the question.
    def prompt(
        self, question: Turn, pictures: Sequence[Picture], tiles: Sequence[int], *, max_new_tokens: int
    ) -> SessionPrompt: ...
    def add(self, prompt: SessionPrompt, answer: Sequence[int]) -> None: ...
    def copy(self) -> Session: ...
    @property
    def turns(self) -> int: ...

# Requests. What an engine of Python's or a constraint raises reaches the caller of next() with its traceback.

class CacheRoom:
    """Tokens of a KV cache, and how many of them a sequence takes."""

    def __init__(self, tokens: int, *, block_tokens: int = 1, forks_share: bool = False) -> None:
        """A cache.

        Args:
            tokens: that it holds, all sequences together.
            block_tokens: a sequence takes whole blocks of so many.
            forks_share: whether a fork shares the full blocks of its origin; else it is a copy.
        """

    @property
    def tokens(self) -> int: ...
    def needed(self, prompt: int, added: int, forks: int) -> int:
        """Tokens of the cache that a prompt takes at most with its forks.

        Args:
            prompt: tokens of the sequence.
            added: tokens that are appended to each fork; to the sequence itself where there are no forks.
            forks: how many there are at once.
        """

class NativeEngine:
    """Both sides of the native engine, as the scheduler computes with them: without Python."""

    def __init__(self, decoder: Decoder, vision: VisionEncoder, manifest: Manifest) -> None: ...

class Picture:
    """A picture of a question."""

    def __init__(self, *args: object, **kwargs: object) -> None: ...
    @staticmethod
    def of_pixels(rgb: _Uint8, tiling: TilingOptions) -> Picture: ...
    @staticmethod
    def of_features(rows: _Float32, tile_tokens: Sequence[int]) -> Picture: ...

class TokenTable:
    """The tokens of a vocabulary by the bytes that they write."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None: ...
    # What every token writes [vocab_size].
    @property
    def bytes(self) -> list[bytes]: ...
    # Tokens that no text becomes.
    @property
    def special_ids(self) -> list[int]: ...

class Choices:
    """The form of one answer that is one of several texts."""

    def __init__(
        self, tokenizer: Tokenizer, table: TokenTable, texts: Iterable[str], stop_ids: Sequence[int]
    ) -> None:
        """Raises PromptError if there are no tokens to write one of the texts with."""

    def allowed(self) -> _Uint8: ...
    def forced(self) -> int | None: ...
    def take(self, token: int) -> None: ...
    def complete(self) -> bool: ...

class _Constraint(Protocol):
    def allowed(self) -> _Uint8: ...
    def forced(self) -> int | None: ...
    def take(self, token: int) -> None: ...
    def complete(self) -> bool: ...

class AnswerRequest:
    def __init__(
        self,
        *,
        max_new_tokens: int,
        do_sample: bool,
        temperature: float,
        top_k: int,
        top_p: float,
        repetition_penalty: float,
        seed: int,
        index: int,
        stop: Iterable[str],
        keep_special_tokens: str,
        ignore_stop_tokens: bool,
        constraint: _Constraint | None = None,
    ) -> None: ...

class Timings:
    """Milliseconds."""

    def __init__(self, *args: object, **kwargs: object) -> None: ...
    @property
    def decode_image(self) -> float: ...
    @property
    def tile(self) -> float: ...
    @property
    def vit(self) -> float: ...
    @property
    def projector(self) -> float: ...
    @property
    def prefill(self) -> float: ...
    @property
    def first_token(self) -> float: ...
    @property
    def per_token(self) -> float: ...
    @property
    def total(self) -> float: ...

class Usage:
    def __init__(self, *args: object, **kwargs: object) -> None: ...
    @property
    def tiles(self) -> int: ...
    @property
    def tiles_wanted(self) -> int: ...
    @property
    def image_tokens(self) -> int: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def reused_tokens(self) -> int: ...
    @property
    def dropped_turns(self) -> int: ...
    @property
    def new_tokens(self) -> int: ...
    @property
    def forced_tokens(self) -> int: ...
    @property
    def cached_tiles(self) -> int: ...

class Answer:
    def __init__(self, *args: object, **kwargs: object) -> None: ...
    @property
    def text(self) -> str: ...
    @property
    def token_ids(self) -> tuple[int, ...]: ...
    @property
    def finish_reason(self) -> Literal["stop", "length", "cancelled"]: ...
    @property
    def timings(self) -> Timings: ...
    @property
    def usage(self) -> Usage: ...
    @property
    def grounding_text(self) -> str: ...

class EncodedPicture:
    def __init__(self, *args: object, **kwargs: object) -> None: ...
    @property
    def features(self) -> _Float32:
        """float32 [tiles, tokens_per_tile, hidden]; it keeps the memory of the picture."""

    @property
    def tile_tokens(self) -> list[int]: ...
    @property
    def grid(self) -> tuple[int, int]: ...

class TilesEncoded:
    def __init__(self, *args: object, **kwargs: object) -> None: ...
    @property
    def tiles(self) -> int: ...

class Piece:
    def __init__(self, *args: object, **kwargs: object) -> None: ...
    @property
    def text(self) -> str: ...
    @property
    def token_ids(self) -> tuple[int, ...]: ...

class Ended:
    def __init__(self, *args: object, **kwargs: object) -> None: ...
    @property
    def rest(self) -> Piece: ...

_Event = TilesEncoded | Piece | Ended

class Request:
    """A request that the scheduler works on. It is cancelled when it is forgotten."""

    def __init__(self, *args: object, **kwargs: object) -> None: ...
    def next(self) -> _Event:
        """Waits for the next event. Ctrl-C ends the wait.

        Raises:
            BaseException: what ended the request, in place of ``Ended``.
        """

    def poll(self) -> _Event | None:
        """The next event, if it has come already."""

    @property
    def answers(self) -> list[Answer]: ...
    def take_pictures(self) -> list[EncodedPicture]: ...
    @property
    def timings(self) -> Timings: ...
    def cancel(self) -> None: ...
    def abandon(self) -> None:
        """Cancels it and waits until it has ended. Ctrl-C ends the wait."""

    def set_event_fd(self, fd: int) -> None:
        """An eventfd that is written to with every event; -1: none."""

class Reservation:
    """Room in the cache, from when it is entered until it is left."""

    def __init__(self, *args: object, **kwargs: object) -> None: ...
    def __enter__(self) -> Reservation: ...
    def __exit__(self, *error: object) -> None: ...
    def check_open(self) -> None:
        """Raises ClosedError where the model is being closed."""

class Scheduler:
    """Many requests at once on one engine; see csrc/generation/scheduler.h."""

    def __init__(
        self,
        engine: object,
        tokenizer: Tokenizer,
        manifest: Manifest,
        team: ThreadTeam,
        *,
        context_tokens: int,
        max_waiting: int,
        max_wait_s: float,
        tile_cache_bytes: int = 0,
        frame_tolerance: int = 0,
        prefix_cache_tokens: int = 0,
    ) -> None:
        """Starts its threads.

        Args:
            engine: a ``NativeEngine``, or an object of Python's that satisfies
                ``internvl_rt.engines.engine.Engine``.
            tokenizer: of the bundle.
            manifest: of the bundle.
            team: cuts pictures into tiles.
            context_tokens: a prompt and its answer end here.
            max_waiting: requests that may wait.
            max_wait_s: for room in the cache, in seconds.
            tile_cache_bytes: of features that are kept, see csrc/generation/tile_cache.h.
            frame_tolerance: of pixels, see there.
            prefix_cache_tokens: of the cache, what is kept of requests that are over; 0: nothing.
        """

    def submit(
        self,
        ids: _Int64,
        pictures: Sequence[Picture],
        answers: Sequence[AnswerRequest],
        *,
        features: _Float32 | None = None,
        elapsed_ms: float = 0.0,
        decode_image_ms: float = 0.0,
        tiles: int = 0,
        tiles_wanted: int = 0,
        dropped_turns: int = 0,
        priority: int = 0,
        cache_salt: str = "",
        streamed: bool = False,
        tells_tiles: bool = False,
        cancelled: bool = False,
    ) -> Request:
        """Raises BusyError, CacheFullError, ClosedError or, in a forked process, DeviceError."""

    # A picture of pixels as its tiles; its own memory is not used any more. Raises ImageError.
    def cut(self, picture: Picture, salt: str) -> Picture: ...
    def reserve(self, tokens: int) -> Reservation: ...
    @property
    def waiting(self) -> int: ...
    def check_open(self) -> None: ...
    def close(self) -> None: ...

def without_spare_places(
    ids: _Int64, *, image_context_id: int, tokens_per_tile: int, tile_tokens: Sequence[int]
) -> _Int64:
    """A prompt without the image places that its tiles turned out not to need.

    Args:
        ids: int64 [n], with ``tokens_per_tile`` places for every tile.
        image_context_id: of a place.
        tokens_per_tile: places of a tile.
        tile_tokens: of every tile, how many it needs.
    """
