"""Moving the size of outlier channels from activations into weights, without changing what a model computes.

SmoothQuant (Xiao et al. 2023): the input channels of a matrix are divided by s and its columns multiplied by
it. The division is folded into what makes the channels: the norm before ``qkv`` and ``fc1``, and the rows of
the values in ``qkv`` before ``proj`` (attention is linear in the values). Nothing stands before ``fc2`` that
could take it: GELU is not linear.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from internvl_rt.bundle.manifest import Precision
from internvl_rt.bundle.tensors import TensorSpec, vit_layer
from internvl_rt.export.quantise import encode_rows
from internvl_rt.export.writer import EncodedRows, WeightSource

Float32Array = npt.NDArray[np.float32]


@dataclass
class Smoothing:
    """Factors of tensors, by name."""

    rows: dict[str, Float32Array] = field(default_factory=dict)
    """[n] factors of a matrix's rows, or of a vector's elements."""
    columns: dict[str, Float32Array] = field(default_factory=dict)
    """[k] factors of a matrix's columns."""

    def add(self, layer: int, matrix: str, factors: Float32Array, *, norm_bias: bool, qkv_bias: bool) -> None:
        """Divides the inputs of ``qkv``, ``proj`` or ``fc1`` of a layer, and multiplies its columns.

        Args:
            layer: of the tower.
            matrix: which of its matrices.
            factors: s, [inputs].
            norm_bias: the norms have biases.
            qkv_bias: ``qkv`` has one.
        """
        self._multiply(self.columns, vit_layer(layer, f"{matrix}.weight"), factors)
        inverse = (np.float32(1) / factors).astype(np.float32)
        if matrix == "proj":
            ones = np.ones(2 * len(factors), np.float32)
            inverse = np.concatenate([ones, inverse])
        source = {"qkv": "norm1", "proj": "qkv", "fc1": "norm2"}[matrix]
        self._multiply(self.rows, vit_layer(layer, f"{source}.weight"), inverse)
        if qkv_bias if matrix == "proj" else norm_bias:
            self._multiply(self.rows, vit_layer(layer, f"{source}.bias"), inverse)

    @staticmethod
    def _multiply(factors: dict[str, Float32Array], name: str, by: Float32Array) -> None:
        factors[name] = factors[name] * by if name in factors else by

    def apply(self, name: str, values: Float32Array, first: int = 0) -> Float32Array:
        """The rows from ``first`` on of a tensor, [n, ...] or [n], with its factors."""
        if name in self.rows:
            rows = self.rows[name][first : first + len(values)]
            values = values * rows.reshape(-1, *[1] * (values.ndim - 1))
        if name in self.columns:
            values = values * self.columns[name]
        return values


@dataclass(frozen=True)
class SmoothedSource:
    """A source of weights with smoothing folded in; tensors without factors come as they are."""

    source: WeightSource
    smoothing: Smoothing

    def encode(self, spec: TensorSpec, precision: Precision) -> Iterator[EncodedRows]:
        """All rows of a tensor, in order; see ``WeightSource``."""
        if spec.name not in self.smoothing.rows and spec.name not in self.smoothing.columns:
            yield from self.source.encode(spec, precision)
            return
        first = 0
        for part in self.source.encode(spec, "fp32"):
            rows = self.smoothing.apply(spec.name, part.data, first)
            first += len(part.data)
            yield EncodedRows(*encode_rows(rows, precision, spec.name))
