"""``internvl-rt demo``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from internvl_rt.cli.answers import answer_document, write
from internvl_rt.cli.options import (
    STANDARD_INPUT,
    JsonOption,
    MaxNewTokensOption,
    ModelOptions,
    OrientationOption,
    picture_of,
    question_of,
    with_option_groups,
)
from internvl_rt.cli.tile_progress import tile_progress

if TYPE_CHECKING:
    from internvl_rt.answers.results import Answer, ImageFeatures
    from internvl_rt.model.model import Model

PICTURE_STAGES = ("decode_image", "tile", "vit", "projector")
QUESTION_STAGES = ("prefill", "first_token", "per_token", "total")


@with_option_groups
def command(
    options: ModelOptions,
    question: Annotated[
        list[str] | None,
        typer.Argument(metavar="[QUESTION]...", help="Instead of the demo's own.", show_default=False),
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(
            "--image",
            "-i",
            metavar="FILE",
            help="Your picture instead of a drawn one; - for standard input.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The picture with the answered boxes.")
    ] = Path("internvl-rt-demo.png"),
    max_new_tokens: MaxNewTokensOption = 64,
    orientation: OrientationOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look at a table top and answer questions, with no download."""
    import dataclasses

    from PIL import Image

    from internvl_rt.answers.grounding import draw_boxes
    from internvl_rt.cli.output import check_picture_name, print_json, save_picture, warn
    from internvl_rt.images import decode_image
    from internvl_rt.tabletop import demo

    check_picture_name(out, "--out")
    own = [question_of(text, image == STANDARD_INPUT) for text in question or ()]
    given = None if image is None else picture_of(image)
    if not as_json:
        print(demo.NOTE, file=sys.stderr)
    picture = demo.demo_picture()
    with (
        demo.demo_bundle(warn) as bundle,
        options.load(bundle) as model,
        tile_progress(quiet=as_json) as progress,
    ):
        if given is not None:
            picture = Image.fromarray(decode_image(given, orientation=orientation or model.orientation))
        shown = model.encode(picture, progress=progress)
        answers = dict(_answers(model, shown, own, max_new_tokens, as_json))
    boxes = [box for answer in answers.values() for box in answer.boxes()]
    save_picture(draw_boxes(picture, boxes), out)
    if as_json:
        documents = [{"question": asked, **answer_document(answer)} for asked, answer in answers.items()]
        found = [dataclasses.asdict(box) for box in boxes]
        encoded = dataclasses.asdict(shown.timings)
        print_json(
            {
                "note": demo.NOTE,
                "encoding": encoded,
                "answers": documents,
                "boxes": found,
                "picture": str(out),
            }
        )
        return
    _print_times(shown, list(answers.values()))
    print(f"{len(boxes)} boxes drawn: {out}")


def _answers(
    model: Model, shown: ImageFeatures, own: list[str], max_new_tokens: int, quiet: bool
) -> Iterator[tuple[str, Answer]]:
    """The user's questions; or the demo's, and then where the things are that the first answer named."""
    from internvl_rt.tabletop import demo

    for asked in own or demo.QUESTIONS:
        answer = _ask(model, shown, asked, max_new_tokens, quiet)
        yield asked, answer
        if not own and asked == demo.QUESTIONS[0]:
            named = answer.text
    if not own:
        for asked in demo.where_questions(named):
            yield asked, _ask(model, shown, asked, max_new_tokens, quiet)


def _ask(model: Model, shown: ImageFeatures, asked: str, max_new_tokens: int, quiet: bool) -> Answer:
    if not quiet:
        print(f"> {asked}")
    with model.stream(asked, [shown], max_new_tokens=max_new_tokens) as stream:
        for piece in stream:
            if not quiet:
                write(piece.text)
    if not quiet:
        print(flush=True)
    assert stream.result is not None, "the last piece carries the result"
    return stream.result


def _print_times(shown: ImageFeatures, answers: list[Answer]) -> None:
    from statistics import median

    from internvl_rt.cli.output import console, table

    rows = [("picture", stage, f"{getattr(shown.timings, stage):.1f}") for stage in PICTURE_STAGES]
    for stage in QUESTION_STAGES:
        middle = median(getattr(answer.timings, stage) for answer in answers)
        rows.append(("question, median", stage, f"{middle:.1f}"))
    console().print(table("Where the time went", ("of a", "stage", "ms"), rows))
