"""A bundle's tokenizer: text to ids that a user cannot forge, and ids to text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from internvl_rt import _core
from internvl_rt._core import Detokeniser as Detokeniser
from internvl_rt.bundle.manifest import TOKENIZER_FILE, Prompt
from internvl_rt.errors import BundleError
from internvl_rt.files.errors import advice, reason

KeepTokens = Literal["none", "grounding", "task", "all"]
"""Which special tokens stay visible in decoded text: none; ``<ref> <box> <quad>`` and their ends; all that
are tokens in a question too, which are these and those that a fine-tuning added; or all."""


@dataclass(frozen=True)
class Control:
    """A special token, ``count`` times. Only templates and image places make these; user text never does."""

    token: str
    count: int = 1


class PromptTokenizer(_core.Tokenizer):
    """The tokenizer of one bundle. May be used from several threads."""

    @classmethod
    def from_bundle(cls, folder: Path, prompt: Prompt) -> PromptTokenizer:
        """Loads ``tokenizer.json`` of a bundle with the manifest's prompt facts.

        Raises:
            BundleError: if the file is missing, unreadable, not a tokenizer of a known kind, or does not fit
                the manifest.
        """
        path = folder / TOKENIZER_FILE
        if not path.is_file():
            raise BundleError(f"{folder}: has no {TOKENIZER_FILE}. Export the bundle again.")
        try:
            document = path.read_bytes()
        except OSError as error:
            todo = advice(error, "Export the bundle again.")
            raise BundleError(f"{path}: cannot be read ({reason(error)}). {todo}") from error
        try:
            return cls(document, task_ids=prompt.task_ids, clean_up_spaces=prompt.clean_up_spaces)
        except BundleError as error:
            raise BundleError(f"{path}: {error} Export the bundle again.") from error

    def encode(self, text: str) -> list[int]:
        """Encodes ordinary text: what a user may type."""
        return self.encode_pieces([text])

    def decode(self, token_ids: Sequence[int], keep: KeepTokens = "none") -> str:
        """The text of ids, all at once. Bytes that are no character become U+FFFD."""
        detokeniser = Detokeniser(self, keep=keep)
        pieces = [detokeniser.push(token_id) for token_id in token_ids]
        return "".join(pieces) + detokeniser.finish()
