"""Synthetic bundles: any model of the family with random weights, to measure and to test with.

The weights are drawn directly at the precision of the bundle, so a model at int4 and the same at bf16 are two
different models. Every chunk of every tensor has its own seed: the result does not depend on the order.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod, sqrt
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from internvl_rt.bundle.manifest import TOKENIZER_FILE, Manifest, Precision
from internvl_rt.bundle.tensors import INT4_BLOCK, LM_HEAD, TensorPlace, TensorSpec
from internvl_rt.errors import CheckpointError
from internvl_rt.export.family import PROJECTOR, TILING, family_model
from internvl_rt.export.graphs import choose_graph_sets, write_graphs
from internvl_rt.export.precision import DEFAULT_WEIGHTS, choose_precision
from internvl_rt.export.progress import progress_bar
from internvl_rt.export.quantise import BFLOAT16
from internvl_rt.export.tokenizers import PromptRules, prompt_facts, synthetic_tokenizer
from internvl_rt.export.writer import EncodedRows, bundle_folder, generator, plan_layout, write_bundle

CHUNK_ELEMENTS = 1 << 22

LOGIT_STD = 3.0
"""Spread of the logits: wide enough that the best token leads by more than rounding noise."""

INT8_STD = 30.0
"""Standard deviation of the integers; the widest of 65536 quantiles is 4.17 times that, so 127 is reached."""
INT4_STD = 2.7


def export_synthetic(
    name: str,
    out: str | Path,
    *,
    weights: str = DEFAULT_WEIGHTS,
    vision: str | None = None,
    seed: int = 0,
    layers: int | None = None,
    graphs: bool = True,
    dialect: str | Sequence[str] = "onnx24",
    overwrite: bool = False,
    progress: bool | None = None,
) -> Path:
    """Writes a bundle of a published model's shape with random weights and a working tokenizer.

    Args:
        name: a model of the family's table, such as ``InternVL2_5-1B``.
        out: the bundle's folder.
        weights: precision of the language model.
        vision: precision of the vision tower; see :func:`choose_precision`.
        seed: of the random numbers. The same seed gives the same bytes.
        layers: keep only so many layers of tower and language model, for tests.
        graphs: write the ONNX graphs.
        dialect: of the graphs, one or several; see :func:`internvl_rt.export.export`.
        overwrite: replace a bundle that is at ``out``.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        ``out``.

    Raises:
        CheckpointError: if the table has no such model, there is no such precision, or the seed is negative.
        BundleError: if ``out`` is taken or the disk is full.
    """
    if not isinstance(seed, int) or seed < 0:
        raise CheckpointError(f"seed must be an integer of 0 or more, not {seed!r}.")
    model = family_model(name)
    return write_synthetic(
        synthetic_manifest(name, weights=weights, vision=vision, layers=layers),
        out,
        tokenizer=synthetic_tokenizer(model.tokenizer, model.llm.vocab_size),
        seed=seed,
        graphs=graphs,
        dialect=dialect,
        overwrite=overwrite,
        progress=progress,
    )


def synthetic_manifest(
    name: str, *, weights: str = DEFAULT_WEIGHTS, vision: str | None = None, layers: int | None = None
) -> Manifest:
    """The manifest of a synthetic bundle; arguments as for :func:`export_synthetic`."""
    model = family_model(name)
    tower, llm = model.vision, model.llm
    if layers is not None:
        tower, llm = replace(tower, layers=layers), replace(llm, layers=layers)
    tokenizer = synthetic_tokenizer(model.tokenizer, llm.vocab_size)
    return Manifest(
        name=f"{name} (synthetic)",
        source_format="synthetic",
        generator=generator(),
        vision=tower,
        projector=PROJECTOR,
        llm=llm,
        tiling=TILING,
        prompt=prompt_facts(tokenizer, model.template, None, PromptRules(model.tokenizer == "internlm2")),
        precision=choose_precision(weights, vision),
    )


def write_synthetic(
    manifest: Manifest,
    out: str | Path,
    *,
    tokenizer: Tokenizer | None,
    seed: int = 0,
    graphs: bool = True,
    dialect: str | Sequence[str] = "onnx24",
    overwrite: bool = False,
    progress: bool | None = None,
) -> Path:
    """Writes random weights for any manifest.

    Args:
        manifest: the model's facts.
        out: the bundle's folder.
        tokenizer: is saved into the bundle; None leaves it out.
        seed: as for :func:`export_synthetic`, like the others.
        graphs: write the ONNX graphs.
        dialect: of the graphs, one or several; see :func:`internvl_rt.export.export`.
        overwrite: replace a bundle that is at ``out``.
        progress: show a progress bar; None shows it on a terminal.

    Raises:
        BundleError: if the manifest is impossible, ``out`` is taken or the disk is full.
    """
    graph_sets = choose_graph_sets(dialect)

    def write_others(folder: Path, manifest: Manifest, places: dict[str, TensorPlace]) -> None:
        if graphs:
            write_graphs(folder, manifest, places, graph_sets)
        if tokenizer is not None:
            tokenizer.save(str(folder / TOKENIZER_FILE))

    total = plan_layout(manifest)[-1].end
    with progress_bar(total, progress) as advance:
        return write_bundle(
            bundle_folder(out),
            manifest,
            RandomSource(seed),
            write_others,
            overwrite=overwrite,
            advance=advance,
        )


@dataclass(frozen=True)
class RandomSource:
    """Random weights under which activations keep their scale through the layers.

    Matrices have the standard deviation 1/sqrt(K), norms are near 1, layer scales near 0.1, biases small.
    """

    seed: int

    def encode(self, spec: TensorSpec, precision: Precision) -> Iterator[EncodedRows]:
        """All rows of a tensor, a few million elements at a time."""
        if spec.kind == "vector":
            yield EncodedRows(self._vector(spec))
            return
        columns = prod(spec.shape[1:])
        step = max(1, CHUNK_ELEMENTS // columns)
        for chunk, first in enumerate(range(0, spec.shape[0], step)):
            rows = min(step, spec.shape[0] - first)
            yield self._matrix(spec, precision, chunk, rows, columns)

    def _matrix(
        self, spec: TensorSpec, precision: Precision, chunk: int, rows: int, columns: int
    ) -> EncodedRows:
        std = _std(spec)
        if precision == "int4":
            packed = self._draw(spec.name, chunk, _int4_pairs(), rows * columns // 2)
            scales = self._draw(
                spec.name + "/scales", chunk, _scales("float16"), rows * columns // INT4_BLOCK
            )
            return EncodedRows(
                packed.reshape(rows, -1), (scales * np.float16(std / INT4_STD)).reshape(rows, -1)
            )
        if precision == "int8":
            values = self._draw(spec.name, chunk, _int8_values(), rows * columns)
            scales = self._draw(spec.name + "/scales", chunk, _scales("float32"), rows)
            return EncodedRows(values.reshape(rows, columns), scales * np.float32(std / INT8_STD))
        dtype = {"fp32": np.dtype("float32"), "fp16": np.dtype("float16"), "bf16": BFLOAT16}[precision]
        table = (_normal_quantiles() * std).astype(dtype)
        return EncodedRows(self._draw(spec.name, chunk, table, rows * columns).reshape(rows, columns))

    def _vector(self, spec: TensorSpec) -> npt.NDArray[np.float32]:
        normal = self._draw(spec.name, 0, _normal_quantiles(), prod(spec.shape))
        mean, std = 0.0, 0.1
        if "norm" in spec.name and spec.name.endswith(".weight"):
            mean, std = 1.0, 0.1
        elif spec.name.endswith((".ls1", ".ls2")):
            mean, std = 0.1, 0.01
        values: npt.NDArray[np.float32] = np.float32(mean) + np.float32(std) * normal
        return values.reshape(spec.shape)

    def _draw(self, stream: str, chunk: int, table: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
        """``count`` entries of a table of 65536, uniformly."""
        seed = np.random.SeedSequence([self.seed, zlib.crc32(stream.encode()), chunk])
        raw: npt.NDArray[np.uint64] = np.random.SFC64(seed).random_raw(-(-count // 4))
        # mode="clip" is the fast path; every uint16 is an index of the table.
        return np.take(table, raw.view(np.uint16)[:count], mode="clip")


def _std(spec: TensorSpec) -> float:
    scale = LOGIT_STD if spec.name == LM_HEAD else 1.0
    if spec.part == "embedding":
        return 1.0
    return scale / sqrt(prod(spec.shape[1:]))


@functools.cache
def _normal_quantiles() -> npt.NDArray[np.float32]:
    """65536 quantiles of the normal distribution: the table that turns 16 random bits into a weight."""
    normal = NormalDist()
    upper = [normal.inv_cdf((i + 0.5) / 65536) for i in range(32768, 65536)]
    return np.array([-x for x in reversed(upper)] + upper, np.float32)


@functools.cache
def _int8_values() -> npt.NDArray[np.int8]:
    values: npt.NDArray[np.int8] = np.clip(np.rint(_normal_quantiles() * INT8_STD), -127, 127).astype(np.int8)
    return values


@functools.cache
def _int4_pairs() -> npt.NDArray[np.uint8]:
    """16 random bits to two packed int4, 8 bits for each."""
    quantiles = _normal_quantiles()[128::256]
    nibbles = np.clip(np.rint(quantiles * INT4_STD), -8, 7).astype(np.int8).view(np.uint8) & 0x0F
    pairs: npt.NDArray[np.uint8] = (nibbles[None, :] | (nibbles[:, None] << 4)).reshape(-1)
    return pairs


@functools.cache
def _scales(dtype: str) -> npt.NDArray[Any]:
    """Factors from 0.75 to 1.25, so that a scale in the wrong place shows."""
    return np.linspace(0.75, 1.25, 65536).astype(dtype)
