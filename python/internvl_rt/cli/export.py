"""``internvl-rt export``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from internvl_rt.cli.options import JsonOption

if TYPE_CHECKING:
    from internvl_rt.export.calibration import Calibration


def command(
    checkpoint: Annotated[
        str | None,
        typer.Argument(
            metavar="[CHECKPOINT]",
            help="Its folder; left out with --synthetic.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Argument(metavar="OUT", help="The bundle's folder.", show_default=False)
    ] = None,
    synthetic: Annotated[
        str | None,
        typer.Option(
            "--synthetic",
            metavar="NAME",
            help="Random weights of a model's shapes, such as InternVL2_5-1B: measure before downloading.",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--weights",
            help="Language model: fp32, fp16, bf16, int8 or int4; where not given, bf16, or int4 for an AWQ "
            "checkpoint.",
            show_default=False,
        ),
    ] = None,
    vision: Annotated[
        str | None,
        typer.Option(
            "--vision",
            help="Vision tower: the same choice; where not given, bf16 or what suits the weights.",
            show_default=False,
        ),
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(
            "--calibrate",
            metavar="DIR",
            help="With --vision int8: pictures on which it is decided which layers stay in bf16.",
            show_default=False,
        ),
    ] = None,
    dialect: Annotated[
        list[str] | None,
        typer.Option(
            "--dialect",
            help="Of the ONNX graphs, repeatable: onnx24 (where not given), ort, trt10; -fp16 or -bf16 "
            "behind it for what they compute in.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of --synthetic.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Turn a checkpoint into a bundle that every engine reads."""
    dialects = dialect or ["onnx24"]
    if synthetic is not None:
        if checkpoint is not None and out is not None:
            raise typer.BadParameter("--synthetic needs no checkpoint: give OUT only.")
        target = out or (None if checkpoint is None else Path(checkpoint))
        if target is None:
            raise typer.BadParameter("OUT is missing: the folder that the bundle is written to.")
        if calibrate is not None:
            raise typer.BadParameter("--calibrate needs a checkpoint: random weights have no outliers.")
        from internvl_rt.export.precision import DEFAULT_WEIGHTS
        from internvl_rt.export.synthetic import export_synthetic

        written = export_synthetic(
            synthetic,
            target,
            weights=DEFAULT_WEIGHTS if weights is None else weights,
            vision=vision,
            seed=seed,
            dialect=dialects,
            overwrite=overwrite,
        )
        _tell(written, None, as_json)
        return
    if checkpoint is None or out is None:
        raise typer.BadParameter("give CHECKPOINT and OUT, or --synthetic NAME and OUT.")
    from internvl_rt.export import export

    calibrations: list[Calibration] = []
    written = export(
        checkpoint,
        out,
        weights=weights,
        vision=vision,
        calibrate=calibrate,
        on_calibration=calibrations.append,
        on_choice=lambda told: typer.echo(told, err=True),
        dialect=dialects,
        overwrite=overwrite,
    )
    _tell(written, calibrations[0] if calibrations else None, as_json)


def _tell(bundle: Path, calibration: Calibration | None, as_json: bool) -> None:
    """What was written: where, how large, and how to ask it."""
    import dataclasses

    from internvl_rt.bundle.manifest import read_manifest
    from internvl_rt.cli.output import print_json
    from internvl_rt.files.sizes import readable_size

    manifest = read_manifest(bundle)
    size = sum(entry.bytes for entry in manifest.files.values())
    if as_json:
        print_json(
            {
                "bundle": str(bundle),
                "name": manifest.name,
                "bytes": size,
                "files": {name: entry.bytes for name, entry in manifest.files.items()},
                "precision": dataclasses.asdict(manifest.precision),
                "graphs": [graphs.name for graphs in manifest.graph_sets],
                "calibration": None if calibration is None else calibration.matrices,
            }
        )
        return
    if calibration is not None:
        _print_calibration(calibration)
    precision = manifest.precision
    typer.echo(
        f"{bundle}: {manifest.name}, {readable_size(size)} (language model {precision.llm}, vision tower "
        f"{precision.vit})."
    )
    ask = ["internvl-rt", "chat", str(bundle), "What is in the picture?"]
    typer.echo(f"Ask it: {shlex.join(ask)} --image PICTURE")


def _print_calibration(found: Calibration) -> None:
    from internvl_rt.cli.output import console, table

    kept = [matrix for matrix in found.matrices if matrix.precision != "int8"]
    smoothed = [matrix for matrix in found.matrices if matrix.precision == "int8" and matrix.strength]
    out = console()
    out.print(
        f"{len(found.matrices) - len(kept)} of {len(found.matrices)} matrices of the vision tower are int8, "
        f"{len(smoothed)} of them smoothed; {len(kept)} stay in bf16. TensorRT multiplies "
        f"{len(found.input_scales)} of them in integers, those that take one scale for all tokens."
    )
    if kept:
        rows = [(m.name, f"{m.plain:.5f}", f"{m.smoothed:.5f}") for m in kept]
        out.print(table("In bf16", ("matrix", "cosine in int8", "smoothed"), rows))
