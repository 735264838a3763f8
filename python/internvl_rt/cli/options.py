"""Options that several commands share, and the model that they ask for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

if TYPE_CHECKING:
    from internvl_rt.asking import AskArguments
    from internvl_rt.model import Model

BundleArgument: TypeAlias = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="The folder that `export` wrote.", show_default=False)
]
EngineOption: TypeAlias = Annotated[str, typer.Option("--engine", help="native, onnxruntime or tensorrt.")]
ProviderOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--provider",
        help="Of --engine onnxruntime: cpu, cuda, tensorrt, tensorrt-rtx, openvino; repeatable, best first.",
        show_default=False,
    ),
]
DeviceOption: TypeAlias = Annotated[str, typer.Option("--device", help="auto or cpu.")]
ThreadsOption: TypeAlias = Annotated[
    int | None, typer.Option("--threads", help="Threads; every usable core if not given.", show_default=False)
]
CacheOption: TypeAlias = Annotated[
    int | None,
    typer.Option("--cache-tokens", help="Size of the KV cache in tokens.", show_default=False),
]
ImageOption: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option("--image", "-i", metavar="FILE", help="A picture; repeat for several.", show_default=False),
]
MaxTilesOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--max-tiles",
        help="The most tiles of every picture, 1 to 40; --detail decides if not given.",
        show_default=False,
    ),
]
DetailOption: TypeAlias = Annotated[
    Literal["low", "high", "auto"],
    typer.Option(
        "--detail",
        help="low: one tile a picture; high: up to 40 tiles for all pictures; auto: the model's own figure.",
    ),
]
VideoOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--video", metavar="FILE", help="A video, in place of pictures.", show_default=False),
]
NumFramesOption: TypeAlias = Annotated[
    int | None,
    typer.Option("--num-frames", help="Frames of the video to look at; 8 if not given.", show_default=False),
]
FpsOption: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--fps", help="Look at so many frames of every second, --num-frames at most.", show_default=False
    ),
]
StartOption: TypeAlias = Annotated[
    float | None,
    typer.Option("--start", metavar="SECONDS", help="Begin there in the video.", show_default=False),
]
EndOption: TypeAlias = Annotated[
    float | None, typer.Option("--end", metavar="SECONDS", help="End there in the video.", show_default=False)
]
SchemaOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--schema", metavar="FILE", help="Answer with JSON that keeps this JSON schema.", show_default=False
    ),
]
PatternOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--pattern",
        metavar="REGEX",
        help="The whole answer matches this regular expression.",
        show_default=False,
    ),
]
ChoiceOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--choice", help="The answer is one of these; repeat for each.", show_default=False),
]
MaxNewTokensOption: TypeAlias = Annotated[
    int, typer.Option("--max-new-tokens", help="The answer ends here at the latest.")
]
SampleOption: TypeAlias = Annotated[
    bool, typer.Option("--sample", help="Draw tokens at random instead of taking the likeliest.")
]
TemperatureOption: TypeAlias = Annotated[float, typer.Option("--temperature", help="With --sample.")]
TopPOption: TypeAlias = Annotated[float, typer.Option("--top-p", help="With --sample.")]
TopKOption: TypeAlias = Annotated[int, typer.Option("--top-k", help="With --sample; 0 draws from all.")]
PenaltyOption: TypeAlias = Annotated[float, typer.Option("--repetition-penalty", help="1 is none.")]
SeedOption: TypeAlias = Annotated[
    int | None, typer.Option("--seed", help="Makes --sample repeatable.", show_default=False)
]
StopOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--stop", help="A text that ends the answer; repeatable.", show_default=False),
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def load_model(
    bundle: Path,
    *,
    device: str,
    engine: str,
    threads: int | None,
    cache_tokens: int | None,
    providers: list[str] | None = None,
) -> Model:
    """Loads a bundle as the options say."""
    from internvl_rt.loading import load

    return load(bundle, device, engine, threads, cache_tokens=cache_tokens, providers=providers or None)


def video_arguments(
    video: Path | None,
    num_frames: int | None,
    fps: float | None,
    start: float | None,
    end: float | None,
) -> AskArguments:
    """The video that the options name, its frames chosen; nothing where they name none.

    Raises:
        BadParameter: if frames are chosen and no video is named.
        PromptError: as ``sample_video``.
        ImageError: if the video cannot be read.
    """
    if video is None:
        if (num_frames, fps, start, end) != (None,) * 4:
            raise typer.BadParameter("--num-frames, --fps, --start and --end go with --video FILE.")
        return {}
    from internvl_rt.video import sample_video

    return {"video": sample_video(video, num_frames=num_frames, frames_per_second=fps, start=start, end=end)}


def form_arguments(schema: Path | None, pattern: str | None, choices: list[str] | None) -> AskArguments:
    """The form of the answer that the options name.

    Raises:
        PromptError: if the file of the schema is no JSON object.
    """
    form: AskArguments = {}
    if schema is not None:
        import json

        from internvl_rt.errors import PromptError

        try:
            form["schema"] = json.loads(schema.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise PromptError(f"{schema}: cannot be read as a JSON schema ({error}).") from error
    if pattern is not None:
        form["pattern"] = pattern
    if choices:
        form["choices"] = choices
    return form


def answer_document(answer: Any) -> dict[str, Any]:
    """An ``Answer`` as JSON."""
    import dataclasses

    document = dataclasses.asdict(answer)
    return {**document, "token_ids": list(answer.token_ids)}
