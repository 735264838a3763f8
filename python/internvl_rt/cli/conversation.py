"""A conversation of several turns: what was said, with every picture encoded once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from internvl_rt.answers.results import Answer, ImageFeatures
from internvl_rt.cli.answers import counted, print_summary, write
from internvl_rt.cli.wording import one_line
from internvl_rt.errors import InternVLError
from internvl_rt.model.asking import AskArguments
from internvl_rt.model.model import Model
from internvl_rt.prompts.control_tokens import IMAGE_MARK

COMMANDS = """/image FILE  add a picture to the next question
/new         start over, without what was said and shown
/help        this list
/quit        leave; the end of the input does so too
//...        a question that begins with a slash"""


class Talk:
    """The turns so far. Not for several threads at once."""

    def __init__(self, model: Model, arguments: AskArguments) -> None:
        """Starts with nothing said; ``arguments`` are those of every question, without ``history``."""
        self._model = model
        self._system = arguments.get("system")
        self._arguments: AskArguments = {**arguments}
        self._arguments.pop("system", None)
        self.start_over()

    def add_image(self, picture: Path) -> ImageFeatures:
        """Encodes a picture and puts it in front of the next question.

        Raises:
            ImageError: if it cannot be decoded.
        """
        features = self._model.encode(
            picture,
            max_tiles=self._arguments.get("max_tiles"),
            detail=self._arguments.get("detail", "auto"),
            orientation=self._arguments.get("orientation"),
            progress=self._arguments.get("progress"),
        )
        self._new_pictures.append(features)
        return features

    def start_over(self) -> None:
        """Forgets everything that was said and shown."""
        self._session = self._model.session(self._system)
        self._pictures = 0
        self._new_pictures: list[ImageFeatures] = []

    def ask(self, question: str, write: Callable[[str], None]) -> Answer:
        """Answers a question; ``write`` gets the text as it comes.

        A question that fails or is interrupted leaves the conversation as it was.
        """
        asked = self._marks() + question
        with self._session.stream(asked, self._new_pictures, **self._arguments) as stream:
            for piece in stream:
                write(piece.text)
        assert stream.result is not None, "the last piece carries the result"
        self._pictures += len(self._new_pictures)
        self._new_pictures = []
        return stream.result

    def _marks(self) -> str:
        """The places of the new pictures, as in training: numbered where there are several."""
        if self._pictures == 0 and len(self._new_pictures) == 1:
            return f"{IMAGE_MARK}\n"
        first = self._pictures + 1
        return "".join(f"Image-{first + i}: {IMAGE_MARK}\n" for i in range(len(self._new_pictures)))


def converse(talk: Talk, pictures: Sequence[Path], message: Callable[[InternVLError], str]) -> None:
    """Shows pictures, and answers the lines of standard input until it ends or one of them says /quit.

    ``message`` puts an error into words.
    """
    for picture in pictures:
        _show(talk, picture)
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if line in ("/quit", "/exit"):
            return
        try:
            _take(talk, line)
        except InternVLError as error:
            # One bad question does not end the conversation.
            print(f"internvl-rt: {one_line(message(error))}", file=sys.stderr)
        except KeyboardInterrupt:
            print()


def _take(talk: Talk, line: str) -> None:
    command, _, rest = line.partition(" ")
    if line.startswith("//"):
        print_summary(talk.ask(line[1:], write))
    elif command == "/image" and rest.strip():
        _show(talk, _path(rest.strip()))
    elif command == "/image":
        print("internvl-rt: /image needs the name of a file.", file=sys.stderr)
    elif command == "/new":
        talk.start_over()
    elif command == "/help":
        print(COMMANDS, file=sys.stderr)
    elif line.startswith("/"):
        print(
            f"internvl-rt: there is no command {command}; /help lists them. A question that begins with a "
            "slash is written with two.",
            file=sys.stderr,
        )
    elif line:
        print_summary(talk.ask(line, write))


def _path(name: str) -> Path:
    """A file's name as people type or drop it into a terminal: in quotes, or below their home folder."""
    if len(name) > 1 and name[0] == name[-1] and name[0] in "'\"":
        name = name[1:-1]
    try:
        return Path(name).expanduser()
    except RuntimeError:  # no such user
        return Path(name)


def _show(talk: Talk, picture: Path) -> None:
    features = talk.add_image(picture)
    seconds = features.timings.total / 1000
    print(f"[{picture}: {counted(features.tiles, 'tile')} in {seconds:.2f} s]", file=sys.stderr)
