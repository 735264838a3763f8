"""How many tiles a picture gets."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import internvl_rt as ivl
from internvl_rt.errors import ImageError, PromptError
from internvl_rt.model.asking import TileBudget


@pytest.mark.parametrize(
    ("detail", "pictures", "tiles"),
    [
        ("low", 1, 1),
        ("low", 5, 1),
        ("auto", 1, 12),
        ("auto", 2, 6),
        ("auto", 5, 2),
        ("auto", 13, 1),
        ("high", 1, 40),
        ("high", 3, 13),
        ("high", 41, 1),
    ],
)
def test_pictures_share_the_tiles_of_a_detail(
    native_model: ivl.Model, detail: Any, pictures: int, tiles: int
) -> None:
    assert TileBudget(detail=detail).per_picture(native_model.manifest.tiling, pictures) == tiles


def test_auto_is_the_models_own_figure(native_model: ivl.Model) -> None:
    tiling = dataclasses.replace(native_model.manifest.tiling, max_tiles=7)
    assert TileBudget().per_picture(tiling, 1) == 7
    assert TileBudget().per_picture(tiling, 3) == 2


def test_max_tiles_is_for_every_picture(native_model: ivl.Model) -> None:
    assert TileBudget(5).per_picture(native_model.manifest.tiling, 9) == 5


def test_detail_of_a_question_and_of_an_encoded_picture(model: ivl.Model) -> None:
    wide = Image.new("RGB", (560, 224))  # 2.5: 5x2 of the tiny model's 56, 10x4 of up to 40
    for detail, tiles in (("low", 1), ("auto", 11), ("high", 41)):
        assert model.encode(wide, detail=detail).tiles == tiles  # type: ignore[arg-type]
        usage = model.chat("?", [wide], detail=detail, system="", max_new_tokens=1).usage  # type: ignore[arg-type]
        assert usage.tiles == tiles
    assert model.encode(wide, max_tiles=40).tiles == 41
    # Three share 40: 13 each, of which 5x2 and a thumbnail are used.
    assert model.render("?", [wide] * 3, detail="high").text.count("<IMG_CONTEXT>") == 3 * 11 * 4


def test_several_pictures_as_one(model: ivl.Model, photo: Image.Image) -> None:
    other = photo.rotate(180)
    asked: dict[str, Any] = {"max_tiles": 2, "system": ""}
    prompt = model.render("What?", [photo, other], as_one=True, **asked)
    tokens = model.manifest.tokens_per_tile
    place = f"<img>{'<IMG_CONTEXT>' * (2 * 3 * tokens)}</img>"
    assert f"user\n{place}\nWhat?<|im_end|>" in prompt.text
    assert model.render("<image>\nWhat?", [photo, other], as_one=True, **asked).text == prompt.text
    answer = model.chat("What?", [photo, other], as_one=True, max_new_tokens=8, **asked)
    features = [model.encode(picture, max_tiles=2) for picture in (photo, other)]
    by_hand = model.generate(prompt.input_ids, features, max_new_tokens=8)
    assert answer.token_ids == by_hand.token_ids
    assert (answer.usage.tiles, answer.image_sizes) == (6, ((150, 90), (150, 90)))
    alone = model.chat("What?", [photo], as_one=True, max_new_tokens=8, **asked)
    assert alone.token_ids == model.chat("What?", [photo], max_new_tokens=8, **asked).token_ids
    vote = model.vote("Hi", features, as_one=True, n=2, reasoning=None, system="", max_new_tokens=2)
    assert vote.samples[0].usage.tiles == 6


def test_what_cannot_stand_in_one_place(native_model: ivl.Model, photo: Image.Image) -> None:
    for question, arguments in (
        ("What?", {}),
        ("What?", {"images": [photo], "history": [("a", "b")]}),
        ([{"role": "user", "content": "Hi"}], {"images": [photo]}),
        ("What?", {"video": [photo]}),
    ):
        with pytest.raises(PromptError, match="as_one"):
            native_model.chat(question, as_one=True, **arguments)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="2 image places; 1 image given"):
        native_model.chat("<image><image>", [photo, photo], as_one=True)


def test_an_item_of_a_message_may_ask_for_a_detail_of_its_own(native_model: ivl.Model) -> None:
    wide = Image.new("RGB", (560, 224))
    file = io.BytesIO()
    wide.save(file, "PNG")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    items: list[dict[str, Any]] = [
        {"type": "image", "image": wide, "detail": "low"},
        {"type": "image_url", "image_url": {"url": url, "detail": "high"}},
        {"type": "image", "image": wide},
    ]
    messages = [{"role": "user", "content": [*items, {"type": "text", "text": "?"}]}]

    def tiles(**arguments: Any) -> list[int]:
        text = native_model.render(messages, **arguments).text
        return [part.count("<IMG_CONTEXT>") // 4 for part in text.split("<img>")[1:]]

    # high: 13 of 40 are 5x2 and a thumbnail; auto: 4 of 12 are 3x1 and one.
    assert tiles() == [1, 11, 4]
    assert tiles(detail="low") == [1, 11, 1]
    assert tiles(max_tiles=1) == [1, 1, 1]
    items[0]["detail"] = "best"
    with pytest.raises(
        PromptError, match=r"content'\]\[0\]\['detail'\] is one of low, high, auto; found 'best'"
    ):
        native_model.render([{"role": "user", "content": items}])


@pytest.fixture(scope="module")
def short(tiny_bundle: Path) -> Iterator[ivl.Model]:
    """A context of 128 tokens: 32 tiles and no text."""
    with ivl.load(tiny_bundle, cache_tokens=128) as model:
        yield model


@pytest.mark.parametrize(
    ("size", "pictures", "detail", "wanted", "tiles"),
    [
        ((560, 224), 1, "high", 41, 11),  # 10x4; what is left of the ratio 2.5 is 5x2
        ((200, 200), 1, "high", 26, 10),  # 5x5 to 3x3
        ((200, 200), 1, "auto", 10, 10),  # fits as it is
        ((560, 224), 2, "high", 22, 8),  # 5x2 to 3x1 each
    ],
)
def test_a_detail_that_does_not_fit_the_context_gets_fewer_tiles(
    short: ivl.Model, size: tuple[int, int], pictures: int, detail: Any, wanted: int, tiles: int
) -> None:
    images = [Image.effect_noise(size, 60).convert("RGB") for _ in range(pictures)]
    asked: dict[str, Any] = {"detail": detail, "system": ""}
    answer = short.chat("?", images, **asked, ignore_stop_tokens=True)
    usage = answer.usage
    assert (usage.tiles_wanted, usage.tiles) == (wanted, tiles)
    assert usage.image_tokens == 4 * tiles
    assert usage.new_tokens == 128 - usage.prompt_tokens
    assert tiles == wanted or usage.new_tokens >= 128 // 4
    assert len(short.render("?", images, **asked).input_ids) == usage.prompt_tokens
    # The same as if so many had been asked for.
    if pictures == 1 and tiles > 1:
        same = short.chat("?", images, max_tiles=tiles - 1, system="", ignore_stop_tokens=True)
        assert same.token_ids == answer.token_ids
        assert same.usage.tiles_wanted == tiles


def test_the_room_that_is_left_for_the_answer_is_no_more_than_it_may_take(short: ivl.Model) -> None:
    square = Image.new("RGB", (200, 200))
    usage = short.chat("?", [square], detail="high", system="", max_new_tokens=2).usage
    assert (usage.tiles_wanted, usage.tiles) == (26, 17), "10 leave a quarter of the context"
    assert 96 < usage.prompt_tokens <= 126


def test_a_number_of_tiles_that_does_not_fit_is_an_error(short: ivl.Model) -> None:
    square = Image.new("RGB", (200, 200))
    with pytest.raises(PromptError, match="104 of them are for 26 tiles of 1 picture"):
        short.chat("?", [square], max_tiles=40, system="")
    with pytest.raises(PromptError, match="lower max_tiles, or give fewer pictures"):
        short.chat("?", [square] * 40, detail="high", system="")


def test_frames_of_a_video_that_do_not_fit_say_how_many_would(short: ivl.Model) -> None:
    frames = [Image.new("RGB", (56, 56), (i, 0, 0)) for i in range(20)]
    with pytest.raises(PromptError, match=r"tiles of 20 frames. What helps: take \d+ frames") as caught:
        short.chat("?", video=frames, system="")
    fits = int(str(caught.value).split("take ")[1].split(" ")[0])
    assert short.chat("?", video=frames, num_frames=fits, system="", max_new_tokens=1).usage.tiles == fits
    with pytest.raises(PromptError):
        short.chat("?", video=frames, num_frames=fits + 2, system="", max_new_tokens=1)


@pytest.mark.parametrize("max_tiles", [0, -1, 41, 1.5, True, "12"])
def test_numbers_out_of_range(native_model: ivl.Model, max_tiles: Any) -> None:
    with pytest.raises(ImageError, match="an integer from 1 to 40"):
        native_model.chat("?", max_tiles=max_tiles)


def test_details_that_are_none(native_model: ivl.Model) -> None:
    with pytest.raises(PromptError, match="detail must be one of low, high, auto, not 'best'"):
        native_model.chat("?", detail="best")  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="detail must be one of"):
        native_model.encode(Image.new("RGB", (9, 9)), detail=None)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="both say how many tiles"):
        native_model.chat("?", max_tiles=3, detail="low")
