"""Answers whose text is known beforehand: what a reader sees of them, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from recorded_requests.bundles import Says, Token, says
from recorded_requests.pictures import pattern
from recorded_requests.stage import Request, Stage, call

KINDS = ("bytes", "byte-level", "internlm2", "phi3 legacy", "phi3")
"""Of tokenizers: a token a byte, merged tokens, and SentencePiece in three ways."""
ASKED: dict[str, Any] = {"question": "Say it.", "system": ""}

STOPS: dict[str, tuple[Says, dict[str, Any]]] = {
    "across tokens": (says("one two END three"), {"stop": "END"}),
    "in a list": (says("one two END three"), {"stop": ["END"]}),
    "at the first token": (says("END three"), {"stop": "END"}),
    "all of the answer": (says("END"), {"stop": "END"}),
    "at the last token": (says("one END"), {"stop": "END"}),
    "not there": (says("one two three"), {"stop": ["END", "end."]}),
    "only begun": (says("the EN"), {"stop": "END"}),
    "only begun where the answer is cut": (says(b"aEND"), {"stop": "END", "max_new_tokens": 3}),
    "complete where the answer is cut": (says(b"aEND"), {"stop": "END", "max_new_tokens": 4}),
    "begun twice": (says(b"xEENENDy"), {"stop": "END"}),
    "that overlaps itself": (says(b"aaaaab"), {"stop": "aaab"}),
    "that overlaps itself later": (says(b"abababcx"), {"stop": "ababc"}),
    "several, the second first": (says("one two three four"), {"stop": ["four", "two"]}),
    "several that end together": (says(b"xabcd"), {"stop": ["c", "abc", "bc"]}),
    "one within another": (says(b"xabcde"), {"stop": ["abcde", "bc"]}),
    "one that another one hides": (says(b"abxabcab"), {"stop": ["abcd", "cab"]}),
    "line breaks": (says("first line\n\nsecond line"), {"stop": "\n\n"}),
    "a line break in the middle of a token": (says("a\n\n\nb"), {"stop": "\n"}),
    "a space": (says("one two"), {"stop": " "}),
    "space around it": (says("  one   END"), {"stop": "END"}),
    "chinese": (says("红色的杯子在桌子上"), {"stop": "杯子"}),
    "half of a character's bytes": (says("é è"), {"stop": "è"}),
    "an emoji": (says("a👩‍👧b"), {"stop": "👧"}),
    "what stands for a broken character": (says("a", b"\xff\xfe", "b"), {"stop": "\ufffd"}),
    "around a token that is not shown": (says("one", Token("<ref>"), "two"), {"stop": "onetwo"}),
    "a token that is shown": (
        says("one", Token("</ref>"), "two"),
        {"stop": "</ref>", "keep_special_tokens": "grounding"},
    ),
    "a token that is not shown": (says("one", Token("</ref>"), "two"), {"stop": "</ref>"}),
    "across a token that is shown": (
        says("a", Token("<box>"), "[[1"),
        {"stop": "x>[[", "keep_special_tokens": "grounding"},
    ),
    "before punctuation": (says(b"a , b . c"), {"stop": ", b"}),
    "punctuation": (says(b"it is n't so . x"), {"stop": " ."}),
    "stop tokens ignored": (says("one END two"), {"stop": "END", "ignore_stop_tokens": True}),
}


def stops() -> Iterator[Request]:
    for model in KINDS:
        for name, (said, arguments) in STOPS.items():
            arguments = {"max_new_tokens": 60, **arguments}
            for method in ("stream", "chat") if model in ("bytes", "phi3 legacy") else ("stream",):
                run = call(method, **ASKED, **arguments)
                yield Request(f"{model}: {method}, {name}", model, run, (said,))


FAMILY = "👩‍👩‍👧"
EMOJI = "🙂".encode()
WHITE = "".join(map(chr, (*range(9, 14), *range(28, 33), 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B))))
WHITE += "\u2028\u2029\u202f\u205f\u3000"
"""All that Python strips."""

CHARACTERS: dict[str, tuple[Says, dict[str, Any]]] = {
    "whole": (says("日本🙂é" + FAMILY), {}),
    **{
        f"{count} bytes of an emoji and the end": (says("a", EMOJI[:count]), {"max_new_tokens": 60})
        for count in (1, 2, 3)
    },
    **{
        f"an emoji cut behind {count} tokens": (says(b"a" + EMOJI + b"b"), {"max_new_tokens": count})
        for count in (1, 2, 3, 4, 5, 6)
    },
    "a beginning and another one": (says("a", EMOJI[:2], EMOJI, "b"), {}),
    "a beginning and a letter": (says("a", EMOJI[:3], "b"), {}),
    "a beginning and a line break": (says("a", b"\xe6\x97", "\nb"), {}),
    "a beginning and a space": (says("a", EMOJI[:1], " b"), {}),
    "a beginning and a token that is not shown": (says("a", EMOJI[:2], Token("<ref>"), EMOJI[2:], "b"), {}),
    "a beginning and a token that is shown": (
        says("a", EMOJI[:2], Token("<ref>"), EMOJI[2:], "b"),
        {"keep_special_tokens": "grounding"},
    ),
    "continuations alone": (says(b"\x80\xbf", "a", b"\x99"), {}),
    "bytes that never stand": (says(b"\xff\xfe\xc0\xc1\xf5", "a"), {}),
    "overlong": (says(b"\xc0\x80\xe0\x80\x80\xf0\x80\x80\x80", "a"), {}),
    "surrogates": (says(b"\xed\xa0\xbd\xed\xb8\x80", "a"), {}),
    "beyond the last character": (says(b"\xf4\x90\x80\x80\xf4\x8f\xbf\xbf"), {}),
    "a mark of byte order": (says(b"\xef\xbb\xbfa\xef\xbb\xbf"), {}),
    "zero": (says(b"\x00a\x00\x1b\x7f"), {}),
    "white space around": (says(b"  \n\t a  b \n\n c \n "), {}),
    "white space alone": (says(b" \n \t"), {}),
    "nothing": (says(b""), {}),
    "all white space": (
        says(WHITE.encode() + b"a" + WHITE.encode() + b"b" + WHITE.encode()),
        {"max_new_tokens": 400},
    ),
    "what is no white space": (says("\u200b\u180ea\ufeff\u200b".encode()), {}),
    "white space and a cut character": (says(b" a \xe3\x80"), {}),
    "a wide space": (says("\u3000a\u3000".encode()), {}),
    "cut behind white space": (says(b"a  b"), {"max_new_tokens": 3}),
    "a line in merged tokens": (says(" The answer is red.  "), {}),
    "spaces before punctuation": (says(b"Yes , it is n't . Do n't ? I 'm ! ' x ' 's 've 're"), {}),
    "spaces before punctuation, cut": (says(b"Yes , it is n't"), {"max_new_tokens": 13}),
    "spaces before the end": (says(b"Yes , it is n"), {}),
}
MARKS: dict[str, Says] = {
    "a mark in front": says(Token("▁the"), Token("▁the")),
    "a mark alone": says(Token("▁"), Token("▁"), "a"),
    "a hidden token in front": says(Token("<ref>"), Token("▁the"), Token("</ref>"), Token("▁the")),
    "a space byte in front": says(b" ", Token("▁the")),
    "a broken character in front": says(b"\xe6", Token("▁the")),
}


def characters() -> Iterator[Request]:
    for model in KINDS:
        for name, (said, arguments) in CHARACTERS.items():
            arguments = {"max_new_tokens": 150, **arguments}
            yield Request(f"{model}: {name}", model, call("stream", **ASKED, **arguments), (said,))
        if "phi3" in model or model == "internlm2":
            for name, said in MARKS.items():
                for keep in ("none", "grounding"):
                    run = call("stream", **ASKED, keep_special_tokens=keep, max_new_tokens=30)
                    yield Request(f"{model}: {name}, {keep} kept", model, run, (said,))


SPECIAL: dict[str, dict[str, Says]] = {
    "bytes": {
        "grounding": says(
            "a ", Token("<ref>"), "cup", Token("</ref>"), Token("<box>"), "[[1, 2]]", Token("</box>")
        ),
        "control": says("a", Token("<|im_start|>"), "b", Token("<img>"), Token("<IMG_CONTEXT>"), "c"),
    },
    "byte-level": {
        "task": says("a ", Token("<loc_1>"), " b", Token("[SEG]"), Token("<quad>"), Token("<loc_12>"), "."),
        "not special": says(Token("<think>"), "so", Token("</think>"), "\n red ", Token("<loc_1>")),
        "hidden around white space": says(
            " ", Token("<loc_1>"), " ", Token("</ref>"), " a ", Token("[SEG]"), " "
        ),
    },
    "internvl-hf": {
        "thinking": says(Token("<think>"), "so", Token("</think>"), "\n\nred"),
        "tools": says(Token("<tool_call>"), "{}", Token("</tool_call>"), Token("<|vision_pad|>"), "x"),
    },
    "internlm2": {
        "grounding": says(Token("<ref>"), " the cup", Token("</ref>"), Token("<s>"), "x", Token("<unk>"))
    },
    "phi3": {
        "grounding": says(Token("<ref>"), " the cup", Token("</ref>"), Token("<|user|>"), "x", Token("<s>"))
    },
}


STOP_TOKENS = {
    "bytes": ("<|im_end|>", "<|endoftext|>"),
    "internlm2": ("<|im_end|>", "</s>"),
    "phi3": ("<|end|>", "</s>", "<|endoftext|>"),
}


def special_tokens() -> Iterator[Request]:
    for model, told in SPECIAL.items():
        for name, said in told.items():
            for keep in ("none", "grounding", "task", "all"):
                run = call("stream", **ASKED, keep_special_tokens=keep, max_new_tokens=60)
                yield Request(f"{model}: {name}, {keep} kept", model, run, (said,))
    for model, stops_at in STOP_TOKENS.items():
        for token, ignored, keep in product(stops_at, (False, True), ("none", "all")):
            said = says("one", Token(token), " two", Token("</box>"))
            asked = {"ignore_stop_tokens": ignored, "keep_special_tokens": keep, "max_new_tokens": 9}
            name = f"{model}: {token}, {'ignored' if ignored else 'heeded'}, {keep} kept"
            yield Request(name, model, call("stream", **ASKED, **asked), (said,))
    for model in KINDS:
        for keep in ("none", "all"):
            run = call("chat", **ASKED, keep_special_tokens=keep, ignore_stop_tokens=True, max_new_tokens=40)
            yield Request(f"{model}: noise, {keep} kept", model, run)


REF, END, BOX, BOX_END = (Token(t) for t in ("<ref>", "</ref>", "<box>", "</box>"))
GROUNDED: dict[str, Says] = {
    "a box": says(REF, "the cup", END, BOX, "[[100, 200, 300, 400]]", BOX_END),
    "boxes": says(REF, "cup", END, BOX, "[[0, 0, 10, 10], [500,500,1000,1000]]", BOX_END),
    "labels": says(
        REF, "杯子", END, BOX, "[[1,2,3,4]]", BOX_END, "\n", REF, "b", END, BOX, "[[5,6,7,8]]", BOX_END
    ),
    "a quad": says(
        REF, "sign", END, Token("<quad>"), "[[100,100],[800,200],[900,800],[0,700]]", Token("</quad>")
    ),
    "without tokens": says("cup[[1, 2, 3, 4]]\ndog[[5, 6, 7, 8]]"),
    "json": says(
        '```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}, {"bbox": [5, 6, 7, 8], "name": "dog"}]\n```'
    ),
    "cut json": says('[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}, {"bbox_2d": [5, 6'),
    "a list": says("1. **cat**: [1, 2, 3, 4]\n2. dog - [5, 6, 7, 8]"),
    "outside": says(REF, "x", END, BOX, "[[900, 1200, -5, 100]]", BOX_END),
    "three numbers": says(REF, "x", END, BOX, "[[1, 2, 3]]", BOX_END),
    "no area": says("x[[5, 2, 5, 4]]"),
    "nothing": says("There is none."),
    "an empty box": says(REF, "x", END, BOX, BOX_END),
    "fractions": says("x[[1.5, 2.25, 999.9, 1000]]"),
    "white space": says(" \n", REF, " x ", END, BOX, " [[ 1 , 2 , 3 , 4 ]] ", BOX_END, " \n"),
}


def grounding() -> Iterator[Request]:
    wide = pattern(150, 90)
    asked: dict[str, Any] = {"max_tiles": 1, "system": "", "max_new_tokens": 160}
    for name, said in GROUNDED.items():
        for model in ("bytes", "internlm2") if name in ("a box", "labels", "a quad", "json") else ("bytes",):
            yield Request(f"{model}: {name}", model, call("locate", "the cup", wide, **asked), (said,))
    for count in range(2, 34, 4):
        run = call("locate", "cup", wide, **(asked | {"max_new_tokens": count}))
        yield Request(f"bytes: cut behind {count} tokens", "bytes", run, (GROUNDED["a box"],))
    for keep in ("grounding", "all"):
        run = call("locate", "cup", wide, keep_special_tokens=keep, **asked)
        yield Request(f"bytes: {keep} kept", "bytes", run, (GROUNDED["boxes"],))
    run = call("locate", "cup", wide, stop=",5", **asked)
    yield Request("bytes: a stop string in a box", "bytes", run, (GROUNDED["boxes"],))
    run = call("locate", " 红色方块 ", wide, prompt="请给出<ref>{}</ref>的位置。", **asked)
    yield Request("bytes: in chinese", "bytes", run, (GROUNDED["a box"],))
    for name, phrase in (("empty", " "), ("number", 3), ("a token", "a</ref>"), ("a mark", "<image>")):
        yield Request(f"bytes: a phrase, {name}", "bytes", call("locate", phrase, wide))
    for prompt in ("Where?", "{} {}", 3):
        yield Request(f"bytes: a prompt, {prompt}", "bytes", call("locate", "cup", wide, prompt=prompt))
    yield Request("bytes: nowhere", "bytes", call("locate", "cup", None))

    def boxes(pictures: int, image: int | None) -> Any:
        def run(stage: Stage) -> Any:
            images = [pattern(60 + 40 * i, 50) for i in range(pictures)]
            answer = stage.call("chat", "Where?", images, **asked)
            return {"boxes": answer.boxes(image), "problems": answer.grounding(image).problems}

        return run

    for pictures, image in ((0, None), (1, None), (1, 0), (1, 1), (2, None), (2, 0), (2, 1), (2, 2), (2, -1)):
        name = f"bytes: boxes of picture {image} of {pictures}"
        yield Request(name, "bytes", boxes(pictures, image), (GROUNDED["a box"],))
