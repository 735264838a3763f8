"""The forms of a question: what each means, and what is said of one that is malformed."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl_rt.errors import PromptError
from internvl_rt.prompts.messages import Conversation, ImagePlace, Turn, conversation

PLACE = ImagePlace()


def text(words: str) -> dict[str, object]:
    return {"type": "text", "text": words}


def user(*items: object) -> dict[str, object]:
    return {"role": "user", "content": list(items)}


def test_a_string_and_its_message_are_the_same() -> None:
    assert conversation("Hi") == Conversation((Turn("user", ("Hi",)),))
    for images in ([], ["a"], ["a", "b"]):
        asked = conversation("Hi", images=images)
        assert conversation([{"role": "user", "content": "Hi"}], images=images) == asked
        assert asked.images == tuple(images)


def test_history_and_messages_are_the_same() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "<image>\nWhat?"},
        {"role": "assistant", "content": "A <image>."},
        {"role": "user", "content": "Sure?"},
    ]
    expected = Conversation(
        (
            Turn("user", (PLACE, "\nWhat?")),
            Turn("assistant", ("A <image>.",)),
            Turn("user", ("Sure?",)),
        ),
        ("a",),
        "Be brief.",
    )
    assert conversation(messages, images=["a"]) == expected
    history = [("<image>\nWhat?", "A <image>.")]
    assert conversation("Sure?", history=history, images=["a"], system="Be brief.") == expected
    assert conversation("Sure?", history=[list(history[0])], images=["a"]).turns == expected.turns  # as JSON


def test_items_are_places_and_their_text_is_only_text() -> None:
    asked = conversation(
        [user({"type": "image"}, text("<image> or not?"), {"type": "image"})], images=["a", "b"]
    )
    assert asked.turns == (Turn("user", (PLACE, "\n", "<image> or not?", PLACE, "\n")),)
    assert asked.images == ("a", "b")


def test_items_carry_images_in_every_form(tmp_path: Path) -> None:
    picture = object()
    data = base64.b64encode(b"bytes").decode()
    asked = conversation(
        [
            user({"type": "image", "image": picture}, text("one")),
            {"role": "assistant", "content": [text("yes")]},
            user(
                {"type": "image", "path": tmp_path},
                {"type": "image", "image": "a.jpg"},
                {"type": "image", "url": "file:///tmp/a%20b.jpg"},
                {"type": "image", "base64": data},
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
                {"type": "image_url", "image_url": "b.png"},
                text("all"),
            ),
        ]
    )
    paths = (Path("a.jpg"), Path("/tmp/a b.jpg"))
    assert asked.images == (picture, tmp_path, *paths, b"bytes", b"bytes", Path("b.png"))
    assert asked.turns[1] == Turn("assistant", ("yes",))


CONTENT = bytes(range(256)) * 3


def carried(item: dict[str, object], **options: object) -> object:
    (image,) = conversation([user({"type": "image", **item})], **options).images  # type: ignore[arg-type]
    return image


@pytest.mark.parametrize(
    "data",
    [
        base64.b64encode(CONTENT).decode(),
        base64.encodebytes(CONTENT).decode(),
        base64.encodebytes(CONTENT).decode().replace("\n", "\r\n"),
        base64.urlsafe_b64encode(CONTENT).decode(),
        base64.b64encode(CONTENT[:-1]).decode().rstrip("="),
        base64.b64encode(CONTENT[:-2]).decode(),
        "  " + base64.b64encode(CONTENT).decode() + "\t\n",
    ],
)
def test_base64_in_every_form(data: str) -> None:
    for item in (
        {"base64": data},
        {"url": f"data:image/png;base64,{data}"},
        {"image": f"data:image/png;charset=utf-8;base64,{data}"},
        {"image_url": {"url": f"DATA:Image/PNG;Base64,{data}"}},
        {"image_url": f"data:;base64,{data}"},
        {"url": "data:image/png;base64," + data.replace("+", "%2B").replace("/", "%2f")},
    ):
        found = carried(item)
        assert isinstance(found, bytes)
        assert found == CONTENT[: len(found)]
        assert len(found) >= len(CONTENT) - 2


@pytest.mark.parametrize(
    "data", ["A", "AAAAA", "AA=A", "A===", "é" * 8, "AA\0A", "AAAA,AAAA", "{AAA}", "AAA==AAA"]
)
def test_what_is_no_base64(data: str) -> None:
    with pytest.raises(PromptError, match="base64 data is malformed"):
        carried({"base64": data})
    with pytest.raises(PromptError, match="base64 data is malformed"):
        carried({"url": f"data:image/png;base64,{data}"})


def test_bare_base64_of_a_picture_is_a_picture() -> None:
    for beginning in (b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF", b"II*\0", b"MM\0*"):
        content = beginning + CONTENT
        for text_of in (base64.b64encode(content), base64.encodebytes(content)):
            assert carried({"image": text_of.decode()}, allow_paths=False) == content
    assert carried({"image": "/9j/photos/table"}) == Path("/9j/photos/table")


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///tmp/a.jpg", "/tmp/a.jpg"),
        ("FILE:///tmp/a.jpg", "/tmp/a.jpg"),
        ("file:/tmp/a.jpg", "/tmp/a.jpg"),
        ("file://localhost/tmp/a.jpg", "/tmp/a.jpg"),
        ("file://LOCALHOST/tmp/a.jpg", "/tmp/a.jpg"),
        ("file:///tmp/%C3%A4%20%23%3f.jpg", "/tmp/ä #?.jpg"),
        ("file:///tmp/%E4.jpg", "/tmp/\udce4.jpg"),
        ("./data/a.jpg", "data/a.jpg"),
        ("c:/a.jpg", "c:/a.jpg"),
    ],
)
def test_files_by_their_urls(url: str, path: str) -> None:
    assert carried({"url": url}) == Path(path)
    with pytest.raises(PromptError, match=r"\['content'\]\[0\]: .* is a path: .*allow_paths=False"):
        carried({"url": url}, allow_paths=False)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("file://server/tmp/a.jpg", "on another machine, 'server'"),
        ("file://tmp/a.jpg", "three slashes"),
        ("file:///tmp/a.jpg?x=1", "%3F"),
        ("file:///tmp/a.jpg#1", "%23"),
        ("file://[/a.jpg", "malformed URL"),
        ("http://x/a.jpg", "on the network"),
        ("HTTPS://x/a.jpg", "on the network"),
        ("https:/x/a.jpg", "on the network"),
        ("ftp://x/a.jpg", "on the network"),
        ("gs://x/a.jpg", "on the network"),
        ("data:image/png,abc", "not base64"),
        ("data:image/png;base64", "not base64"),
    ],
)
def test_urls_that_are_not_taken(url: str, says: str) -> None:
    for allow_paths in (True, False):
        with pytest.raises(PromptError, match=says if allow_paths else f"{says}|allow_paths=False"):
            carried({"url": url}, allow_paths=allow_paths)


def test_objects_and_bytes_are_taken_without_paths(tmp_path: Path) -> None:
    picture = object()
    assert carried({"image": picture}, allow_paths=False) is picture
    assert carried({"image": b"bytes"}, allow_paths=False) == b"bytes"
    for key in ("image", "path"):
        for name in (tmp_path, str(tmp_path), "a.jpg", ""):
            with pytest.raises(PromptError, match=r"is a path: .*allow_paths=False"):
                carried({key: name}, allow_paths=False)


@pytest.mark.parametrize("word", ["original", "default", "medium", 3])
def test_details_of_other_programs(word: object) -> None:
    with pytest.raises(PromptError, match=r"\['detail'\] is one of low, high, auto; found"):
        conversation([user({"type": "image", "image": b"", "detail": word})])


def test_a_structured_question_says_itself_where_its_images_are() -> None:
    with pytest.raises(PromptError, match="0 image places; 1 image given"):
        conversation([user(text("What?"))], images=["a"])


@pytest.mark.parametrize(
    ("question", "options", "message"),
    [
        (None, {}, "a string or a list of messages; found NoneType"),
        (b"Hi", {}, "found bytes"),
        ({"role": "user"}, {}, "found dict"),
        ([], {}, "the last message must be the user's"),
        (["Hi"], {}, r"messages\[0\] is an object .* found str"),
        (
            [{"role": "user"}],
            {},
            r"messages\[0\]\['content'\] is a string or a list of items; found NoneType",
        ),
        ([{"content": "Hi"}], {}, "has the role None; 'user' was expected"),
        ([{"role": "tool", "content": "Hi"}], {}, "has the role 'tool'; 'user' was expected"),
        ([{"role": "assistant", "content": "Hi"}], {}, "has the role 'assistant'; 'user' was expected"),
        ([{"role": "user", "content": "Hi"}] * 2, {}, r"messages\[1\] has the role 'user'; 'assistant' was"),
        (
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
            {},
            "the last message must",
        ),
        (
            [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}],
            {},
            "only the first message",
        ),
        ([{"role": "system", "content": "a"}], {}, "the last message must"),
        (
            [{"role": "system", "content": [{"type": "image"}]}],
            {},
            "type 'image'; messages of the role 'system'",
        ),
        ([user("Hi")], {}, r"\['content'\]\[0\] is an object with a 'type'; found str"),
        ([user({"text": "Hi"})], {}, "has the type None; expected 'text', 'image' or 'image_url'"),
        ([user({"type": "video"})], {}, "has the type 'video'"),
        ([user({"type": "text"})], {}, r"\['text'\] is a string; found NoneType"),
        ([user({"type": "text", "text": 3})], {}, "found int"),
        ([user({"type": "image", "url": 3})], {}, r"\['url'\] holds a string; found int"),
        (
            [user({"type": "image_url", "image_url": {}})],
            {},
            r"\['image_url'\] holds a string; found NoneType",
        ),
        ([user({"type": "image", "url": "https://x/y.jpg"})], {}, "on the network.*Download it"),
        ([user({"type": "image", "url": "data:image/png,abc"})], {}, "a data URL that is not base64"),
        ([user({"type": "image", "base64": "?"})], {}, "base64 data is malformed"),
        ([user({"type": "image", "url": "a", "path": "b"})], {}, "in 'path' and in 'url'. Give one"),
        (
            [user({"type": "image", "path": "a"}, {"type": "image"})],
            {},
            r"\[1\] carries no image while other",
        ),
        (
            [user({"type": "image", "path": "a"})],
            {"images": ["b"]},
            "1 image as an argument and 1 image inside",
        ),
        ([user({"type": "image"})], {}, "1 image place; 0 images given"),
        ([{"role": "user", "content": "Hi"}], {"history": [("a", "b")]}, "history was given beside messages"),
        ("Hi", {"history": ["ab"]}, r"history\[0\] is a \(question, answer\) pair of strings; found 'ab'"),
        ("Hi", {"history": [("a", None)]}, r"history\[0\]"),
        ("Hi", {"history": "ab"}, "history is a list"),
        ("Hi", {"system": 3}, "a system message is a string; found int"),
        ([{"role": "system", "content": "a"}, user(text("b"))], {"system": "c"}, "given twice"),
    ],
)
def test_malformed_questions(question: object, options: dict[str, object], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        conversation(question, **options)  # type: ignore[arg-type]


BARE_ROLE = {"role": "tool", "content": 3}
NETWORK = {"type": "image", "url": "https://x/y.jpg"}


@pytest.mark.parametrize(
    ("question", "options", "message"),
    [
        ([BARE_ROLE, 3], {}, r"messages\[0\] has the role 'tool'"),
        ([user("Hi"), BARE_ROLE], {}, r"messages\[0\]\['content'\]\[0\] is an object"),
        ([user(text("a")), 3, BARE_ROLE], {}, r"messages\[1\] is an object"),
        ([user(NETWORK, {"type": "video"})], {}, r"\[0\]: .* on the network"),
        ([user({"type": "video"}, NETWORK)], {}, r"\[0\] has the type 'video'"),
        ([user(text("a")), {"role": "assistant", "content": [NETWORK]}], {}, "take 'text' only"),
        ([user({**NETWORK, "detail": "medium"})], {}, "on the network"),
        ([user(NETWORK)], {"system": 3}, "on the network"),
        ([{"role": "system", "content": "a"}], {"system": 3}, "the last message must be the user's"),
        ([{"role": "system", "content": "a"}, user(text("b"))], {"system": 3}, "given twice"),
        ([user({"type": "image", "path": "a"}, {"type": "image"})], {"system": 3}, "carries no image"),
        ([user({"type": "image", "path": "a"})], {"system": 3, "images": ["b"]}, "a system message is"),
        ("<image>", {"system": 3, "history": [3]}, r"history\[0\]"),
        ("<image>", {"system": 3}, "a system message is"),
    ],
)
def test_of_several_faults_the_first_is_told(
    question: object, options: dict[str, object], message: str
) -> None:
    with pytest.raises(PromptError, match=message):
        conversation(question, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("it's", '"it\'s"'),
        ("a\nb\0", r"'a\nb\x00'"),
        ("\udcff", r"'\udcff'"),
        ("书", "'书'"),
        (["user"], "['user']"),
    ],
)
def test_roles_and_types_are_shown_as_they_are_written(word: object, shown: str) -> None:
    with pytest.raises(PromptError) as caught:
        conversation([{"role": word, "content": "Hi"}])
    assert f"has the role {shown}; 'user' was expected" in str(caught.value)
    with pytest.raises(PromptError) as caught:
        conversation([user({"type": word})])
    assert f"has the type {shown}; expected 'text'" in str(caught.value)


def test_texts_stay_as_they_are() -> None:
    strange = "\udcff \ud83d\ude00 \0 \u2028 \U0001f600"
    asked = conversation(strange, history=[(strange, strange)], system=strange)
    assert [turn.parts for turn in asked.turns] == [(strange,)] * 3
    messages = [{"role": "system", "content": strange}, user(text(strange))]
    assert conversation(messages).system == strange
    assert conversation(messages).turns == (Turn("user", (strange,)),)


def test_turns_and_places_are_values() -> None:
    turn = Turn("user", ["a", ImagePlace("low")])
    assert turn == Turn("user", ("a", ImagePlace("low")))
    assert turn != Turn("assistant", turn.parts)
    assert turn != Turn("user", ("a", PLACE))
    assert turn != "a"
    assert (turn.role, turn.parts, turn.parts[1].detail) == ("user", ("a", ImagePlace("low")), "low")  # type: ignore[union-attr]
    assert PLACE.detail is None
    assert repr(turn) == "Turn(role='user', parts=('a', ImagePlace(detail='low')))"
    with pytest.raises(PromptError, match="the role is 'system'; user or assistant was expected"):
        Turn("system", ())  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="detail is 'medium'; low, high or auto was expected"):
        ImagePlace("medium")  # type: ignore[arg-type]
    for part in (3, None, b"a"):
        with pytest.raises(TypeError):
            Turn("user", [part])  # type: ignore[list-item]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(["user", "text", "image"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "image", "url", "image_url", "base64"]), inner
        )
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(
    question=json_values, images=st.lists(st.just("a"), max_size=2), history=json_values, system=json_values
)
def test_anything_is_a_conversation_or_a_prompt_error(
    question: object, images: list[str], history: object, system: object
) -> None:
    try:
        asked = conversation(question, images=images, history=history, system=system)  # type: ignore[arg-type]
    except PromptError:
        return
    assert len(asked.images) == sum(part == PLACE for turn in asked.turns for part in turn.parts)
