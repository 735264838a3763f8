from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from internvl_rt import Box, Grounding, ImageError, PromptError, draw_boxes, parse_boxes, parse_grounding
from internvl_rt.answers.grounding import locate_question


def test_the_form_with_grounding_tokens() -> None:
    text = "<ref>the lady</ref><box>[[243, 469, 558, 746]]</box>"
    assert parse_boxes(text, (1000, 500)) == [Box("the lady", 243.0, 234.5, 558.0, 373.0)]


def test_the_form_without_grounding_tokens() -> None:
    assert parse_boxes("the lady[[243, 469, 558, 746]]", (1000, 1000)) == [
        Box("the lady", 243.0, 469.0, 558.0, 746.0)
    ]


QUAD = Box("sign", 0, 1, 9, 8, ((1, 1), (8, 2), (9, 8), (0, 7)))


@pytest.mark.parametrize(
    "numbers",
    [
        "[[100, 100, 800, 200, 900, 800, 0, 700]]",
        "[[100,100],[800,200],[900,800],[0,700]]",
        "[[[100,100], [800,200], [900,800], [0,700]]]",
    ],
)
def test_quads(numbers: str) -> None:
    for text in (f"<ref>sign</ref><quad>{numbers}</quad>", f"sign{numbers}"):
        assert parse_grounding(text, (10, 10)) == Grounding((QUAD,), ())
    two = parse_boxes(f"<ref>sign</ref><quad>{numbers}</quad>\n<ref>a</ref><box>[[1,2,3,4]]</box>", (10, 10))
    assert [box.label for box in two] == ["sign", "a"]


def test_a_box_without_a_label() -> None:
    for text in ("<box>[[1, 2, 3, 4]]</box>", "[[1, 2, 3, 4]]", "[1, 2, 3, 4]"):
        found = parse_grounding(text, (1000, 1000))
        assert found == Grounding((Box("", 1, 2, 3, 4),), ())


@pytest.mark.parametrize(
    ("text", "boxes", "says"),
    [
        ("<ref>a</ref><box>[[1, 2, 3]]</box>", 0, "'[1, 2, 3]' is neither four numbers nor eight"),
        ("[[1, 2, 3, 4, 5]]", 0, "neither four numbers nor eight"),
        ("<ref>a</ref><box>[[1, 2, 3, 4], [5, 6, 7", 1, "'[5, 6, 7' was cut off"),
        ("<ref>a</ref><box>[[1, 2, 3, 4", 0, "was cut off"),
        ("<ref>a</ref><box>[[1, 2, 3, 4]]", 1, "<box> stands 1 times and </box> 0 times"),
        ("a</ref><box>[[1, 2, 3, 4]]</box>", 1, "<ref> stands 0 times and </ref> 1 times"),
        ("<ref>a</ref><box></box>", 0, "'<box></box>' holds no box"),
        ("a[[900, 2, 3, 4]]", 1, "corners in the wrong order"),
        ("a[[1, 2, 3, 1004]]", 1, "outside of 0 to 1000"),
        ("a[[-1, 2, 3, 4]]", 1, "outside of 0 to 1000"),
        ("a[[5, 2, 5, 4]]", 1, "has no area"),
    ],
)
def test_what_is_malformed_is_told(text: str, boxes: int, says: str) -> None:
    found = parse_grounding(text, (100, 100))
    assert len(found.boxes) == boxes
    assert any(says in problem for problem in found.problems), found.problems


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I see [1] nothing, and [a list, of words] there.",
        "<ref>the lady</ref><box>[[243, 469, 558, 746]]</box>",
        "<ref>cup</ref><box>[[0, 0, 9, 9], [500,500,1000,1000]]</box>\n<ref>b</ref><box>[[1,2,3,4]]</box>",
        "cat[[1,2,3,4]]\ndog[[5,6,7,8]]",
    ],
)
def test_what_is_well_formed_has_no_problem(text: str) -> None:
    assert parse_grounding(text, (100, 100)).problems == ()


SIZE = (1000, 1000)
CAT, DOG = Box("cat", 1, 2, 3, 4), Box("dog", 5, 6, 7, 8)


