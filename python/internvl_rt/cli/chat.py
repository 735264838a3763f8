"""``internvl-rt chat``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from internvl_rt.cli.options import (
    BundleArgument,
    FormOptions,
    JsonOption,
    MaxNewTokensOption,
    ModelOptions,
    PenaltyOption,
    PictureOptions,
    SampleOption,
    SeedOption,
    StopOption,
    TemperatureOption,
    TopKOption,
    TopPOption,
    answer_document,
    with_option_groups,
)

if TYPE_CHECKING:
    from internvl_rt.asking import AskArguments
    from internvl_rt.cli.conversation import Talk
    from internvl_rt.model import Model
    from internvl_rt.results import Answer


@with_option_groups
def command(
    bundle: BundleArgument,
    look: PictureOptions,
    form: FormOptions,
    options: ModelOptions,
    question: Annotated[
        str | None,
        typer.Argument(
            metavar="[QUESTION]", help="Left out: a conversation, one question a line.", show_default=False
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
    sample: SampleOption = False,
    temperature: TemperatureOption = 1.0,
    top_p: TopPOption = 1.0,
    top_k: TopKOption = 50,
    repetition_penalty: PenaltyOption = 1.0,
    seed: SeedOption = None,
    stop: StopOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask about pictures. The answer appears while it is written; Ctrl-C stops it.

    In a conversation, /image FILE adds a picture to the next question, /new starts over, /quit leaves.
    """
    if question is None and (as_json or as_one or num_return_sequences is not None or look.video is not None):
        raise typer.BadParameter(
            "--json, --as-one, --num-return-sequences and --video are for one QUESTION; give one."
        )
    arguments: AskArguments = {
        "system": system,
        "as_one": as_one,
        "max_new_tokens": max_new_tokens,
        "do_sample": sample,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "repetition_penalty": repetition_penalty,
        "seed": seed,
        "stop": tuple(stop or ()),
        **look.arguments(),
        **form.arguments(),
    }
    images = look.images
    with options.load(bundle) as model:
        if question is None:
            _converse(model, images, arguments)
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


def _converse(model: Model, images: list[Path], arguments: AskArguments) -> None:
    from internvl_rt.cli.conversation import Talk
    from internvl_rt.errors import InternVLError

    talk = Talk(model, arguments)
    for path in images:
        _show(talk, path)
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line in ("/quit", "/exit"):
            return
        try:
            if line == "/new":
                talk.start_over()
            elif line.startswith("/image "):
                _show(talk, Path(line.removeprefix("/image ").strip()))
            elif line:
                print_summary(talk.ask(line, write))
        except InternVLError as error:
            # One bad question does not end the conversation.
            print(f"internvl-rt: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            print()


def _show(talk: Talk, path: Path) -> None:
    picture = talk.add_image(path)
    seconds = picture.timings.total / 1000
    print(f"[{path}: {picture.tiles} tiles in {seconds:.2f} s]", file=sys.stderr)


def write(text: str) -> None:
    """Shows a piece of an answer at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def print_summary(answer: Answer) -> None:
    """Ends the answer's line, and tells on stderr what it took."""
    print(flush=True)
    usage, timings = answer.usage, answer.timings
    rate = f", {1000 / timings.per_token:.1f} tokens/s" if timings.per_token else ""
    print(
        f"[{usage.tiles} tiles, {usage.prompt_tokens} prompt tokens, {usage.new_tokens} new tokens; "
        f"first token after {timings.first_token / 1000:.2f} s{rate}; {answer.finish_reason}]",
        file=sys.stderr,
    )
