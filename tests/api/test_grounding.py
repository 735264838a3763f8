from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from internvl_rt import Box, ImageError, PromptError, parse_boxes


def test_the_form_with_grounding_tokens() -> None:
    text = "<ref>the lady</ref><box>[[243, 469, 558, 746]]</box>"
    assert parse_boxes(text, (1000, 500)) == [Box("the lady", 243.0, 234.5, 558.0, 373.0)]


def test_the_form_without_grounding_tokens() -> None:
    assert parse_boxes("the lady[[243, 469, 558, 746]]", (1000, 1000)) == [
        Box("the lady", 243.0, 469.0, 558.0, 746.0)
    ]


def test_several_boxes_of_one_label() -> None:
    text = "<ref>cup</ref><box>[[0, 0, 100, 100], [500,500,1000,1000]]</box>"
    assert parse_boxes(text, (200, 100)) == [Box("cup", 0, 0, 20, 10), Box("cup", 100, 50, 200, 100)]


def test_one_label_a_line() -> None:
    text = "Found:\n<ref>cat</ref><box>[[1,2,3,4]]</box>\n<ref>dog</ref><box>[[5,6,7,8]]</box>"
    assert [(box.label, box.x1) for box in parse_boxes(text, (1000, 1000))] == [("cat", 1), ("dog", 5)]
    stripped = "Found:\ncat[[1,2,3,4]]\ndog[[5,6,7,8]]"
    assert [(box.label, box.x1) for box in parse_boxes(stripped, (1000, 1000))] == [("cat", 1), ("dog", 5)]


def test_a_label_is_not_carried_over_to_the_next_group() -> None:
    text = "<ref>cat</ref><box>[[1,2,3,4]]</box><box>[[5,6,7,8]]</box>"
    assert [box.label for box in parse_boxes(text, (1000, 1000))] == ["cat", ""]
    assert [box.label for box in parse_boxes("cat[[1,2,3,4]]\n[[5,6,7,8]]", (1000, 1000))] == ["cat", ""]


def test_corners_are_put_in_order_and_inside_the_picture() -> None:
    assert parse_boxes("x[[900, 1200, -5, 100]]", (10, 10)) == [Box("x", 0, 1, 9, 10)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[[1, 2, 3]]",
        "[[1, 2, 3, 4",
        "[[a, b, c, d]]",
        "[[1, 2, 3, 4, 5]]",
        "[1 2 3 4]",
        "<box></box><ref>",
        "[[" + "9" * 5000 + ", 1, 1, 1]]",
    ],
)
def test_what_is_not_a_box_is_passed_over(text: str) -> None:
    assert parse_boxes(text, (100, 100)) == []


def test_a_box_whose_end_was_cut_off_is_still_read() -> None:
    assert len(parse_boxes("<ref>a</ref><box>[[1, 2, 3, 4], [5, 6, 7", (100, 100))) == 1


@pytest.mark.parametrize("text", [None, b"[[1,2,3,4]]", 3, ["[[1,2,3,4]]"]])
def test_a_text_that_is_none(text: object) -> None:
    with pytest.raises(PromptError, match="read from an answer's text, a str; found"):
        parse_boxes(text, (10, 10))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "size", [(0, 10), (10, -1), (10,), "big", (float("nan"), 1), (10, float("inf")), None]
)
def test_a_size_that_is_none(size: object) -> None:
    with pytest.raises(ImageError, match="image_size must be"):
        parse_boxes("[[1,2,3,4]]", size)  # type: ignore[arg-type]


@given(st.text(alphabet="[],0123456789.- \n<>/refboxa", max_size=200))
def test_any_text(text: str) -> None:
    for box in parse_boxes(text, (640, 480)):
        assert 0 <= box.x1 <= box.x2 <= 640
        assert 0 <= box.y1 <= box.y2 <= 480


def test_long_text_takes_time_in_proportion() -> None:
    # 200 kB of what a regular expression may stumble over; seconds would mean squared time.
    for text in ("[" * 200_000, "[1," * 60_000, " " * 200_000, "<ref>" * 40_000):
        assert parse_boxes(text, (10, 10)) == []
