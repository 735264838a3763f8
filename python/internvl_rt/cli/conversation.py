"""A conversation of several turns: what was said, with every picture encoded once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from internvl_rt.asking import AskArguments
from internvl_rt.model import Model
from internvl_rt.prompts.control_tokens import IMAGE_MARK
from internvl_rt.results import Answer, ImageFeatures


class Talk:
    """The turns so far. Not for several threads at once."""

    def __init__(self, model: Model, arguments: AskArguments) -> None:
        """Starts with nothing said; ``arguments`` are those of every question, without ``history``."""
        self._model = model
        self._arguments = arguments
        self._history: list[tuple[str, str]] = []
        self._pictures: list[ImageFeatures] = []
        self._new_pictures = 0

    def add_image(self, path: Path) -> ImageFeatures:
        """Encodes a picture and puts it in front of the next question.

        Raises:
            ImageError: if it cannot be decoded.
        """
        features = self._model.encode(
            path,
            max_tiles=self._arguments.get("max_tiles"),
            detail=self._arguments.get("detail", "auto"),
            orientation=self._arguments.get("orientation"),
        )
        self._pictures.append(features)
        self._new_pictures += 1
        return features

    def start_over(self) -> None:
        """Forgets everything that was said and shown."""
        self._history, self._pictures, self._new_pictures = [], [], 0

    def ask(self, question: str, write: Callable[[str], None]) -> Answer:
        """Answers a question; ``write`` gets the text as it comes.

        A question that fails or is interrupted leaves the conversation as it was.
        """
        asked = self._marks() + question
        arguments: AskArguments = {**self._arguments, "history": self._history}
        with self._model.stream(asked, self._pictures, **arguments) as stream:
            for piece in stream:
                write(piece.text)
        assert stream.result is not None, "the last piece carries the result"
        self._history.append((asked, stream.result.text))
        self._new_pictures = 0
        return stream.result

    def _marks(self) -> str:
        """The places of the new pictures, as in training: numbered where there are several."""
        if self._new_pictures == len(self._pictures) == 1:
            return f"{IMAGE_MARK}\n"
        first = len(self._pictures) - self._new_pictures + 1
        return "".join(f"Image-{i}: {IMAGE_MARK}\n" for i in range(first, len(self._pictures) + 1))
