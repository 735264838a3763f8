"""A conversation to the exact token ids that the models were trained on."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from internvl_rt.bundle.manifest import Prompt
from internvl_rt.errors import BundleError, PromptError
from internvl_rt.prompts.control_tokens import IMG_CONTEXT, IMG_END, IMG_START
from internvl_rt.prompts.messages import Conversation, ImagePlace, check_image_count
from internvl_rt.prompts.templates import TEMPLATES
from internvl_rt.prompts.tokenizer import Control, PromptTokenizer


@dataclass(frozen=True)
class RenderedPrompt:
    """A prompt with its image places expanded."""

    text: str
    """Control and image context tokens written out; what a tokenizer puts in front of a text is not in it."""
    input_ids: npt.NDArray[np.int64]
    """[n]."""


class PromptRenderer:
    """Renders conversations for one bundle. May be used from several threads."""

    def __init__(self, tokenizer: PromptTokenizer, prompt: Prompt, tokens_per_tile: int) -> None:
        """Checks that template and tokenizer fit each other.

        Raises:
            BundleError: if the template is unknown, or the tokenizer lacks one of its tokens.
        """
        if prompt.template not in TEMPLATES:
            raise BundleError(
                f"the bundle's conversation template {prompt.template!r} is not known; this release knows "
                f"{', '.join(TEMPLATES)}. Export the bundle again."
            )
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._tokens_per_tile = tokens_per_tile
        self._template = TEMPLATES[prompt.template]
        for token in (IMG_START, IMG_END, *self._template.control_tokens):
            tokenizer.control_id(token)
        if tokenizer.control_id(IMG_CONTEXT) != prompt.image_context_id:
            raise BundleError(
                f"{IMG_CONTEXT} is the id {tokenizer.control_id(IMG_CONTEXT)} in the bundle's tokenizer and "
                f"{prompt.image_context_id} in its manifest. Export the bundle again."
            )
        self._control = re.compile("(" + "|".join(map(re.escape, self._template.control_tokens)) + ")")

    def render(self, conversation: Conversation, tiles: Sequence[int] = ()) -> RenderedPrompt:
        """Writes a conversation down.

        Args:
            conversation: what is asked.
            tiles: the number of tiles of every image, in the order of the image places.

        Raises:
            PromptError: if there are more image places than images, or fewer.
        """
        places = sum(isinstance(part, ImagePlace) for turn in conversation.turns for part in turn.parts)
        check_image_count(places, len(tiles))
        if any(count < 1 for count in tiles):
            raise PromptError(f"every image has at least one tile; found tile counts {list(tiles)}.")
        pieces = list(self._pieces(conversation, tiles))
        ids = [] if self._prompt.bos_id is None else [self._prompt.bos_id]
        ids += self._prompt.prefix_ids
        ids += self._tokenizer.encode_pieces(pieces)
        text = "".join(p if isinstance(p, str) else p.token * p.count for p in pieces)
        return RenderedPrompt(text, np.array(ids, dtype=np.int64))

    def _pieces(self, conversation: Conversation, tiles: Sequence[int]) -> Iterator[str | Control]:
        template = self._template
        remaining = iter(tiles)
        system_message = self._system_message(conversation)
        if system_message is not None:
            yield from self._controls(template.system_prefix)
            yield system_message
            yield from self._controls(template.separator)
        for turn in conversation.turns:
            yield from self._controls(template.user if turn.role == "user" else template.assistant)
            for part in turn.parts:
                if isinstance(part, ImagePlace):
                    yield Control(IMG_START)
                    yield Control(IMG_CONTEXT, self._tokens_per_tile * next(remaining))
                    yield Control(IMG_END)
                else:
                    yield part
            # The authors' code writes no separator after an empty message.
            if any(turn.parts):
                yield from self._controls(template.separator)
        yield from self._controls(template.assistant)

    def _system_message(self, conversation: Conversation) -> str | None:
        if conversation.system is not None:
            return conversation.system
        if self._prompt.system_message is not None:
            return self._prompt.system_message
        return self._template.system_message

    def _controls(self, written: str) -> Iterator[str | Control]:
        for i, part in enumerate(self._control.split(written)):
            if i % 2:
                yield Control(part)
            elif part:
                yield part
