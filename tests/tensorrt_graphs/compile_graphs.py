"""Compiles the graphs of the family's models with TensorRT, at their true widths and two layers.

Needs no GPU. ``INTERNVL_RT_COMPILE_CHECK`` is the path of a program that takes ``MODEL --sm SM --profile
NAME=MIN:OPT:MAX ...`` and ends with 0 if the graph became one engine, such as one that drives the compiler of
the package onnxruntime-ep-nv-tensorrt-rtx-cu13; ``../shared/tools/tensorrt_compile_check.py`` is taken where
it is not set.

Run as a program, it prints the whole table:

    python tests/tensorrt_graphs/compile_graphs.py [--model InternVL2_5-1B ...] [--sm sm89 ...] [--layers N]
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from internvl_rt.bundle.bundle import open_bundle
from internvl_rt.bundle.graph_sets import GRAPH_SETS, GraphName, GraphSet
from internvl_rt.bundle.tensors import vit_layer
from internvl_rt.engines.tensorrt.profiles import Limits, Profile, Shape, profiles_of
from internvl_rt.export.family import FAMILY
from internvl_rt.export.graphs import write_graphs
from internvl_rt.export.synthetic import synthetic_manifest, write_synthetic

ARCHITECTURES = ("sm86", "sm89", "sm120")
LIMITS = Limits(tiles=13, prefill_chunk=512, decode_batch=4, cache_tokens=4096)
VOCABULARY = 2048
"""Cut, because the table alone would be gigabytes; the output matrix is a product like any other."""
SECONDS = 900
COMPILER = "onnxruntime-ep-nv-tensorrt-rtx-cu13"
"""The package whose compiler the check drives."""


@dataclass(frozen=True)
class Case:
    """One graph of one model."""

    model: str
    part: GraphName
    weights: str
    """The precision of the part's weights."""
    graphs: str


CASES = tuple(
    Case("", part, weights, f"{dialect}-{compute}")
    for dialect in ("onnx24", "trt10")
    for part, weights, compute in (
        ("vit", "fp16", "fp16"),
        ("vit", "bf16", "bf16"),
        ("vit", "int8", "fp16"),
        ("vit", "int8", "bf16"),
        ("projector", "fp16", "fp16"),
        ("projector", "bf16", "bf16"),
        ("llm", "fp16", "fp16"),
        ("llm", "bf16", "bf16"),
        ("llm", "int8", "fp16"),
        ("llm", "int8", "bf16"),
        ("llm", "int4", "fp16"),
        ("llm", "int4", "bf16"),
    )
)
"""Of every model."""


def tool() -> Path | None:
    """The program that compiles, or None."""
    given = os.environ.get("INTERNVL_RT_COMPILE_CHECK")
    path = Path(given or Path(__file__).parents[3] / "shared/tools/tensorrt_compile_check.py")
    return path if path.is_file() else None


def write_bundle(folder: Path, case: Case, layers: int | None) -> Path:
    """A synthetic bundle for a case, with the graphs that are to be compiled."""
    vision = case.weights if case.part == "vit" else "fp16"
    weights = case.weights if case.part == "llm" else "fp16"
    manifest = synthetic_manifest(case.model, weights=weights, vision=vision, layers=layers)
    if case.part == "projector":
        manifest = dataclasses.replace(
            manifest,
            precision=dataclasses.replace(manifest.precision, projector=case.weights),  # type: ignore[arg-type]
        )
    if case.part == "vit" and case.weights == "int8":
        matrices = [
            vit_layer(layer, f"{name}.weight")
            for layer in range(manifest.vision.layers)
            for name in ("qkv", "proj", "fc1", "fc2")
        ]
        # As a calibration leaves it that keeps one matrix out of int8 and another one's inputs.
        kept, dynamic, *scaled = matrices
        manifest = dataclasses.replace(
            manifest,
            precision=dataclasses.replace(
                manifest.precision, exceptions={kept: "bf16"}, input_scales=dict.fromkeys(scaled, 0.05)
            ),
        )
        assert dynamic not in manifest.precision.input_scales
    if case.part != "llm":
        manifest = dataclasses.replace(manifest, llm=dataclasses.replace(manifest.llm, layers=1))
    if case.part != "vit":
        manifest = dataclasses.replace(manifest, vision=dataclasses.replace(manifest.vision, layers=1))
    manifest = dataclasses.replace(
        manifest,
        llm=dataclasses.replace(manifest.llm, vocab_size=VOCABULARY),
        prompt=dataclasses.replace(manifest.prompt, image_context_id=1, bos_id=None, stop_ids=(2,)),
    )
    out = write_synthetic(manifest, folder / "bundle", tokenizer=None, graphs=False, progress=False)
    bundle = open_bundle(out)
    write_graphs(out, manifest, bundle.places, [_graphs(case)], capacity=LIMITS.cache_tokens)
    return out


