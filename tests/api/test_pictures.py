"""How the pictures of a question are read: turned or not, from paths or not, and how large."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

import internvl_rt as ivl
from internvl_rt.errors import ImageError, PromptError


@pytest.fixture(scope="module")
def native_format(roomy_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny bundle as if it came from a checkpoint of transformers' own classes."""
    folder = tmp_path_factory.mktemp("native") / "bundle"
    shutil.copytree(roomy_bundle, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["source_format"] = "internvl"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def lying(tmp_path_factory: pytest.TempPathFactory, photo: Image.Image) -> Path:
    """A photo of 150x90 pixels that has to be turned to be seen upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path_factory.mktemp("lying") / "photo.png"
    photo.save(path, exif=exif)
    return path


def upright(path: Path) -> np.ndarray[Any, Any]:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image))


def test_a_native_checkpoint_sees_the_turned_picture(
    native_format: Path, tiny_bundle: Path, lying: Path
) -> None:
    for bundle, orientation, size in ((native_format, "exif", (90, 150)), (tiny_bundle, "stored", (150, 90))):
        with ivl.load(bundle) as model:
            assert model.orientation == orientation
            seen = upright(lying) if orientation == "exif" else np.asarray(Image.open(lying))
            right = model.encode(seen)
            for source in (lying, str(lying), lying.read_bytes(), Image.open(lying)):
                found = model.encode(source)
                assert (found.image_size, found.orientation) == (size, orientation)
                np.testing.assert_array_equal(found.features, right.features)
            answer = model.chat("Hi", lying, max_new_tokens=2)
            assert (answer.image_sizes, answer.orientations) == ((size,), (orientation,))
            assert answer.token_ids == model.chat("Hi", seen, max_new_tokens=2).token_ids
            assert model.chat("Hi", found, max_new_tokens=2).orientations == (orientation,)


def test_a_call_and_load_may_say_otherwise(native_format: Path, tiny_bundle: Path, lying: Path) -> None:
    with ivl.load(native_format, orientation="stored") as stored, ivl.load(native_format) as turned:
        assert stored.encode(lying).image_size == (150, 90)
        for model, orientation, size in ((stored, "exif", (90, 150)), (turned, "stored", (150, 90))):
            asked: dict[str, Any] = {"orientation": orientation}
            short: dict[str, Any] = {**asked, "max_new_tokens": 1}
            assert model.encode(lying, **asked).image_size == size
            assert model.chat("Hi", lying, **short).image_sizes == (size,)
            assert list(model.stream("Hi", lying, **short))[-1].result.image_sizes == (size,)  # type: ignore[union-attr]
            assert model.locate("cup", lying, **short).answer.image_sizes == (size,)
            message = [{"role": "user", "content": [{"type": "image", "path": lying}]}]
            assert model.chat(message, **short).image_sizes == (size,)
            assert set(model.chat("Hi", video=iter([str(lying)]), **short).image_sizes) == {size}
        # A picture of another shape has tiles of another number.
        wide: dict[str, Any] = {"max_tiles": 3}
        plain = turned.render("Hi", lying, **wide)
        assert np.array_equal(plain.input_ids, turned.render("Hi", upright(lying), **wide).input_ids)
        judged = turned.judge("Hi", ["a"], lying, orientation="stored")
        assert judged[0].score == turned.judge("Hi", ["a"], np.asarray(Image.open(lying)))[0].score
        assert judged[0].score != turned.judge("Hi", ["a"], lying)[0].score
        with pytest.raises(ImageError, match="orientation must be one of exif, stored"):
            turned.chat("Hi", lying, orientation="up")
    with pytest.raises(ImageError, match="orientation must be one of exif, stored"):
        ivl.load(tiny_bundle, orientation="up")  # type: ignore[arg-type]


def with_box(
    model: ivl.Model, lying: Path, monkeypatch: pytest.MonkeyPatch, **arguments: Any
) -> list[ivl.Box]:
    """The boxes of an answer that names the left upper quarter."""
    answer = model.chat("Where?", lying, max_new_tokens=1, **arguments)
    return list(
        ivl.Answer(
            **{**vars(answer), "text": "", "grounding_text": "cup[[0, 0, 500, 500]]"},
        ).boxes()
    )


def test_boxes_are_drawn_on_the_picture_that_was_seen(
    native_format: Path, lying: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ivl.load(native_format) as model:
        turned = with_box(model, lying, monkeypatch)
        stored = with_box(model, lying, monkeypatch, orientation="stored")
    assert (turned[0].x2, turned[0].y2) == (45, 75)
    assert (stored[0].x2, stored[0].y2) == (75, 45)
    assert ivl.draw_boxes(lying, turned).size == (90, 150)
    assert ivl.draw_boxes(lying, stored).size == (150, 90)
    assert ivl.draw_boxes(lying, turned, orientation="stored").size == (150, 90)
    drawn = np.asarray(ivl.draw_boxes(lying, [turned[0]]))
    np.testing.assert_array_equal(drawn[100:], upright(lying)[100:])
    with pytest.raises(PromptError, match="as its EXIF turns it"):
        ivl.draw_boxes(lying, [*turned, *stored])


MESSAGE_SOURCES: list[Callable[[Path], dict[str, Any]]] = [
    lambda path: {"type": "image", "path": path},
    lambda path: {"type": "image", "path": str(path)},
    lambda path: {"type": "image", "image": path},
    lambda path: {"type": "image", "image": str(path)},
    lambda path: {"type": "image", "url": path.as_uri()},
    lambda path: {"type": "image_url", "image_url": {"url": path.as_uri()}},
    lambda path: {"type": "image_url", "image_url": str(path)},
]


@pytest.fixture(scope="module")
def closed_model(tiny_bundle: Path) -> ivl.Model:
    """A model that opens no file for anybody."""
    return ivl.load(tiny_bundle, allow_paths=False)


CALLS: list[Callable[[ivl.Model, Any, dict[str, Any]], object]] = [
    lambda model, source, asked: model.chat("Hi", source, max_new_tokens=1, **asked),
    lambda model, source, asked: model.chat("Hi", [source], max_new_tokens=1, **asked),
    lambda model, source, asked: list(model.stream("Hi", source, max_new_tokens=1, **asked)),
    lambda model, source, asked: model.encode(source, **asked),
    lambda model, source, asked: model.locate("cup", source, max_new_tokens=1, **asked),
    lambda model, source, asked: model.render("Hi", source, max_new_tokens=1, **asked),
    lambda model, source, asked: model.judge("Hi", ["a"], source, **asked),
    lambda model, source, asked: model.vote("Hi", source, n=1, max_new_tokens=1, **asked),
    lambda model, source, asked: model.chat("Hi", video=source, max_new_tokens=1, **asked),
    lambda model, source, asked: model.chat("Hi", video=[source], max_new_tokens=1, **asked),
    lambda model, source, asked: model.chat("Hi", video=iter([source]), max_new_tokens=1, **asked),
    lambda model, source, asked: model.best_of("Hi", score=len, video=source, max_new_tokens=1, **asked),
]
"""Everything that takes a picture or a video."""


def test_no_file_is_opened_where_paths_are_off(
    closed_model: ivl.Model, native_model: ivl.Model, photo_file: Path
) -> None:
    for model, asked in ((closed_model, {}), (native_model, {"allow_paths": False})):
        options: Any = {**asked, "max_new_tokens": 1}
        for make in MESSAGE_SOURCES:
            message = [{"role": "user", "content": [make(photo_file), {"type": "text", "text": "Hi"}]}]
            assert native_model.chat(message, max_new_tokens=1).usage.tiles > 0
            with pytest.raises(PromptError, match=r"messages\[0\].* is a path: .*allow_paths=False"):
                model.chat(message, **options)
        for source in (photo_file, str(photo_file), photo_file.as_uri(), "missing.png"):
            for call in CALLS:
                with pytest.raises(ImageError, match="allow_paths=False"):
                    call(model, source, asked)


def test_everything_else_is_taken_where_paths_are_off(
    closed_model: ivl.Model, photo: Image.Image, photo_bytes: bytes, photo_file: Path
) -> None:
    text = base64.b64encode(photo_bytes).decode()
    right = closed_model.encode(photo_bytes)
    sources: list[Any] = [photo_bytes, bytearray(photo_bytes), photo, np.asarray(photo), right]
    sources += [f"data:image/png;base64,{text}", text]
    for source in sources:
        np.testing.assert_array_equal(closed_model.encode(source).features, right.features)
    items = [{"image": photo_bytes}, {"image": photo}, {"base64": text}, {"url": f"data:;base64,{text}"}]
    for item in items:
        message = [{"role": "user", "content": [{"type": "image", **item}]}]
        assert closed_model.chat(message, max_new_tokens=1).image_sizes == (photo.size,)
    assert closed_model.chat("Hi", photo_file, allow_paths=True, max_new_tokens=1).usage.tiles > 0


def test_what_allow_paths_and_max_pixels_may_be(tiny_bundle: Path, native_model: ivl.Model) -> None:
    with pytest.raises(PromptError, match="allow_paths must be True or False, not 'no'"):
        native_model.chat("Hi", allow_paths="no")  # type: ignore[arg-type]
    for value in (0, -1, 1.5, "many"):
        with pytest.raises(PromptError, match="max_pixels must be an integer"):
            ivl.load(tiny_bundle, max_pixels=value)  # type: ignore[arg-type]


def test_the_largest_picture_is_load_s_to_say(
    tiny_bundle: Path, photo: Image.Image, photo_bytes: bytes
) -> None:
    with ivl.load(tiny_bundle, max_pixels=150 * 90 - 1) as model:
        for source in (photo, photo_bytes):
            with pytest.raises(ImageError, match=r"150x90.*give `load` a larger max_pixels"):
                model.encode(source)
    with ivl.load(tiny_bundle, max_pixels=150 * 90) as model:
        assert model.encode(photo_bytes).image_size == (150, 90)
    with pytest.raises(ImageError, match="max_pixels"):
        ivl.tile_image(photo_bytes, max_pixels=100)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        ((b for b in [b""]), "images is a generator; expected a list"),
        ([None], r"images\[0\] is None"),
        ([np.zeros((8, 8, 3), np.uint8), None], r"images\[1\] is None"),
        ([[[0, 0, 0]]], r"images\[0\] is a list; expected a picture"),
        ([["a.jpg", "b.jpg"]], "one flat list"),
        ("https://example.com/a.jpg", "'https://example.com/a.jpg' is on the network"),
        ([Path("https://example.com/a.jpg")], "on the network"),
        (np.zeros((3, 64, 64), np.float32), "channels first"),
        (np.zeros((0, 0, 3), np.uint8), "0x0; expected at least one pixel"),
        ({"a": 1}, "is a dict; expected a path"),
    ],
)
def test_what_is_said_of_pictures_that_are_none(native_model: ivl.Model, images: Any, says: str) -> None:
    with pytest.raises(ImageError, match=says):
        native_model.chat("Hi", images)


def test_a_text_that_cannot_fit_is_refused(native_model: ivl.Model) -> None:
    longest = native_model._tokenizer.longest_token
    long = "word " * 2_000_000
    for call in (
        lambda: native_model.chat(long),
        lambda: native_model.chat("Hi", history=[(long, "a")]),
        lambda: native_model.chat("Hi", history=[("a", long)]),
        lambda: native_model.chat("Hi", system=long),
        lambda: native_model.chat([{"role": "user", "content": [{"type": "text", "text": long}]}]),
        lambda: native_model.render(long),
        lambda: native_model.judge("Hi", [long]),
        lambda: list(native_model.stream(long)),
    ):
        with pytest.raises(PromptError, match=r"text has 10,00\d,\d+ characters, .* Shorten the text"):
            call()
    # What might fit is tokenised and counted.
    with pytest.raises(PromptError, match=r"the prompt has \d+ tokens"):
        native_model.chat("a" * (native_model.context_tokens * longest - 100))
