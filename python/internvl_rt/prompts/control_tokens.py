"""Tokens by what they do: which of them steer a conversation, and which a user may type.

Every text that comes from outside (question, history, system message) is encoded by one rule: it never
becomes a special token that steers a conversation, and it becomes every other added token that stands in it,
as the checkpoint's own library has it. A special token steers if ``steers`` says so by its name, or if the
checkpoint's files give it a role: beginning, end, padding, unknown. The others are those with which InternVL
is asked about places, and those that a fine-tuning added for its task, which its questions and answers are
written with. Added tokens that are not special, such as Qwen 3's ``<think>``, are tokens wherever they stand.
"""

from __future__ import annotations

import re

IMAGE_MARK = "<image>"
"""Stands for one image in a question; ordinary text to the tokenizer."""

IMG_START = "<img>"
IMG_END = "</img>"
IMG_CONTEXT = "<IMG_CONTEXT>"
"""One place that an image feature takes."""

GROUNDING_TOKENS = ("<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>")
"""The models are prompted with these, so a user may type them."""

INTERNVL_TOKENS = (IMG_START, IMG_END, IMG_CONTEXT, *GROUNDING_TOKENS)
"""In the order in which training added them."""

BOS_TOKENS = ("<s>", "<|begin_of_text|>", "<|startoftext|>")

END_OF_TEXT_TOKENS = ("</s>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>")
"""The language models' own ends of text. An answer that runs into one is over too."""

_MEDIA = (IMG_START, IMG_END, IMG_CONTEXT, IMAGE_MARK, "<video>")
_OTHER_ROLES = ("<bos>", "<eos>", "<unk>", "<pad>", "[UNK]", "[PAD]")
_STEERING = frozenset((*_MEDIA, *BOS_TOKENS, *END_OF_TEXT_TOKENS, *_OTHER_ROLES))

_CHAT_TOKEN = re.compile(r"<\|.*\|>", re.DOTALL)


def steers(token: str) -> bool:
    """Whether a token steers a conversation whatever the checkpoint says of it.

    Those are the tokens around images, the beginnings and ends of text, padding, and every token that is
    written like a chat token, ``<|...|>``: turns, tools and plugins, and what the base models look at.
    """
    return token in _STEERING or _CHAT_TOKEN.fullmatch(token) is not None
