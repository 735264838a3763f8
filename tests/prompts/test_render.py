"""Rendered prompts against the published conversations, written out here in full."""

from __future__ import annotations

import numpy as np
import pytest

from internvl_rt.bundle.manifest import Prompt
from internvl_rt.errors import BundleError, PromptError
from internvl_rt.export.tokenizers import prompt_facts, synthetic_tokenizer
from internvl_rt.prompts.messages import conversation
from internvl_rt.prompts.render import PromptRenderer, RenderedPrompt
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
MODELS = [
    ("qwen2_5", "internvl2_5"),
    ("internlm2", "internvl2_5"),
    ("internlm2", "internlm2-chat"),
    ("qwen2", "Hermes-2"),
    ("phi3", "phi3-chat"),
]


def facts(family: str, template: str, system_message: str | None = None) -> Prompt:
    return prompt_facts(TOKENIZERS[family], template, system_message, add_bos=family == "internlm2")


def renderer(family: str, template: str, system_message: str | None = None) -> PromptRenderer:
    tokenizer = PromptTokenizer(TOKENIZERS[family])
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
    tokenizer = synthetic_tokenizer("qwen2_5", 151674)  # special tokens switched on
    assert prompt.input_ids.dtype == np.int64
    assert prompt.input_ids.tolist() == tokenizer.encode(prompt.text, add_special_tokens=False).ids
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
    from internvl_rt.errors import CheckpointError

    with pytest.raises(CheckpointError, match=r"'vicuna'.*internvl2_5, internlm2-chat, Hermes-2"):
        facts("qwen2", "vicuna")
    prompt = Prompt("vicuna", None, 0, None, (0,))
    with pytest.raises(BundleError, match="'vicuna'"):
        PromptRenderer(PromptTokenizer(TOKENIZERS["qwen2"]), prompt, T)


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
    tokenizer = PromptTokenizer(TOKENIZERS[family])
    for token in ("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>"):
        expected = TOKENIZERS[family].token_to_id(token)
        assert tokenizer.encode(f"a {token}b")[-2:-1] == [expected]
        assert tokenizer.encode(token + token) == [expected, expected]
    assert len(tokenizer.encode("<ref")) > 1