def compile_graph(folder: Path, case: Case, architecture: str) -> tuple[bool, str]:
    """Compiles a case's graph of a bundle.

    Returns:
        Whether the whole graph became one engine, and what the compiler said last.
    """
    program = tool()
    if program is None:
        raise FileNotFoundError("there is no compile check: set INTERNVL_RT_COMPILE_CHECK to its path")
    manifest = open_bundle(folder).manifest
    profile = _joined(profiles_of(manifest, case.part, LIMITS))
    command = [
        sys.executable,
        str(program),
        str(folder / _graphs(case).file(case.part)),
        "--sm",
        architecture,
    ]
    for name, shapes in profile.items():
        command += ["--profile", f"{name}={_spelled(shapes.least, shapes.usual, shapes.most)}"]
    # The program may leave its engines, which are as large as the weights, where temporary files go.
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        environment = {**os.environ, "TMPDIR": scratch}
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            return False, f"not within {SECONDS} s"
    lines = (done.stdout + done.stderr).strip().splitlines()
    if done.returncode == 0:
        return True, done.stdout.strip().splitlines()[-1]
    return False, " / ".join(line for line in lines if "rror" in line or "check" in line)[-600:]


def _graphs(case: Case) -> GraphSet:
    return GRAPH_SETS[case.graphs]


def _joined(profiles: tuple[Profile, ...]) -> Profile:
    """One profile that includes all: the compile check takes one only."""
    first, *others = profiles
    joined = dict(first)
    for other in others:
        for name, shapes in other.items():
            mine = joined[name]
            joined[name] = dataclasses.replace(
                mine, least=_each(min, mine.least, shapes.least), most=_each(max, mine.most, shapes.most)
            )
    return joined


def _each(choose: type[min] | type[max], a: Shape, b: Shape) -> Shape:  # type: ignore[valid-type]
    return tuple(choose(pair) for pair in zip(a, b, strict=True))  # type: ignore[misc]


def _spelled(*shapes: Shape) -> str:
    return ":".join("x".join(map(str, shape)) for shape in shapes)


def cases_of(models: list[str], dialects: list[str]) -> Iterator[Case]:
    """The cases of several models, without those whose graph is another model's but for its depth."""
    seen: set[object] = set()
    for name in models:
        model = FAMILY[name]
        for case in CASES:
            if case.part == "llm" and model.llm.experts is not None:
                continue  # TensorRT has no operator for them; `internvl-rt build` says so
            shapes: object = dataclasses.replace(model.vision, layers=1)
            if case.part == "llm":
                shapes = dataclasses.replace(
                    model.llm, layers=1, vocab_size=1, rope=FAMILY["InternVL2_5-1B"].llm.rope
                )
            elif case.part == "projector":
                shapes = (model.vision.hidden_size, model.llm.hidden_size)
            key = (case, shapes)
            if key not in seen and case.graphs.split("-")[0] in dialects:
                seen.add(key)
                yield dataclasses.replace(case, model=name)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", action="append", choices=list(FAMILY))
    parser.add_argument("--sm", action="append")
    parser.add_argument("--dialect", action="append", choices=["onnx24", "trt10"])
    parser.add_argument("--part", action="append", choices=["vit", "projector", "llm"])
    parser.add_argument("--weights", action="append", choices=["fp16", "bf16", "int8", "int4"])
    parser.add_argument("--layers", type=int, default=2, help="0: all of them")
    arguments = parser.parse_args()
    failed = 0
    print(f"{COMPILER} {importlib.metadata.version(COMPILER)}, {arguments.layers or 'all'} layers\n")
    print("| model | graph | weights | dialect | engines |\n|---|---|---|---|---|", flush=True)
    for case in cases_of(arguments.model or list(FAMILY), arguments.dialect or ["onnx24", "trt10"]):
        if case.part not in (arguments.part or [case.part]):
            continue
        if case.weights not in (arguments.weights or [case.weights]):
            continue
        with tempfile.TemporaryDirectory() as folder:
            bundle = write_bundle(Path(folder), case, arguments.layers or None)
            told = []
            for architecture in arguments.sm or ARCHITECTURES:
                started = time.monotonic()
                ok, said = compile_graph(bundle, case, architecture)
                failed += not ok
                told.append(
                    f"{architecture} one, {time.monotonic() - started:.0f} s"
                    if ok
                    else f"{architecture} NO: {said}"
                )
        print(
            f"| {case.model} | {case.part} | {case.weights} | {case.graphs} | {'; '.join(told)} |", flush=True
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
