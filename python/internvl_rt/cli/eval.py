"""``internvl-rt eval``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from internvl_rt.cli.options import JsonOption, ModelOptions, with_option_groups

if TYPE_CHECKING:
    from PIL.Image import Image

    from internvl_rt.tabletop import Evaluation


@with_option_groups
def command(
    options: ModelOptions,
    bundle: Annotated[
        Path | None,
        typer.Argument(metavar="[BUNDLE]", help="Left out: the demo's own model.", show_default=False),
    ] = None,
    every: Annotated[int, typer.Option("--every", min=1, help="Ask every n-th of the 500 questions.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Ask the held-out questions about table-top scenes, and score the answers."""
    import dataclasses
    from contextlib import nullcontext

    from internvl_rt.cli.output import console, print_json, warn
    from internvl_rt.tabletop import answers_of, evaluate, held_out_questions
    from internvl_rt.tabletop.demo import demo_bundle

    with (
        nullcontext(bundle) if bundle is not None else demo_bundle(warn) as folder,
        options.load(folder) as model,
        console(stderr=True).status("loading") as status,
    ):
        status.update("drawing the pictures")
        questions = held_out_questions()[::every]
        asked, ask = 0, answers_of(model)

        def answer(question: str, images: list[Image]) -> str:
            nonlocal asked
            asked += 1
            status.update(f"question {asked} of {len(questions)}")
            return ask(question, images)

        found = evaluate(answer, questions)
    if as_json:
        overall = found.overall
        print_json({**dataclasses.asdict(found), "right": overall.right, "asked": overall.asked})
    else:
        _print(found)


def _print(found: Evaluation) -> None:
    from internvl_rt.cli.output import console, table

    scores = {**found.kinds, "pictures of several tiles": found.tiled, "all": found.overall}
    rows = [(name, str(s.right), str(s.asked), f"{100 * s.share:.1f} %") for name, s in scores.items()]
    out = console()
    out.print(table("Held-out table-top questions", ("kind", "right", "asked", "share"), rows))
    out.print(
        f"{found.seconds:.1f} s, {1000 * found.seconds / max(1, found.overall.asked):.0f} ms a question"
    )
