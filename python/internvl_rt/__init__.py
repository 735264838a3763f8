"""internvl_rt: InternVL vision-language models on CPUs, Jetsons and desktop GPUs.

>>> import internvl_rt as ivl
>>> ivl.export("InternVL2_5-1B/", "out/", weights="int4", vision="bf16")
>>> model = ivl.load("out/")
>>> print(model.chat("What is on the table?", images=["table.jpg"]).text)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from internvl_rt.errors import (
    BundleError,
    CacheFullError,
    CheckpointError,
    DeviceError,
    ImageError,
    InternVLError,
    PromptError,
)

if TYPE_CHECKING:
    from internvl_rt._core import RenderedPrompt
    from internvl_rt.critic import Judgement
    from internvl_rt.export import export
    from internvl_rt.generation import AnswerStream
    from internvl_rt.grounding import Box, Grounding, Location, draw_boxes, parse_boxes, parse_grounding
    from internvl_rt.images import TiledImage, tile_image
    from internvl_rt.loading import load
    from internvl_rt.model import Model
    from internvl_rt.prompts.reasoning import final_answer
    from internvl_rt.prompts.thinking import THINKING_SYSTEM_MESSAGE, ThoughtOutAnswer, split_thinking
    from internvl_rt.results import Answer, ImageFeatures, Piece, Timings, Usage
    from internvl_rt.video import VideoFrames, frame_indices, sample_video
    from internvl_rt.voting import BestOf, Vote

__version__ = "0.1.0"

__all__ = [
    "THINKING_SYSTEM_MESSAGE",
    "Answer",
    "AnswerStream",
    "BestOf",
    "Box",
    "BundleError",
    "CacheFullError",
    "CheckpointError",
    "DeviceError",
    "Grounding",
    "ImageError",
    "ImageFeatures",
    "InternVLError",
    "Judgement",
    "Location",
    "Model",
    "Piece",
    "PromptError",
    "RenderedPrompt",
    "ThoughtOutAnswer",
    "TiledImage",
    "Timings",
    "Usage",
    "VideoFrames",
    "Vote",
    "__version__",
    "draw_boxes",
    "export",
    "final_answer",
    "frame_indices",
    "load",
    "parse_boxes",
    "parse_grounding",
    "sample_video",
    "split_thinking",
    "tile_image",
]

# Where a name is defined. It is imported when it is first used: importing this package loads no library.
_DEFINED_IN = {
    "Answer": "results",
    "AnswerStream": "generation",
    "BestOf": "voting",
    "Box": "grounding",
    "Grounding": "grounding",
    "ImageFeatures": "results",
    "Judgement": "critic",
    "Location": "grounding",
    "Model": "model",
    "Piece": "results",
    "RenderedPrompt": "_core",
    "THINKING_SYSTEM_MESSAGE": "prompts.thinking",
    "ThoughtOutAnswer": "prompts.thinking",
    "TiledImage": "images",
    "Timings": "results",
    "Usage": "results",
    "VideoFrames": "video",
    "Vote": "voting",
    "draw_boxes": "grounding",
    "final_answer": "prompts.reasoning",
    "frame_indices": "video",
    "load": "loading",
    "parse_boxes": "grounding",
    "parse_grounding": "grounding",
    "sample_video": "video",
    "split_thinking": "prompts.thinking",
    "tile_image": "images",
}


def __getattr__(name: str) -> object:
    if name == "export":
        return import_module(f"{__name__}.export")  # a package that can be called
    if name not in _DEFINED_IN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_DEFINED_IN[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
