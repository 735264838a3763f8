"""``internvl-rt locate``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from internvl_rt.cli.answers import answer_document
from internvl_rt.cli.options import (
    BundleArgument,
    DetailOption,
    JsonOption,
    MaxNewTokensOption,
    MaxTilesOption,
    ModelOptions,
    OrientationOption,
    picture_of,
    with_option_groups,
)
from internvl_rt.cli.tile_progress import tile_progress


@with_option_groups
def command(
    bundle: BundleArgument,
    phrase: Annotated[
        str,
        typer.Argument(metavar="PHRASE", help="What to look for, such as 'red cube'.", show_default=False),
    ],
    image: Annotated[
        Path,
        typer.Option(
            "--image", "-i", metavar="FILE", help="The picture, - for standard input.", show_default=False
        ),
    ],
    options: ModelOptions,
    draw: Annotated[
        Path | None,
        typer.Option(
            "--draw", metavar="FILE", help="Write the picture with its boxes too.", show_default=False
        ),
    ] = None,
    font: Annotated[
        Path | None,
        typer.Option(
            "--font", metavar="FILE", help="A font for labels that are not Latin.", show_default=False
        ),
    ] = None,
    max_new_tokens: MaxNewTokensOption = 1024,
    max_tiles: MaxTilesOption = None,
    detail: DetailOption = "auto",
    orientation: OrientationOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find something in a picture: its boxes in pixels, left top right bottom."""
    from internvl_rt.answers.grounding import draw_boxes
    from internvl_rt.cli.output import check_picture_name, console, print_json, save_picture

    if draw is not None:
        check_picture_name(draw, "--draw")
    picture = picture_of(image)
    with options.load(bundle) as model, tile_progress(quiet=as_json) as progress:
        orientation = orientation or model.orientation
        found = model.locate(
            phrase,
            picture,
            max_tiles=max_tiles,
            detail=detail,
            orientation=orientation,
            max_new_tokens=max_new_tokens,
            progress=progress,
        )
    if as_json:
        print_json(
            {
                "phrase": found.phrase,
                "boxes": [dataclasses.asdict(box) for box in found.boxes],
                "problems": list(found.problems),
                "answer": answer_document(found.answer),
            }
        )
    else:
        for box in found.boxes:
            print(f"{box.label or found.phrase}: {box.x1:.0f} {box.y1:.0f} {box.x2:.0f} {box.y2:.0f}")
        if not found.boxes:
            print(f"no box in the answer: {found.answer.text}")
        for problem in found.problems:
            console(stderr=True).print(problem)
    if draw is not None:
        # Last, so that what was found is not lost with it.
        save_picture(draw_boxes(picture, found.boxes, font=font, orientation=orientation), draw)