@pytest.mark.parametrize(
    "text",
    [
        '[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}, {"bbox_2d": [5, 6, 7, 8], "label": "dog"}]',
        '```json\n[\n  {"bbox_2d": [1, 2, 3, 4], "label": "cat"},\n'
        '  {"bbox": [5, 6, 7, 8], "name": "dog"}\n]\n```',
        'Here they are, 2 of them:\n```\n{"box": [1,2,3,4], "class": "cat"}\n'
        '{"label": "dog", "box_2d": [[5,6,7,8]]}\n```',
        "[{'bbox_2d': [1, 2, 3, 4], 'label': 'cat'}, {'label': 'dog', 'bbox': [5, 6, 7, 8], 'score': 0.9}]",
        '{"objects": [{"label": "cat", "bbox": [1, 2, 3, 4]}, {"label": "dog", "bbox": [5, 6, 7, 8]}]}',
        '{"cat": [1, 2, 3, 4], "dog": [5, 6, 7, 8]}',
        '{"cat": [[1, 2, 3, 4]], "dog": [[5, 6, 7, 8]]}',
        '{"cat": {"bbox": [1, 2, 3, 4]}, "dog": [{"bbox": [5, 6, 7, 8]}]}',
        '{"bbox_2d": [1,2,3,4], "label": "cat"}\ndog[[5, 6, 7, 8]]',
        'cat[[1, 2, 3, 4]]\n{"bbox_2d": [5, 6, 7, 8], "label": "dog"}',
        "- cat [[1, 2, 3, 4]]\n- dog [[5, 6, 7, 8]]",
        "* **cat**: [1, 2, 3, 4]\n* **dog:** [5, 6, 7, 8]",
        "1. cat: [[1, 2, 3, 4]]\n2. dog: [[5, 6, 7, 8]]",
        "1) `cat` - [[1, 2, 3, 4]]\n(2) __dog__ – [[5, 6, 7, 8]]",
        "### cat\n[[1, 2, 3, 4]]\n### dog\n[[5, 6, 7, 8]]",
        "• cat = [1, 2, 3, 4]\n• dog = [5, 6, 7, 8]",
        '"cat": [1, 2, 3, 4],\n"dog": [5, 6, 7, 8]',
        '["cat", [1, 2, 3, 4]]\n["dog", [5, 6, 7, 8]]',
        "| cat | [1, 2, 3, 4] |\n| dog | [5, 6, 7, 8] |",
    ],
)
def test_json_and_lists(text: str) -> None:
    assert parse_grounding(text, SIZE) == Grounding((CAT, DOG), ())


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ('{"label": "a \\"red\\" cup, 3 {large}", "bbox_2d": [1, 2, 3, 4]}', ['a "red" cup, 3 {large}']),
        ('{"bbox_2d": [1, 2, 3, 4], "label": "\\u7ea2\\u8272"}', ["红色"]),
        ('{"bbox_2d": [1, 2, 3, 4], "label": "\\ud83d"}', ["\ufffd"]),
        ("{'bbox': [1, 2, 3, 4], 'label': 'the cat\\'s \"hat\"'}", ['the cat\'s "hat"']),
        ('{"label": "cup", "bbox_2d": [[1, 2, 3, 4], [5, 6, 7, 8]]}', ["cup", "cup"]),
        ('{"bbox_2d": [1, 2, 3, 4]}', [""]),
        ('[{"bbox": [1,2,3,4], "label": "a"}, {"bbox": [1,2,3,4]}]', ["a", ""]),
        ('{"bbox_2d": [1, 2, 3, 4], "label": null}', [""]),
        ("1. 红色方块: [[1,2,3,4]]\n2、蓝色球：[[5,6,7,8]]", ["红色方块", "蓝色球"]),
        ("1.5 litre bottle [[1,2,3,4]]", ["1.5 litre bottle"]),
        ("t-shirt [[1,2,3,4]]", ["t-shirt"]),
        ("```json\n[[1,2,3,4]]\n```", [""]),
        ("- a cup: [[1,2,3,4]], [[5,6,7,8]]", ["a cup", ""]),
    ],
)
def test_labels_without_the_syntax_around_them(text: str, labels: list[str]) -> None:
    found = parse_grounding(text, SIZE)
    assert [box.label for box in found.boxes] == labels
    assert found.problems == ()


