"""``internvl-rt demo``."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from internvl_rt.cli.options import (
    EngineOption,
    ImageOption,
    JsonOption,
    MaxNewTokensOption,
    ThreadsOption,
    answer_document,
    load_model,
)


def command(
    question: Annotated[
        list[str] | None,
        typer.Argument(metavar="[QUESTION]...", help="About the picture.", show_default=False),
    ] = None,
    image: ImageOption = None,
    max_new_tokens: MaxNewTokensOption = 48,
    engine: EngineOption = "native",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Answer questions about a picture with no download."""
    from internvl_rt import demo
    from internvl_rt.cli.chat import print_summary, write
    from internvl_rt.cli.output import print_json

    if not as_json:
        print(demo.note(), file=sys.stderr)
    pictures: list[Any] = list(image) if image else [demo.demo_picture()]
    answers = []
    with load_model(
        demo.demo_bundle(), device="auto", engine=engine, threads=threads, cache_tokens=None
    ) as model:
        shown = [model.encode(picture) for picture in pictures]
        for asked in question or demo.QUESTIONS:
            if not as_json:
                print(f"> {asked}")
            with model.stream(asked, shown, max_new_tokens=max_new_tokens) as stream:
                for piece in stream:
                    if not as_json:
                        write(piece.text)
            assert stream.result is not None, "the last piece carries the result"
            answers.append({"question": asked, **answer_document(stream.result)})
            if not as_json:
                print_summary(stream.result)
    if as_json:
        print_json({"note": demo.note(), "answers": answers})
