"""The tokens and templates that prompts are made with. The core has the rule of what a user may type."""

from __future__ import annotations

from internvl_rt._core import BOS_TOKENS as BOS_TOKENS
from internvl_rt._core import END_OF_TEXT_TOKENS as END_OF_TEXT_TOKENS
from internvl_rt._core import GROUNDING_TOKENS as GROUNDING_TOKENS
from internvl_rt._core import IMAGE_MARK as IMAGE_MARK
from internvl_rt._core import IMG_CONTEXT as IMG_CONTEXT
from internvl_rt._core import IMG_END as IMG_END
from internvl_rt._core import IMG_START as IMG_START
from internvl_rt._core import TEMPLATES as TEMPLATES
from internvl_rt._core import ConversationTemplate as ConversationTemplate
from internvl_rt._core import steers as steers

INTERNVL_TOKENS = (IMG_START, IMG_END, IMG_CONTEXT, *GROUNDING_TOKENS)
"""In the order in which training added them."""
