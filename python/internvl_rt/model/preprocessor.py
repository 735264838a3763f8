"""From a question to its prompt: pictures decoded and counted in tiles, ids rendered, the length checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from time import perf_counter

from internvl_rt import _core
from internvl_rt._core import PromptPlanner, RenderedPrompt
from internvl_rt.answers.results import ImageFeatures, ms_since
from internvl_rt.bundle.manifest import Manifest
from internvl_rt.images import decode_image
from internvl_rt.images.tiling import count_tiles
from internvl_rt.model.arrays import check_bundle
from internvl_rt.model.asking import Asked, Image, PictureRules
from internvl_rt.model.prompt import Ids, Picture, Prompt
from internvl_rt.prompts.messages import Conversation


class Preprocessor:
    """Reads the questions of one model. May be used from several threads."""

    def __init__(self, manifest: Manifest, planner: PromptPlanner) -> None:
        """Reads nothing yet.

        Args:
            manifest: the model's.
            planner: the model's, with the context that its prompts must fit.
        """
        self._manifest = manifest
        self._planner = planner

    def read(self, asked: Asked) -> Prompt:
        """The prompt of a question, before its pictures are encoded: nothing is for one that does not fit."""
        started = _started(asked)
        pictures = self.pictures(asked, [asked.conversation])
        tiles = [picture.tiles for picture in pictures]
        rendered = self._planner.render(asked.conversation, asked.tiles_of_places(tiles))
        self._planner.check_length(rendered.input_ids, tiles, frames=asked.video)
        return _prompt(asked, started, rendered.input_ids, pictures)

    def next_turn(
        self,
        conversation: _core.Session,
        asked: Asked,
        cut: Callable[[_core.Picture, str], _core.Picture],
    ) -> tuple[Prompt, _core.SessionPrompt]:
        """The prompt of a session's conversation with its next question, as a request and as the session's.

        ``cut`` makes tiles of a picture, which the session keeps.
        """
        started = _started(asked)
        pictures = self.pictures(asked, [asked.conversation])
        prompt = conversation.prompt(
            asked.conversation.turns[0],
            [cut(picture.core(self._manifest.tiling), asked.settings.cache_salt) for picture in pictures],
            asked.tiles_of_places([picture.tiles for picture in pictures]),
            max_new_tokens=asked.settings.max_new_tokens,
        )
        self._planner.check_length(prompt.ids, prompt.tiles, frames=asked.video)
        return _prompt(asked, started, prompt.ids, pictures, prompt), prompt

    def render(self, asked: Asked) -> RenderedPrompt:
        """The prompt of a question, however long it is."""
        tiles = [picture.tiles for picture in self.pictures(asked, [asked.conversation])]
        return self._planner.render(asked.conversation, asked.tiles_of_places(tiles))

    def prompts(self, asked: Asked, conversations: Sequence[Conversation]) -> tuple[list[Picture], list[Ids]]:
        """The pictures of a question, and the ids [n] of several conversations about them."""
        pictures = self.pictures(asked, conversations)
        tiles = [picture.tiles for picture in pictures]
        prompts = [self._planner.render(one, tiles).input_ids for one in conversations]
        if prompts:
            self._planner.check_length(max(prompts, key=len), tiles, frames=asked.video)
        return pictures, prompts

    def pictures(self, asked: Asked, conversations: Sequence[Conversation]) -> list[Picture]:
        """The pictures of a question, read and not yet cut into tiles.

        Where one of the conversations about them would not fit the context, and the caller chose a detail and
        no number of tiles, the pictures have fewer.
        """
        most = asked.most_tiles(self._manifest.tiling)
        pictures = [
            self.picture(image, tiles, asked.rules)
            for image, tiles in zip(asked.conversation.images, most, strict=True)
        ]
        if not (pictures and asked.may_have_fewer_tiles):
            return pictures
        fitted = self._planner.fit(
            [_core.PlannedPicture(picture.size, picture.max_tiles, picture.tiles) for picture in pictures],
            conversations,
            as_one=asked.as_one,
            max_new_tokens=asked.settings.max_new_tokens,
        )
        return [
            replace(picture, max_tiles=fewer.max_tiles, tiles=fewer.tiles)
            for picture, fewer in zip(pictures, fitted, strict=True)
        ]

    def picture(self, image: Image, max_tiles: int, rules: PictureRules) -> Picture:
        """Decodes a picture, or checks that its features are this model's."""
        if isinstance(image, ImageFeatures):
            check_bundle(image, self._manifest)
            return Picture(None, image, 0, image.tiles, image.tiles, image.image_size, image.orientation)
        begun = perf_counter()
        rgb = decode_image(
            image,
            max_pixels=rules.max_pixels,
            orientation=rules.orientation,
            allow_paths=rules.allow_paths,
        )
        decode_ms = ms_since(begun)
        size = (rgb.shape[1], rgb.shape[0])
        tiles = count_tiles(size, self._manifest.tiling, max_tiles)
        return Picture(rgb, None, max_tiles, tiles, tiles, size, rules.orientation, decode_ms)


def _started(asked: Asked) -> float:
    """When the question was asked, as ``perf_counter()`` has it: reading its video was before."""
    return perf_counter() - asked.decode_ms / 1000.0


def _prompt(
    asked: Asked,
    started: float,
    ids: Ids,
    pictures: Sequence[Picture],
    session: _core.SessionPrompt | None = None,
) -> Prompt:
    return Prompt(
        ids,
        tuple(pictures),
        started,
        asked.decode_ms,
        asked.progress,
        priority=asked.settings.priority,
        cache_salt=asked.settings.cache_salt,
        session=session,
    )
