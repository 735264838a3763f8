"""Which matrices of a vision tower can be int8, and how outlier channels are smoothed for it.

The tower is computed in float32 on a user's tiles, one layer of weights in memory at a time. Every matrix is
then tried with int8 weights and int8 activations (a scale for each row of weights, and for each token), plain
and smoothed, and the direction of its outputs compared with float32's.

Engines that want to know the activations' scale before they see any (TensorRT) get one for all tokens, for
the matrices whose outputs keep their direction with it too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from internvl_rt._core import LEAST_INPUT_SCALE, MOST_INPUT_SCALE
from internvl_rt.bundle.manifest import Manifest, Precision, Vision
from internvl_rt.bundle.tensors import (
    CLASS_EMBEDDING,
    PATCH_EMBEDDING,
    PATCH_EMBEDDING_BIAS,
    POSITION_EMBEDDING,
    TensorSpec,
    tensor_specs,
    vit_layer,
)
from internvl_rt.export.calibration.smoothing import SmoothedSource, Smoothing
from internvl_rt.export.quantise import dequantise_int8, quantise_int8
from internvl_rt.export.writer import WeightSource

Float32Array = npt.NDArray[np.float32]

LEAST_COSINE = 0.999
"""Of a matrix's outputs in int8 to those in float32, for all but one token in a hundred."""

STRENGTHS = (0.35, 0.5, 0.65, 0.8)
"""SmoothQuant's alpha: how much of an outlier goes into the weights. The best for each matrix is kept."""

SAMPLED_TOKENS = 128
"""Of each tile, half of them those with the largest values: outliers live in few tokens."""

CLIPS = (1.0, 0.8, 0.6, 0.45, 0.3)
"""Shares of the greatest activation that a scale for all tokens may end at: what lies above is cut off, and
all that lies below has finer steps."""

MATRICES = ("qkv", "proj", "fc1", "fc2")


@dataclass(frozen=True)
class MatrixReport:
    """What was measured of one matrix."""

    name: str
    plain: float
    """The cosine of int8 outputs to float32 outputs, as it is."""
    smoothed: float
    """With the best smoothing; ``plain`` where none is better."""
    strength: float | None
    """SmoothQuant's alpha, or None where no smoothing is better."""
    precision: Precision
    """``int8``, or ``bf16`` where the cosine is too low."""
    static: float
    """The best cosine with one scale for all tokens, smoothed likewise."""
    input_scale: float | None
    """That scale, or None where its cosine is too low; such a matrix's inputs stay floats where scales have
    to be known before."""


@dataclass
class Calibration:
    """What a calibration decided."""

    smoothing: Smoothing = field(default_factory=Smoothing)
    matrices: list[MatrixReport] = field(default_factory=list)

    @property
    def exceptions(self) -> dict[str, Precision]:
        """The matrices that stay in bf16."""
        return {f"{m.name}.weight": m.precision for m in self.matrices if m.precision != "int8"}

    @property
    def input_scales(self) -> dict[str, float]:
        """The scales of inputs that are known before, by the names of weights."""
        return {f"{m.name}.weight": m.input_scale for m in self.matrices if m.input_scale is not None}


def calibrate(
    source: WeightSource,
    manifest: Manifest,
    tiles: Float32Array,
    *,
    least_cosine: float = LEAST_COSINE,
    progress: Callable[[int], None] | None = None,
) -> Calibration:
    """Tries int8 on every matrix of the tower's layers.

    Args:
        source: the weights.
        manifest: the model's facts.
        tiles: normalised float32 [n, 3, tile_size, tile_size].
        least_cosine: what falls below stays in bf16.
        progress: told after every layer how many are done.
    """
    tower = _Tower(source, manifest)
    stream = [tower.embed(tile) for tile in tiles]
    found = Calibration()
    for layer in range(manifest.vision.layers):
        weights = tower.layer(layer)
        samples: dict[str, list[Float32Array]] = {name: [] for name in MATRICES}
        greatest = {name: np.zeros(weights[f"{name}.weight"].shape[1], np.float32) for name in MATRICES}

        def keep(
            name: str,
            x: Float32Array,
            samples: dict[str, list[Float32Array]] = samples,
            greatest: dict[str, Float32Array] = greatest,
        ) -> None:
            np.maximum(greatest[name], np.abs(x).max(axis=0), out=greatest[name])
            samples[name].append(_sample(x))

        for i, x in enumerate(stream):
            stream[i] = tower.forward(x, weights, keep)
        for name in MATRICES:
            report, factors = _try(
                vit_layer(layer, name),
                np.concatenate(samples.pop(name)),
                weights[f"{name}.weight"],
                greatest[name],
                least_cosine,
                smooth=name != "fc2",
            )
            found.matrices.append(report)
            if factors is not None:
                found.smoothing.add(
                    layer,
                    name,
                    factors,
                    norm_bias=manifest.vision.norm == "layer_norm",
                    qkv_bias=manifest.vision.qkv_bias,
                )
        if progress is not None:
            progress(layer + 1)
    return found


