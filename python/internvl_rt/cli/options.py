"""Options that several commands share, and what they ask for.

A dataclass is a group of options: a command that takes one has all of its fields as options of its own, see
``with_option_groups``.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, get_type_hints

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
CacheTypeOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--cache-type",
        help="Of --engine native, how the KV cache is stored: float32 (fp32 models, if not given), "
        "bfloat16 (others, with AVX-512 BF16), float16 (others) or int8.",
        show_default=False,
    ),
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


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """How the model is loaded."""

    engine: EngineOption = "native"
    provider: ProviderOption = None
    device: DeviceOption = "auto"
    threads: ThreadsOption = None
    cache_tokens: CacheOption = None
    cache_type: CacheTypeOption = None

    def load(self, bundle: Path) -> Model:
        """Loads a bundle; arguments and errors are those of ``internvl_rt.load``."""
        from internvl_rt.loading import load

        return load(
            bundle,
            self.device,
            self.engine,
            self.threads,
            cache_tokens=self.cache_tokens,
            cache_type=self.cache_type,  # type: ignore[arg-type]  # load says what is wrong with it
            providers=self.provider or None,
        )


@dataclasses.dataclass(frozen=True)
class PictureOptions:
    """What is looked at, and how closely."""

    image: ImageOption = None
    video: VideoOption = None
    num_frames: NumFramesOption = None
    fps: FpsOption = None
    start: StartOption = None
    end: EndOption = None
    max_tiles: MaxTilesOption = None
    detail: DetailOption = "auto"

    @property
    def images(self) -> list[Path]:
        """The pictures that are named."""
        return list(self.image or [])

    def arguments(self) -> AskArguments:
        """The resolution; and the video, its frames chosen, where one is named.

        Raises:
            BadParameter: if frames are chosen and no video is named.
            PromptError: as ``sample_video``.
            ImageError: if the video cannot be read.
        """
        look: AskArguments = {"max_tiles": self.max_tiles, "detail": self.detail}
        if self.video is None:
            if (self.num_frames, self.fps, self.start, self.end) != (None,) * 4:
                raise typer.BadParameter("--num-frames, --fps, --start and --end go with --video FILE.")
            return look
        from internvl_rt.video import sample_video

        look["video"] = sample_video(
            self.video,
            num_frames=self.num_frames,
            frames_per_second=self.fps,
            start=self.start,
            end=self.end,
        )
        return look


@dataclasses.dataclass(frozen=True)
class FormOptions:
    """The form that the answer keeps."""

    schema: SchemaOption = None
    pattern: PatternOption = None
    choice: ChoiceOption = None

    def arguments(self) -> AskArguments:
        """The form that is named.

        Raises:
            PromptError: if the file of the schema is no JSON object.
        """
        form: AskArguments = {}
        if self.schema is not None:
            import json

            from internvl_rt.errors import PromptError

            try:
                form["schema"] = json.loads(self.schema.read_bytes())
            except (OSError, ValueError, RecursionError) as error:
                raise PromptError(f"{self.schema}: cannot be read as a JSON schema ({error}).") from error
        if self.pattern is not None:
            form["pattern"] = self.pattern
        if self.choice:
            form["choices"] = self.choice
        return form


def with_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """A command that has, in the place of every parameter that is a group of options, the group's fields."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        hint = hints[parameter.name]
        if dataclasses.is_dataclass(hint):
            groups[parameter.name] = hint
            of_fields = get_type_hints(hint, include_extras=True)
            fields = [(f.name, of_fields[f.name], f.default) for f in dataclasses.fields(hint)]
        else:
            fields = [(parameter.name, hint, parameter.default)]
        parameters += [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if default is dataclasses.MISSING else default,
                annotation=annotation,
            )
            for name, annotation, default in fields
        ]

    def expanded(**options: Any) -> None:
        for name, group in groups.items():
            options[name] = group(**{f.name: options.pop(f.name) for f in dataclasses.fields(group)})
        command(**options)

    expanded.__doc__ = command.__doc__
    expanded.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    expanded.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return expanded


def answer_document(answer: Any) -> dict[str, Any]:
    """An ``Answer`` as JSON."""
    import dataclasses

    document = dataclasses.asdict(answer)
    return {**document, "token_ids": list(answer.token_ids)}
