"""The prompt facts of a bundle: ids resolved by string, never taken from a table."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from tokenizers import Tokenizer

from internvl_rt.bundle.manifest import Prompt
from internvl_rt.errors import CheckpointError
from internvl_rt.export.tokenizers.sentencepiece_model import SPACE
from internvl_rt.prompts.control_tokens import (
    BOS_TOKENS,
    END_OF_TEXT_TOKENS,
    GROUNDING_TOKENS,
    IMG_CONTEXT,
    IMG_END,
    IMG_START,
    TEMPLATES,
    ConversationTemplate,
    steers,
)


@dataclass(frozen=True)
class PromptRules:
    """What the files of a checkpoint's tokenizer say of whole prompts and answers."""

    add_bos: bool = False
    """Prompts start with the beginning-of-text token (``InternLM2``)."""
    bos: str | None = None
    """That token, where the files name it."""
    begins_with_space: bool = False
    """The slow tokenizer writes a space in front of a prompt, and keeps it unless a token that is listed as
    special comes first."""
    listed: Set[str] = frozenset()
    """The tokens that are listed as special."""
    roles: Set[str] = frozenset()
    """The tokens that begin, end, pad or separate texts, and SentencePiece's control pieces: text never
    becomes one of these."""
    clean_up_spaces: bool = False
    """Answers lose the spaces before punctuation."""


def prompt_facts(
    tokenizer: Tokenizer,
    template: str,
    system_message: str | None,
    rules: PromptRules | None = None,
) -> Prompt:
    """Resolves what the manifest says of prompts.

    Args:
        tokenizer: the tokenizer that the bundle ships.
        template: the name in the checkpoint's ``config.json``.
        system_message: the configuration's own system message, or None for the template's.
        rules: what ``prompt_rules`` tells of a checkpoint; the defaults of its class where None.

    Raises:
        CheckpointError: if the template is unknown, or the tokenizer lacks a token that prompts need.
    """
    rules = PromptRules() if rules is None else rules
    if template not in TEMPLATES:
        raise CheckpointError(
            f"the conversation template {template!r} is not known. Known templates: {', '.join(TEMPLATES)}."
        )
    chosen = TEMPLATES[template]
    for token in (IMG_START, IMG_END, IMG_CONTEXT, *chosen.control_tokens):
        _needed_id(tokenizer, token, template)
    bos_id = None
    if rules.add_bos:
        names = BOS_TOKENS if rules.bos is None else (rules.bos, *BOS_TOKENS)
        found = [i for i in map(tokenizer.token_to_id, names) if i is not None]
        if not found:
            raise CheckpointError(
                f"prompts start with a beginning-of-text token, but the tokenizer has none of {names}."
            )
        bos_id = found[0]
    stops = (tokenizer.token_to_id(token) for token in (chosen.stop, *END_OF_TEXT_TOKENS))
    return Prompt(
        template=template,
        system_message=system_message,
        image_context_id=_needed_id(tokenizer, IMG_CONTEXT, template),
        bos_id=bos_id,
        stop_ids=tuple(dict.fromkeys(i for i in stops if i is not None)),
        prefix_ids=_prefix(tokenizer, chosen, rules),
        task_ids=tuple(
            token_id
            for token_id, token in sorted(tokenizer.get_added_tokens_decoder().items())
            if token.special
            and not steers(token.content)
            and token.content not in rules.roles
            and token.content not in (*GROUNDING_TOKENS, *chosen.control_tokens)
        ),
        clean_up_spaces=rules.clean_up_spaces,
    )


def _prefix(tokenizer: Tokenizer, template: ConversationTemplate, rules: PromptRules) -> tuple[int, ...]:
    """The space in front of a prompt, as the slow Llama tokenizer has it."""
    if not rules.begins_with_space:
        return ()
    ids = tuple(tokenizer.encode(SPACE, add_special_tokens=False).ids)
    # The class looks for the piece by its name: where the space falls to bytes, these stay.
    alone = ids == (tokenizer.token_to_id(SPACE),)
    return () if alone and template.control_tokens[0] in rules.listed else ids


def _needed_id(tokenizer: Tokenizer, token: str, template: str) -> int:
    found: int | None = tokenizer.token_to_id(token)
    if found is None:
        raise CheckpointError(
            f"the tokenizer has no token {token!r}, which prompts of the template {template!r} need. "
            "Check that the folder holds all tokenizer files of the checkpoint (added_tokens.json too)."
        )
    return found
