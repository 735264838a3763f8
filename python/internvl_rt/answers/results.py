"""What a question gives back: the answer, its pieces, where the time went, and what it used."""

from __future__ import annotations

from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from internvl_rt.answers.grounding import Box, Grounding, parse_grounding
from internvl_rt.errors import PromptError

if TYPE_CHECKING:
    from internvl_rt.images import Orientation

FinishReason = Literal["stop", "length", "cancelled"]
"""Why an answer ended: a stop token, a stop string or the end of its form; max_new_tokens or the context's
end; a call of ``cancel()``."""


@dataclass(frozen=True)
class Timings:
    """Where the time of one answer went, in milliseconds of wall-clock time.

    The first five are stages that follow one another; together with rendering the prompt and choosing
    the token they make up ``first_token``. Work that was not done counts 0: the picture stages of
    ``ImageFeatures``, which were paid for by ``Model.encode``, or ``per_token`` of a one-token answer.
    """

    decode_image: float = 0.0
    """Files and bytes to RGB pixels, all pictures together."""
    tile: float = 0.0
    """Grid choice, resampling and cutting into tiles, all pictures together."""
    vit: float = 0.0
    """The vision tower over all tiles."""
    projector: float = 0.0
    """Pixel shuffle and projector over all tiles."""
    prefill: float = 0.0
    """The prompt, from token ids and image features to the logits of its last position."""
    first_token: float = 0.0
    """From the call to the first token of the answer."""
    per_token: float = 0.0
    """Mean time of every token after the first."""
    total: float = 0.0
    """From the call to the finished answer. A stream's consumer is part of it."""


def ms_since(begun: float) -> float:
    """Milliseconds since ``begun``, a reading of ``perf_counter``."""
    return (perf_counter() - begun) * 1000.0


@dataclass(frozen=True)
class Usage:
    """What one answer was made of, in tiles and tokens."""

    tiles: int = 0
    """Tiles of all pictures, thumbnails included."""
    tiles_wanted: int = 0
    """Tiles that ``detail`` asked for: more than ``tiles`` where they did not fit the context."""
    image_tokens: int = 0
    """Prompt tokens that stand for pictures."""
    prompt_tokens: int = 0
    """All tokens of the prompt, image tokens included."""
    reused_tokens: int = 0
    """Tokens of the prompt that an earlier call had computed; see ``prefix_cache_tokens`` of ``load``."""
    dropped_turns: int = 0
    """Turns of a session that did not fit the context any more; see ``Session``."""
    new_tokens: int = 0
    """Tokens of the answer. The stop token that ended it is not counted."""
    forced_tokens: int = 0
    """Those of them that the answer's form left no choice about, and that took no step of their own."""
    cached_tiles: int = 0
    """Of the tiles, those that an earlier picture had too and that the model still knew: they took no time of
    the vision tower. See ``tile_cache_bytes`` and ``frame_tolerance`` of ``load``."""


@dataclass(frozen=True)
class Answer:
    """A finished answer."""

    text: str
    """The answer, stripped of surrounding white space; but one that keeps a form (``schema``, ``pattern``,
    ``choices``) is all of what the form allowed. Special tokens are left out unless ``keep_special_tokens``
    was set."""
    token_ids: tuple[int, ...]
    """The tokens of the answer, without the stop token."""
    finish_reason: FinishReason
    timings: Timings
    usage: Usage
    grounding_text: str
    """The answer with the grounding tokens (``<ref>``, ``<box>``, ``<quad>`` and their ends) kept."""
    image_sizes: tuple[tuple[int, int], ...] = ()
    """(width, height) of the pictures that the question was about, in pixels, as they were seen."""
    orientations: tuple[Orientation, ...] = ()
    """Whether each of them was turned as its EXIF says."""

    def boxes(self, image: int | None = None) -> list[Box]:
        """The bounding boxes of a grounding answer.

        Args:
            image: which of the question's pictures the boxes are on. It may be left out where there is one.

        Returns:
            boxes in pixels of the original picture; see ``parse_boxes``.

        Raises:
            PromptError: if there is no such picture, or there are several and none is named.
        """
        return list(self.grounding(image).boxes)

    def grounding(self, image: int | None = None) -> Grounding:
        """The boxes of a grounding answer, and what is malformed in it; arguments and errors as ``boxes``."""
        if image is None:
            if len(self.image_sizes) != 1:
                raise PromptError(
                    f"boxes(): the question had {len(self.image_sizes)} pictures, so the one that the boxes "
                    "are on has to be named: boxes(image=0) is the first."
                )
            image = 0
        if not 0 <= image < len(self.image_sizes):
            raise PromptError(
                f"boxes(image={image}): the question had {len(self.image_sizes)} pictures, counted from 0."
            )
        orientation = self.orientations[image] if self.orientations else "stored"
        return parse_grounding(self.grounding_text, self.image_sizes[image], orientation=orientation)


@dataclass(frozen=True)
class Piece:
    """One step of a streamed answer.

    The texts of all pieces joined are the answer's text, and so are their token ids. A piece may carry
    tokens and no text: a character's first bytes, or what may be the beginning of a stop string. It carries
    one token, and those behind it that the answer's form forces.
    """

    text: str
    token_ids: tuple[int, ...]
    result: Answer | None = None
    """The whole answer; with the last piece only."""


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """A picture that is encoded already, to be used in any number of questions to the same bundle.

    Made by ``Model.encode``. It holds ``tiles * tokens_per_tile * hidden * 4`` bytes.
    """

    features: npt.NDArray[np.float32] = field(repr=False)
    """Read-only float32 [tiles, tokens_per_tile, hidden]."""
    grid: tuple[int, int]
    """(columns, rows) of the tiles; the thumbnail is not part of it."""
    image_size: tuple[int, int]
    """(width, height) of the picture in pixels, as it was seen."""
    fingerprint: str = field(repr=False)
    """Of the bundle that computed the features."""
    timings: Timings = field(default_factory=Timings, repr=False)
    """What encoding took: decode_image, tile, vit, projector and total."""
    tile_tokens: tuple[int, ...] = ()
    """Of a model with a resolution router, the tokens of every tile: so many of its features count."""
    orientation: Orientation = "stored"
    """Whether the picture was turned as its EXIF says."""

    @property
    def tiles(self) -> int:
        """Tiles of the picture, its thumbnail included."""
        return int(self.features.shape[0])

    @property
    def tokens(self) -> int:
        """Prompt tokens that the picture takes."""
        return int(np.count_nonzero(self.kept))

    @property
    def tokens_of_tiles(self) -> list[int]:
        """Prompt tokens that every tile takes."""
        return list(self.tile_tokens) or [self.features.shape[1]] * self.tiles

    @property
    def kept(self) -> npt.NDArray[np.bool_]:
        """Which features count, bool [tiles, tokens_per_tile]: of each tile the first ones."""
        most = self.features.shape[1]
        chosen: npt.NDArray[np.bool_] = np.arange(most) < np.array(self.tokens_of_tiles)[:, None]
        return chosen

    @property
    def rows(self) -> npt.NDArray[np.float32]:
        """The features that count, float32 [tokens, hidden]."""
        chosen: npt.NDArray[np.float32] = self.features[self.kept]
        return chosen