def test_quads_in_json() -> None:
    for quad in ("[100,100,800,200,900,800,0,700]", "[[100,100],[800,200],[900,800],[0,700]]"):
        text = f'{{"quad": {quad}, "text_content": "sign"}}'
        assert parse_grounding(text, (10, 10)) == Grounding((QUAD,), ())


def test_points_are_left_as_they_are() -> None:
    assert parse_boxes('[{"point_2d": [12, 30], "label": "cat"}]', SIZE) == []


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ('[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}, {"bbox_2d": [5, 6', [CAT]),
        ('[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}, {"label": "dog", "bbox_2d": [5, 6, 7, 8]', [CAT, DOG]),
        (
            '[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}, {"bbox_2d": [5, 6, 7, 8], "lab',
            [CAT, Box("", 5, 6, 7, 8)],
        ),
        (
            '[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}, {"bbox_2d": [5, 6, 7, 8], "label": "do',
            [CAT, Box("", 5, 6, 7, 8)],
        ),
    ],
)
def test_json_that_was_cut_off(text: str, boxes: list[Box]) -> None:
    found = parse_grounding(text, SIZE)
    assert list(found.boxes) == boxes
    assert any("was cut off" in problem for problem in found.problems), found.problems


def test_what_was_passed_over_is_no_label() -> None:
    (box,) = parse_boxes("cat[[1, 2, 3]] dog[[1, 2, 3, 4]]", (1000, 1000))
    assert box.label == "dog"


def colours_of(picture: Image.Image) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in np.asarray(picture).reshape(-1, 3).tolist()}


def test_boxes_are_drawn_on_a_copy() -> None:
    image = Image.new("RGB", (200, 100), "white")
    boxes = [
        Box("", 20, 30, 120, 90),
        Box("", 150, 10, 190, 50, ((150, 10), (190, 20), (180, 50), (160, 40))),
    ]
    drawn = draw_boxes(image, boxes, line_width=3)
    assert drawn.size == image.size
    assert colours_of(image) == {(255, 255, 255)}
    changed = np.argwhere((np.asarray(drawn) != 255).any(axis=2))
    left = changed[changed[:, 1] < 140]
    assert (left.min(axis=0).tolist(), left.max(axis=0).tolist()) == ([30, 20], [90, 120])
    assert np.asarray(drawn)[60, 70].tolist() == [255] * 3, "boxes are not filled"
    right = changed[changed[:, 1] > 140]
    assert np.abs(right.min(axis=0) - [10, 150]).max() <= 3
    assert np.abs(right.max(axis=0) - [50, 190]).max() <= 3


def test_every_label_has_a_colour_of_its_own() -> None:
    image = np.full((300, 300, 3), 255, np.uint8)
    a, again, b = Box("a", 100, 100, 150, 150), Box("a", 200, 200, 250, 250), Box("b", 200, 100, 250, 150)
    drawn = np.asarray(draw_boxes(image, [a, again, b]))
    assert drawn[125, 100].tolist() == drawn[225, 200].tolist() != drawn[125, 200].tolist()
    assert image.min() == 255
    # A label is written above its box.
    assert (drawn[85:99, 100:112] != 255).any()


def test_labels_at_the_edge_and_in_other_scripts_are_drawn() -> None:
    boxes = [Box("杯子 🙂", 0, 0, 640, 480), Box("x" * 500, 600, 470, 640, 480), Box("a\nb", -5, -5, 1, 1)]
    assert draw_boxes(Image.new("L", (640, 480)), boxes).mode == "RGB"
    assert draw_boxes(Image.new("RGB", (1, 1)), boxes).size == (1, 1)


