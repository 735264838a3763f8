"""The conversation templates of the family: the exact strings between which messages stand."""

from __future__ import annotations

from dataclasses import dataclass

_INTERNVL2_SYSTEM = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，"
    "英文名叫InternVL, 是一个有用无害的人工智能助手。"
)
_INTERNVL2_5_SYSTEM = (
    "你是书生·万象，英文名是InternVL，"
    "是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
)


@dataclass(frozen=True)
class Template:
    """How a conversation is written down.

    A prompt is ``system_prefix + system message + separator``, then ``role + message + separator`` for
    every message, then ``assistant``. A message that is the empty string has no separator.
    """

    name: str
    system_message: str | None
    """Used where neither the caller nor the checkpoint's configuration gives another; None writes none."""
    system_prefix: str
    user: str
    assistant: str
    separator: str
    stop: str
    """The token that ends an answer."""
    control_tokens: tuple[str, ...]
    """The tokens in the strings above that are encoded as one id; every prompt begins with the first."""


_CHATML = ("<|im_start|>system\n", "<|im_start|>user\n", "<|im_start|>assistant\n")
_CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")

TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        # Only internvl2_5 and internvl-hf have a newline between <|im_end|> and the next role.
        Template("internvl2_5", _INTERNVL2_5_SYSTEM, *_CHATML, "<|im_end|>\n", "<|im_end|>", _CHATML_TOKENS),
        Template("internlm2-chat", _INTERNVL2_SYSTEM, *_CHATML, "<|im_end|>", "<|im_end|>", _CHATML_TOKENS),
        Template("Hermes-2", _INTERNVL2_SYSTEM, *_CHATML, "<|im_end|>", "<|im_end|>", _CHATML_TOKENS),
        Template(
            "phi3-chat",
            _INTERNVL2_SYSTEM,
            "<|system|>\n",
            "<|user|>\n",
            "<|assistant|>\n",
            "<|end|>",
            "<|end|>",
            ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        ),
        # What transformers' own checkpoints (-hf) render: no system message unless there is one.
        Template("internvl-hf", None, *_CHATML, "<|im_end|>\n", "<|im_end|>", _CHATML_TOKENS),
    )
}
"""By the name that stands as ``template`` in a checkpoint's ``config.json``. Native ones name none."""
