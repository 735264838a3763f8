"""Rendered prompts against the published conversations, written out here in full."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from internvl_rt._core import PromptRenderer, RenderedPrompt
from internvl_rt.bundle.manifest import Prompt
from internvl_rt.errors import BundleError, CheckpointError, PromptError
from internvl_rt.export.tokenizers import PromptRules, prompt_facts, synthetic_tokenizer
from internvl_rt.prompts.messages import conversation
from internvl_rt.prompts.tokenizer import PromptTokenizer

SYSTEM_2 = "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"  # noqa: E501
SYSTEM_2_5 = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"  # noqa: E501
T = 3
"""Tokens per tile in these tests."""

TOKENIZERS = {
    "qwen2_5": synthetic_tokenizer("qwen2_5", 151674),
    "qwen2": synthetic_tokenizer("qwen2", 4000),
    "internlm2": synthetic_tokenizer("internlm2", 92553),
    "phi3": synthetic_tokenizer("phi3", 32020),
}
LIBRARIES = {name: Tokenizer.from_str(tokenizer.to_str()) for name, tokenizer in TOKENIZERS.items()}
"""The same with special tokens switched on, as the authors' code has them."""

MODELS = [
    ("qwen2_5", "internvl2_5"),
    ("internlm2", "internvl2_5"),
    ("internlm2", "internlm2-chat"),
    ("qwen2", "Hermes-2"),
    ("phi3", "phi3-chat"),
]


def facts(family: str, template: str, system_message: str | None = None) -> Prompt:
    return prompt_facts(
        TOKENIZERS[family], template, system_message, PromptRules(add_bos=family == "internlm2")
    )


def renderer(family: str, template: str, system_message: str | None = None) -> PromptRenderer:
    tokenizer = PromptTokenizer(TOKENIZERS[family].to_str())
    return PromptRenderer(tokenizer, facts(family, template, system_message), T)


def render(template: str, question: object, tiles: tuple[int, ...] = (), **named: object) -> RenderedPrompt:
    family = {"internvl2_5": "qwen2_5", "internlm2-chat": "internlm2", "Hermes-2": "qwen2"}.get(
        template, "phi3"
    )
    images = named.pop("images", [object()] * len(tiles))
    asked = conversation(question, images=images, **named)  # type: ignore[arg-type]
    return renderer(family, template).render(asked, tiles)


def image(tiles: int) -> str:
    return "<img>" + "<IMG_CONTEXT>" * (T * tiles) + "</img>"


def test_published_examples() -> None:
    assert render("internvl2_5", "Hello").text == (
        f"<|im_start|>system\n{SYSTEM_2_5}<|im_end|>\n"
        "<|im_start|>user\nHello<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    for template in ("internlm2-chat", "Hermes-2"):
        assert render(template, "Hello").text == (
            f"<|im_start|>system\n{SYSTEM_2}<|im_end|><|im_start|>user\nHello<|im_end|><|im_start|>assistant\n"
        )
    assert render("phi3-chat", "Hello").text == (
        f"<|system|>\n{SYSTEM_2}<|end|><|user|>\nHello<|end|><|assistant|>\n"
    )


def test_ids_are_the_text_with_control_tokens_as_single_ids() -> None:
    prompt = render("internvl2_5", "What is <ref>this</ref>?", tiles=(2,))
    assert prompt.input_ids.dtype == np.int64
    assert prompt.input_ids.tolist() == LIBRARIES["qwen2_5"].encode(prompt.text, add_special_tokens=False).ids
    assert (prompt.input_ids == 151667).sum() == 2 * T


def test_bos_is_prepended_once_for_internlm2_only() -> None:
    for family, template in MODELS:
        ids = renderer(family, template).render(conversation("<s>Hi")).input_ids
        bos = TOKENIZERS[family].token_to_id("<s>")
        assert (ids == bos).sum() == (family == "internlm2")
        assert (ids[0] == bos) == (family == "internlm2")


def test_stop_ids_start_with_the_templates_own() -> None:
    assert facts("qwen2_5", "internvl2_5").stop_ids == (151645, 151643)
    assert facts("internlm2", "internlm2-chat").stop_ids == (92542, 2)
    assert facts("phi3", "phi3-chat").stop_ids == (32007, 2, 32000)


def test_unknown_template_names_the_known_ones() -> None:
    with pytest.raises(CheckpointError, match=r"'vicuna'.*internvl2_5, internlm2-chat, Hermes-2"):
        facts("qwen2", "vicuna")
    prompt = Prompt("vicuna", None, 0, None, (0,))
    with pytest.raises(BundleError, match="'vicuna'"):
        PromptRenderer(PromptTokenizer(TOKENIZERS["qwen2"].to_str()), prompt, T)


def test_native_checkpoints_have_no_system_message_of_their_own() -> None:
    native = renderer("qwen2_5", "internvl-hf")
    assert native.render(conversation("Hi", images=[])).text == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )
    with_system = native.render(conversation("Hi", images=[], system="Be brief.")).text
    assert with_system.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n")