def test_drawing_what_cannot_be_drawn(tmp_path: Path) -> None:
    image = Image.new("RGB", (10, 10))
    with pytest.raises(PromptError, match="takes Box"):
        draw_boxes(image, [(1, 2, 3, 4)])  # type: ignore[list-item]
    with pytest.raises(ImageError, match="line_width must be"):
        draw_boxes(image, [], line_width=0)
    with pytest.raises(ImageError, match="does not exist; expected a font file"):
        draw_boxes(image, [], font=tmp_path / "none.ttf")
    (tmp_path / "text.ttf").write_text("text")
    with pytest.raises(ImageError, match="is not a font"):
        draw_boxes(image, [], font=tmp_path / "text.ttf")
    with pytest.raises(ImageError, match="is a device"):
        draw_boxes(image, [], font="/dev/zero")
    with pytest.raises(ImageError, match="not an image"):
        draw_boxes(b"junk", [])


def test_several_boxes_of_one_label() -> None:
    text = "<ref>cup</ref><box>[[0, 0, 100, 100], [500,500,1000,1000]]</box>"
    assert parse_boxes(text, (200, 100)) == [Box("cup", 0, 0, 20, 10), Box("cup", 100, 50, 200, 100)]


def test_one_label_a_line() -> None:
    text = "Found:\n<ref>cat</ref><box>[[1,2,3,4]]</box>\n<ref>dog</ref><box>[[5,6,7,8]]</box>"
    assert [(box.label, box.x1) for box in parse_boxes(text, (1000, 1000))] == [("cat", 1), ("dog", 5)]
    stripped = "Found:\ncat[[1,2,3,4]]\ndog[[5,6,7,8]]"
    assert [(box.label, box.x1) for box in parse_boxes(stripped, (1000, 1000))] == [("cat", 1), ("dog", 5)]


def test_labels_in_chinese() -> None:
    kept = "<ref>红色方块</ref><box>[[1,2,3,4]]</box>、<ref>蓝色球</ref><box>[[5,6,7,8]]</box>。"
    stripped = "红色方块[[1,2,3,4]]、蓝色球：[[5,6,7,8]]。"
    for text in (kept, stripped):
        found = parse_grounding(text, (1000, 1000))
        assert [box.label for box in found.boxes] == ["红色方块", "蓝色球"]
        assert found.problems == ()


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


def test_the_question_for_a_box_is_the_one_of_training() -> None:
    assert locate_question(" red cube ") == (
        "Please provide the bounding box coordinate of the region this sentence describes: "
        "<ref>red cube</ref>"
    )
    assert locate_question("红色方块", "请给出<ref>{}</ref>的位置。") == "请给出<ref>红色方块</ref>的位置。"


@pytest.mark.parametrize("phrase", ["", "  ", None, 3, "a</ref>", "<image>", "<box>"])
def test_phrases_that_cannot_be_located(phrase: object) -> None:
    with pytest.raises(PromptError, match="phrase"):
        locate_question(phrase)  # type: ignore[arg-type]


def test_a_prompt_without_a_place_for_the_phrase() -> None:
    with pytest.raises(PromptError, match="where the phrase stands"):
        locate_question("cup", "Where?")


@given(
    st.text(alphabet="[],0123456789.- \n<>/refboxa{}\"':\\", max_size=200)
    | st.lists(
        st.sampled_from(
            ['{"bbox": ', '"label": "', "[1, 2, 3, 4]", '"}', ", ", "{'a': ", "}", "- ", "\\u", "["]
        )
    ).map("".join)
)
def test_any_text(text: str) -> None:
    for box in parse_boxes(text, (640, 480)):
        assert 0 <= box.x1 <= box.x2 <= 640
        assert 0 <= box.y1 <= box.y2 <= 480


def test_long_text_takes_time_in_proportion() -> None:
    # 200 kB of what a regular expression may stumble over; seconds would mean squared time.
    for piece in (
        "[",
        "[1,",
        " ",
        "<ref>",
        "{",
        '{"',
        '{"\\"',
        "{'a\"",
        '{"a":',
        "{:",
        "- ",
        "1. ",
        "`",
        '"',
        '{"a": "',
    ):
        assert parse_boxes(piece * (200_000 // len(piece)), (10, 10)) == []
    assert len(parse_boxes('{"a": [1,2,3,4], "label": "b"}' * 5000, (10, 10))) == 5000
    assert len(parse_boxes('{"label": "b", "a": [' + "[1,2,3,4]," * 3000, (10, 10))) == 3000
    assert len(parse_boxes('{"a": ' + "[1,2,3,4]," * 3000, (10, 10))) == 3000
