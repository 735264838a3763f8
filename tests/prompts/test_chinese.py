"""Chinese, in every family's tokenizer and template: nothing is changed, lost or split on the way."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from internvl_rt._core import PromptRenderer
from internvl_rt.export.tokenizers import PromptRules, prompt_facts, synthetic_tokenizer
from internvl_rt.prompts.messages import conversation
from internvl_rt.prompts.tokenizer import Detokeniser, PromptTokenizer

SIZES = {"qwen2_5": 151674, "qwen2": 4000, "qwen3": 151936, "internlm2": 92553, "phi3": 32020}
SMALL = {"qwen2_5": 600, "internlm2": 600, "phi3": 600}
"""Vocabularies in which a character is several byte tokens."""
TEMPLATES = [
    ("qwen2_5", "internvl2_5", "<|im_end|>"),
    ("qwen3", "internvl2_5", "<|im_end|>"),
    ("internlm2", "internlm2-chat", "<|im_end|>"),
    ("internlm2", "internvl2_5", "<|im_end|>"),
    ("qwen2", "Hermes-2", "<|im_end|>"),
    ("phi3", "phi3-chat", "<|end|>"),
]
TEXTS = [
    "桌上从左到右有哪些物体？请用一句话描述。",
    "全角标点，。？！：；（）“”‘’《》【】、…—和半角,.?!:;()\"'混在一起",
    "ＡＢＣ１２３与ABC123不同，　全角空格也在",
    "生僻字𠀀𪚥〇㐂龘，繁體字與简体字，ㄅㄆㄇ，注音符號",
    "中英mixed文本with数字3.14和换行\n第二行\t制表",
    "价格¥99，温度25℃，面积10㎡，①②③，∵∴",
]


@functools.cache
def tokenizer_of(family: str, size: int) -> PromptTokenizer:
    return PromptTokenizer(synthetic_tokenizer(family, size).to_str())


@pytest.mark.parametrize("family", SIZES)
@pytest.mark.parametrize("text", TEXTS)
def test_a_text_comes_back_as_it_was(family: str, text: str) -> None:
    for size in {SIZES[family], SMALL.get(family, SIZES[family])}:
        tokenizer = tokenizer_of(family, size)
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        unknown = tokenizer.token_id("<unk>")
        assert unknown is None or unknown not in ids


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("text", TEXTS)
def test_a_stream_never_shows_half_a_character(family: str, text: str) -> None:
    tokenizer = tokenizer_of(family, SMALL[family])
    ids = tokenizer.encode(text)
    assert len(ids) > len(text), "characters are split into bytes here"
    detokeniser = Detokeniser(tokenizer)
    pieces = [detokeniser.push(i) for i in ids]
    assert "".join(pieces) + detokeniser.finish() == text
    assert not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("family", SMALL)
def test_a_stop_string_of_a_character_in_bytes(family: str) -> None:
    tokenizer = tokenizer_of(family, SMALL[family])
    detokeniser = Detokeniser(tokenizer, stop=("。", "结束"))
    shown = ""
    for i in tokenizer.encode("三个红色方块。还有一个"):
        shown += detokeniser.push(i)
        if detokeniser.stopped:
            break
    assert (shown, detokeniser.stopped) == ("三个红色方块", "。")


@pytest.mark.parametrize("family", SIZES)
def test_grounding_tokens_stand_between_chinese_as_one_id_each(family: str) -> None:
    tokenizer = tokenizer_of(family, SIZES[family])
    before, phrase, after = "请给出", "红色方块", "的位置。"
    ids = tokenizer.encode(f"{before}<ref>{phrase}</ref>{after}")
    opened, closed = (ids.index(tokenizer.control_id(token)) for token in ("<ref>", "</ref>"))
    assert ids[:opened] == tokenizer.encode(before)
    assert ids[opened + 1 : closed] == tokenizer.encode(phrase)
    assert ids[closed + 1 :] == tokenizer.encode(after)
    assert tokenizer.decode(ids, keep="grounding") == f"{before}<ref>{phrase}</ref>{after}"


@pytest.mark.parametrize(("family", "template", "end"), TEMPLATES)
def test_a_chinese_conversation_in_every_template(family: str, template: str, end: str) -> None:
    made = synthetic_tokenizer(family, SIZES[family])
    facts = prompt_facts(made, template, None, PromptRules(add_bos=family == "internlm2"))
    tokenizer = PromptTokenizer(made.to_str())
    renderer = PromptRenderer(tokenizer, facts, 2)
    asked = conversation(
        "它是什么颜色？",
        history=[("<image>\n桌上有什么？", "一个杯子。")],
        images=["a"],
        system="你是桌面助手。",
    )
    prompt = renderer.render(asked, [1])
    separator = f"{end}\n" if template == "internvl2_5" else end
    role = {
        name: f"<|{name}|>\n" if template == "phi3-chat" else f"<|im_start|>{name}\n"
        for name in ("system", "user", "assistant")
    }
    assert prompt.text == (
        f"{role['system']}你是桌面助手。{separator}"
        f"{role['user']}<img><IMG_CONTEXT><IMG_CONTEXT></img>\n桌上有什么？{separator}"
        f"{role['assistant']}一个杯子。{separator}"
        f"{role['user']}它是什么颜色？{separator}{role['assistant']}"
    )
    ids = [int(i) for i in prompt.input_ids]
    if facts.bos_id is not None:
        assert ids.pop(0) == facts.bos_id
    assert tokenizer.decode(ids, keep="all") == prompt.text
    assert ids.count(tokenizer.control_id(end)) == 4


@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(min_codepoint=0x3000, max_codepoint=0x9FFF), max_size=30))
def test_any_chinese_text(text: str) -> None:
    for family, size in SMALL.items():
        tokenizer = tokenizer_of(family, size)
        assert tokenizer.decode(tokenizer.encode(text)) == text
