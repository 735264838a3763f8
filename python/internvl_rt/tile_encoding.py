"""Encoding the pictures of one request: tiles that are equal are encoded once, and it can be stopped."""

from __future__ import annotations

import hashlib
import threading

import numpy as np

from internvl_rt.engines.engine import EncodedTiles, Engine, Float32Array, Progress


class EncodingCancelledError(Exception):
    """The request was cancelled before all of its tiles were encoded."""


class TileEncoding:
    """The tiles of one request.

    Blank margins, letterbox bars and the frames of a camera that sees nothing move make tiles that are equal
    byte for byte; such tiles have the same features, whichever picture they are of.
    """

    def __init__(
        self, engine: Engine, cancelled: threading.Event | None = None, progress: Progress | None = None
    ) -> None:
        """Begins with no tiles.

        Args:
            engine: encodes them.
            cancelled: when set, encoding ends soon, in the middle of a tile.
            progress: called between batches with the number of tiles that were encoded, repeated ones not
                counted; what it raises ends the encoding.
        """
        self._engine = engine
        self._cancelled = cancelled or threading.Event()
        self._progress = progress
        self._encoded = 0
        self._done = 0
        """Of the engine's call that is running."""
        self._tiles: dict[bytes, EncodedTiles] = {}

    def encode(self, pixel_values: Float32Array) -> EncodedTiles:
        """Encodes the tiles of one picture.

        Args:
            pixel_values: float32 [tiles, 3, tile_size, tile_size].

        Returns:
            features [tiles, tokens_per_tile, hidden], and the time of those that were encoded now.

        Raises:
            EncodingCancelledError: if the request was cancelled on the way.
            ImageError: if the shape or type is another one.
        """
        # 256 bits of a cryptographic hash stand for the bytes: nobody can make two tiles that share them.
        keys = [hashlib.sha256(np.ascontiguousarray(tile).reshape(-1).data).digest() for tile in pixel_values]
        first: dict[bytes, int] = {}
        for place, key in enumerate(keys):
            if key not in self._tiles:
                first.setdefault(key, place)
        self._done = 0
        self._step(0)
        if len(first) == len(keys):
            encoded = self._engine.encode_tiles(pixel_values, self._step)
            self._remember(first, encoded)
            return encoded
        vit_ms = projector_ms = 0.0
        if first:
            encoded = self._engine.encode_tiles(pixel_values[list(first.values())], self._step)
            vit_ms, projector_ms = encoded.vit_ms, encoded.projector_ms
            self._remember(first, encoded)
        tiles = [self._tiles[key] for key in keys]
        return EncodedTiles(
            np.concatenate([tile.features for tile in tiles]),
            vit_ms,
            projector_ms,
            _joined([tile.compressed for tile in tiles]),
            _joined([tile.scores for tile in tiles]),
        )

    def _remember(self, first: dict[bytes, int], encoded: EncodedTiles) -> None:
        for i, key in enumerate(first):
            one = slice(i, i + 1)
            self._tiles[key] = EncodedTiles(
                encoded.features[one],
                0.0,
                0.0,
                None if encoded.compressed is None else encoded.compressed[one],
                None if encoded.scores is None else encoded.scores[one],
            )
        self._encoded += len(first)

    def _step(self, done: int) -> None:
        if self._cancelled.is_set():
            raise EncodingCancelledError
        if self._progress is not None and done > self._done:
            self._done = done
            self._progress(self._encoded + done)


def _joined(parts: list[Float32Array | None]) -> Float32Array | None:
    """The parts one after another; None where the model has none."""
    given = [part for part in parts if part is not None]
    return np.concatenate(given) if given else None
