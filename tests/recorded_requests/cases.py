"""All requests of the record, by the class that they belong to."""

from __future__ import annotations

from recorded_requests import (
    choice_cases,
    ending_cases,
    picture_cases,
    prompt_cases,
    text_cases,
    vote_cases,
)
from recorded_requests.stage import Request

CLASSES: dict[str, list[Request]] = {
    cases.__name__: list(cases())
    for cases in (
        prompt_cases.templates,
        prompt_cases.questions,
        prompt_cases.videos,
        text_cases.stops,
        text_cases.characters,
        text_cases.special_tokens,
        text_cases.grounding,
        choice_cases.sampling,
        choice_cases.several,
        choice_cases.choices,
        choice_cases.forms,
        choice_cases.settings,
        picture_cases.tiles,
        picture_cases.features,
        picture_cases.bad_pictures,
        picture_cases.flash,
        ending_cases.context,
        ending_cases.generate,
        ending_cases.cancel,
        ending_cases.failures,
        ending_cases.cache,
        ending_cases.together,
        vote_cases.votes,
        vote_cases.best_of,
        vote_cases.judge,
    )
}
