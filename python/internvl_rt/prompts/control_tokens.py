"""The tokens that InternVL adds to its language model's vocabulary."""

from __future__ import annotations

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