def calibrated(
    source: WeightSource,
    manifest: Manifest,
    tiles: Float32Array,
    *,
    least_cosine: float = LEAST_COSINE,
    progress: Callable[[int], None] | None = None,
) -> tuple[WeightSource, Manifest, Calibration]:
    """The weights smoothed, the manifest with what stays in bf16, and why; arguments as for ``calibrate``."""
    found = calibrate(source, manifest, tiles, least_cosine=least_cosine, progress=progress)
    exceptions = {**manifest.precision.exceptions, **found.exceptions}
    precision = replace(manifest.precision, exceptions=exceptions, input_scales=found.input_scales)
    changed = replace(manifest, precision=precision)
    return SmoothedSource(source, found.smoothing), changed, found


def _try(
    name: str, x: Float32Array, w: Float32Array, greatest: Float32Array, least_cosine: float, *, smooth: bool
) -> tuple[MatrixReport, Float32Array | None]:
    """What was measured of a matrix [n, k] on inputs [tokens, k], and the factors if smoothing is used.

    ``greatest`` [k] are the greatest magnitudes of the inputs' channels, of all tokens and not just of x's.
    """
    exact: Float32Array = x @ w.T
    plain = best = _cosine(_int8_product(x, w, name), exact)
    strength, factors = None, None
    # A matrix that is right as it is stays as it is.
    if smooth and plain < 1 - (1 - least_cosine) / 10:
        columns = np.abs(w).max(axis=0)
        for alpha in STRENGTHS:
            tried = _factors(greatest, columns, alpha)
            cosine = _cosine(_int8_product(x / tried, w * tried, name), exact)
            if cosine > best:
                best, strength, factors = cosine, alpha, tried
    if factors is not None:
        x, w, greatest = x / factors, w * factors, greatest / factors
    columns_of_int8 = dequantise_int8(*quantise_int8(w, name)).T
    static, scale = max(
        (_cosine(_with_one_scale(x, scale) @ columns_of_int8, exact), scale)
        for scale in (float(greatest.max()) * clip / 127 for clip in CLIPS)
    )
    usable = static >= least_cosine and LEAST_INPUT_SCALE <= scale <= MOST_INPUT_SCALE
    if best < least_cosine:
        return MatrixReport(name, plain, best, strength, "bf16", static, None), None
    return MatrixReport(name, plain, best, strength, "int8", static, scale if usable else None), factors


def _factors(inputs: Float32Array, columns: Float32Array, alpha: float) -> Float32Array:
    """SmoothQuant's s, with a geometric mean of 1, so that norms and weights keep their size."""
    usable = (inputs > 0) & (columns > 0)
    logarithm = np.zeros(len(inputs))
    logarithm[usable] = alpha * np.log(inputs[usable]) - (1 - alpha) * np.log(columns[usable])
    if usable.any():
        logarithm[usable] -= logarithm[usable].mean()
    factors: Float32Array = np.exp(np.clip(logarithm, -10, 10)).astype(np.float32)
    return factors


def _int8_product(x: Float32Array, w: Float32Array, name: str) -> Float32Array:
    """X W^T with both rounded to int8, row by row."""
    rounded = [dequantise_int8(*quantise_int8(rows, name)) for rows in (x, w)]
    product: Float32Array = rounded[0] @ rounded[1].T
    return product


def _with_one_scale(x: Float32Array, scale: float) -> Float32Array:
    """Rounded to int8, one scale for all of it."""
    step = np.float32(scale) if scale > 0 else np.float32(1)
    rounded: Float32Array = np.clip(np.rint(x / step), -128, 127) * step
    return rounded


def _cosine(found: Float32Array, exact: Float32Array) -> float:
    """The cosine that all but one row in a hundred reach."""
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(exact, axis=1)
    products = (found * exact).sum(axis=1)
    cosines = np.where(norms > 0, products / np.maximum(norms, 1e-30), 1.0)
    return float(np.quantile(cosines, 0.01))


def _sample(x: Float32Array) -> Float32Array:
    if len(x) <= SAMPLED_TOKENS:
        return np.array(x)
    half = SAMPLED_TOKENS // 2
    largest = np.argpartition(np.abs(x).max(axis=1), -half)[-half:]
    even = np.linspace(0, len(x) - 1, half).astype(np.int64)
    rows: Float32Array = x[np.union1d(largest, even)]
    return rows


