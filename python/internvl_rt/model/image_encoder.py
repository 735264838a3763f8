"""Pictures and tiles to image features, without a question."""

from __future__ import annotations

from time import perf_counter

import numpy as np

from internvl_rt._core import Scheduler
from internvl_rt.answers.results import ImageFeatures
from internvl_rt.bundle.manifest import Manifest
from internvl_rt.engines.engine import Engine, Float32Array
from internvl_rt.model.prompt import Picture, Prompt, TileProgress
from internvl_rt.model.requests import submit, timings_of


class ImageEncoder:
    """Encodes with one model's engine, in the scheduler's turn."""

    def __init__(self, manifest: Manifest, engine: Engine, scheduler: Scheduler) -> None:
        self._manifest = manifest
        self._engine = engine
        self._scheduler = scheduler

    def encode(self, picture: Picture, progress: TileProgress | None = None) -> ImageFeatures:
        """The features of a picture, encoded where it is not yet."""
        if picture.features is not None:
            return picture.features
        prompt = Prompt(np.empty(0, np.int64), (picture,), perf_counter(), progress=progress)
        running = submit(self._scheduler, self._manifest.tiling, prompt, [])
        running.answers()
        (encoded,) = running.request.take_pictures()
        features = encoded.features
        features.setflags(write=False)
        return ImageFeatures(
            features,
            encoded.grid,
            picture.size,
            self._manifest.fingerprint,
            timings_of(running.request.timings),
            () if self._manifest.flash is None else tuple(encoded.tile_tokens),
            picture.orientation,
        )

    def encode_pixels(self, pixels: Float32Array, progress: TileProgress | None) -> Float32Array:
        """The features [tiles, tokens_per_tile, hidden] of normalised tiles [tiles, 3, size, size]."""
        told = -1

        def step(done: int) -> None:
            nonlocal told
            reservation.check_open()
            if progress is not None and done > told:
                told = done
                progress(done, len(pixels))

        with self._scheduler.reserve(0) as reservation:
            step(0)
            features = self._engine.encode_tiles(pixels, step).features
            step(len(pixels))
        return features
