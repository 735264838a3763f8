"""``internvl-rt build``."""

from __future__ import annotations

from typing import Annotated

import typer

from internvl_rt.cli.options import BundleArgument, JsonOption


def command(
    bundle: BundleArgument,
    cache_tokens: Annotated[
        int | None,
        typer.Option("--cache-tokens", help="Tokens that one sequence may have.", show_default="8192"),
    ] = None,
    prefill_chunk: Annotated[
        int, typer.Option("--prefill-chunk", help="Tokens of a prompt that are computed together.", min=16)
    ] = 512,
    tiles: Annotated[
        int | None,
        typer.Option(
            "--tiles",
            help="Tiles that are encoded together; all of a picture's if not given.",
            min=1,
            show_default=False,
        ),
    ] = None,
    compute: Annotated[
        str | None,
        typer.Option(
            "--compute",
            help="bf16 or fp16; where not given, fp16 for fp16 weights and else bf16.",
            show_default=False,
        ),
    ] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Even if the engines are there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Build TensorRT engines for this machine's GPU, which the engine tensorrt then runs."""
    import dataclasses

    from internvl_rt.bundle.bundle import open_bundle
    from internvl_rt.engines.tensorrt.build import build_engines
    from internvl_rt.engines.tensorrt.nvidia import TensorRtBuilder
    from internvl_rt.engines.tensorrt.profiles import default_limits
    from internvl_rt.export.graphs import write_graphs

    if compute not in (None, "bf16", "fp16"):
        raise typer.BadParameter(f"{compute!r} is neither bf16 nor fp16.", param_hint="--compute")
    opened = open_bundle(bundle)
    limits = default_limits(opened.manifest, cache_tokens=cache_tokens, prefill_chunk=prefill_chunk)
    if tiles is not None:
        limits = dataclasses.replace(limits, tiles=tiles)
    folder = build_engines(
        opened,
        TensorRtBuilder(),
        limits,
        write_graphs=write_graphs,
        compute=compute,  # type: ignore[arg-type]
        rebuild=rebuild,
        say=lambda told: typer.echo(told, err=as_json),
    )
    if as_json:
        from internvl_rt.cli.output import print_json

        print_json({"engines": str(folder)})
