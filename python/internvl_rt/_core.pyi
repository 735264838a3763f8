"""The C++ core of internvl_rt."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, Protocol, overload

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

class WeightFile:
    def __init__(self, path: str, tensors: list[tuple[str, str, list[int], int, int]]) -> None: ...
    def __contains__(self, name: str, /) -> bool: ...

# Tiles. A grid is (columns, rows); `rgb` is uint8 [height, width, 3] whose rows are contiguous.

class TilingOptions:
    def __init__(
        self, *, tile_size: int, min_tiles: int, max_tiles: int, thumbnail: bool, dynamic: bool
    ) -> None: ...

def choose_grid(
    width: int, height: int, *, min_tiles: int, max_tiles: int, tile_size: int
) -> tuple[int, int]: ...
def tile_image(rgb: _Uint8, options: TilingOptions, team: ThreadTeam) -> tuple[_Uint8, tuple[int, int]]: ...
def tile_pixel_values(
    rgb: _Uint8, options: TilingOptions, mean: _Channels, std: _Channels, team: ThreadTeam
) -> tuple[_Float32, tuple[int, int]]: ...
def tile_patches(
    rgb: _Uint8, options: TilingOptions, mean: _Channels, std: _Channels, patch_size: int, team: ThreadTeam
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

class RopeFacts:
    def __init__(
        self,
        *,
        theta: float,
        dynamic: bool,
        factor: float,
        max_positions: int,
        short_factors: Sequence[float] = (),
        long_factors: Sequence[float] = (),
        original_positions: int = 0,
        attention_factor: float = 1.0,
    ) -> None: ...

class ExpertFacts:
    def __init__(self, *, count: int = 0, chosen: int = 0, normalise: bool = False) -> None: ...

class DecoderFacts:
    def __init__(
        self,
        *,
        hidden_size: int,
        layers: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        intermediate_size: int,
        vocab_size: int,
        norm_eps: float,
        qkv_bias: bool,
        qk_norm: bool,
        rope: RopeFacts,
        experts: ExpertFacts = ...,
    ) -> None: ...

class VisionFacts:
    def __init__(
        self,
        *,
        hidden_size: int,
        layers: int,
        heads: int,
        intermediate_size: int,
        image_size: int,
        patch_size: int,
        norm: Literal["layer_norm", "rms_norm"],
        norm_eps: float,
        qkv_bias: bool,
        qk_norm: bool,
        downsample: int,
        pixel_shuffle: Literal["v1", "v2"],
        projector_norm_eps: float,
        output_size: int,
    ) -> None: ...

DEFAULT_ACTIVATION_BYTES: int

# (tiles at once, bytes of their activations). `floats`: some matrices of layers or projector are fp32 or
# fp16; `integers`: some are int8; `bfloat16_columns`: of the widest in bf16.
def vision_batch(
    facts: VisionFacts,
    *,
    floats: bool,
    integers: bool,
    bfloat16_columns: int,
    activation_bytes: int = DEFAULT_ACTIVATION_BYTES,
) -> tuple[int, int]: ...

class VisionEncoder:
    def __init__(
        self,
        facts: VisionFacts,
        weights: WeightFile,
        team: ThreadTeam,
        *,
        activation_bytes: int = DEFAULT_ACTIVATION_BYTES,
    ) -> None: ...
    @property
    def batch_tiles(self) -> int: ...
    # [tiles, 3, size, size] -> [tiles, tokens_per_tile, hidden], ms of the tower and of the projector
    def encode(
        self, pixel_values: _Float32, progress: Callable[[int], None] | None = None
    ) -> tuple[_Float32, float, float]: ...

# Tokens of a block of the KV cache: a sequence has whole ones.
CACHE_BLOCK: int

class Decoder:
    def __init__(
        self,
        facts: DecoderFacts,
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
    def fork(self, sequence: int) -> int: ...
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
    def __init__(self, decoder: Decoder, origin: int) -> None: ...
    @property
    def id(self) -> int: ...

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
