"""Tiles to image features: the ViT, our pixel shuffle, the projector."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from time import perf_counter
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from internvl_rt import _core
from internvl_rt.bundle.bundle import Bundle
from internvl_rt.bundle.graph_ports import COMPRESSED, FEATURES, HIDDEN, PIXEL_VALUES, SCORES, SHUFFLED
from internvl_rt.bundle.graph_sets import GraphName, GraphSet
from internvl_rt.engines.arrays import check_pixel_values
from internvl_rt.engines.engine import EncodedTiles, Float32Array, Progress
from internvl_rt.engines.onnxruntime.providers import PROVIDERS, Provider, choose_graph_set
from internvl_rt.engines.onnxruntime.session import NUMPY_TYPE, Session, contiguous
from internvl_rt.engines.turns import Turns

VISION_GRAPHS: tuple[GraphName, ...] = ("vit", "projector")


class OnnxVision:
    """The vision side of a bundle on ONNX Runtime.

    Tiles are computed one after another: so memory does not grow with their number, and the result of a tile
    cannot depend on the others.
    """

    def __init__(
        self,
        bundle: Bundle,
        threads: int | None = None,
        *,
        providers: Sequence[Provider] = (PROVIDERS["cpu"],),
        graphs: GraphSet | None = None,
    ) -> None:
        """Loads the two graphs.

        Args:
            bundle: an opened bundle.
            threads: how many compute; None for all usable cores.
            providers: what ``choose_providers`` returned.
            graphs: of the bundle; those that suit the first provider best where None.

        Raises:
            BundleError: if the bundle has no graphs that suit, or ONNX Runtime does not take one.
        """
        graphs = graphs or choose_graph_set(bundle, providers, language_model=False)
        self._dtype = NUMPY_TYPE[graphs.compute]
        manifest = bundle.manifest
        threads = threads or _core.usable_cores()
        # Making floats of int8 weights in every run costs little beside a tile's hundreds of rows.
        self._vit, self._projector = (
            Session(bundle.file(graphs.file(name)), threads, fold_weights=False, providers=providers)
            for name in VISION_GRAPHS
        )
        self._flash: Session | None = None
        if manifest.flash is not None:
            path = bundle.file(graphs.file("flash"))
            self._flash = Session(path, threads, fold_weights=False, providers=providers)
            self._compressed_shape = (manifest.tokens_per_compressed_tile, manifest.llm.hidden_size)
        self._facts = manifest.vision
        self._features_shape = (manifest.tokens_per_tile, manifest.llm.hidden_size)
        self._block = manifest.projector.downsample
        self._version = manifest.projector.pixel_shuffle
        self._team = _core.ThreadTeam(1)  # the shuffle only moves memory
        self._hidden = np.empty((1, 1 + manifest.vision.patches, manifest.vision.hidden_size), self._dtype)
        self._turns = Turns()

    def encode_tiles(self, pixel_values: Float32Array, progress: Progress | None = None) -> EncodedTiles:
        """Encodes tiles, as :meth:`internvl_rt.engines.engine.Engine.encode_tiles`.

        Raises:
            ImageError: if the shape or type is another one.
        """
        check_pixel_values(pixel_values, self._facts)
        features = np.empty((len(pixel_values), *self._features_shape), self._dtype)
        flash = self._flash
        compressed = (
            None if flash is None else np.empty((len(features), *self._compressed_shape), self._dtype)
        )
        scores = None if flash is None else np.empty(len(features), self._dtype)
        vit_s = projector_s = 0.0
        for tile in range(len(pixel_values)):
            step = None if progress is None else partial(progress, tile)
            if step is not None and tile > 0:
                step()
            # The memory of a tile is bounded, and so must be the number of them in flight.
            with self._turns.turn(step):
                begin = perf_counter()
                pixels = contiguous(pixel_values[tile : tile + 1].astype(self._dtype, copy=False))
                self._vit.run({PIXEL_VALUES: pixels}, {HIDDEN: self._hidden}, step)
                middle = perf_counter()
                hidden = self._hidden.astype(np.float32, copy=False)
                shuffled = _core.pixel_shuffle(
                    hidden, block=self._block, version=self._version, team=self._team
                ).astype(self._dtype, copy=False)
                self._projector.run({SHUFFLED: shuffled}, {FEATURES: features[tile : tile + 1]}, step)
                if flash is not None and compressed is not None and scores is not None:
                    outputs = {COMPRESSED: compressed[tile : tile + 1], SCORES: scores[tile : tile + 1]}
                    flash.run({HIDDEN: self._hidden}, outputs, step)
                vit_s += middle - begin
                projector_s += perf_counter() - middle
        return EncodedTiles(
            _float32(features), vit_s * 1e3, projector_s * 1e3, _float32(compressed), _float32(scores)
        )


@overload
def _float32(array: npt.NDArray[Any]) -> Float32Array: ...
@overload
def _float32(array: npt.NDArray[Any] | None) -> Float32Array | None: ...
def _float32(array: npt.NDArray[Any] | None) -> Float32Array | None:
    return None if array is None else array.astype(np.float32, copy=False)
