"""A small trained InternVL and the table-top scenes that it was trained on.

Nothing here needs torch: the scenes are drawn by Pillow, so that the held-out set can be asked of
any engine wherever the package is installed.
"""

from internvl_rt.tabletop.held_out import (
    Evaluation,
    KindAccuracy,
    answers_of,
    checkpoint_folder,
    evaluate,
    held_out_questions,
    is_right,
)
from internvl_rt.tabletop.questions import KINDS, Question, Sampler
from internvl_rt.tabletop.scenes import Label, Scene, SceneObject, draw, make_scene

__all__ = [
    "KINDS",
    "Evaluation",
    "KindAccuracy",
    "Label",
    "Question",
    "Sampler",
    "Scene",
    "SceneObject",
    "answers_of",
    "checkpoint_folder",
    "draw",
    "evaluate",
    "held_out_questions",
    "is_right",
    "make_scene",
]
