"""How many tiles a picture gets."""

from __future__ import annotations

import base64
import dataclasses
import io
from typing import Any

import pytest
from PIL import Image

import internvl_rt as ivl
from internvl_rt.asking import TileBudget
from internvl_rt.errors import ImageError, PromptError


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
