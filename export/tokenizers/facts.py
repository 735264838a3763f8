"""The prompt facts of a bundle: ids resolved by string, never taken from a table."""

from __future__ import annotations

from tokenizers import Tokenizer

from internvl_rt.bundle.manifest import Prompt
from internvl_rt.errors import CheckpointError
from internvl_rt.prompts.control_tokens import IMG_CONTEXT, IMG_END, IMG_START
from internvl_rt.prompts.templates import BOS_TOKENS, END_OF_TEXT_TOKENS, TEMPLATES


def prompt_facts(
    tokenizer: Tokenizer, template: str, system_message: str | None, *, add_bos: bool = False
) -> Prompt:
    """Resolves what the manifest says of prompts.

    Args:
        tokenizer: the tokenizer that the bundle ships.
        template: the name in the checkpoint's ``config.json``.
        system_message: the configuration's own system message, or None for the template's.
        add_bos: whether prompts start with the beginning-of-text token (``prepends_bos`` tells for a
            checkpoint; true for InternLM2).

    Raises:
        CheckpointError: if the template is unknown, or the tokenizer lacks a token that prompts need.
    """
    if template not in TEMPLATES:
        raise CheckpointError(
            f"the conversation template {template!r} is not known. Known templates: {', '.join(TEMPLATES)}."
        )
    chosen = TEMPLATES[template]
    for token in (IMG_START, IMG_END, IMG_CONTEXT, *chosen.control_tokens):
        _needed_id(tokenizer, token, template)
    bos_id = None
    if add_bos:
        found = [i for i in map(tokenizer.token_to_id, BOS_TOKENS) if i is not None]
        if not found:
            raise CheckpointError(
                f"prompts start with a beginning-of-text token, but the tokenizer has none of {BOS_TOKENS}."
            )
        bos_id = found[0]
    stops = (tokenizer.token_to_id(token) for token in (chosen.stop, *END_OF_TEXT_TOKENS))
    return Prompt(
        template=template,
        system_message=system_message,
        image_context_id=_needed_id(tokenizer, IMG_CONTEXT, template),
        bos_id=bos_id,
        stop_ids=tuple(dict.fromkeys(i for i in stops if i is not None)),
    )


def _needed_id(tokenizer: Tokenizer, token: str, template: str) -> int:
    found: int | None = tokenizer.token_to_id(token)
    if found is None:
        raise CheckpointError(
            f"the tokenizer has no token {token!r}, which prompts of the template {template!r} need. "
            "Check that the folder holds all tokenizer files of the checkpoint (added_tokens.json too)."
        )
    return found