class _Tower:
    """InternViT in float32, a layer at a time."""

    def __init__(self, source: WeightSource, manifest: Manifest) -> None:
        self._vision: Vision = manifest.vision
        self._source = source
        self._specs = {spec.name: spec for spec in tensor_specs(manifest) if spec.part == "vit"}

    def layer(self, layer: int) -> dict[str, Float32Array]:
        """The tensors of a layer, by their names in it."""
        prefix = vit_layer(layer, "")
        return {
            name.removeprefix(prefix): self._read(spec)
            for name, spec in self._specs.items()
            if name.startswith(prefix)
        }

    def embed(self, tile: Float32Array) -> Float32Array:
        """A tile [3, S, S] as the tokens of the first layer, [1 + patches, C]."""
        side, grid = self._vision.patch_size, self._vision.grid
        patches = tile.reshape(3, grid, side, grid, side).transpose(1, 3, 0, 2, 4)
        kernel = self._get(PATCH_EMBEDDING).reshape(self._vision.hidden_size, -1)
        x = patches.reshape(grid * grid, -1) @ kernel.T + self._get(PATCH_EMBEDDING_BIAS)
        tokens: Float32Array = np.concatenate([self._get(CLASS_EMBEDDING)[None], x])
        return tokens + self._get(POSITION_EMBEDDING)

    def forward(
        self, x: Float32Array, weights: dict[str, Float32Array], keep: Callable[[str, Float32Array], None]
    ) -> Float32Array:
        """One layer over one tile's tokens; ``keep`` is given the inputs of every matrix."""

        def linear(name: str, u: Float32Array) -> Float32Array:
            keep(name, u)
            y: Float32Array = u @ weights[f"{name}.weight"].T
            return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y

        u = linear("qkv", self._norm(x, weights, "norm1"))
        u = linear("proj", self._attend(u, weights))
        x = x + weights["ls1"] * u
        u = _gelu(linear("fc1", self._norm(x, weights, "norm2")))
        return x + weights["ls2"] * linear("fc2", u)

    def _attend(self, qkv: Float32Array, weights: dict[str, Float32Array]) -> Float32Array:
        vision = self._vision
        q, k, v = np.split(qkv, 3, axis=1)
        if vision.qk_norm:
            q = _rms_norm(q, weights["q_norm.weight"], vision.norm_eps)
            k = _rms_norm(k, weights["k_norm.weight"], vision.norm_eps)
        out = np.empty_like(q)
        for head in range(vision.heads):
            part = slice(head * vision.head_dim, (head + 1) * vision.head_dim)
            scores = q[:, part] @ k[:, part].T / np.float32(np.sqrt(vision.head_dim))
            scores -= scores.max(axis=1, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(axis=1, keepdims=True)
            out[:, part] = scores @ v[:, part]
        return out

    def _norm(self, x: Float32Array, weights: dict[str, Float32Array], name: str) -> Float32Array:
        eps = self._vision.norm_eps
        if self._vision.norm == "rms_norm":
            return _rms_norm(x, weights[f"{name}.weight"], eps)
        centered = x - x.mean(axis=1, keepdims=True)
        return _rms_norm(centered, weights[f"{name}.weight"], eps) + weights[f"{name}.bias"]

    def _get(self, name: str) -> Float32Array:
        return self._read(self._specs[name])

    def _read(self, spec: TensorSpec) -> Float32Array:
        rows: Iterator[Float32Array] = (part.data for part in self._source.encode(spec, "fp32"))
        return np.concatenate(list(rows)).reshape(spec.shape)


def _rms_norm(x: Float32Array, weight: Float32Array, eps: float) -> Float32Array:
    deviation = np.sqrt(np.square(x).mean(axis=1, keepdims=True) + np.float32(eps))
    normalised: Float32Array = x / deviation * weight
    return normalised


def _gelu(x: Float32Array) -> Float32Array:
    """X Phi(x), to 1e-7 of x: erf by Abramowitz and Stegun 7.1.26, whose error is below 1.5e-7."""
    a = np.abs(x) * np.float32(np.sqrt(0.5))
    t = 1 / (1 + np.float32(0.3275911) * a)
    p = np.float32(1.061405429)
    for coefficient in (-1.453152027, 1.421413741, -0.284496736, 0.254829592):
        p = p * t + np.float32(coefficient)
    tail = np.float32(0.5) * p * t * np.exp(-a * a)
    result: Float32Array = np.maximum(x, 0) - np.abs(x) * tail
    return result
