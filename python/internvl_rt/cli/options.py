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
    from internvl_rt.model.asking import AskArguments
    from internvl_rt.model.model import Model

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
ContextOption: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--max-context",
        help="The most tokens of a prompt and its answer; beyond the trained length for models with dynamic "
        "rope scaling.",
        show_default=False,
    ),
]
CacheTypeOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--cache-type",
        help="Of the native engine, how the KV cache is stored: float32 (fp32 models, if not given), "
        "bfloat16 (others, with AVX-512 BF16), float16 (others) or int8.",
        show_default=False,
    ),
]
ImageOption: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(
        "--image",
        "-i",
        metavar="FILE",
        help="A picture, - for standard input; repeat for several.",
        show_default=False,
    ),
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
OrientationOption: TypeAlias = Annotated[
    Literal["exif", "stored"] | None,
    typer.Option(
        "--orientation",
        help="exif: turn pictures as their EXIF says; stored: do not. What the checkpoint's own code does if "
        "not given.",
        show_default=False,
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
PenaltyOption: TypeAlias = Annotated[float, typer.Option("--repetition-penalty", help="1 is none.")]
SeedOption: TypeAlias = Annotated[
    int | None,
    typer.Option("--seed", help="The same seed draws the same answers.", show_default=False),
]
TopKOption: TypeAlias = Annotated[
    int, typer.Option("--top-k", help="Draw from so many likeliest tokens; 0 draws from all.")
]
StopOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--stop", help="A text that ends the answer; repeatable.", show_default=False),
]
QuestionArgument: TypeAlias = Annotated[
    str, typer.Argument(metavar="QUESTION", help="- for standard input.", show_default=False)
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]

STANDARD_INPUT = Path("-")
MOST_SCHEMA_BYTES = 1_000_000


def picture_of(path: Path) -> Path | bytes:
    """A picture that is named: its path, or the bytes that standard input holds for ``-``.

    Raises:
        ImageError: if what comes from there is too large.
    """
    if path != STANDARD_INPUT:
        return path
    from internvl_rt.cli.standard_input import read_picture

    return read_picture()


def question_of(text: str, picture_on_standard_input: bool = False) -> str:
    """A question that is given: the text, or what standard input holds for ``-``.

    Raises:
        BadParameter: if it is empty, or question and picture are to come from there.
        PromptError: if what comes from there is too large or no text.
    """
    if text.strip() == "-":
        if picture_on_standard_input:
            raise typer.BadParameter("standard input holds the question or the picture, not both.")
        from internvl_rt.cli.standard_input import read_question

        text = read_question()
    if not text.strip():
        raise typer.BadParameter("the question is empty.")
    return text


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """How the model is loaded."""

    engine: EngineOption = "native"
    provider: ProviderOption = None
    device: DeviceOption = "auto"
    threads: ThreadsOption = None
    cache_tokens: CacheOption = None
    cache_type: CacheTypeOption = None
    max_context: ContextOption = None

    def load(self, bundle: Path) -> Model:
        """Loads a bundle; arguments and errors are those of ``internvl_rt.load``."""
        from internvl_rt.model.loading import load

        return load(
            bundle,
            self.device,
            self.engine,
            self.threads,
            cache_tokens=self.cache_tokens,
            cache_type=self.cache_type,  # type: ignore[arg-type]  # load says what is wrong with it
            max_context=self.max_context,
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
    orientation: OrientationOption = None

    @property
    def on_standard_input(self) -> bool:
        """Whether a picture is to be read from there."""
        return STANDARD_INPUT in (self.image or ())

    def images(self) -> list[Path | bytes]:
        """The pictures that are named; of one that comes through standard input, its bytes, read now.

        Raises:
            BadParameter: if more than one is to come from there.
            ImageError: if what comes from there is too large.
        """
        paths = self.image or []
        if paths.count(STANDARD_INPUT) > 1:
            raise typer.BadParameter("standard input holds one picture; give --image - once.")
        return [picture_of(path) for path in paths]

    def arguments(self) -> AskArguments:
        """The resolution; and the video, its frames chosen, where one is named.

        Raises:
            BadParameter: if frames are chosen and no video is named.
            PromptError: as ``sample_video``.
            ImageError: if the video cannot be read.
        """
        look: AskArguments = {
            "max_tiles": self.max_tiles,
            "detail": self.detail,
            "orientation": self.orientation,
        }
        if self.video is None:
            if (self.num_frames, self.fps, self.start, self.end) != (None,) * 4:
                raise typer.BadParameter("--num-frames, --fps, --start and --end go with --video FILE.")
            return look
        from internvl_rt.images.video import sample_video

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
            from internvl_rt.files.regular import read_regular_file

            content = read_regular_file(
                self.schema, most_bytes=MOST_SCHEMA_BYTES, expected="a JSON schema", error=PromptError
            )
            try:
                form["schema"] = json.loads(content)
            except (ValueError, RecursionError) as error:
                reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
                raise PromptError(f"{self.schema}: cannot be read as a JSON schema ({reason}).") from error
        if self.pattern is not None:
            form["pattern"] = self.pattern
        if self.choice:
            form["choices"] = self.choice
        return form


@dataclasses.dataclass(frozen=True)
class SamplingOptions:
    """How tokens are chosen: the likeliest, or drawn where any option asks for that."""

    sample: Annotated[
        bool,
        typer.Option(
            "--sample",
            help="Draw tokens at random instead of taking the likeliest; --temperature, --top-p, --top-k and "
            "--seed mean it too.",
        ),
    ] = False
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature",
            help="Below 1 the likely tokens get likelier; 0 takes the likeliest.",
            show_default="1.0",
        ),
    ] = None
    top_p: Annotated[
        float | None,
        typer.Option(
            "--top-p", help="Draw from the likeliest tokens of this probability.", show_default="1.0"
        ),
    ] = None
    top_k: Annotated[
        int | None,
        typer.Option(
            "--top-k", help="Draw from so many likeliest tokens; 0 draws from all.", show_default="50"
        ),
    ] = None
    seed: SeedOption = None
    repetition_penalty: PenaltyOption = 1.0

    def arguments(self) -> AskArguments:
        """How tokens are chosen."""
        drawn = {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k, "seed": self.seed}
        given = {name: value for name, value in drawn.items() if value is not None}
        if self.temperature == 0:
            given = {}
        sampled = self.temperature != 0 and (self.sample or bool(given))
        return {"do_sample": sampled, "repetition_penalty": self.repetition_penalty, **given}  # type: ignore[typeddict-item]


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
