"""Exporting a checkpoint: read, round to the precision asked for, write."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from math import prod
from pathlib import Path

from internvl_rt.bundle.manifest import TOKENIZER_FILE, Manifest, Precision
from internvl_rt.bundle.tensors import POSITION_EMBEDDING, TensorPlace, TensorSpec
from internvl_rt.errors import BundleError, CheckpointError
from internvl_rt.export.calibration import LEAST_COSINE, Calibration, calibrated, calibration_tiles
from internvl_rt.export.checkpoint import Checkpoint, CheckpointTensor, open_checkpoint
from internvl_rt.export.checkpoint.awq import AwqTensor
from internvl_rt.export.checkpoint.tensor import RowIndex
from internvl_rt.export.config import read_config
from internvl_rt.export.graphs import choose_graph_sets, write_graphs
from internvl_rt.export.interpolate import interpolate_positions
from internvl_rt.export.precision import DEFAULT_WEIGHTS, choose_precision
from internvl_rt.export.progress import progress_bar
from internvl_rt.export.quantise import encode_rows, to_float32
from internvl_rt.export.recipes import (
    Recipe,
    find_format,
    has_lm_head,
    make_recipes,
    naming_file_of,
    read_whole,
    row_ranges,
)
from internvl_rt.export.staging import check_out
from internvl_rt.export.tokenizers import convert_tokenizer, prompt_facts, prompt_rules
from internvl_rt.export.writer import (
    ROW_BYTES,
    EncodedRows,
    WeightSource,
    bundle_folder,
    generator,
    plan_layout,
    write_bundle,
)

MAX_THREADS = 8
"""More would wait for the disk, and each needs the memory of its rows."""


def export(
    checkpoint: str | Path,
    out: str | Path,
    *,
    weights: str | None = None,
    vision: str | None = None,
    calibrate: str | Path | None = None,
    least_cosine: float = LEAST_COSINE,
    on_calibration: Callable[[Calibration], None] | None = None,
    on_choice: Callable[[str], None] | None = None,
    dialect: str | Sequence[str] = "onnx24",
    overwrite: bool = False,
    progress: bool | None = None,
) -> Path:
    """Makes a bundle from a checkpoint folder, in the authors' or the transformers format.

    Weights are read and written a few rows at a time: memory stays under 2 GB plus the largest tensor. The
    bundle appears under its name only when it is complete.

    Args:
        checkpoint: a folder with ``config.json``, the weights and the tokenizer's files.
        out: the bundle's folder; it must not exist, or be empty.
        weights: precision of the language model: fp32, fp16, bf16, int8 or int4. Where None, int4 for an AWQ
            checkpoint, whose language model has no more than 4 bits to keep, and else bf16.
        vision: precision of the vision tower: as ``weights`` by default, bf16 for int8 and int4.
        calibrate: a folder of pictures like those that the model will be asked about, for ``vision="int8"``.
            Outlier channels are smoothed, and every matrix of the tower that int8 weights and activations
            change too much on these pictures stays in bf16; the manifest's ``precision.exceptions`` names
            them. One layer of the tower is in memory at a time, and four megabytes or more for each tile.
        least_cosine: what the outputs of a matrix in int8 must reach to those in fp32.
        on_calibration: is told what was measured of every matrix.
        on_choice: is told why, where ``weights`` is None and something else than bf16 was chosen.
        dialect: of the ONNX graphs, one or several: ``onnx24`` (standard operators, for ONNX Runtime,
            OpenVINO and TensorRT), ``ort`` (ONNX Runtime's own operators: faster there, and int8 and int4
            weights stay integers) or ``trt10`` (TensorRT 10.3 of JetPack 6). They compute in fp32; ``-fp16``
            or ``-bf16`` behind the name changes that, and TensorRT wants one of them. All point into the same
            weights.
        overwrite: replace the bundle that is at ``out``, in one step where the file system can. A folder in
            which anything else lies is refused.
        progress: show a progress bar; None shows it on a terminal.

    Returns:
        ``out``.

    Raises:
        CheckpointError: if the checkpoint is incomplete, malformed, or of an unsupported architecture; or if
            there are no pictures to calibrate with, or nothing to calibrate.
        BundleError: if ``out`` is taken, another export writes there, or the disk is full or refuses.
    """
    folder = bundle_folder(out)
    graph_sets = choose_graph_sets(dialect)
    # Before the checkpoint is read, and pictures are calibrated with, which may take a while.
    check_out(folder, overwrite)
    # An AWQ checkpoint changes the language model's alone.
    precision = choose_precision(DEFAULT_WEIGHTS if weights is None else weights, vision)
    if calibrate is not None and precision.vit != "int8":
        raise CheckpointError(
            f"calibrate= chooses the layers of an int8 vision tower, and this one is {precision.vit}. Export "
            "with vision='int8', or without calibrate."
        )
    opened = open_checkpoint(checkpoint)
    if weights is None and opened.is_awq:
        precision = choose_precision("int4", vision)
        if on_choice is not None:
            on_choice(
                f"{opened.folder} is an AWQ checkpoint: its language model becomes int4. `weights` "
                "chooses another precision."
            )
    config = read_config(opened)
    names = find_format(opened, config)
    tokenizer = convert_tokenizer(opened.folder, config.llm.vocab_size)
    manifest = Manifest(
        name=opened.name,
        source_format=config.format,
        generator=generator(),
        vision=config.vision,
        projector=config.projector,
        llm=replace(config.llm, tied_embeddings=not has_lm_head(opened, config, names)),
        tiling=config.tiling,
        prompt=prompt_facts(tokenizer, config.template, config.system_message, prompt_rules(opened.folder)),
        precision=precision,
        flash=config.flash,
    )
    try:
        manifest.checked(str(opened.folder))
    except BundleError as error:
        raise CheckpointError(str(error)) from None
    tiles = None if calibrate is None else calibration_tiles(calibrate, manifest.tiling)
    checkpoint_source = CheckpointSource(opened, make_recipes(opened, config, names, manifest), manifest)

    def write_others(folder: Path, manifest: Manifest, places: dict[str, TensorPlace]) -> None:
        write_graphs(folder, manifest, places, graph_sets)
        tokenizer.save(str(folder / TOKENIZER_FILE))

    with checkpoint_source.pool:
        source: WeightSource = checkpoint_source
        if tiles is not None:
            layers = [t for t in plan_layout(manifest) if t.spec.name.startswith("vit.layers.")]
            tower = sum(planned.end - planned.begin for planned in layers)
            with progress_bar(tower, progress) as advance:
                source, manifest, calibration = calibrated(
                    source,
                    manifest,
                    tiles,
                    least_cosine=least_cosine,
                    progress=lambda done: advance(f"calibrating layer {done}", tower // config.vision.layers),
                )
            if on_calibration is not None:
                on_calibration(calibration)
        with progress_bar(plan_layout(manifest)[-1].end, progress) as advance:
            return write_bundle(folder, manifest, source, write_others, overwrite=overwrite, advance=advance)


class CheckpointSource:
    """The weights of a checkpoint in the layout and the precision of a bundle.

    Threads read and round the rows that come next while the caller writes those that are ready.
    """

    def __init__(self, checkpoint: Checkpoint, recipes: dict[str, Recipe], manifest: Manifest) -> None:
        self.checkpoint = checkpoint
        self.recipes = recipes
        self.manifest = manifest
        self._threads = min(MAX_THREADS, os.cpu_count() or 1)
        self.pool = ThreadPoolExecutor(self._threads, "export")

    def encode(self, spec: TensorSpec, precision: Precision) -> Iterator[EncodedRows]:
        """All rows of a tensor, about ``ROW_BYTES`` of float32 at a time."""
        recipe = self.recipes[spec.name]
        if spec.kind == "vector":
            values = read_whole(self.checkpoint, recipe)
            if spec.name == POSITION_EMBEDDING:
                values = interpolate_positions(values[0], self.manifest.vision.grid)
            yield EncodedRows(to_float32(values.reshape(spec.shape), spec.name))
            return
        ahead: deque[Future[EncodedRows]] = deque()
        for tensor, index in row_ranges(self.checkpoint, recipe, prod(spec.shape[1:]), ROW_BYTES):
            ahead.append(self.pool.submit(_encode, tensor, index, precision))
            if len(ahead) > self._threads:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _encode(tensor: CheckpointTensor | AwqTensor, index: RowIndex, precision: Precision) -> EncodedRows:
    if isinstance(tensor, AwqTensor) and precision == "int4":
        return EncodedRows(*tensor.int4_rows(index))
    rows = tensor.rows(index)
    with naming_file_of(tensor):
        return EncodedRows(*encode_rows(rows, precision, tensor.name))
