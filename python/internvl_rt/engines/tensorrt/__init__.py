"""The engine ``tensorrt``: engines built from a bundle on the machine that runs them."""

from internvl_rt.engines.tensorrt.engine import TensorRtEngine

__all__ = ["TensorRtEngine"]
