"""``internvl-rt locate``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from internvl_rt.cli.options import (
    BundleArgument,
    DetailOption,
    JsonOption,
    MaxNewTokensOption,
    MaxTilesOption,
    ModelOptions,
    OrientationOption,
    answer_document,
    with_option_groups,
)


@with_option_groups
def command(
    bundle: BundleArgument,
    phrase: Annotated[
        str,
        typer.Argument(metavar="PHRASE", help="What to look for, such as 'red cube'.", show_default=False),
    ],
    image: Annotated[
        Path, typer.Option("--image", "-i", metavar="FILE", help="The picture.", show_default=False)
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
    from internvl_rt.cli.output import console, print_json
    from internvl_rt.errors import ImageError
    from internvl_rt.grounding import draw_boxes

    with options.load(bundle) as model:
        orientation = orientation or model.orientation
        found = model.locate(
            phrase,
            image,
            max_tiles=max_tiles,
            detail=detail,
            orientation=orientation,
            max_new_tokens=max_new_tokens,
        )
    if draw is not None:
        picture = draw_boxes(image, found.boxes, font=font, orientation=orientation)
        try:
            picture.save(draw)
        except (OSError, ValueError) as error:
            raise ImageError(f"{draw}: cannot be written ({error}).") from error
    if as_json:
        print_json(
            {
                "phrase": found.phrase,
                "boxes": [dataclasses.asdict(box) for box in found.boxes],
                "problems": list(found.problems),
                "answer": answer_document(found.answer),
            }
        )
        return
    for box in found.boxes:
        print(f"{box.label or found.phrase}: {box.x1:.0f} {box.y1:.0f} {box.x2:.0f} {box.y2:.0f}")
    if not found.boxes:
        print(f"no box in the answer: {found.answer.text}")
    for problem in found.problems:
        console(stderr=True).print(problem)
