"""Measures one engine in this process."""

from __future__ import annotations

import io
import resource
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import numpy.typing as npt
from PIL import Image

from internvl_rt.answers.results import Answer, ms_since
from internvl_rt.bench.report import BenchOptions, EngineReport, Memory, Stage
from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.engines.engine import Engine
from internvl_rt.errors import ImageError, PromptError
from internvl_rt.files.regular import read_regular_file
from internvl_rt.images import MAX_PIXELS
from internvl_rt.images.decode import BYTES_PER_PIXEL
from internvl_rt.model.cache_size import context_of, stored_type
from internvl_rt.model.loading import assemble
from internvl_rt.model.model import Model

QUESTION = "Please describe the image in detail."

Progress = Callable[[str], None]


def measure_engine(
    bundle_path: str, engine_name: str, options: BenchOptions, progress: Progress
) -> EngineReport:
    """Loads a bundle into an engine and measures it.

    The stages of a question about a picture come from the timings of whole answers. Prefill and decoding
    are then measured by themselves on text of fixed length.

    Args:
        bundle_path: the bundle.
        engine_name: the engine.
        options: what to measure.
        progress: is told what is being done.

    Raises:
        InternVLError: as ``load`` and ``chat`` do; PromptError if the cache is too small for the options.
    """
    picture = _picture(options)
    progress("loading")
    begun = perf_counter()
    bundle = open_bundle(bundle_path)
    stored = stored_type(engine_name, bundle.manifest, options.cache_type)
    cache_tokens, context_tokens = context_of(bundle.manifest, options.cache_tokens, None, stored)
    _check_room(options, context_tokens)
    model, engine = assemble(
        bundle, engine_name, cache_tokens, context_tokens, options.threads, cache_type=options.cache_type
    )
    with model:
        load_ms = ms_since(begun)
        loaded = _status_bytes("VmRSS")
        answers = _answers(model, picture, options, progress)
        rng = np.random.default_rng(0)
        # Ordinary text: the special tokens stand at the end of the vocabulary.
        ids = rng.integers(300, max(301, bundle.manifest.llm.vocab_size // 2), size=1 << 16)
        stages = [
            *_question_stages(answers),
            _prefill_stage(engine, ids[: options.prompt_tokens], options, progress),
            *_decode_stages(engine, ids, options, progress),
        ]
        usage = answers[0].usage
        return EngineReport(
            engine=engine_name,
            load_ms=load_ms,
            tiles=usage.tiles,
            image_tokens=usage.image_tokens,
            prompt_tokens=usage.prompt_tokens,
            stages=tuple(stages),
            memory=Memory(_peak_bytes(), loaded, _status_bytes("RssAnon")),
        )


def drawn_picture(size: tuple[int, int]) -> bytes:
    """A JPEG with the structure of a photograph: large soft shapes and fine grain. Always the same bytes."""
    rng = np.random.default_rng(0)
    width, height = size
    coarse = rng.integers(0, 256, (max(2, height // 60), max(2, width // 60), 3), dtype=np.uint8)
    soft = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC), np.int16)
    grain = rng.integers(-8, 9, (height, width, 1), dtype=np.int16)
    file = io.BytesIO()
    Image.fromarray(np.clip(soft + grain, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def _picture(options: BenchOptions) -> bytes:
    if options.image is None:
        return drawn_picture(options.image_size)
    return read_regular_file(
        options.image,
        most_bytes=BYTES_PER_PIXEL * MAX_PIXELS,
        expected="an image file",
        error=ImageError,
    )


def _check_room(options: BenchOptions, context_tokens: int) -> None:
    longest = max(options.prompt_tokens, *options.cache_fills) + options.new_tokens
    if longest > context_tokens:
        raise PromptError(
            f"the options need {longest} tokens in the cache, which holds {context_tokens}: lower "
            "prompt_tokens and cache_fills, or raise cache_tokens."
        )


def _answers(model: Model, picture: bytes, options: BenchOptions, progress: Progress) -> list[Answer]:
    answers = []
    for repetition in range(options.warmup + options.repeats):
        progress(_counted("question about a picture", repetition, options))
        answers.append(
            model.chat(
                QUESTION,
                images=[picture],
                max_tiles=options.max_tiles,
                max_new_tokens=options.new_tokens,
                ignore_stop_tokens=True,
            )
        )
    return answers[options.warmup :]


def _question_stages(answers: list[Answer]) -> list[Stage]:
    usage = answers[0].usage
    samples: dict[str, list[float]] = defaultdict(list)
    for answer in answers:
        timings = answer.timings
        samples["decode_image"].append(timings.decode_image)
        samples["tile"].append(timings.tile)
        samples["vit"].append(timings.vit)
        samples["vit per tile"].append(timings.vit / usage.tiles)
        samples["projector"].append(timings.projector)
        samples["prefill"].append(timings.prefill)
        samples["first_token"].append(timings.first_token)
        samples["per_token"].append(timings.per_token)
        samples["total"].append(timings.total)
    tokens = {"prefill": usage.prompt_tokens, "per_token": 1}
    return [Stage(name, tuple(values), tokens.get(name)) for name, values in samples.items()]


def _prefill_stage(
    engine: Engine, ids: npt.NDArray[np.int64], options: BenchOptions, progress: Progress
) -> Stage:
    embeddings = engine.embed(ids, None)
    samples = []
    for repetition in range(options.warmup + options.repeats):
        progress(_counted(f"prefill of {len(ids)} tokens", repetition, options))
        sequence = engine.new_sequence()
        try:
            begun = perf_counter()
            engine.prefill(sequence, embeddings)
            samples.append(ms_since(begun))
        finally:
            engine.drop(sequence)
    return Stage(f"prefill {len(ids)} text tokens", tuple(samples[options.warmup :]), len(ids))


def _decode_stages(
    engine: Engine, ids: npt.NDArray[np.int64], options: BenchOptions, progress: Progress
) -> list[Stage]:
    """One token at a time at several cache fills. The cache is filled once, and forked at every fill."""
    stages = []
    filled = 0
    base = engine.new_sequence()
    try:
        for fill in sorted(set(options.cache_fills)):
            progress(f"decoding with {fill} tokens in the cache")
            if fill > filled:
                engine.prefill(base, engine.embed(ids[filled:fill], None))
            filled = fill
            sequence = engine.fork(base)
            try:
                stages.append(_decode_stage(engine, sequence, ids, fill, options))
            finally:
                engine.drop(sequence)
    finally:
        engine.drop(base)
    return stages


def _decode_stage(
    engine: Engine, sequence: int, ids: npt.NDArray[np.int64], fill: int, options: BenchOptions
) -> Stage:
    samples = []
    for position in range(options.new_tokens):
        begun = perf_counter()
        engine.decode([sequence], [int(ids[fill + position])])
        samples.append(ms_since(begun))
    # The first step after a fork copies a block and warms up.
    return Stage(f"decode at {fill} tokens", tuple(samples[1:]), 1)


def _counted(what: str, repetition: int, options: BenchOptions) -> str:
    if repetition < options.warmup:
        return f"{what}: warming up"
    return f"{what}: {repetition - options.warmup + 1} of {options.repeats}"


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _status_bytes(key: str) -> int | None:
    """A line of /proc/self/status; None where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return None
