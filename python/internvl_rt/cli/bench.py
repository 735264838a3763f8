"""``internvl-rt bench``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from internvl_rt.cli.options import (
    BundleArgument,
    CacheOption,
    CacheTypeOption,
    JsonOption,
    ThreadsOption,
)

if TYPE_CHECKING:
    from internvl_rt.bench.report import BenchReport, EngineReport


def command(
    bundle: BundleArgument,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            "--engine", help="native, onnxruntime, tensorrt; repeat for several.", show_default="native"
        ),
    ] = None,
    image_size: Annotated[
        str, typer.Option("--image-size", metavar="WxH", help="Size of the picture, which is drawn.")
    ] = "1920x1080",
    image: Annotated[
        Path | None, typer.Option("--image", "-i", help="A picture to use instead.", show_default=False)
    ] = None,
    max_tiles: Annotated[
        int | None,
        typer.Option("--max-tiles", help="The most tiles of the picture, 1 to 40.", show_default=False),
    ] = None,
    prompt_tokens: Annotated[
        int, typer.Option("--prompt-tokens", help="Length of the text for prefill.")
    ] = 512,
    new_tokens: Annotated[int, typer.Option("--new-tokens", help="Tokens of every answer.")] = 32,
    cache_fill: Annotated[
        list[int] | None,
        typer.Option(
            "--cache-fill", help="Tokens in the cache for decoding; repeatable.", show_default="256, 1024"
        ),
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", help="Repetitions that count.")] = 5,
    warmup: Annotated[int, typer.Option("--warmup", help="Repetitions before them.")] = 1,
    threads: ThreadsOption = None,
    cache_tokens: CacheOption = None,
    cache_type: CacheTypeOption = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", metavar="FILE", help="Write a picture too (png, svg, pdf).", show_default=False
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the latency of every stage, and the peak memory."""
    from internvl_rt.bench.plot import check_plot, write_plot
    from internvl_rt.bench.report import BenchOptions
    from internvl_rt.bench.run import bench
    from internvl_rt.cli.output import check_writable, console, print_json
    from internvl_rt.errors import InternVLError

    if plot is not None:
        check_plot(plot)
        check_writable(plot, "--plot", InternVLError)
    options = BenchOptions(
        image_size=_parse_size(image_size),
        image=None if image is None else str(image),
        max_tiles=max_tiles,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        cache_fills=tuple(cache_fill or (256, 1024)),
        repeats=repeats,
        warmup=warmup,
        threads=threads,
        cache_tokens=cache_tokens,
        cache_type=cache_type,  # type: ignore[arg-type]  # bench says what is wrong with it
    )
    with console(stderr=True).status("starting") as status:
        report = bench(bundle, list(engine or ["native"]), options, status.update)
    if as_json:
        print_json(report.document())
    else:
        _print(report)
    if plot is not None:
        # Last, so that the figures are not lost with it.
        sys.stdout.flush()
        write_plot(report, plot)
    if report.failed:
        raise InternVLError(" ".join(f"{engine}: {why}" for engine, why in report.failed.items()))


def _parse_size(text: str) -> tuple[int, int]:
    width, separator, height = text.lower().partition("x")
    if not (separator and width.isdecimal() and height.isdecimal()):
        raise typer.BadParameter(f"{text!r} is not a size such as 1920x1080.", param_hint="--image-size")
    return int(width), int(height)


def _print(report: BenchReport) -> None:
    from internvl_rt.cli.output import console, facts

    out = console()
    precision, machine = report.precision, report.machine
    rows = [
        ("model", f"{report.model}, language {precision['llm']}, vision {precision['vit']}"),
        ("machine", f"{machine.cpu}, {machine.cores} cores, {machine.instruction_set}"),
    ]
    if machine.load_average is not None:
        busy = " (busy: other programs were measured too)" if machine.load_average > 0.5 else ""
        rows.append(("load before", f"{machine.load_average:.2f}{busy}"))
    out.print(facts("Bench", rows))
    for engine in report.engines:
        _print_engine(engine)


def _print_engine(engine: EngineReport) -> None:
    from internvl_rt.cli.output import console, facts, table
    from internvl_rt.files.sizes import readable_size as size

    rows = []
    for stage in engine.stages:
        rate = stage.tokens_per_second
        times = (stage.percentile(50), stage.percentile(95), stage.percentile(99), min(stage.samples_ms))
        rows.append(
            (
                stage.name,
                *(f"{value:.2f}" for value in times),
                str(len(stage.samples_ms)),
                "" if rate is None else f"{rate:.1f}",
            )
        )
    out = console()
    out.print(table(engine.engine, ("stage, ms", "p50", "p95", "p99", "min", "n", "tokens/s"), rows))
    memory = engine.memory
    lines = [
        (
            "question",
            f"{engine.tiles} tiles, {engine.image_tokens} image and {engine.prompt_tokens} prompt tokens",
        ),
        ("load", f"{engine.load_ms:.0f} ms"),
        ("peak memory", f"{size(memory.peak)}, mapped weights included"),
    ]
    if memory.anonymous is not None:
        lines.append(("without mapped files", f"{size(memory.anonymous)} at the end"))
    out.print(facts("", lines))
