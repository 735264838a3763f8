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
    BusyError,
    CacheFullError,
    CheckpointError,
    DeviceError,
    ImageError,
    InternVLError,
    PromptError,
)

if TYPE_CHECKING:
    from internvl_rt._core import RenderedPrompt
    from internvl_rt.answers.critic import Judgement
    from internvl_rt.answers.grounding import (
        Box,
        Grounding,
        Location,
        draw_boxes,
        parse_boxes,
        parse_grounding,
    )
    from internvl_rt.answers.reasoning import final_answer
    from internvl_rt.answers.results import Answer, ImageFeatures, Piece, Timings, Usage
    from internvl_rt.answers.thinking import THINKING_SYSTEM_MESSAGE, ThoughtOutAnswer, split_thinking
    from internvl_rt.answers.voting import BestOf, Vote
    from internvl_rt.cmake_package import cmake_dir
    from internvl_rt.export import export
    from internvl_rt.images import Frame, TiledImage, tile_image
    from internvl_rt.images.video import VideoFrames, frame_indices, sample_video
    from internvl_rt.model.answer_stream import AnswerStream, AsyncAnswerStream
    from internvl_rt.model.loading import load
    from internvl_rt.model.model import Model
    from internvl_rt.model.session import Session

__version__ = "0.1.0"

__all__ = [
    "THINKING_SYSTEM_MESSAGE",
    "Answer",
    "AnswerStream",
    "AsyncAnswerStream",
    "BestOf",
    "Box",
    "BundleError",
    "BusyError",
    "CacheFullError",
    "CheckpointError",
    "DeviceError",
    "Frame",
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
    "Session",
    "ThoughtOutAnswer",
    "TiledImage",
    "Timings",
    "Usage",
    "VideoFrames",
    "Vote",
    "__version__",
    "cmake_dir",
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
    "Answer": "answers.results",
    "AnswerStream": "model.answer_stream",
    "AsyncAnswerStream": "model.answer_stream",
    "BestOf": "answers.voting",
    "Box": "answers.grounding",
    "Frame": "images",
    "Grounding": "answers.grounding",
    "ImageFeatures": "answers.results",
    "Judgement": "answers.critic",
    "Location": "answers.grounding",
    "Model": "model.model",
    "Piece": "answers.results",
    "RenderedPrompt": "_core",
    "Session": "model.session",
    "THINKING_SYSTEM_MESSAGE": "answers.thinking",
    "ThoughtOutAnswer": "answers.thinking",
    "TiledImage": "images",
    "Timings": "answers.results",
    "Usage": "answers.results",
    "VideoFrames": "images.video",
    "Vote": "answers.voting",
    "cmake_dir": "cmake_package",
    "draw_boxes": "answers.grounding",
    "final_answer": "answers.reasoning",
    "frame_indices": "images.video",
    "load": "model.loading",
    "parse_boxes": "answers.grounding",
    "parse_grounding": "answers.grounding",
    "sample_video": "images.video",
    "split_thinking": "answers.thinking",
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
