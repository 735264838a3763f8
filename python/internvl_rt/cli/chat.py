"""``internvl-rt chat``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from internvl_rt.cli.answers import answer_document, print_summary, write
from internvl_rt.cli.options import (
    BundleArgument,
    FormOptions,
    JsonOption,
    MaxNewTokensOption,
    ModelOptions,
    PictureOptions,
    SamplingOptions,
    StopOption,
    question_of,
    with_option_groups,
)
from internvl_rt.cli.tile_progress import tile_progress
from internvl_rt.cli.wording import for_command, options_of

if TYPE_CHECKING:
    from internvl_rt.answers.results import Answer
    from internvl_rt.model.asking import AskArguments


@with_option_groups
def command(
    context: typer.Context,
    bundle: BundleArgument,
    look: PictureOptions,
    sampling: SamplingOptions,
    form: FormOptions,
    options: ModelOptions,
    question: Annotated[
        str | None,
        typer.Argument(
            metavar="[QUESTION]",
            help="- for standard input; left out: a conversation, one question a line.",
            show_default=False,
        ),
    ] = None,
    system: Annotated[
        str | None, typer.Option("--system", help="Replaces the system message.", show_default=False)
    ] = None,
    max_new_tokens: MaxNewTokensOption = 1024,
    as_one: Annotated[
        bool, typer.Option("--as-one", help="Show several pictures in one place, as if they were one.")
    ] = False,
    num_return_sequences: Annotated[
        int | None,
        typer.Option(
            "--num-return-sequences",
            "-n",
            help="Answer so many times with --sample, all answers together.",
            show_default=False,
        ),
    ] = None,
    stop: StopOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask about pictures. The answer appears while it is written; Ctrl-C stops it.

    In a conversation, /image FILE adds a picture, /new starts over, /quit leaves; /help lists them.
    """
    from internvl_rt.cli.conversation import Talk, converse

    if question is None and (as_json or as_one or num_return_sequences is not None or look.video is not None):
        raise typer.BadParameter(
            "--json, --as-one, --num-return-sequences and --video are for one QUESTION; give one."
        )
    if question is None and look.on_standard_input:
        raise typer.BadParameter("a conversation reads standard input; give --image a FILE, or a QUESTION.")
    if (num_return_sequences or 1) > 1 and sampling.temperature == 0:
        raise typer.BadParameter(
            f"--temperature 0 would give the same answer {num_return_sequences} times. Give one above 0."
        )
    if question is not None:
        question = question_of(question, look.on_standard_input)
    arguments: AskArguments = {
        "system": system,
        "as_one": as_one,
        "max_new_tokens": max_new_tokens,
        "stop": tuple(stop or ()),
        **sampling.arguments(),
        **look.arguments(),
        **form.arguments(),
    }
    images = look.images() if question is not None else []
    with options.load(bundle) as model, tile_progress(quiet=as_json) as progress:
        arguments["progress"] = progress
        if question is None:
            options_here = options_of(context.command)
            converse(
                Talk(model, arguments), look.image or [], lambda error: for_command(str(error), options_here)
            )
        elif num_return_sequences is not None:
            answers = model.chat(question, images, num_return_sequences=num_return_sequences, **arguments)
            _print_answers(answers, as_json)
        elif as_json:
            from internvl_rt.cli.output import print_json

            print_json(answer_document(model.chat(question, images, **arguments)))
        else:
            with model.stream(question, images, **arguments) as stream:
                for piece in stream:
                    write(piece.text)
            assert stream.result is not None, "the last piece carries the result"
            print_summary(stream.result)


def _print_answers(answers: list[Answer], as_json: bool) -> None:
    from internvl_rt.cli.output import print_json

    if as_json:
        print_json([answer_document(answer) for answer in answers])
        return
    for index, answer in enumerate(answers):
        write(f"[{index + 1}] {answer.text}")
        print_summary(answer)