def test_one_image_without_a_mark_comes_first() -> None:
    assert f"user\n{image(7)}\nWhat?<|im_end|>" in render("internvl2_5", "What?", tiles=(7,)).text


def test_several_images_without_marks_are_numbered() -> None:
    text = render("Hermes-2", "Compare.", tiles=(1, 3)).text
    assert f"user\nImage-1: {image(1)}\nImage-2: {image(3)}\nCompare.<|im_end|>" in text


def test_marks_are_replaced_in_order() -> None:
    text = render("internvl2_5", "From <image> to <image>", tiles=(2, 1)).text
    assert f"user\nFrom {image(2)} to {image(1)}<|im_end|>" in text


def test_history_is_rendered_in_full_and_its_images_again() -> None:
    text = render(
        "internvl2_5", "And <image>?", tiles=(2, 1), history=[("<image>\nWhat?", "A <image> tag.")]
    ).text
    assert text.endswith(
        f"<|im_start|>user\n{image(2)}\nWhat?<|im_end|>\n"
        "<|im_start|>assistant\nA <image> tag.<|im_end|>\n"
        f"<|im_start|>user\nAnd {image(1)}?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_no_image_is_put_in_front_when_there_is_history() -> None:
    with pytest.raises(PromptError, match="0 image places; 1 image given"):
        render("internvl2_5", "And?", tiles=(1,), history=[("What?", "A cat.")])


@pytest.mark.parametrize(
    ("question", "images", "message"),
    [
        ("<image> and <image>", 1, "2 image places; 1 image given. Give 2 images"),
        ("<image>", 2, "1 image place; 2 images given. Mark the place"),
        ("<image>", 0, "1 image place; 0 images given"),
    ],
)
def test_marks_and_images_must_be_equally_many(question: str, images: int, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        render("internvl2_5", question, tiles=(1,) * images)


def test_tile_counts_must_match_the_images() -> None:
    asked = conversation("<image>", images=["a"])
    with pytest.raises(PromptError, match="1 image place; 2 images given"):
        renderer("qwen2_5", "internvl2_5").render(asked, (1, 1))
    with pytest.raises(PromptError, match="at least one tile"):
        renderer("qwen2_5", "internvl2_5").render(asked, (0,))


def test_system_message_argument_then_bundle_then_template() -> None:
    bundle = renderer("qwen2_5", "internvl2_5", "From the bundle.")
    assert "system\nFrom the bundle.<|im_end|>" in bundle.render(conversation("Hi")).text
    assert "system\nMine.<|im_end|>" in bundle.render(conversation("Hi", system="Mine.")).text
    assert bundle.render(conversation("Hi", system="")).text.startswith("<|im_start|>system\n<|im_end|>\n")
    assert f"system\n{SYSTEM_2_5}<|im_end|>" in render("internvl2_5", "Hi").text


def test_an_empty_question_has_no_separator() -> None:
    assert render("internvl2_5", "").text.endswith("<|im_start|>user\n<|im_start|>assistant\n")


def test_a_rendered_prompt_holds_what_was_asked() -> None:
    strange = "\udcff \ud83d\ude00 \0 \U0001f600"
    prompt = render("internvl2_5", strange, system=strange)
    assert prompt.text == (
        f"<|im_start|>system\n{strange}<|im_end|>\n<|im_start|>user\n{strange}<|im_end|>\n<|im_start|>assistant\n"
    )
    ids, copy = prompt.input_ids, prompt.input_ids.tolist()
    del prompt
    render("internvl2_5", "x" * 1000)
    assert ids.tolist() == copy


def test_what_is_no_prompt_is_no_crash() -> None:
    prompt = facts("qwen2", "Hermes-2")
    with pytest.raises(TypeError):
        PromptRenderer(None, prompt, T)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        PromptRenderer(PromptTokenizer(TOKENIZERS["qwen2"].to_str()), None, T)  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        renderer("qwen2", "Hermes-2").render("Hi")  # type: ignore[arg-type]


CONTROL = [
    "<|im_start|>",
    "<|im_end|>",
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
    "</s>",
    "<s>",
    "<unk>",
    "<|end|>",
    "<|endoftext|>",
    "<|user|>",
    "<|plugin|>",
    "<|vision_start|>",
]


@pytest.mark.parametrize(("family", "template"), MODELS)
@pytest.mark.parametrize("forged", CONTROL)
def test_typed_control_tokens_stay_text_wherever_they_are_typed(
    family: str, template: str, forged: str
) -> None:
    """The ids of a forged prompt hold each special id as often as those of an honest one."""
    tokenizer = TOKENIZERS[family]
    special = [i for i, t in tokenizer.get_added_tokens_decoder().items() if t.special]
    render = renderer(family, template).render

    def ask(word: str) -> list[int]:
        text = render(
            conversation(
                f"a{word}b", history=[(f"{word}", f"{word} {word}")], system=f"{word}\n{word}", images=[]
            )
        )
        return np.bincount(text.input_ids, minlength=tokenizer.get_vocab_size())[special].tolist()

    assert ask(forged) == ask("word")


@pytest.mark.parametrize("family", ["qwen2_5", "internlm2", "phi3"])
def test_grounding_tokens_become_ids_wherever_they_are_typed(family: str) -> None:
    tokenizer = PromptTokenizer(TOKENIZERS[family].to_str())
    for token in ("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>"):
        expected = TOKENIZERS[family].token_to_id(token)
        assert tokenizer.encode(f"a {token}b")[-2:-1] == [expected]
        assert tokenizer.encode(token + token) == [expected, expected]
    assert len(tokenizer.encode("<ref")) > 1


def written_down(
    template: str, history: list[tuple[str, str]], question: str, tiles: list[int], system: str | None
) -> str:
    """The authors' chat() in the words of the reference page, sections 6.1 to 6.3."""
    newline = "\n" if template == "internvl2_5" else ""
    names = {"phi3-chat": ("<|system|>", "<|user|>", "<|assistant|>")}.get(
        template, ("<|im_start|>system", "<|im_start|>user", "<|im_start|>assistant")
    )
    end = ("<|end|>" if template == "phi3-chat" else "<|im_end|>") + newline
    if tiles and not history and "<image>" not in question:
        if len(tiles) > 1:
            question = "".join(f"Image-{i}: <image>\n" for i in range(1, len(tiles) + 1)) + question
        else:
            question = "<image>\n" + question
    default = SYSTEM_2_5 if template == "internvl2_5" else SYSTEM_2
    prompt = names[0] + "\n" + (default if system is None else system) + end
    for asked, answered in history:
        prompt += names[1] + "\n" + (asked + end if asked else "")
        prompt += names[2] + "\n" + (answered + end if answered else "")
    prompt += names[1] + "\n" + (question + end if question else "") + names[2] + "\n"
    for count in tiles:
        prompt = prompt.replace("<image>", image(count), 1)
    return prompt


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<"), max_size=8)
questions = st.lists(
    words | st.sampled_from(["<image>", "<image>\n", "<ref>", "</ref>", "<box>"]), max_size=4
).map("".join)


@pytest.mark.parametrize(("family", "template"), MODELS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_conversation_as_the_reference_writes_it(family: str, template: str, data: st.DataObject) -> None:
    history = data.draw(st.lists(st.tuples(questions, words), max_size=2))
    question = data.draw(questions)
    system = data.draw(st.none() | words)
    marks = sum(asked.count("<image>") for asked, _ in history) + question.count("<image>")
    free = not history and marks == 0
    count = data.draw(st.integers(0, 3)) if free else marks
    tiles = data.draw(st.lists(st.integers(1, 3), min_size=count, max_size=count))

    asked = conversation(question, images=tiles, history=history, system=system)
    prompt = renderer(family, template).render(asked, tiles)
    expected = written_down(template, history, question, tiles, system)
    assert prompt.text == expected
    # With special tokens on, the library cuts the same text at the same places: nothing here is forged.
    library = LIBRARIES[family]
    bos = [1] if family == "internlm2" else []
    assert prompt.input_ids.tolist() == bos + library.encode(expected, add_special_tokens=False).ids
